"""A line between two ends that can be cut, stopped and slowed: TCP, a byte count, no knowledge of what passes."""

from __future__ import annotations

import socket
import struct
import threading
import time
from types import TracebackType

__all__ = ["Proxy"]

_PIECE = 16_384


class Proxy:
    """Forwards to `target` (`host:port`); `address` is where to connect.

    Attributes:
        cut_up: after so many bytes towards the target in all, every connection is reset, once; None never.
        stop_at: after so many bytes towards the target in all nothing is forwarded that way, and nothing closed; None
            never.
        stopped_down: nothing comes back, and nothing is closed: a half-open connection.
        delay_s: each piece waits so long.
        sent: bytes that went towards the target.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.cut_up: int | None = None
        self.stop_at: int | None = None
        self.stopped_down = False
        self.delay_s = 0.0
        self.sent = 0
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._start(self._accept)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self.cut()
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def cut(self) -> None:
        """Reset every connection."""
        while self._sockets:  # one that is just being accepted is not forgotten: it would never be cut
            one = self._sockets.pop()
            try:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is gone already

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                continue
            self._sockets.extend([near, far])
            self._start(self._pump, near, far, True)
            self._start(self._pump, far, near, False)

    def _pump(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        with source:
            try:
                while data := source.recv(_PIECE):
                    while self._stopped(up):
                        if self._ended.wait(0.01) or source not in self._sockets:
                            return
                    time.sleep(self.delay_s)
                    target.sendall(data)
                    if up:
                        self.sent += len(data)
                        if self.cut_up is not None and self.sent >= self.cut_up:
                            self.cut_up = None
                            self.cut()
                target.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # cut

    def _stopped(self, up: bool) -> bool:
        return self.stop_at is not None and self.sent >= self.stop_at if up else self.stopped_down

    def _start(self, work: object, *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

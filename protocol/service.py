"""What a daemon tells the service manager that started it: ready, alive, stopping. Nothing without `NOTIFY_SOCKET`.

The watchdog is fed by the main thread, which does nothing else: a process that is stopped, starved or out of memory
misses its turn and is started again. A thread that dies ends the daemon by itself (`edge/agent.py`).

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

__all__ = ["Service"]


@dataclass(slots=True)
class Service:
    """One daemon's word to its manager.

    Attributes:
        address: the manager's socket, a path or an abstract name (`@...`); empty: nobody listens.
        watchdog_s: how long the manager waits for a sign of life; 0: it does not.
    """

    address: str = ""
    watchdog_s: float = 0.0
    _fed: float = field(default=0.0, init=False)

    @classmethod
    def of_environment(cls) -> Service:
        """As the manager said it; its watchdog is taken only where it is meant for this process."""
        micro, who = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        ours = micro.isascii() and micro.isdigit() and who in ("", str(os.getpid()))
        return cls(os.environ.get("NOTIFY_SOCKET", ""), int(micro) / 1e6 if ours else 0.0)

    def tell(self, state: str) -> None:
        """Say `READY=1`, `STOPPING=1` or `WATCHDOG=1`. A manager that cannot be reached changes nothing."""
        if not self.address.startswith(("/", "@")):
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as wire:
            wire.sendto(state.encode("ascii"), address)

    def feed(self) -> None:
        """Feed the watchdog, twice in its time; call it as often as you like."""
        if self.watchdog_s and time.monotonic() - self._fed >= self.watchdog_s / 2:
            self.tell("WATCHDOG=1")
            self._fed = time.monotonic()

    def stand_by(self, stop: threading.Event) -> None:
        """Ready now; return when `stop` is set, alive meanwhile, and stopping then."""
        self.tell("READY=1")
        while not stop.wait(self.watchdog_s / 4 if self.watchdog_s else None):
            self.feed()
        self.tell("STOPPING=1")

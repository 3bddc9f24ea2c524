"""How the centre's processes call each other: length-prefixed JSON over unix sockets, one request a connection.

Only the same user (or root) may call: the kernel vouches by SO_PEERCRED. Bytes travel as base64 text; errors
cross as code and message. Nothing here knows what is called, and nothing here listens on a network.
"""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from central.stopping import wait_for
from protocol.errors import ConflictError, CorsiaError, InputError, UnavailableError, from_code

__all__ = ["Handler", "call", "serve", "sole", "stopped", "text"]

Handler = Callable[[dict[str, Any]], dict[str, Any]]
MAX_REQUEST_BYTES = 64 << 20
MAX_REPLY_BYTES = 1 << 30
MAX_CONNECTIONS = 64
REQUEST_TIMEOUT_S = 10.0
REPLY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0
ACCEPT_S = 1.0  # whoever hung up between the poll and the accept must not hold us
_LENGTH = struct.Struct(">I")
_CREDENTIALS = struct.Struct("3i")
_LOCKS = ("run/supervisor.lock", "signer/signer.lock", "gateway/gateway.lock", "vault/lock")
_log = logging.getLogger("central.ipc")


def serve(path: Path, handlers: Mapping[str, Handler], stop: threading.Event) -> None:
    """Answer on a unix socket until `stop` is set; each connection has its own thread.

    A method is called with the request's parameters and returns the reply; `ping` is always there.

    Raises:
        ConflictError: `conflict.running` when another process answers there.
    """
    known: dict[str, Handler] = {"ping": lambda _: {"pid": os.getpid()}, **handlers}
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    slots = threading.BoundedSemaphore(MAX_CONNECTIONS)
    with sole(path.with_suffix(".lock")), _listening(path) as listener:
        while not stop.is_set():
            if not wait_for(listener.fileno(), stop):
                continue
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            if not slots.acquire(timeout=REQUEST_TIMEOUT_S):
                connection.close()
                continue
            threading.Thread(target=_answer, args=(connection, known, slots), daemon=True).start()
        until = time.monotonic() + STOP_TIMEOUT_S
        for _ in range(MAX_CONNECTIONS):  # calls under way finish
            slots.acquire(timeout=max(0.0, until - time.monotonic()))


def call(path: Path, method: str, /, timeout_s: float = 10.0, **params: Any) -> dict[str, Any]:
    """Call a method of another process.

    Raises:
        UnavailableError: `unavailable.process` when nobody answers in time.
        CorsiaError: what the other process raised, by its code.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            with _short(path) as address:
                connection.connect(address)
            if not _peer_allowed(connection):
                raise UnavailableError("unavailable.process", f"{path.name} is served by another user")
            _send(connection, {"method": method, "params": params})
            reply = _receive(connection, MAX_REPLY_BYTES)
    except (OSError, EOFError):
        raise UnavailableError("unavailable.process", f"{path.stem} does not answer") from None
    error = reply.get("error")
    if isinstance(error, dict):
        raise from_code(str(error.get("code")), str(error.get("message", "")))
    result = reply.get("result")
    if not isinstance(result, dict):
        raise InputError("input.message", "malformed reply from a local process")
    return result


@contextmanager
def sole(path: Path) -> Iterator[None]:
    """Hold a lock file; the kernel lets go of it when the process dies.

    Raises:
        ConflictError: `conflict.running` when another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError("conflict.running", f"{path.stem} runs already on this state folder") from None
        yield
    finally:
        os.close(lock)


@contextmanager
def stopped(folder: Path) -> Iterator[None]:
    """Hold a centre's state folder; its processes must not run, under a supervisor or alone.

    Raises:
        ConflictError: `conflict.running`; `conflict.state` when there is no such folder, or it is another user's: what
            root makes in it, the centre's own user could not read, and the centre would not start.
    """
    if not folder.is_dir():
        raise ConflictError("conflict.state", "the state folder is not there: run `corsia init central`")
    if os.geteuid() != (owner := folder.stat().st_uid):
        raise ConflictError("conflict.state", f"run this as the state folder's own user: sudo -u '#{owner}' corsia ...")
    with ExitStack() as stack:
        for lock in _LOCKS:
            if (folder / lock).parent.is_dir():
                stack.enter_context(sole(folder / lock))
        yield


def text(raw: bytes) -> str:
    """Bytes as they travel in a message: base64."""
    return base64.b64encode(raw).decode("ascii")


def _answer(connection: socket.socket, handlers: Mapping[str, Handler], slots: threading.Semaphore) -> None:
    try:
        with connection:
            connection.settimeout(REQUEST_TIMEOUT_S)
            if not _peer_allowed(connection):
                _log.warning("ipc.foreign-user")
                return
            reply = _reply(_receive(connection, MAX_REQUEST_BYTES), handlers)
            connection.settimeout(REPLY_TIMEOUT_S)
            _send(connection, reply)
    except (OSError, EOFError):
        _log.info("ipc.hung-up")
    except InputError as error:
        _log.warning("ipc.malformed", extra={"fields": {"code": error.code}})
    finally:
        slots.release()


def _reply(request: dict[str, Any], handlers: Mapping[str, Handler]) -> dict[str, Any]:
    method, params = request.get("method"), request.get("params")
    try:
        if not isinstance(method, str) or not isinstance(params, dict) or method not in handlers:
            raise InputError("input.message", "unknown method of a local process")
        return {"result": handlers[method](params)}
    except CorsiaError as error:
        return {"error": {"code": error.code, "message": error.message}}
    except Exception:
        _log.exception("ipc.failed")
        return {"error": {"code": "unavailable.process", "message": "the process failed on this call"}}


def _send(connection: socket.socket, value: dict[str, Any]) -> None:
    raw = json.dumps(value, separators=(",", ":")).encode()
    if len(raw) > MAX_REPLY_BYTES:
        raise InputError("input.message", "too large for a local message")
    connection.sendall(_LENGTH.pack(len(raw)) + raw)


def _receive(connection: socket.socket, limit: int) -> dict[str, Any]:
    (size,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if size > limit:
        raise InputError("input.message", "too large for a local message")
    try:
        value = json.loads(_exactly(connection, size))
    except (ValueError, RecursionError):
        raise InputError("input.message", "malformed local message") from None
    if not isinstance(value, dict):
        raise InputError("input.message", "malformed local message")
    return value


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _peer_allowed(connection: socket.socket) -> bool:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(raw)[1] in (os.getuid(), 0)


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address for a socket whose path may be longer than the 107 bytes that the kernel takes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with _short(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(MAX_CONNECTIONS)
        listener.settimeout(ACCEPT_S)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)

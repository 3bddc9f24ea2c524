"""The daemon's end: `python -m edge.batch.near SETTINGS PARENT MEMORY`, started in the place of a worker.

Has the cluster start `far.py`, and carries between the daemon's two pipes and the node. It holds the job's key alone,
and no key of the site. It dies with the daemon. Workers are ended by killing their group, and a cluster would keep the
job of an end that was killed: so the work is done by a keeper outside the group, which outlives the other by the
seconds that it takes to end the node's end and its worker, and to take back a job that still waits.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge.batch.channel import KEY_BYTES, Writer, between
from edge.batch.engines import Settings, place
from protocol.errors import ConfigurationError
from protocol.process import guard

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Have a keeper carry one worker's pipes, and wait for it."""
    guard()
    settings, parent, memory = Settings.read(json.loads(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    _end_with(parent, signal.SIGKILL)
    leader = os.getpid()
    if (keeper := os.fork()) != 0:
        os.waitpid(keeper, 0)
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGTERM, _leave)
    try:
        _end_with(leader, signal.SIGTERM)
        _keep(settings, memory)
    finally:
        os._exit(0)  # threads may wait on pipes that never end


def _end_with(parent: int, number: int) -> None:
    """Get this signal when the parent dies. Source: prctl(2), PR_SET_PDEATHSIG."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _leave(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for pipe in (sys.stdin.fileno(), sys.stdout.fileno()):  # the daemon, should it live, waits for nothing more
        os.dup2(nothing, pipe)
    raise SystemExit


def _keep(settings: Settings, memory: int) -> None:
    """Carry one worker's pipes until either end is gone."""
    key = secrets.token_bytes(KEY_BYTES)
    with _key_file(Path(settings.shared), key) as path, place(settings, path, key, memory) as placed:
        writer = Writer(placed.outward, key, 0)
        between(sys.stdin.fileno(), sys.stdout.fileno(), writer, placed.reader, lambda: None)


@contextmanager
def _key_file(shared: Path, key: bytes) -> Iterator[Path]:
    """Where the node finds the key: a file of this user alone, which the node removes as it reads it."""
    about = shared.stat()
    if about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise ConfigurationError("config.invalid", "batch: shared is not of this user alone (0700)")
    path = shared / f".corsia-{secrets.token_hex(8)}.key"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    try:
        yield path
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()

"""The daemon's end: `python -m edge.batch.near SETTINGS PARENT MEMORY`, started in the place of a worker.

Has the cluster start `far.py`, and carries between the daemon's two pipes and the node. It holds the job's key alone,
and no key of the site. It dies with the daemon; when it is killed, the node's end and its worker end too.
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

from edge.batch.channel import KEY_BYTES, Reader, Writer, between
from edge.batch.engines import PENDING_S, Placed, Settings, place
from protocol.process import guard

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Carry one worker's pipes until either end is gone."""
    guard()
    settings, parent, memory = Settings.read(json.loads(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    key = secrets.token_bytes(KEY_BYTES)
    with _key_file(Path(settings.shared), key) as path, place(settings, path, key, memory) as placed:
        _carry(placed, key)
    os._exit(0)  # threads may wait on pipes that never end


def _carry(placed: Placed, key: bytes) -> None:
    writer, reader = Writer(placed.outward, key, 0), Reader(placed.inward, key, 1, first_s=PENDING_S)
    between(sys.stdin.fileno(), sys.stdout.fileno(), writer, reader, lambda: None)


@contextmanager
def _key_file(shared: Path, key: bytes) -> Iterator[Path]:
    """Where the node finds the key: a file of this user alone, which the node removes as it reads it."""
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

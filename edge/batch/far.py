"""The node's end: `python -m edge.batch.far KEY-FILE MEMORY THREADS [HOST:PORT]`, started by the cluster.

Takes the job's key and removes its file, starts the confined worker as the daemon would, and carries between the two.
It reads and keeps nothing itself. It ends when the daemon's end does, or is silent for minutes: a node is never left
with a worker that nobody waits for. Without an address it speaks over its own standard input and output.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from edge.batch.channel import KEY_BYTES, Reader, Writer, between
from edge.worker import environment
from protocol.process import guard

__all__ = ["main", "serve"]


def main() -> None:
    """Serve one job."""
    guard()
    signal.signal(signal.SIGTERM, _leave)  # of a cluster that cancels; the worker's folder is removed as always
    path = Path(sys.argv[1])
    key = path.read_bytes()
    path.unlink()
    serve(key, int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else None)


def serve(key: bytes, memory: int, threads: int, address: str | None) -> None:
    """Start the worker and carry until either end is gone.

    Args:
        key: of this job.
        memory: bytes that the worker may have.
        threads: of its numeric libraries.
        address: of the daemon's end; None: standard input and output.
    """
    if len(key) != KEY_BYTES:
        raise SystemExit(2)
    inward, outward, held = _dialled(address)
    writer, reader = Writer(outward, key, 1), Reader(inward, key, 0)
    if held is not None:
        writer.write(b"")  # it is the one that holds the key
    base = Path(tempfile.mkdtemp(prefix="corsia-node-"))
    home = base / "work" / "home"
    home.mkdir(parents=True, mode=0o700)
    child = subprocess.Popen(
        [sys.executable, "-I", "-W", "ignore", "-m", "edge.worker", str(os.getpid()), str(memory)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, close_fds=True,
        start_new_session=True, cwd=home, env=environment(home, threads),
    )  # fmt: skip

    def ended() -> None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    try:
        if child.stdin is None or child.stdout is None:
            raise SystemExit(2)
        between(child.stdout.fileno(), child.stdin.fileno(), writer, reader, ended)
    finally:
        ended()
        child.wait()
        shutil.rmtree(base, ignore_errors=True)
        if held is not None:
            held.close()
        _give_back()


def _leave(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def _give_back() -> None:
    """End the job itself: Slurm keeps what a killed `srun` was allotted until somebody does."""
    if job := os.environ.get("SLURM_JOB_ID"):
        path = f"{os.environ.get('PATH', '')}:/usr/local/bin:/usr/bin:/bin"
        with suppress(OSError):
            subprocess.run(["scancel", job], check=False, env=os.environ | {"PATH": path}, timeout=60)


def _dialled(address: str | None) -> tuple[int, int, socket.socket | None]:
    if address is None:
        return sys.stdin.fileno(), sys.stdout.fileno(), None
    host, _, port = address.rpartition(":")
    made = socket.create_connection((host.strip("[]"), int(port)), timeout=60)
    made.settimeout(None)
    return made.fileno(), made.fileno(), made


if __name__ == "__main__":
    main()

"""How each cluster is asked for a node: Slurm by `srun`, HTCondor by a job of dask-jobqueue.

Slurm forwards a task's standard input and output, so the node needs to reach nothing. HTCondor does not: there the
node dials an address of the daemon's machine that the site names, inside its own network.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from edge.batch.channel import Reader
from protocol.errors import IntegrityError

__all__ = ["PENDING_S", "Placed", "Settings", "condor_submit_text", "place", "srun_command"]

_NODES_END_S = 15.0  # that the node's end has to remove what it made, before its job is cancelled
_PROOF_S = 10.0  # that whoever dials has to show that it holds the job's key
PENDING_S = 7 * 86_400.0  # a busy cluster starts a job in its own time; the daemon waits `worker_timeout_s` for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What `near.py` is told; see `edge.config.BatchConfig`."""

    engine: str
    shared: str
    cpus: int
    time_limit_s: float
    threads: int
    partition: str | None = None
    account: str | None = None
    options: tuple[str, ...] = ()
    conf: str | None = None
    listen: str | None = None

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Settings:
        """From JSON."""
        known = {one.name: value[one.name] for one in fields(cls) if one.name in value}
        return cls(**known | {"options": tuple(known.get("options", ()))})


@dataclass(frozen=True, slots=True)
class Placed:
    """A node's end: what comes from it, and the descriptor to write to."""

    reader: Reader
    outward: int


def far_command(settings: Settings, key_file: Path, memory: int, *address: str) -> list[str]:
    """What runs on the node."""
    words = [str(key_file), str(memory), str(settings.threads)]
    return [sys.executable, "-I", "-W", "ignore", "-m", "edge.batch.far", *words, *address]


def srun_command(settings: Settings, far: list[str], memory: int) -> list[str]:
    """One task of one node, whose pipes are srun's. Source: srun(1), Slurm 22.05."""
    minutes = max(1, int(settings.time_limit_s // 60))
    export = f"SLURM_CONF={settings.conf}" if settings.conf else "NONE"
    named = {"--partition": settings.partition, "--account": settings.account}
    return [
        "srun", "--job-name=corsia", "--nodes=1", "--ntasks=1", f"--cpus-per-task={settings.cpus}",
        f"--mem={_mebibytes(memory)}M", f"--time={minutes}", f"--export={export}", "--chdir=/", "--unbuffered",
        "--quiet", "--mpi=none", "--kill-on-bad-exit=1", *(f"{k}={v}" for k, v in named.items() if v),
        *settings.options, *far,
    ]  # fmt: skip


def condor_submit_text(settings: Settings, far: list[str], memory: int) -> str:
    """The submit description of one job, as dask-jobqueue writes it, around our own command.

    Raises:
        ImportError: dask-jobqueue is not installed (extra `batch`).
    """
    from dask_jobqueue.htcondor import HTCondorJob

    # What its jobs run is a Dask worker; ours is the node's end, by the same header.
    job = HTCondorJob(
        scheduler="tls://none.invalid:0", name="corsia", cores=settings.cpus, memory=f"{_mebibytes(memory)}MiB",
        disk="1 GiB", config_name="htcondor",
        job_extra_directives={
            "getenv": "False",
            "periodic_remove": f"(time() - JobCurrentStartDate) > {int(settings.time_limit_s)}",
            **dict(option.split("=", 1) for option in settings.options),
        },
    )  # fmt: skip
    job._command_template = shlex.join(far)
    return str(job.job_script())


@contextmanager
def place(settings: Settings, key_file: Path, key: bytes, memory: int) -> Iterator[Placed]:
    """Have the node's end started; it is gone at the end, and so is a job that still waits.

    Raises:
        TimeoutError: the cluster did not start it in `PENDING_S`.
    """
    with (_slurm if settings.engine == "slurm" else _htcondor)(settings, key_file, key, memory) as placed:
        yield placed


@contextmanager
def _slurm(settings: Settings, key_file: Path, key: bytes, memory: int) -> Iterator[Placed]:
    command = srun_command(settings, far_command(settings, key_file, memory), memory)
    environment = dict(os.environ) | ({"SLURM_CONF": settings.conf} if settings.conf else {})
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env=environment
    )
    if process.stdin is None or process.stdout is None:
        raise OSError
    try:
        yield Placed(Reader(process.stdout.fileno(), key, 1, first_s=PENDING_S), process.stdin.fileno())
    finally:
        _hang_up(process.stdin.fileno())
        with suppress(subprocess.TimeoutExpired):
            process.wait(_NODES_END_S)
        process.terminate()  # of one that has not ended, or has not begun, srun cancels the job
        process.wait(30)


def _hang_up(handle: int) -> None:
    """Close a pipe without giving its number away: a thread may still write to it."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, handle)
    os.close(nothing)


@contextmanager
def _htcondor(settings: Settings, key_file: Path, key: bytes, memory: int) -> Iterator[Placed]:
    host, _, port = str(settings.listen).rpartition(":")
    with socket.create_server((host.strip("[]"), int(port)), backlog=16) as listening:
        far = far_command(settings, key_file, memory, f"{host}:{listening.getsockname()[1]}")
        text = condor_submit_text(settings, far, memory)
        submit = Path(f"{key_file}.submit")
        submit.write_text(text)
        try:
            done = subprocess.run(["condor_submit", "-terse", str(submit)], check=True, capture_output=True, text=True)
        finally:
            submit.unlink(missing_ok=True)
        try:
            connection, reader = _dialled(listening, key)
            with connection:
                yield Placed(reader, connection.fileno())
                with suppress(OSError):  # that the node is gone already
                    connection.shutdown(socket.SHUT_RDWR)
        finally:
            subprocess.run(["condor_rm", done.stdout.split(".")[0].strip()], check=False, capture_output=True)


def _dialled(listening: socket.socket, key: bytes) -> tuple[socket.socket, Reader]:
    """The first that shows that it holds the job's key: others dial, too, as scanners of a hospital's network do."""
    until = time.monotonic() + PENDING_S
    while True:
        listening.settimeout(max(0.1, until - time.monotonic()))
        connection, _peer = listening.accept()
        connection.settimeout(None)
        reader = Reader(connection.fileno(), key, 1, first_s=_PROOF_S)
        with suppress(OSError, IntegrityError):
            if reader.read() is not None:
                return connection, reader
        connection.close()


def _mebibytes(size: int) -> int:
    return -(-size // (1 << 20)) + 512  # the worker's data segment, and what is not data

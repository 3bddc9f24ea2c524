"""Lane code in a process of its own: rows in by pipe, results out by pipe, nothing else.

Place in the flow: agent -> `Worker` (here) -> `python -m edge.worker` (`edge/confined.py`) -> `pipelines`. The child
gets a bare environment, a private HOME that is removed afterwards and limits; it has no key, ledger or spool. What it
prints goes nowhere, since a library's message may quote a patient; of its failures only an error code, or an
exception's type name, comes back.

Frames: 4-byte head length, 8-byte data length (big-endian), a head of JSON, data. A frame is never larger than the
memory that the child may have, an answer of training never larger than what its instruction declares. The child asks
(`table`, `files`, `documents`, `file`), tells (`item`, `cohort`, `withhold`, `progress`) and ends with `done`, `reply`
or `error`.
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import logging
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.checks import refusal
from edge.told import Outcome, failure, no_item, take
from pipelines.confinement import LACKS
from protocol.errors import PolicyRefused, StorageError, WorkerError
from protocol.parcel import Item

if TYPE_CHECKING:
    import pandas as pd

    from edge.config import Limits
    from pipelines import Job, Source, SourceFile

__all__ = ["FRAME", "Outcome", "Stopped", "Worker", "environment"]

MAX_HEAD_BYTES = 1 << 20
_PIPE_BYTES = 1 << 20
_TOLD = ("item", "withhold", "cohort", "progress")
FRAME = struct.Struct(">IQ")
_PASSED = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TZ", "CORSIA_FAULTS")
_log = logging.getLogger("edge.worker")


class Stopped(Exception):
    """The daemon stops: the job is left as it is and taken up again at the next start."""


class Worker:
    """One worker process and its pipe. Not for two threads at a time.

    Args:
        limits: memory, threads and the longest silence.
        scratch: a folder of the site's state in which the child's HOME is made; removed by `close`.
        should_stop: asked a few times a second while waiting.
        argv: the child's command, where it is another (`edge.batch`; tests).
    """

    def __init__(
        self,
        limits: Limits,
        scratch: Path,
        *,
        should_stop: Callable[[], bool] = lambda: False,
        argv: Sequence[str] = (),
    ) -> None:
        self._limits = limits
        self._scratch = scratch
        self._should_stop = should_stop
        self._argv = list(argv) or [sys.executable, "-I", "-W", "ignore", "-m", "edge.worker"]
        self._child: subprocess.Popen[bytes] | None = None
        self._home: Path | None = None
        self.isolated = False
        self.missing: tuple[str, ...] = LACKS  # of the means of confinement, those that this kernel lacks
        self.timed_out = False
        self._used = time.monotonic()

    # --- what the agent calls

    def run(
        self, job: Job, source: Source, put: Callable[[Item], None], blobs: Mapping[str, bytes] | None = None
    ) -> Outcome:
        """Run the study's lane over a source; items go to `put` one by one.

        Args:
            blobs: objects that the lane needs besides rows (a model), by name.

        Raises:
            WorkerError: `worker.failed`, `worker.killed`.
            CorsiaError: the code that the lane raised, or whatever source and `put` raise. The worker is gone then.
            Stopped: the daemon stops.
        """

        def lane() -> tuple[Outcome, bytes]:
            self._begin(job, "run", blobs or {})
            return self._serve(source, put)

        outcome, _ = self._guarded(lane)
        self.close()
        return outcome

    def start_training(self, job: Job, source: Source) -> Outcome:
        """Load and validate a run's data and stay warm for `handle`. Raises as `run`."""

        def load() -> tuple[Outcome, bytes]:
            self._begin(job, "train", {})
            return self._serve(source, no_item)

        return self._guarded(load)[0]

    def handle(self, message: bytes, limit: int | None = None) -> bytes:
        """Answer one message of a run that `start_training` began.

        Args:
            limit: bytes of the longest answer that is read at all.

        Raises:
            DisclosureRefused: `gate.update` for a longer one; the worker is gone then.
            CorsiaError: as `run`.
        """

        def exchange() -> tuple[Outcome, bytes]:
            self._send({"op": "message"}, message)
            return self._serve(None, no_item, limit)

        return self._guarded(exchange)[1]

    @property
    def idle_s(self) -> float:
        """Seconds since it was last used."""
        return time.monotonic() - self._used

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        if self._child is None or self._child.returncode is not None:
            return False
        # Not reaped: its number, which is its group's too, stays its own until `close` has ended the group.
        return os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def close(self) -> None:
        """End the process, if any, and remove its HOME."""
        child, self._child = self._child, None
        if child is not None:
            with suppress(ProcessLookupError):  # with whatever it has started: none of them can leave its group
                os.killpg(child.pid, signal.SIGKILL)
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
            child.wait()
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    # --- inside

    def _guarded(self, action: Callable[[], tuple[Outcome, bytes]]) -> tuple[Outcome, bytes]:
        self._used = time.monotonic()
        try:
            return action()
        except BaseException:
            self.close()
            raise
        finally:
            self._used = time.monotonic()

    def _begin(self, job: Job, mode: str, blobs: Mapping[str, bytes]) -> None:
        from protocol.study import dump_study

        self._spawn()
        if job.plugin is not None and {"network", "files"} & set(self.missing):
            raise PolicyRefused("policy.plugin", "a worker has a network or files here: plug-ins do not run")
        head = {
            "op": "job",
            "mode": mode,
            "site": job.site,
            "key": base64.b64encode(job.key).decode(),
            "roles": dict(job.roles),
            "patient_system": job.patient_system,
            "site_metrics": job.site_metrics,
            "traps": asdict(job.traps),
            "compute": asdict(job.compute),
            "plugin": None if job.plugin is None else asdict(job.plugin),
            "blobs": list(blobs),
        }
        self._send(head, dump_study(job.study))
        for name, data in blobs.items():
            self._send({"op": "blob", "name": name}, data)

    def _spawn(self) -> None:
        self.close()
        try:
            self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._home = Path(tempfile.mkdtemp(prefix="worker-", dir=self._scratch))
            self._child = subprocess.Popen(
                [*self._argv, str(os.getpid()), str(self._limits.worker_memory_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                close_fds=True,
                start_new_session=True,
                cwd=self._home,
                env=environment(self._home, self._limits.worker_threads),
            )
        except OSError as error:
            raise StorageError.of(error) from error
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                with suppress(OSError):  # larger than the user's share of pipe memory: slower, and no worse
                    fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        hello, _ = self._receive()
        lacks = hello.get("missing")
        self.missing = tuple(name for name in LACKS if not isinstance(lacks, list) or name in lacks)
        self.isolated = "network" not in self.missing
        kind = "confined" if not self.missing else "missing: " + " ".join(self.missing)
        (_log.warning if self.missing else _log.info)("worker.started", extra={"fields": {"kind": kind}})

    def _serve(
        self, source: Source | None, put: Callable[[Item], None], limit: int | None = None
    ) -> tuple[Outcome, bytes]:
        """Answer the child until it ends this exchange."""
        outcome = Outcome()
        files: Iterator[SourceFile] = iter(())
        while True:
            head, data = self._receive(limit)
            op = head.get("op")
            if op == "table" and source is not None:
                self._send(*_packed(source.table()))
            elif op == "files" and source is not None:
                files = source.files()
            elif op == "documents" and source is not None:
                files = iter(source.documents(str(head.get("kind"))))
            elif op == "file":
                file = next(files, None)
                self._send(*(({"op": "end"}, b"") if file is None else ({"op": "file", "name": file.name}, file.data)))
            elif op in _TOLD:
                take(op, head, data, outcome, put)
            elif op in ("done", "reply"):
                return outcome, data
            else:
                raise failure(head)

    def _send(self, head: dict[str, Any], data: bytes | memoryview = b"") -> None:
        if self._child is None or self._child.stdin is None:
            raise WorkerError("worker.killed")
        raw = json.dumps(head).encode()
        handle = self._child.stdin.fileno()
        until = time.monotonic() + self._limits.worker_timeout_s
        for part in (FRAME.pack(len(raw), len(data)) + raw, data):
            view = memoryview(part)
            while view:
                try:
                    view = view[os.write(handle, view[:_PIPE_BYTES]) :]
                except BlockingIOError:
                    self._wait(handle, select.POLLOUT, until)
                except OSError:
                    raise WorkerError("worker.killed") from None

    def _receive(self, limit: int | None = None) -> tuple[dict[str, Any], bytes]:
        until = time.monotonic() + self._limits.worker_timeout_s
        head_size, data_size = FRAME.unpack(self._read(FRAME.size, until))
        if limit is not None and data_size > limit:
            raise refusal("gate.update", "the answer is larger than what the instruction asks for")
        if head_size > MAX_HEAD_BYTES or data_size > self._limits.worker_memory_bytes:
            raise WorkerError("worker.failed", "the worker sent a frame beyond the limits")
        try:
            head = json.loads(self._read(head_size, until))
        except (ValueError, RecursionError):
            raise WorkerError("worker.failed", "the worker sent a malformed frame") from None
        if not isinstance(head, dict):
            raise WorkerError("worker.failed", "the worker sent a malformed frame")
        return head, self._read(data_size, until)

    def _read(self, size: int, until: float) -> bytes:
        if self._child is None or self._child.stdout is None:
            raise WorkerError("worker.killed")
        handle = self._child.stdout.fileno()
        parts = io.BytesIO()  # grows with what has come, and gives it without a copy
        while (left := size - parts.tell()) > 0:
            try:
                part = os.read(handle, min(_PIPE_BYTES, left))
            except BlockingIOError:
                self._wait(handle, select.POLLIN, until)
                continue
            if not part:
                raise WorkerError("worker.killed", "the worker died")
            parts.write(part)
        return parts.getvalue()

    def _wait(self, handle: int, event: int, until: float) -> None:
        poll = select.poll()
        poll.register(handle, event)
        while not poll.poll(200):
            if self._should_stop():
                raise Stopped
            if time.monotonic() > until:
                self.timed_out = True
                raise WorkerError("worker.killed", "the worker said nothing for worker_timeout_s")


def environment(home: Path, threads: int) -> dict[str, str]:
    """What a worker finds in its environment: nothing of the daemon's but paths, devices and the time zone."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    libraries = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA", "BLIS", "RAYON")  # torch and arrow follow OMP
    numeric = [f"{name}_NUM_THREADS" for name in libraries]
    return (
        passed
        | dict.fromkeys(numeric, str(threads))
        | {
            "HOME": str(home),
            "TMPDIR": str(home),
            "XDG_CACHE_HOME": str(home),
            "LANG": "C.UTF-8",
            "DO_NOT_TRACK": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_OFFLINE": "1",
        }
    )


def _packed(table: pd.DataFrame | None) -> tuple[dict[str, Any], bytes | memoryview]:
    if table is None:
        return {"op": "table", "rows": -1}, b""
    import pyarrow as pa

    target = pa.BufferOutputStream()
    made = pa.Table.from_pandas(table, preserve_index=False)
    with pa.ipc.new_stream(target, made.schema) as writer:
        writer.write_table(made)
    return {"op": "table", "rows": len(table)}, memoryview(target.getvalue())


if __name__ == "__main__":
    from edge.confined import main

    main()

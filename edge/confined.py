"""The worker's own process: confines itself, then runs one lane over its pipe (`edge/worker.py` is the other end).

First a fresh user and network namespace, limits and a filter of system calls, then, when the job is known, all files
but libraries and its own HOME are closed (`pipelines/confinement.py`), and only then are the libraries imported. What
the kernel does not permit is told in the first frame. Standard output and error lead nowhere.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.confinement import close_files, confine, libraries, missing, relink
from protocol.errors import CorsiaError, PolicyRefused, WorkerError
from protocol.parcel import Item

if TYPE_CHECKING:
    import pandas as pd

    from pipelines import Job, Lane, Source, SourceFile

__all__ = ["Session", "main"]

_FRAME = struct.Struct(">IQ")


class Session(Protocol):
    """What stays in memory between the rounds of a run (`pipelines.train.Session`)."""

    def handle(self, message: bytes) -> bytes:
        """Answer one Flower message."""
        ...


Opening = Callable[["Job", "Source"], Session]


class _Pipe:
    """The child's end: plain blocking frames."""

    def __init__(self, inward: int, outward: int) -> None:
        self._in = os.fdopen(inward, "rb", closefd=False)
        self._out = outward

    def ask(self, **head: Any) -> tuple[dict[str, Any], bytes]:
        self.tell(b"", **head)
        return self.read()

    def tell(self, data: bytes, **head: Any) -> None:
        raw = json.dumps(head).encode()
        for part in (_FRAME.pack(len(raw), len(data)) + raw, data):
            view = memoryview(part)
            while view:
                view = view[os.write(self._out, view) :]

    def read(self) -> tuple[dict[str, Any], bytes]:
        prefix = self._in.read(_FRAME.size)
        if len(prefix) < _FRAME.size:
            os._exit(0)  # the parent is gone
        head_size, data_size = _FRAME.unpack(prefix)
        head = json.loads(self._in.read(head_size))
        return head, self._in.read(data_size)


class _PipedSource:
    """`pipelines.Source` over the pipe; `blobs` are the objects that came with the job."""

    def __init__(self, pipe: _Pipe, blobs: dict[str, bytes]) -> None:
        self._pipe = pipe
        self._table: pd.DataFrame | None = None
        self._asked = False
        self.blobs = blobs

    def table(self) -> pd.DataFrame | None:
        if not self._asked:
            import pyarrow as pa

            head, data = self._pipe.ask(op="table")
            self._table = None if head["rows"] < 0 else pa.ipc.open_stream(data).read_all().to_pandas()
            self._asked = True
        return None if self._table is None else self._table.copy()

    def files(self) -> Iterator[SourceFile]:
        return self._stream(op="files")

    def documents(self, kind: str) -> Iterator[SourceFile]:
        return self._stream(op="documents", kind=kind)

    def _stream(self, **asked: str) -> Iterator[SourceFile]:
        from pipelines import SourceFile

        self._pipe.tell(b"", **asked)
        while True:
            head, data = self._pipe.ask(op="file")
            if head["op"] == "end":
                return
            yield SourceFile(head["name"], data)


class _PipedGate:
    """`pipelines.Gate` over the pipe."""

    def __init__(self, pipe: _Pipe) -> None:
        self._pipe = pipe

    def put(self, item: Item) -> None:
        self._pipe.tell(
            item.data, op="item", kind=item.kind.value, name=item.name, persons=item.persons, rows=item.rows
        )

    def cohort(self, persons: Iterable[str], numbers: Mapping[str, int]) -> None:
        known = {str(name): int(count) for name, count in numbers.items()}
        self._pipe.tell(json.dumps([str(one) for one in persons]).encode(), op="cohort", numbers=known)

    def withhold(self, reason: str, count: int = 1) -> None:
        self._pipe.tell(b"", op="withhold", reason=reason, count=int(count))

    def progress(self, done: int, total: int) -> None:
        self._pipe.tell(b"", op="progress", done=int(done), total=int(total))


def main(load: Callable[[str], Lane] | None = None, session: Opening | None = None) -> None:
    """The child: confine itself, then one job, and the messages of a run after it.

    Args:
        load: finds a lane by its pipeline's name (default `pipelines.registry.load`).
        session: makes a run's session after its lane has run (default: both by `pipelines.train.open_session`).
    """
    parent, memory = int(sys.argv[-2]), int(sys.argv[-1])
    pipe = _Pipe(os.dup(0), os.dup(1))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(nowhere, handle)
    network = confine(parent, memory)
    lacks = missing(network)
    pipe.tell(b"", op="hello", network=network, missing=lacks)
    try:
        _work(pipe, load, session, closed="files" not in lacks)
    except CorsiaError as error:
        pipe.tell(b"", op="error", code=error.code)
    except BaseException as error:  # whatever a lane raises ends here: its text may hold a patient's data
        pipe.tell(b"", op="error", type=type(error).__name__, id=secrets.token_hex(4))
    os._exit(0)


def _work(
    pipe: _Pipe,
    load: Callable[[str], Lane] | None,
    session: Opening | None,
    *,
    closed: bool,
) -> None:
    head, raw = pipe.read()
    if closed:
        _close(head.get("plugin"))
    if head.get("plugin") is not None:
        _admit(closed, **head["plugin"])
    from pipelines import Job
    from pipelines.compute import Compute
    from privacy.disclosure.traps import Traps
    from protocol.study import parse_study

    blobs = {}
    for _ in head["blobs"]:
        blob, data = pipe.read()
        blobs[blob["name"]] = data
    job = Job(
        study=parse_study(raw), site=head["site"], key=base64.b64decode(head["key"]), roles=dict(head["roles"]),
        patient_system=head["patient_system"], traps=Traps(**head["traps"]),
        compute=Compute(**head["compute"]), site_metrics=head["site_metrics"] is True,
    )  # fmt: skip
    source, gate = _PipedSource(pipe, blobs), _PipedGate(pipe)
    if load is None:
        from pipelines.registry import load as installed

        load = installed
    if head["mode"] != "train":
        load(job.study.pipeline.name)(job, source, gate)
        pipe.tell(b"", op="done")
        return
    if session is None:
        from pipelines.train import open_session

        warm: Session = open_session(job, source, gate)
    else:
        load(job.study.pipeline.name)(job, source, gate)
        warm = session(job, source)
    pipe.tell(b"", op="done")
    while True:
        _head, message = pipe.read()
        pipe.tell(warm.handle(message), op="reply")


def _close(plugin: Mapping[str, Any] | None) -> None:
    """Close all files but libraries, HOME and an approved plug-in's folder: above all the state in which HOME lies.

    Raises:
        WorkerError: `worker.failed` when the kernel can, and does not.
    """
    home = Path.cwd()
    roots = [] if plugin is None else [Path(str(plugin["root"]))]
    readable = [*libraries(home.parent.parent), *roots]
    relink(home)
    if not close_files(readable, [home]):
        raise WorkerError("worker.failed", "the files could not be closed")


def _admit(closed: bool, root: str, key: str, digest: str) -> None:
    """Let a plug-in be imported.

    Raises:
        PolicyRefused: `policy.plugin` where its files could not be closed, or for another than the approved one.
    """
    from pipelines import plugins

    if not closed:
        raise PolicyRefused("policy.plugin", "this machine cannot keep a plug-in from other files")
    plugins.load(Path(root), key, digest)

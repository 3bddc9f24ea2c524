"""`corsia bench federation`, key `arrays`: what a model costs on its way, and in the memory of the federation process.

Serialisation: one record to a file and back by the product's own way, which is in pieces: what goes out are the header
and views of the arrays, written one after the other (a blob at the centre); what comes in is read once and then viewed.
The file lies in memory and is touched before, so that no disk is measured. Beside it the way over one joined object of
bytes (a worker's answer through its pipe; arrays copied for a learner that changes them), and Flower's own, in one run.
Aggregation: a real round loop in a
process of its own, over a real database and landing zone, while this process answers for every site with sealed
updates. What is measured is the kernel's high-water mark of the resident set (VmHWM) above the set before the run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from corsia.bench_sites import Sites
from pipelines import flower

__all__ = ["bench_aggregation", "bench_arrays", "bench_serialisation"]

_MIB = 1 << 20
Record = Mapping[str, np.ndarray[Any, Any]]


def bench_arrays(
    tell: Callable[[str], object] = lambda _line: None,
    *,
    sizes_mib: tuple[int, ...] = (100, 800),
    repeats: int = 3,
    sites: int = 8,
    hidden: tuple[int, ...] = (4096, 4096, 2048),
) -> dict[str, Any]:
    """Both parts.

    Args:
        tell: called with a line after each step.
        sizes_mib: of the record that is serialised, float32.
        repeats: the best of so many counts, for ours and for Flower's.
        sites: that answer; `hidden`: layers of the model that is averaged, 100 MB as given.

    Returns:
        `serialisation`: a list as `bench_serialisation` gives; `aggregation` as `bench_aggregation`.
    """
    measured = []
    for size in sizes_mib:
        measured.append(bench_serialisation(size, repeats=repeats))
        tell(
            f"{size} MiB: out {measured[-1]['out_mib_s']} MiB/s, in {measured[-1]['in_mib_s']} MiB/s, joined "
            f"{measured[-1]['joined_out_mib_s']} and {measured[-1]['copied_in_mib_s']} MiB/s"
        )
    aggregation = bench_aggregation(sites=sites, hidden=hidden)
    tell(f"{sites} sites of {aggregation['model_mb']} MB: {aggregation['model_sizes']} model sizes above idle")
    return {"serialisation": measured, "aggregation": aggregation}


def bench_serialisation(size_mib: int, *, repeats: int = 3) -> dict[str, Any]:
    """One float32 array from numpy and back, in our format and in Flower's own.

    Returns:
        `out_mib_s`, `in_mib_s`: in pieces to a file in memory, and from it to views. `joined_out_mib_s`,
        `copied_in_mib_s`: to one object of bytes, and from it to writable arrays; Flower's are to be held to these.
        `in_view_ms`: the views alone.
    """
    from central.federation.flower import identify

    identify(1)
    array = np.random.default_rng(1).random(size_mib * _MIB // 4, dtype=np.float32)
    pieces = _pieces(array, repeats)
    ours = _best(array, _to_bytes, _from_bytes, repeats)
    theirs = _best(array, _flower_to_bytes, _flower_from_bytes, repeats)
    raw = _to_bytes(array)
    start = time.perf_counter()
    flower.views_of(flower.message_from_bytes(raw).content[flower.ARRAYS])
    view_s = time.perf_counter() - start
    return {
        "size_mib": size_mib,
        "out_mib_s": round(size_mib / pieces[0]),
        "in_mib_s": round(size_mib / pieces[1]),
        "joined_out_mib_s": round(size_mib / ours[0]),
        "copied_in_mib_s": round(size_mib / ours[1]),
        "in_view_ms": round(view_s * 1e3, 2),
        "bytes_above_arrays": len(raw) - array.nbytes,
        "flower_out_mib_s": round(size_mib / theirs[0]),
        "flower_in_mib_s": round(size_mib / theirs[1]),
        "ratio_out": round(theirs[0] / ours[0], 1),
        "ratio_in": round(theirs[1] / ours[1], 1),
    }


def _pieces(array: Any, repeats: int) -> tuple[float, float]:
    """Shortest seconds of each way through a file in memory; what comes back must be what went."""
    best = [float("inf"), float("inf")]
    with os.fdopen(os.memfd_create("arrays"), "w+b", buffering=0) as file:
        for turn in range(repeats + 1):
            file.seek(0)
            start = time.perf_counter()
            for part in flower.message_parts(_message(flower.array_record({"w": array}))):
                _write(file, part)
            middle = time.perf_counter()
            size = file.tell()
            file.seek(0)
            begin = time.perf_counter()
            made = flower.views_of(flower.message_from_bytes(_read(file, size)).content[flower.ARRAYS])["w"]
            end = time.perf_counter()
            if not np.array_equal(made, array):
                raise AssertionError("another array came back")
            if turn > 0:  # the first one touches the file's memory
                best = [min(best[0], middle - start), min(best[1], end - begin)]
            del made
    return best[0], best[1]


def _write(file: Any, part: bytes | memoryview) -> None:
    rest = memoryview(part)
    while rest:
        rest = rest[file.write(rest) :]


def _read(file: Any, size: int) -> memoryview:
    whole: memoryview = np.empty(size, np.uint8).data  # which is not cleared before it is read into
    rest = whole
    while rest and (count := file.readinto(rest)):
        rest = rest[count:]
    return whole


def _best(array: Any, out: Callable[[Any], bytes], back: Callable[[bytes], Any], repeats: int) -> tuple[float, float]:
    """Shortest seconds of each way; what comes back must be what went."""
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        start = time.perf_counter()
        raw = out(array)
        middle = time.perf_counter()
        made = back(raw)
        end = time.perf_counter()
        if not (np.array_equal(made, array) and made.flags.writeable):
            raise AssertionError("another array came back")
        best = [min(best[0], middle - start), min(best[1], end - middle)]
        del raw, made
    return best[0], best[1]


def _message(record: Any) -> flower.Message:
    return flower.Message(flower.RecordDict({flower.ARRAYS: record}), 1, "train", group_id="1")


def _to_bytes(array: Any) -> bytes:
    return flower.message_to_bytes(_message(flower.array_record({"w": array})))


def _from_bytes(raw: bytes) -> Any:
    return flower.arrays_of(flower.message_from_bytes(raw).content[flower.ARRAYS])["w"]


def _flower_to_bytes(array: Any) -> bytes:
    record = flower.ArrayRecord({"w": flower.Array(array)})
    return bytes(flower.message_to_proto(_message(record)).SerializeToString())


def _flower_from_bytes(raw: bytes) -> Any:
    return flower.message_from_proto(flower.PbMessage.FromString(raw)).content[flower.ARRAYS]["w"].numpy()


# -- aggregation -------------------------------------------------------------------------------------------------------


def bench_aggregation(
    *, sites: int = 8, hidden: tuple[int, ...] = (4096, 4096, 2048), timeout_s: float = 900.0, **training: Any
) -> dict[str, Any]:
    """One federated run with real processes; memory of the federation's.

    Args:
        hidden: layers of the model.
        training: of the study, such as `strategy`; two rounds of fedavg by default.

    Returns:
        `model_mb` (10^6 bytes), `sites`, `peak_mb_above_idle`, `model_sizes` (their quotient), `rounds`, `seconds`.
    """
    with TemporaryDirectory(prefix="corsia-arrays-") as folder:
        answering = Sites(Path(folder), sites, hidden, training)
        start = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-m", "corsia.bench_arrays", folder], stdout=subprocess.PIPE)
        try:
            answering.serve(lambda: child.poll() is None, time.monotonic() + timeout_s)
        finally:
            if child.poll() is None:
                child.kill()
            output, _ = child.communicate()
        if child.returncode != 0:
            raise AssertionError(f"the federation process ended with {child.returncode}")
        found = json.loads(output)
    above = (found["peak_kib"] - found["idle_kib"]) * 1024
    return {
        "model_mb": round(found["model_bytes"] / 1e6, 1),
        "sites": sites,
        "peak_mb_above_idle": round(above / 1e6, 1),
        "model_sizes": round(above / found["model_bytes"], 2),
        "rounds": found["rounds"],
        "seconds": round(time.perf_counter() - start, 1),
    }


def _federate(root: Path) -> dict[str, int]:
    """The federation process: the study's run from the first question to the last checkpoint."""
    import threading

    from central.federation.checkpoint import StoreCheckpoints
    from central.federation.grid import FleetGrid
    from central.federation.keys import RunKeys
    from central.federation.rounds import Rounds
    from central.store import Store
    from central.store.models import RunRow, StudyRow
    from protocol.study import parse_study

    store, run = Store(root), "0" * 31 + "1"
    with store.begin() as session:
        row = session.query(StudyRow).one()
        session.add(RunRow(id=run, study_digest=row.digest, updated_at=time.time()))
    study = parse_study(row.document)
    key = RunKeys(root / "keys").secret(study.id)
    grid = FleetGrid(store, root / "landing", study, row.digest, run, key, study.sites, threading.Event())
    rounds = Rounds(study, grid, StoreCheckpoints(store, run, study.id))
    idle = _memory("VmRSS")
    reached = rounds.run()
    size = sum(array.nbytes for array in reached.model.values())
    return {"idle_kib": idle, "peak_kib": _memory("VmHWM"), "model_bytes": size, "rounds": reached.round}


def _memory(field: str) -> int:
    return int(re.findall(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def _main(arguments: list[str]) -> Any:
    """The federation process of a given folder; without one, the whole benchmark."""
    if arguments:
        return _federate(Path(arguments[0]))
    return bench_arrays(lambda line: sys.stderr.write(line + "\n"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_main(sys.argv[1:])) + "\n")

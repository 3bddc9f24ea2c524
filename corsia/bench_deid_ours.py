"""This product over one folder, for `corsia bench deid`: in a process of its own, like each peer.

    python -m corsia.bench_deid_ours one-core|all-cores|engine IN OUT

`one-core` does per file what the command line does in one process: read, de-identify, second look, write. `all-cores`
is the batch with a process a core, its start included. `engine` leaves the second look out. Prints what
`bench_deid_peer.py` prints for the others.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["run"]

_KEY = bytes(range(32))


def run(mode: str, source: Path, target: Path) -> dict[str, Any]:
    """Time one way of doing the folder; the first file twice, as with the others."""
    from privacy.deid.onefile import Settings, Worker

    settings = Settings(key=_KEY, target=target, language="en")
    worker, paths = Worker(settings), sorted(source.glob("*.dcm"))
    work: Callable[[], int]
    if mode == "all-cores":
        from privacy.deid import batch

        def work() -> int:
            return int(batch.run(settings, source, jobs=os.cpu_count() or 1)["passed"])

    elif mode == "one-core":

        def work() -> int:
            return sum(_named(worker.process(str(path), number), target) for number, path in enumerate(paths))

    else:

        def work() -> int:
            return sum(_engine(worker, path, target) for path in paths)

    _engine(worker, paths[0], target)
    clock, cpu = time.perf_counter(), _cpu()
    passed = work()
    clock, cpu = time.perf_counter() - clock, _cpu() - cpu
    return {"files": passed, "failed": len(paths) - passed, "seconds": clock, "cpu_seconds": cpu}


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _named(outcome: Any, target: Path) -> bool:
    if outcome.partial:
        os.replace(target / outcome.partial, target / f"{outcome.number}.dcm")
    return bool(outcome.partial)


def _engine(worker: Any, path: Path, target: Path) -> bool:
    (target / path.name).write_bytes(worker.engine.deidentify(path.read_bytes()).data)
    return True


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))

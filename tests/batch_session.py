"""Run beside a cluster: `python -m tests.batch_session FOLDER ENGINE [slurm.conf]`; prints JSON.

What came of three workers: a whole lane, a lane that fails, and a worker whose daemon's end is killed while it works.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from edge.batch import command
from edge.config import EdgeConfig, Limits
from edge.worker import Worker
from protocol.errors import CorsiaError
from protocol.study import Lane
from tests.unit.test_worker import JOB, Rows

LIMITS = Limits(worker_memory_bytes=1_000_000_000, worker_timeout_s=500.0)


def made(folder: Path, engine: str, conf: str | None) -> Worker:
    batch = {"engine": engine, "shared": str(folder), "lanes": ["harvest"], "conf": conf, "listen": "127.0.0.1:0"}
    config = EdgeConfig.model_validate({"site": "site-a", "batch": {k: v for k, v in batch.items() if v is not None}})
    return Worker(LIMITS, folder / "scratch", argv=command(config, Lane.HARVEST))


def workers_on_the_node(folder: Path) -> dict[int, Path]:
    """Workers that a node's end of this session holds now, with their folders there."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                above = Path(f"/proc/{parent}/cmdline").read_bytes()
                if b"edge.worker" in words and b"edge.batch.far" in above and str(folder).encode() in above:
                    found[int(entry.name)] = (entry / "cwd").resolve()
            except OSError:
                continue
    return found


def alive(pid: int) -> bool:
    """Whether it is there, and not only as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main() -> None:
    folder, engine = Path(sys.argv[1]), sys.argv[2]
    conf = sys.argv[3] if len(sys.argv) > 3 else None
    told: dict[str, object] = {}
    items: list[Any] = []
    worker = made(folder, engine, conf)
    began = time.monotonic()
    outcome = worker.run(JOB, Rows(), items.append)
    told["seconds"] = round(time.monotonic() - began, 2)
    told["rows"], told["withheld"] = [item.rows for item in items if item.rows], dict(outcome.withheld)
    told["missing"] = worker.missing

    class Broken(Rows):
        def table(self) -> None:
            raise KeyError("Mario Rossi")

    failing = made(folder, engine, conf)
    try:
        failing.run(JOB, Broken(), items.append)
    except KeyError:
        told["source-failed"] = True

    killed = made(folder, engine, conf)

    there: dict[int, Path] = {}

    class Ended(Rows):
        def table(self) -> None:
            there.update(workers_on_the_node(folder))
            assert killed._child is not None
            os.kill(killed._child.pid, signal.SIGKILL)  # the daemon's end alone
            time.sleep(1.0)

    try:
        killed.run(JOB, Ended(), items.append)
    except CorsiaError as error:
        told["killed"] = error.code
    until = time.monotonic() + 60
    while (left := [pid for pid, home in there.items() if alive(pid) or home.exists()]) and time.monotonic() < until:
        time.sleep(0.2)
    told["running"], told["left"] = len(there), len(left)
    told["keys"] = len(list(folder.glob(".corsia-*")))
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()

"""A consortium of N sites for measuring: invented rows, real processes, real mutual TLS, and what a round costs.

Used by `corsia bench federation`. Times come from the central database (a round runs from the end of the one before
to its own end, evaluation included), memory from /proc. No MLflow is started: what is measured ends before publishing.
Sites enrol over the real wire, but from this process: a command of its own for each would start 102 interpreters for
51 sites, and what is measured comes after it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tomli_w

from corsia.fleet import Fleet
from protocol.errors import UnavailableError, WorkerError

__all__ = ["FEATURES", "Consortium", "Weights", "percentile", "process_cpu_s", "processes", "pss_mb", "rows"]

FEATURES = ("a", "b", "c", "d")
ROWS = 60  # a site
_STARTS = 6  # agents that start at a time
Tell = Callable[[str], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Resident memory in MB (PSS: shared pages counted once): each process of the centre, a site's agent and worker."""

    centre: dict[str, float]
    agent: float
    worker: float
    total: float


@dataclass(slots=True)
class Consortium:
    """N sites and a centre under one folder; a context manager.

    Args:
        out: a new folder.
        sites: how many.
        networks: of each site, by name; all of one when None.
        table: a site's rows as CSV, by its number.
        edge: what edge.toml says besides the site's name and folder, by `heartbeat_s`.
    """

    out: Path
    sites: int
    tell: Tell = lambda _line: None
    heartbeat_s: float = 10.0
    networks: Mapping[str, str] | None = None
    table: Callable[[int], str] | None = None
    edge: Callable[[float], dict[str, Any]] | None = None
    _fleet: Fleet | None = None

    def __enter__(self) -> Consortium:
        self._fleet = Fleet(self.out)
        try:
            self._start(self._fleet)
        except BaseException:
            self._fleet.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._fleet is not None:
            self._fleet.stop()

    @property
    def fleet(self) -> Fleet:
        """The processes."""
        if self._fleet is None:
            raise AssertionError("the consortium has not been started")
        return self._fleet

    @property
    def names(self) -> list[str]:
        """The sites' names, in order."""
        return [f"site-{i:02d}" for i in range(self.sites)]

    def came(self, number: int) -> None:
        """Called when so many sites are connected."""

    def _start(self, fleet: Fleet) -> None:
        fleet.start_centre(self.networks or dict.fromkeys(self.names, "bench"))
        for number, name in enumerate(self.names):
            data = fleet.out / "sites" / name / "data"
            data.mkdir(parents=True)
            (data / "table.csv").write_text((self.table or rows)(number))
            self._enrol(fleet, name)
        self.tell(f"{self.sites} sites enrolled")
        for number, name in enumerate(self.names, start=1):
            fleet.start_site(name)
            if number % _STARTS == 0 or number == self.sites:  # all at once would only fight for the cores
                self._await_connected(fleet, number)
                self.tell(f"{number} of {self.sites} sites connected")
                self.came(number)

    def _enrol(self, fleet: Fleet, name: str) -> None:
        from central import ipc
        from central.config import load_config, operator_token
        from edge.identity import enrol
        from edge.journal import Journal

        centre = load_config(fleet.central_toml)
        folder = fleet.out / "sites" / name
        (folder / "edge.toml").write_text(
            tomli_w.dumps({"site": name, "state_dir": "state", **(self.edge or _edge)(self.heartbeat_s)})
        )
        reply = ipc.call(centre.socket("signer"), "invite", token=operator_token(centre), site=name)
        enrol(name, folder / "state", str(reply["code"]))
        Journal(folder / "state" / "journal.jsonl").append("site.enrolled", site=name)

    def _await_connected(self, fleet: Fleet, count: int) -> None:
        from central import ipc
        from central.config import load_config

        socket = load_config(fleet.central_toml).socket("gateway")
        fleet.wait(lambda: len(ipc.call(socket, "status")["connected"]) >= count, f"{count} sites", timeout_s=300)

    def run(self, study: str, *, rounds: int, masked: bool = False, timeout_s: float = 600.0) -> list[float]:
        """Train for so many rounds; returns the seconds of each round but the first, which finds nothing warm.

        Raises:
            WorkerError: the run failed.
            UnavailableError: `unavailable.process` after `timeout_s`.
        """
        fleet = self.fleet
        plan = _study(study, self.names, rounds, masked=masked)
        path = fleet.out / f"{study}.toml"
        path.write_text(tomli_w.dumps(plan))
        token = str(fleet.token_file)
        fleet.corsia("study", "submit", str(path), "--url", fleet.url, "--token-file", token, "--json")
        until, told = time.monotonic() + timeout_s, 0
        while True:
            time.sleep(0.5)
            ends = self.ends(study)
            if len(ends) > rounds:
                return [b - a for a, b in pairwise(ends[1:])]
            if len(ends) - told >= 10:
                told = len(ends)
                self.tell(f"{study}: round {len(ends) - 1}")
            if time.monotonic() > until:
                raise UnavailableError("unavailable.process", f"{study}: {len(ends)} rounds in {timeout_s:.0f} s")

    def ends(self, study: str) -> list[float]:
        """When each round ended, the preparation first; a round counts when it has its metrics."""
        path = self.fleet.out / "centre" / "state" / "corsia.db"
        query = (
            "SELECT rounds.finished_at, rounds.metrics, rounds.round, runs.state, runs.code FROM rounds"
            " JOIN runs ON runs.id = rounds.run JOIN studies ON studies.digest = runs.study_digest"
            " WHERE studies.id = ? ORDER BY rounds.round"
        )
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        try:
            found = database.execute(query, (study,)).fetchall()
        finally:
            database.close()
        failed = next((code for *_, state, code in found if state == "failed"), None)
        if failed is not None:
            raise WorkerError("worker.failed", f"the run of {study} failed: {failed}")
        return [float(end) for end, metrics, number, *_ in found if number == 0 or metrics not in ("{}", None)]

    def weights(self) -> Weights:
        """Memory of all processes now."""
        centre: dict[str, float] = {}
        agents, workers = [], []
        for pid, command in processes(self.fleet.pids()):
            size = pss_mb(pid)
            if "edge.worker" in command:
                workers.append(size)
            elif "edge" in command:
                agents.append(size)
            else:
                name = next((word.partition(".")[2] for word in command if word.startswith("central.")), "supervisor")
                centre[name] = round(centre.get(name, 0.0) + size, 1)
        return Weights(
            centre=centre,
            agent=round(median(agents), 1) if agents else 0.0,
            worker=round(median(workers), 1) if workers else 0.0,
            total=round(sum(centre.values()) + sum(agents) + sum(workers), 1),
        )

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds that the centre and the sites have used so far."""
        used = {"centre": 0.0, "sites": 0.0}
        for pid, command in processes(self.fleet.pids()):
            side = "sites" if "edge" in command or "edge.worker" in command else "centre"
            used[side] += process_cpu_s(pid)
        return used


def rows(number: int) -> str:
    """A site's invented table as CSV."""
    random = np.random.default_rng([7, number])
    values = random.normal(size=(ROWS, len(FEATURES)))
    outcome = (values.sum(axis=1) + random.normal(size=ROWS) > 0).astype(int)
    lines = [",".join(("patient_id", *FEATURES, "outcome"))]
    lines += [
        f"{number}-{i}," + ",".join(f"{v:.6f}" for v in row) + f",{label}"
        for i, (row, label) in enumerate(zip(values, outcome, strict=True))
    ]
    return "\n".join(lines) + "\n"


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of all are not above."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, int(np.ceil(share * len(ordered))) - 1))]


def _edge(heartbeat_s: float) -> dict[str, Any]:
    roles = {"patient_id": "patient", "outcome": "value", **dict.fromkeys(FEATURES, "value")}
    policy = {
        "lanes": ["train"], "pipelines": ["train"], "purposes": ["research"], "require_consent": False,
        "allow_unbounded_epsilon": True, "approve": "auto", "max_bytes": 1_000_000_000,
    }  # fmt: skip
    return {
        "limits": {"heartbeat_s": heartbeat_s},
        "datasets": {"rows": {"table": "data/table.csv", "columns": roles, "policy": policy}},
    }


def _study(name: str, sites: list[str], rounds: int, *, masked: bool) -> dict[str, Any]:
    return {
        "schema": 1, "id": name, "title": "Overhead of a round", "lane": "train", "purpose": "research",
        "legal_basis": "scientific-research", "controller": "Corsia bench", "ethics_reference": "none: invented rows",
        "expires": datetime.now(UTC).replace(microsecond=0) + timedelta(days=2), "sites": sites,
        "dataset": {"name": "rows", "columns": [*FEATURES, "outcome"]}, "pipeline": {"name": "train"},
        "privacy": {"secure_aggregation": masked},
        "training": {
            "learner": "tabular", "features": list(FEATURES), "outcome": ["outcome"], "rounds": rounds,
            "local_steps": 1, "publish": {"model": name},
        },
    }  # fmt: skip


def processes(roots: Iterable[int]) -> Iterable[tuple[int, list[str]]]:
    """Every process below `roots`, these included, with its command's words."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    todo = list(roots)
    while todo:
        pid = todo.pop()
        todo += parents.get(pid, [])
        try:
            yield pid, Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue


def process_cpu_s(pid: int) -> float:
    """CPU seconds that a process has used so far; 0 where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> float:
    """Memory with each shared page divided among those that share it; but to root, of a guarded process its RSS."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except PermissionError:  # it is not dumpable (`protocol.process`)
        resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return resident * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024.0

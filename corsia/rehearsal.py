"""`corsia rehearse`: a consortium played through on one machine, with outages, and what it says of a larger one.

    N agents as processes, in four networks, of very different sizes -> a study a lane, all at once -> some agents are
    killed, some frozen, the gateway and the vault killed -> everything must have arrived, once -> figures

Every process, socket and file is real; the hospitals' rows are invented. No MLflow is started: lane 4 is over when its
last round is.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import tomli_w

from corsia import rehearsal_figures as figures
from corsia import rehearsal_plan as plan
from corsia.bench_consortium import Consortium, process_cpu_s, processes
from corsia.fleet import Fleet
from corsia.rehearsal_record import Landed, Record
from protocol.errors import ConflictError, UnavailableError, WorkerError

__all__ = ["rehearse"]

_SETTLE_S, _IDLE_S, _SAMPLE_S = 1.0, 6.0, 2.0
_FROZEN_S = 5.0
_BACK_S = 300.0
_HEARTBEAT_S = 2.0
Tell = Callable[[str], object]


@dataclass(slots=True)
class _Measured(Consortium):
    """A consortium that is weighed while its sites come."""

    came_with: list[tuple[float, float]] = field(default_factory=list)

    def came(self, number: int) -> None:
        """Weigh the centre with so many sites connected."""
        self.came_with.append((float(number), sum(self.weights().centre.values())))

    @property
    def record(self) -> Record:
        """What the centre has written down."""
        return Record(self.fleet.out / "centre" / "state" / "corsia.db")

    def centre_pid(self, process: str) -> int:
        """The id of a process of the centre."""
        return next(pid for pid, words in processes(self.fleet.pids()) if f"central.{process}" in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outage:
    """What went away, and after how long all of it was back."""

    what: str
    how: str
    count: int
    at_s: float
    recovered_s: float


def rehearse(
    out: Path, *, sites: int = 51, rounds: int = 3, seed: int = 1, plots: Path | None = None, timeout_s: float = 3000.0,
    tell: Tell = lambda _line: None,
) -> dict[str, Any]:  # fmt: skip
    """Play a consortium through.

    Args:
        out: a new or empty folder, or one that an earlier rehearsal wrote (which is replaced).
        sites: agents, at least 4: one a network.
        rounds: of lane 4.
        seed: of the hospitals' sizes.
        plots: folder for the pictures; none when None.
        timeout_s: for everything from the submission on.

    Returns:
        What `--json` prints: lanes, throughput, memory, outages, completeness, coefficients, extrapolation.

    Raises:
        ConflictError: `conflict.exists` when `out` holds something else.
        WorkerError, UnavailableError: a study failed or did not end.
    """
    _prepare(out)
    began, patients = time.monotonic(), plan.sizes(sites, seed)
    made = _Measured(
        out=out / "run", sites=sites, tell=tell, heartbeat_s=_HEARTBEAT_S, edge=plan.edge,
        table=lambda number: plan.table(number, patients[number]),
    )  # fmt: skip
    made.networks = plan.networks(made.names)
    with made:
        started = time.monotonic() - began
        beat_cpu_s = _idle(made)
        acts = _Acts(made, rounds, tell)
        outages = acts.play(timeout_s)
        told = _told(made, acts, outages, patients, beat_cpu_s)
        landed_s = [one.at - acts.began_at for one in made.record.landed()]
    told |= {"sites": sites, "started_s": round(started, 1), "seconds": round(time.monotonic() - began, 1)}
    if plots is not None:
        told["plots"] = figures.draw(told, acts.samples, landed_s, plots)
    return told


def _prepare(out: Path) -> None:
    marker = out / ".corsia-rehearsal"
    if out.exists() and any(out.iterdir()):
        if not marker.exists():
            raise ConflictError("conflict.exists", f"{out} is not empty and not a rehearsal's folder")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _idle(consortium: _Measured) -> float:
    """CPU seconds of the centre for a heartbeat, while nothing else happens."""
    time.sleep(_SETTLE_S)
    before, at = consortium.cpu_s()["centre"], time.monotonic()
    time.sleep(_IDLE_S)
    beats = consortium.sites * (time.monotonic() - at) / _HEARTBEAT_S
    return (consortium.cpu_s()["centre"] - before) / max(1.0, beats)


class _Acts:
    """Submits, disturbs, waits, samples."""

    def __init__(self, consortium: _Measured, rounds: int, tell: Tell) -> None:
        self._consortium, self._rounds, self._tell = consortium, rounds, tell
        self.samples: list[dict[str, float]] = []
        self.began_at = 0.0
        self.ended: dict[str, float] = {}
        self.details: dict[str, Any] = {}
        self.centre_cpu_s = 0.0

    def play(self, timeout_s: float) -> list[_Outage]:
        """All of it; returns the outages. Raises: WorkerError, UnavailableError."""
        fleet, before = self._consortium.fleet, self._consortium.cpu_s()["centre"]
        self.began_at = time.time()
        for lane, study in plan.studies(self._consortium.names, self._rounds).items():
            fleet.submit(study["id"], tomli_w.dumps(study).encode())
            self._tell(f"submitted {lane}")
        over = threading.Event()
        sampling = threading.Thread(target=self._sample, args=(over,), daemon=True)
        sampling.start()
        try:
            outages = self._disturb()
            self._await_end(timeout_s)
        finally:
            over.set()
            sampling.join()
        self.centre_cpu_s += self._consortium.cpu_s()["centre"] - before
        return outages

    def _now(self) -> float:
        return self._since(time.time())

    def _since(self, at: float) -> float:
        return round(at - self.began_at, 1)

    def _disturb(self) -> list[_Outage]:
        """A tenth of the agents killed, a tenth frozen, the gateway and the vault killed: one after the other."""
        names, fleet = self._consortium.names, self._consortium.fleet
        share = max(1, len(names) // 10)
        killed, frozen = names[:share], names[-share:]
        outages = [self._outage("agents", "killed", killed, partial(_kill, fleet, killed))]
        outages.append(self._outage("agents", "frozen", frozen, partial(self._freeze, frozen)))
        for process, back in (("gateway", names), ("vault", [])):
            outages.append(self._outage(process, "killed", back, partial(self._kill_process, process)))
        return outages

    def _outage(self, what: str, how: str, names: list[str], act: Callable[[], object]) -> _Outage:
        """Do it, and wait until each of these sites was heard again; of the vault, until it answers."""
        at = self._now()
        act()
        acted_at, from_now = time.time(), time.monotonic()

        def back() -> bool:
            heard = self._consortium.record.heard()
            return all(heard[name] > acted_at for name in names)

        self._until(partial(self._answers, "vault") if what == "vault" else back, from_now + _BACK_S)
        made = _Outage(what=what, how=how, count=max(1, len(names) if what == "agents" else 1), at_s=at,
                       recovered_s=round(time.monotonic() - from_now, 2))  # fmt: skip
        self._tell(f"{made.count} {what} {how}: back after {made.recovered_s} s")
        return made

    def _kill_process(self, process: str) -> None:
        pid = self._consortium.centre_pid(process)
        self.centre_cpu_s += process_cpu_s(pid)  # which goes with it
        os.kill(pid, signal.SIGKILL)

    def _freeze(self, names: list[str]) -> None:
        """Stop whole sites for a while, as a machine that is suspended; from then on they are to come back."""
        wanted = {f"{os.sep}{name}{os.sep}edge.toml" for name in names}
        pids = [
            pid for pid, words in processes(self._consortium.fleet.pids())
            if any(word.endswith(end) for word in words for end in wanted)
        ]  # fmt: skip
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            if number == signal.SIGSTOP:
                time.sleep(_FROZEN_S)

    def _answers(self, process: str) -> bool:
        from central.config import load_config
        from central.supervisor import answers

        return answers(load_config(self._consortium.fleet.central_toml), process)

    @staticmethod
    def _until(ready: Callable[[], bool], until: float) -> None:
        while not ready():
            if time.monotonic() > until:
                raise UnavailableError("unavailable.process", "what went away in the rehearsal did not come back")
            time.sleep(0.1)

    def _await_end(self, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        while len(self.ended) < len(plan.LANES):
            for lane in plan.LANES:
                if lane not in self.ended and (over := self._over_at(lane)) is not None:
                    self.ended[lane] = self._since(over)
                    self._tell(f"{lane}: over after {self.ended[lane]} s")
            if time.monotonic() > until:
                late = sorted(set(plan.LANES) - set(self.ended))
                raise UnavailableError("unavailable.process", f"not over in {timeout_s:.0f} s: {', '.join(late)}")
            time.sleep(0.5)

    def _over_at(self, lane: str) -> float | None:
        """When its last round ended, or its last parcel came into the lake. Raises: WorkerError when it failed."""
        study = f"rehearsal-{lane}"
        if lane == "train":
            ends = self._consortium.ends(study)
            return ends[-1] if len(ends) > self._rounds else None
        with suppress(OSError):  # the web process may be starting again
            self.details[lane] = self._consortium.fleet.api(f"/studies/{study}")
        state = self.details.get(lane, {}).get("state")
        if state == "failed":
            codes = sorted({a["code"] for a in self.details[lane]["assignments"] if a["code"]})
            raise WorkerError("worker.failed", f"{study} failed: {', '.join(codes)}")
        return self._consortium.record.opened(study) if state == "done" else None

    def _sample(self, over: threading.Event) -> None:
        while not over.wait(_SAMPLE_S):
            with suppress(OSError, sqlite3.Error):
                weights = self._consortium.weights()
                self.samples.append(
                    {"seconds": self._now(), "centre_mb": sum(weights.centre.values()),
                     "agent_mb": weights.agent, "worker_mb": weights.worker, "total_mb": weights.total}
                )  # fmt: skip


def _kill(fleet: Fleet, names: list[str]) -> None:
    for name in names:
        fleet.kill(name)


def _told(
    consortium: _Measured, acts: _Acts, outages: list[_Outage], patients: list[int], beat_cpu_s: float
) -> dict[str, Any]:
    landed = consortium.record.landed()
    lanes = {lane: _lane(acts, lane, landed) for lane in plan.LANES}
    parcels, size = len(landed), sum(one.size for one in landed)
    lasted = max(1.0, landed[-1].at - landed[0].at)
    longest = max(acts.ended[lane] for lane in plan.LANES if lane != "train")
    beats = consortium.sites * max(acts.ended.values()) / _HEARTBEAT_S
    checked = consortium.fleet.post("/log/verify", {})
    known = figures.Coefficients(
        memory_mb=figures.line(consortium.came_with), parcel_bytes=size / parcels,
        parcel_cpu_s=max(0.0, acts.centre_cpu_s - beats * beat_cpu_s) / parcels,
        parcels_a_site=parcels / consortium.sites, beat_cpu_s=beat_cpu_s,
        agent_mb=median([sample["agent_mb"] for sample in acts.samples] or [0.0]),
    )  # fmt: skip
    networks = consortium.networks or {}
    most = {name: round(max((sample[name] for sample in acts.samples), default=0.0), 1)
            for name in ("centre_mb", "agent_mb", "worker_mb", "total_mb")}  # fmt: skip
    back = [outage.recovered_s for outage in outages]
    return {
        "networks": {name: list(networks.values()).count(name) for name in plan.NETWORKS},
        "patients": {"all": sum(patients), "smallest": min(patients), "largest": max(patients)},
        "lanes": lanes,
        "throughput": {"parcels_per_s": round(parcels / lasted, 2), "mb_per_s": round(size / lasted / 1e6, 3),
                       "rows_per_s": round(sum(lanes[x].get("rows", 0) for x in plan.LANES) / longest, 1)},
        "memory": most,
        "at_rest": [{"sites": sites, "centre_mb": round(size, 1)} for sites, size in consortium.came_with],
        "outages": [asdict(outage) for outage in outages],
        "recovery": {"median_s": median(back), "worst_s": max(back)},
        "complete": all(lanes[lane]["rows"] == sum(patients) for lane in ("harvest", "extract"))
        and lanes["anonymize"]["sites"] == consortium.sites,
        "log": {"verified": bool(checked["verified"]), "entries": checked["entries"]},
        "coefficients": known.to_json(),
        "extrapolation": figures.extrapolate(known, 1000),
    }  # fmt: skip


def _lane(acts: _Acts, lane: str, landed: list[Landed]) -> dict[str, Any]:
    mine = [one for one in landed if one.study == f"rehearsal-{lane}"]
    told = {"seconds": acts.ended[lane], "parcels": len(mine), "bytes": sum(one.size for one in mine)}
    if lane == "train":
        return told
    totals, assigned = acts.details[lane]["totals"], acts.details[lane]["assignments"]
    sites = sum(a["kind"] == "study" and a["state"] == "done" for a in assigned)
    return told | {"rows": int(totals.get("rows", totals.get("records", 0))), "sites": sites}

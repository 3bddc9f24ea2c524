"""A federated run under its operator: pause, resume, stop, extend, early stopping; late answers; bounds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from sqlalchemy import select

from central.federation import grid, runs
from central.federation.checkpoint import MemoryCheckpoints, join_arrays
from central.federation.control import Command, ask
from central.federation.local import train_locally
from central.registry import Registry, Release
from central.store.models import AssignmentRow, ControlRow, EventRow, ModelRow, ParcelRow, RunRow, StudyRow
from pipelines.guarantee import guarantee
from pipelines.train import load
from protocol.assignment import RoundInstruction, RoundPhase
from protocol.errors import ConflictError, CorsiaError, InputError, StudyRefused
from protocol.study import Study
from tests.federation_hospital import Consortium, Hospitals, frame, study
from tests.federation_process import federation
from tests.gatewaykit import eventually
from tests.integration.test_masked_runs import masked
from tests.integration.test_private_fleet import plan as private
from tests.mlflowkit import store_in

LONG_S = 300.0  # a run on a machine that has much else to do
Tamper = Callable[[str, RoundInstruction, bytes], bytes | None]


class Bench:
    """A consortium, and federations over it that come and go."""

    def __init__(self, root: Path, plan: Study) -> None:
        self.consortium, self.uri = Consortium(root / "state", plan), store_in(root)
        self.store = self.consortium.store

    @contextmanager
    def attended(self) -> Iterator[threading.Thread]:
        stop = threading.Event()
        thread = threading.Thread(target=federation(self.consortium.root, self.uri, stop).attend, args=("tiny",))
        thread.start()
        try:
            yield thread
        finally:
            stop.set()
            thread.join(LONG_S)
            assert not thread.is_alive()

    def ask(self, command: str, **more: Any) -> dict[str, Any]:
        return ask(self.store, "tiny", Command(command), **more)

    def until(self, state: str) -> None:
        until = time.monotonic() + LONG_S
        while True:
            with self.store.read() as reading:
                if reading.scalar(select(RunRow.state)) == state:
                    return
            assert time.monotonic() < until
            time.sleep(0.02)

    def run(self) -> RunRow:
        with self.store.read() as reading:
            return reading.scalars(select(RunRow)).one()

    def study_state(self) -> str:
        with self.store.read() as reading:
            return reading.get_one(StudyRow, "tiny").state

    def events(self, kind: str) -> list[EventRow]:
        with self.store.read() as reading:
            return list(reading.scalars(select(EventRow).where(EventRow.kind == kind).order_by(EventRow.seq)))

    def asked(self) -> list[tuple[int, str]]:
        with self.store.read() as reading:
            rows = reading.scalars(
                select(AssignmentRow).where(AssignmentRow.kind == "round").order_by(AssignmentRow.seq)
            )
            made = [RoundInstruction.from_bytes(row.document) for row in rows]
        return sorted({(one.round, one.phase.value) for one in made})

    def model(self) -> tuple[bytes, dict[str, Any]]:
        with self.store.read() as reading:
            row = reading.scalars(select(ModelRow)).one()
        return self.store.get_blob(row.weights), json.loads(self.store.get_blob(row.manifest))["manifest"]

    def ended(self) -> str:
        with self.store.read() as reading:
            return reading.scalars(select(ControlRow.ended)).one()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow's artifacts


class Clock:
    """What the grid waits by; can be set ahead."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


def at(round_: int, phase: RoundPhase, act: Callable[[], object]) -> Tamper:
    """Do something once, while the sites are answering this phase."""
    done: list[bool] = []

    def tamper(site: str, instruction: RoundInstruction, reply: bytes) -> bytes | None:
        if (instruction.round, instruction.phase, site) == (round_, phase, "site-a") and not done:
            done.append(True)
            act()
        return reply

    return tamper


def weights(plan: Study) -> bytes:
    reached = train_locally(plan, {site: load(plan, site, frame(site)) for site in plan.sites})
    return join_arrays(reached.model, reached.preprocessing)


@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "masked"])
def test_a_paused_run_waits_over_restarts_and_ends_as_if_nothing_had_been(tmp_path: Path, hidden: bool) -> None:
    plan = masked(study(rounds=2)) if hidden else study(rounds=2)
    bench = Bench(tmp_path, plan)
    with Hospitals(bench.consortium, at(1, RoundPhase.TRAIN, lambda: bench.ask("pause"))):
        with bench.attended():
            bench.until("paused")
            assert bench.asked() == [(0, "prepare"), (1, "train")]  # what was under way was finished, no more begun
            assert bench.study_state() == "open"
        with bench.attended() as again:  # the wish outlives the process
            time.sleep(0.5)
            assert again.is_alive()
            assert (bench.run().state, bench.asked()) == ("paused", [(0, "prepare"), (1, "train")])
            bench.ask("resume")
            again.join(LONG_S)
    assert bench.study_state() == "done"
    assert bench.model()[0] == weights(plan)
    told = [e.kind for e in bench.events("run.paused") + bench.events("run.resumed")]
    assert told == ["run.paused", "run.resumed"]


def test_pausing_before_the_run_begins_asks_nothing_of_any_site(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study(rounds=1))
    bench.ask("pause")
    with Hospitals(bench.consortium), bench.attended() as thread:
        bench.until("paused")
        assert bench.asked() == []
        bench.ask("resume")
        thread.join(LONG_S)
    assert bench.study_state() == "done"


@pytest.mark.parametrize(("phase", "hidden"), [(RoundPhase.TRAIN, True), (RoundPhase.EVALUATE, False)])
def test_a_stopped_run_publishes_the_last_finished_round(tmp_path: Path, phase: RoundPhase, hidden: bool) -> None:
    """Round 3 is never finished, so the model is that of a run of two rounds, bit for bit."""
    plan = study(rounds=5)
    bench = Bench(tmp_path, masked(plan) if hidden else plan)
    with Hospitals(bench.consortium, at(3, phase, lambda: bench.ask("stop"))), bench.attended() as thread:
        thread.join(LONG_S)
    shorter = study(rounds=2)
    raw, manifest = bench.model()
    assert raw == weights(masked(shorter) if hidden else shorter)
    assert (manifest["rounds"], manifest["rounds_run"], manifest["ended"]) == (2, 2, "stopped")
    assert (bench.study_state(), bench.ended()) == ("done", "stopped")
    with bench.store.read() as reading:
        states = set(reading.scalars(select(AssignmentRow.state)))
    assert states <= {"done", "expired"}


def test_a_stopped_private_run_counts_the_round_whose_answers_are_out(tmp_path: Path) -> None:
    """Round 2 is in no model, but sites have noised and sent their answers: its epsilon is spent, and said."""
    bench = Bench(tmp_path, private("sample", False))
    with Hospitals(bench.consortium, at(2, RoundPhase.TRAIN, lambda: bench.ask("stop"))), bench.attended() as thread:
        thread.join(LONG_S)
    _, manifest = bench.model()
    told, steps = manifest["privacy"], bench.consortium.study.training.local_steps  # type: ignore[union-attr]
    assert (manifest["rounds"], told["releases"]) == (1, 2 * steps)
    assert manifest["epsilon"] == told["epsilon"] == guarantee(bench.consortium.study, 2)["epsilon"]


def test_stopping_does_not_wait_for_a_deadline(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study(rounds=2, deadline_s=3600.0))
    with Hospitals(bench.consortium, silent=("site-c",)), bench.attended() as thread:
        until = time.monotonic() + LONG_S
        while len(bench.events("round.answered")) < 2:
            assert time.monotonic() < until
            time.sleep(0.02)
        bench.ask("stop")
        thread.join(LONG_S)
    assert (bench.run().state, bench.study_state()) == ("stopped", "closed")  # no round was finished: no model
    assert bench.ended() == "stopped"
    assert [e.kind for e in bench.events("study.closed")] == ["study.closed"]


@pytest.mark.parametrize("when", ["joining", "paused", "training"])
def test_a_discarded_run_publishes_nothing_and_leaves_nothing(tmp_path: Path, when: str) -> None:
    bench = Bench(tmp_path, study(rounds=3))
    if when == "joining":
        with bench.store.begin() as writing:
            writing.scalars(select(AssignmentRow).where(AssignmentRow.site == "site-b")).one().state = "pending"
    act = {"training": lambda: bench.ask("stop", discard=True), "paused": lambda: bench.ask("pause")}.get(when, bool)
    with Hospitals(bench.consortium, at(2, RoundPhase.TRAIN, act)), bench.attended() as thread:
        if when == "paused":
            bench.until("paused")
        if when != "training":
            bench.ask("stop", discard=True)
        thread.join(LONG_S)
    assert (bench.run().state, bench.study_state()) == ("stopped", "closed")
    with bench.store.read() as reading:
        assert reading.scalars(select(ModelRow)).all() == []
    # A site that was still answering when the run was stopped has landed its update since: the next look removes it.
    federation(bench.consortium.root, bench.uri, threading.Event()).clean_late()
    assert list(bench.consortium.landing.iterdir()) == []
    for command in ("pause", "resume", "stop"):
        with pytest.raises(ConflictError) as error:
            bench.ask(command)
        assert error.value.code == "conflict.state"


def test_a_run_that_waits_to_publish_can_be_discarded_and_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study(rounds=1))
    bench.uri = "http://127.0.0.1:9"
    with Hospitals(bench.consortium), bench.attended() as thread:
        while not bench.events("run.waiting"):
            assert thread.is_alive()
            time.sleep(0.02)
        for command in ("pause", "resume", "stop"):
            assert refused(bench, command).code == "conflict.state"
        bench.ask("stop", discard=True)
        thread.join(LONG_S)
    assert (bench.run().state, bench.study_state(), bench.ended()) == ("stopped", "closed", "stopped")
    assert [e.fields["code"] for e in bench.events("run.waiting")] == ["unavailable.mlflow"]
    assert bench.events("model.published") == []


def test_a_run_discarded_while_mlflow_takes_its_model_leaves_nothing_there(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study(rounds=1))
    made = federation(bench.consortium.root, bench.uri, threading.Event())
    taken: list[int] = []

    class Slow(Registry):
        def publish(self, release: Release) -> int:
            taken.append(super().publish(release))
            bench.ask("stop", discard=True)
            return taken[0]

    object.__setattr__(made._publisher, "registry", Slow(bench.uri))
    with Hospitals(bench.consortium):
        made.attend("tiny")
    assert (taken, bench.run().state, bench.study_state()) == ([1], "stopped", "closed")
    with bench.store.read() as reading:
        assert reading.scalars(select(ModelRow)).all() == []
    client = MlflowClient(tracking_uri=bench.uri, registry_uri=bench.uri)
    assert client.search_model_versions("name = 'lung-survival'") == []
    assert client.get_registered_model("lung-survival").aliases == {}
    assert client.search_runs([client.get_experiment_by_name("tiny").experiment_id]) == []
    assert Registry(bench.uri).withdraw("lung-survival", bench.run().id, "tiny") is False  # again: nothing to do


@pytest.mark.parametrize(("beyond", "state"), [(timedelta(days=-36_500), "failed"), (timedelta(days=1), "open")])
def test_a_model_waits_for_mlflow_a_day_beyond_its_study_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beyond: timedelta, state: str
) -> None:
    monkeypatch.setattr(runs, "_GRACE", beyond)
    bench = Bench(tmp_path, study(rounds=1))
    bench.uri = "http://127.0.0.1:9"
    with Hospitals(bench.consortium), bench.attended() as thread:
        while not bench.events("run.waiting") and thread.is_alive():
            time.sleep(0.02)
    assert (bench.study_state(), bench.run().code) == (state, "unavailable.mlflow")
    assert [e.fields["code"] for e in bench.events("run.failed")] == ["unavailable.mlflow"] * (state == "failed")


def test_an_extended_run_is_that_of_a_study_with_so_many_rounds(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study(rounds=2, max_rounds=4))
    extend = at(2, RoundPhase.EVALUATE, lambda: bench.ask("extend", rounds=4))
    with Hospitals(bench.consortium, extend), bench.attended() as thread:
        thread.join(LONG_S)
    raw, manifest = bench.model()
    assert raw == weights(study(rounds=4))
    assert (manifest["rounds"], manifest["ended"]) == (4, "rounds")


def refused(bench: Bench, command: str, **more: Any) -> CorsiaError:
    with pytest.raises(CorsiaError) as error:
        bench.ask(command, **more)
    return error.value


def test_commands_are_checked_and_idempotent(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study(rounds=2, max_rounds=4))
    assert isinstance(refused(bench, "extend", rounds=5), StudyRefused)
    assert refused(bench, "extend", rounds=5).code == "study.rounds"
    assert refused(bench, "extend", rounds=1).code == "input.usage"
    assert refused(bench, "extend", rounds=0).code == "input.usage"
    assert refused(bench, "extend").code == "input.usage"
    assert refused(bench, "pause", rounds=3).code == "input.usage"
    assert refused(bench, "resume", discard=True).code == "input.usage"
    with pytest.raises(StudyRefused) as error:
        ask(bench.store, "other", Command.PAUSE)
    assert error.value.code == "study.unknown"
    assert bench.events("run.asked") == []
    assert bench.ask("resume") == {"study": "tiny", "wish": "run", "rounds": 2, "discard": False}  # nothing to do
    assert bench.ask("extend", rounds=3)["rounds"] == bench.ask("extend", rounds=3)["rounds"] == 3
    assert bench.ask("pause") == bench.ask("pause") == {"study": "tiny", "wish": "pause", "rounds": 3, "discard": False}
    assert bench.ask("stop", discard=True)["discard"] is bench.ask("stop")["discard"] is True
    assert {refused(bench, c).code for c in ("pause", "resume")} == {"conflict.state"}
    assert refused(bench, "extend", rounds=4).code == "conflict.state"
    assert [e.fields["command"] for e in bench.events("run.asked")] == ["extend", "pause", "stop"]


@pytest.mark.parametrize("hidden", [False, True], ids=["plain", "masked"])
def test_early_stopping_restores_the_best_round_and_says_so(tmp_path: Path, hidden: bool) -> None:
    def made(**more: object) -> Study:
        plan = study(rounds=8, learning_rate=0.4, **more)
        return masked(plan) if hidden else plan

    kept = MemoryCheckpoints()
    train_locally(made(), {site: load(made(), site, frame(site)) for site in made().sites}, kept)
    losses = {c.round: c.metrics["loss"] for c in kept.all if c.round}
    best = next(r for r in losses if all(losses[r] <= losses[n] for n in range(r + 1, min(r + 3, 9))))
    assert 0 < best <= 6, losses  # else the case shows nothing
    stopping = {"monitor": "loss", "mode": "min", "patience": 2}
    if hidden:
        local = train_locally(made(stopping=stopping), {s: load(made(), s, frame(s)) for s in made().sites})
        assert (local.round, local.rounds_run, local.ended) == (best, best + 2, "early")
        return
    bench = Bench(tmp_path, made(stopping=stopping))
    with Hospitals(bench.consortium), bench.attended() as thread:
        thread.join(LONG_S)
    raw, manifest = bench.model()
    assert (manifest["rounds"], manifest["rounds_run"], manifest["ended"]) == (best, best + 2, "early")
    reached = kept.at(best)
    assert raw == join_arrays(reached.model, reached.preprocessing)
    local = train_locally(
        made(stopping=stopping | {"restore_best": False}), {s: load(made(), s, frame(s)) for s in made().sites}
    )
    assert (local.round, local.rounds_run, local.ended) == (best + 2, best + 2, "early")


def test_a_metric_that_nobody_measures_ends_the_run_with_its_name(tmp_path: Path) -> None:
    plan = study(rounds=3, stopping={"monitor": "f1", "mode": "max"})
    with pytest.raises(InputError, match="c-index, loss"):
        train_locally(plan, {site: load(plan, site, frame(site)) for site in plan.sites})


def test_an_answer_after_its_round_is_discarded_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, study(quorum=0.6, deadline_s=3600.0, rounds=2))
    clock = Clock()
    monkeypatch.setattr(grid, "time", clock)

    def tamper(site: str, instruction: RoundInstruction, reply: bytes) -> bytes | None:
        if site == "site-c" and (instruction.round, instruction.phase) == (1, RoundPhase.TRAIN):
            eventually(lambda: len(bench.events("round.answered")) == 3 + 2, LONG_S)  # the others have answered
            clock.ahead = 3600.0
            eventually(lambda: bench.events("round.late"), LONG_S)
        return reply

    with Hospitals(bench.consortium, tamper), bench.attended() as thread:
        thread.join(LONG_S)
    late = bench.events("round.late")
    assert [(e.site, e.fields) for e in late] == [("site-c", {"round": 1, "phase": "train"})]
    with bench.store.read() as reading:
        rejected = reading.scalars(select(ParcelRow).where(ParcelRow.state == "rejected")).all()
    assert [(p.site, p.code) for p in rejected] == [("site-c", "study.late")]
    assert [(e.site, e.study, e.fields["code"]) for e in bench.events("parcel.rejected")] == [
        ("site-c", "tiny", "study.late")
    ]
    assert bench.study_state() == "done"


def test_events_tell_each_phase_as_it_goes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study(quorum=0.6, rounds=1))

    def tamper(site: str, instruction: RoundInstruction, reply: bytes) -> bytes | None:
        return None if site == "site-b" and instruction.phase is RoundPhase.TRAIN else reply

    with Hospitals(bench.consortium, tamper), bench.attended() as thread:
        thread.join(LONG_S)
    begun = [(e.fields["round"], e.fields["phase"], e.fields["asked"]) for e in bench.events("round.begun")]
    assert begun == [(0, "prepare", 3), (1, "train", 3), (1, "evaluate", 3)]
    answered = [(e.fields["answered"], e.fields["asked"]) for e in bench.events("round.answered")]
    assert len(answered) == 8
    assert answered[:3] == [(1, 3), (2, 3), (3, 3)]
    dropped = [(e.site, e.fields) for e in bench.events("round.dropped")]
    assert dropped == [("site-b", {"round": 1, "phase": "train", "code": "worker.failed"})]
    assert set(bench.events("round.finished")[-1].fields["metrics"]) >= {"c-index", "loss", "rows"}


def test_a_model_beyond_the_studys_bound_is_refused_before_round_1(tmp_path: Path) -> None:
    bench = Bench(tmp_path, study(max_model_bytes=50))
    with Hospitals(bench.consortium), bench.attended() as thread:
        thread.join(LONG_S)
    assert (bench.run().code, bench.study_state()) == ("input.model-size", "failed")
    assert bench.asked() == [(0, "prepare")]

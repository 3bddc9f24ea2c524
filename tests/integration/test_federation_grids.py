"""The same app gives the same model on an in-process grid, over the fleet's store and under Flower's simulation."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from central.federation.checkpoint import Checkpoint, MemoryCheckpoints, StoreCheckpoints, join_arrays
from central.federation.grid import FleetGrid, instruction_id
from central.federation.leftovers import forget
from central.federation.local import LocalGrid, train_locally
from central.federation.rounds import Rounds
from central.store.models import AssignmentRow, EventRow, ParcelRow, RoundRow, RunRow
from pipelines.train import load
from privacy.envelope import SecretKey
from protocol.assignment import RoundInstruction, RoundPhase
from protocol.errors import UnavailableError
from protocol.study import Study
from protocol.trust import Purpose
from tests.federation_hospital import SITES, Consortium, Hospitals, frame, session, study

RUN = "ab" * 16


def over_fleet(consortium: Consortium, *, sites: tuple[str, ...] = SITES) -> Checkpoint:
    with consortium.store.begin() as writing:
        if writing.get(RunRow, RUN) is None:
            writing.add(RunRow(id=RUN, study_digest=consortium.digest, updated_at=time.time()))
    grid = FleetGrid(
        consortium.store, consortium.landing, consortium.study, consortium.digest, RUN,
        consortium.keys.secret(consortium.study.id), sites, threading.Event(),
    )  # fmt: skip
    return Rounds(consortium.study, grid, StoreCheckpoints(consortium.store, RUN, consortium.study.id)).run()


def in_process(plan: Study) -> Checkpoint:
    return train_locally(plan, {site: load(plan, site, frame(site)) for site in plan.sites})


def weights(reached: Checkpoint) -> bytes:
    return join_arrays(reached.model, reached.preprocessing)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_the_fleet_gives_the_bytes_of_the_in_process_grid(tmp_path: Path, strategy: str) -> None:
    plan = study(strategy=strategy)
    consortium = Consortium(tmp_path, plan)
    with Hospitals(consortium):
        fleet = over_fleet(consortium)
    local = in_process(plan)
    assert weights(fleet) == weights(local)
    assert fleet.metrics == local.metrics
    assert fleet.round == 3
    with consortium.store.read() as reading:
        parcels = reading.scalars(select(ParcelRow)).all()
        assert len(parcels) == 3 * (1 + 2 * 3)
        assert {p.state for p in parcels} == {"opened"}
        assert [r.round for r in reading.scalars(select(RoundRow).order_by(RoundRow.round))] == [0, 1, 2, 3]
        kinds = [e.kind for e in reading.scalars(select(EventRow))]
        assert kinds.count("round.finished") == 4
    left = [path.read_bytes() for path in consortium.landing.glob("*.parcel")]
    assert len(left) == 3  # of the last phase
    assert not any(b"num-examples" in raw for raw in left)  # ciphertext in the landing zone


def on_disk(consortium: Consortium) -> set[str]:
    """Round, phase and site of the instructions whose message lies on the disk."""
    found = set()
    with consortium.store.read() as reading:
        for row in reading.scalars(select(AssignmentRow).where(AssignmentRow.kind == "round")):
            asked = RoundInstruction.from_bytes(row.document)
            if (consortium.store.state_dir / "blobs" / asked.message).exists():
                found.add(f"{asked.round} {asked.phase} {asked.site}")
    return found


def test_a_phase_leaves_nothing_on_the_disk_once_the_next_begins(tmp_path: Path) -> None:
    """Else a run of 50 rounds keeps a hundred messages a site, each with the whole model."""
    plan = study(strategy="fedadam")
    consortium = Consortium(tmp_path, plan)
    most: list[int] = []

    def look(site: str, instruction: RoundInstruction, reply: bytes) -> bytes:
        most.append(len({place.rpartition(" ")[0] for place in on_disk(consortium)}))
        return reply

    with Hospitals(consortium, look):
        reached = over_fleet(consortium)
    assert set(most) == {1}
    assert weights(reached) == weights(in_process(plan))
    assert on_disk(consortium) == {f"3 evaluate {site}" for site in SITES}
    with consortium.store.read() as reading:
        for row in reading.scalars(select(AssignmentRow).where(AssignmentRow.kind == "round")):
            consortium.keys.secret(plan.id).public.verify(Purpose.ROUND, row.document, row.signature)
        assert len(reading.scalars(select(ParcelRow.log_index)).all()) == 3 * 7  # rows, and so receipts, stay
    assert forget(consortium.store, consortium.landing, consortium.digest) == 3
    assert on_disk(consortium) == set()
    assert not list(consortium.landing.glob("*.parcel"))
    assert forget(consortium.store, consortium.landing, consortium.digest) == 0
    for checkpoint in range(4):
        StoreCheckpoints(consortium.store, RUN, plan.id).at(checkpoint)  # models stay


def test_what_another_row_names_stays_and_a_process_that_died_in_between_is_no_harm(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, study(rounds=1))
    with Hospitals(consortium):
        over_fleet(consortium)
    with consortium.store.begin() as writing:
        rows = writing.scalars(select(AssignmentRow).where(AssignmentRow.kind == "round")).all()
        last = [row for row in rows if row.blobs]
        writing.add(
            RoundRow(run="cd" * 16, round=0, arrays=last[0].blobs[0]["digest"], started_at=0.0, finished_at=0.0)
        )
        other = AssignmentRow(
            id="ef" * 16, site="site-a", kind="study", study_digest=consortium.digest, document=b"", signature=b"",
            blobs=last[1].blobs, created_at=0.0, updated_at=0.0,
        )  # fmt: skip
        writing.add(other)
    kept = {last[0].blobs[0]["digest"], last[1].blobs[0]["digest"]}
    consortium.store.drop_blob(last[2].blobs[0]["digest"])  # as a process does that dies before the rows say so
    assert forget(consortium.store, consortium.landing, consortium.digest, (1, RoundPhase.EVALUATE)) == 0
    assert forget(consortium.store, consortium.landing, consortium.digest) == 3
    for digest in kept:
        consortium.store.get_blob(digest)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_a_resumed_run_is_bit_equal(strategy: str) -> None:
    plan = study(strategy=strategy)
    data = {site: load(plan, site, frame(site)) for site in plan.sites}

    class Cut(MemoryCheckpoints):
        def save(self, checkpoint: Checkpoint) -> None:
            super().save(checkpoint)
            if checkpoint.round == 2 and not checkpoint.metrics:
                raise KeyboardInterrupt

    cut = Cut()
    with pytest.raises(KeyboardInterrupt):
        train_locally(plan, data, cut)
    kept = MemoryCheckpoints()
    kept.all = list(cut.all)
    assert weights(train_locally(plan, data, kept)) == weights(in_process(plan))


def test_store_checkpoints_read_back_equal(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, study(strategy="fedadam"))
    with Hospitals(consortium):
        reached = over_fleet(consortium)
    again = StoreCheckpoints(consortium.store, RUN, "tiny").latest()
    assert again is not None
    assert weights(again) == weights(reached)
    assert again.examples == dict(reached.examples)
    assert again.state == reached.state == {}
    moments, others = ({k: np.asarray(v).tobytes() for k, v in one.moments.items()} for one in (again, reached))
    assert moments == others
    assert set(moments) == {f"{m}/{k}" for m in ("m_t", "v_t") for k in reached.model}


def test_answers_that_landed_are_read_again_and_nothing_is_instructed_twice(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, study())
    with Hospitals(consortium) as hospitals:
        first = over_fleet(consortium)
        with consortium.store.begin() as writing:  # as if the last checkpoint had not been written
            writing.get_one(RoundRow, (RUN, 3)).metrics = {}
        seen = dict(hospitals.seen)
        second = over_fleet(consortium)
        assert hospitals.seen == seen
    assert weights(second) == weights(first)
    assert second.metrics == first.metrics


def test_a_refusal_is_an_answer_and_ends_the_run_below_quorum_without_waiting(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, study(deadline_s=600.0))

    def refuse(site: str, instruction: RoundInstruction, reply: bytes) -> bytes | None:
        return None if site == "site-b" and instruction.phase is RoundPhase.TRAIN else reply

    started = time.monotonic()
    with Hospitals(consortium, refuse), pytest.raises(UnavailableError) as error:
        over_fleet(consortium)
    assert error.value.code == "unavailable.quorum"
    assert time.monotonic() - started < 300, "half of the deadline"


def test_a_silent_site_is_left_out_at_the_deadline(tmp_path: Path) -> None:
    plan = study(quorum=0.6, deadline_s=1.5, rounds=1)
    consortium = Consortium(tmp_path, plan)
    with Hospitals(consortium, silent=("site-c",)):
        reached = over_fleet(consortium)
    assert reached.sites == ("site-a", "site-b")
    assert reached.round == 1
    with consortium.store.read() as reading:
        late = reading.scalars(select(AssignmentRow).where(AssignmentRow.site == "site-c")).all()
        assert {row.state for row in late if row.kind == "round"} == {"expired"}
        assert "round.late" in {e.kind for e in reading.scalars(select(EventRow))}


@pytest.mark.parametrize("way", ["foreign-key", "other-round", "garbage"])
def test_an_invalid_parcel_is_rejected_and_the_round_goes_on(tmp_path: Path, way: str) -> None:
    consortium = Consortium(tmp_path, study(quorum=0.6, rounds=1))
    spy: dict[str, bytes] = {}

    def tamper(site: str, instruction: RoundInstruction, reply: bytes) -> bytes | None:
        if site != "site-c":
            return reply
        if instruction.phase is RoundPhase.PREPARE:
            spy["old"] = reply
            return reply
        if way == "foreign-key":
            made = instruction_id(RUN, instruction.round, instruction.phase.value, 0, site)
            consortium.deliver(site, made, reply, signer=SecretKey.from_bytes(secrets.token_bytes(32)))
            return None
        return spy["old"] if way == "other-round" else b"\x0a" + reply

    with Hospitals(consortium, tamper):
        reached = over_fleet(consortium)
    assert reached.sites == ("site-a", "site-b")
    with consortium.store.read() as reading:
        rejected = reading.scalars(select(ParcelRow).where(ParcelRow.state == "rejected")).all()
    assert {p.site for p in rejected} == {"site-c"}
    expected = {"foreign-key": "parcel.signature", "other-round": "parcel.context", "garbage": "input.message"}
    assert {p.code for p in rejected} == {expected[way]}


_SIMULATION = """
import hashlib
from central.federation.checkpoint import join_arrays
from central.federation.local import simulate
from pipelines.train import load
from tests.federation_hospital import frame, study

plan = study(strategy="fedadam")
reached = simulate(plan, {site: load(plan, site, frame(site)) for site in plan.sites})
print("sha256", hashlib.sha256(join_arrays(reached.model, reached.preprocessing)).hexdigest())
"""


@pytest.mark.full  # Ray takes long to start; the other grids are compared always
def test_flowers_simulation_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="extra `simulate` is not installed")
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {"HOME": str(tmp_path)}
    done = subprocess.run(  # Ray leaves sockets and processes to the interpreter's end: give it one of its own
        [sys.executable, "-c", _SIMULATION], cwd=Path(__file__).parents[2], env=environment, capture_output=True,
        text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    digest = hashlib.sha256(weights(in_process(study(strategy="fedadam")))).hexdigest()
    assert done.stdout.split()[-2:] == ["sha256", digest]


def test_sessions_give_the_same_bytes_for_the_same_instruction() -> None:
    plan, seen = study(), []

    def twice(site: str):
        first, second = session(plan, site), session(plan, site)

        def handle(raw: bytes) -> bytes:
            answer = first.handle(raw)
            seen.append(answer == second.handle(raw) == first.handle(raw))
            return answer

        return handle

    reached = Rounds(plan, LocalGrid({s: twice(s) for s in plan.sites}), MemoryCheckpoints()).run()
    assert all(seen)
    assert len(seen) == 21
    assert all(np.isfinite(v).all() for v in reached.model.values())

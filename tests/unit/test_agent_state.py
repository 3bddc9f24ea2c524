"""What the site remembers of assignments, instructions and models, and parts as they are sealed."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from edge import state as state_module
from edge.journal import Journal
from edge.sealing import Sealer, batch_id, sealed_bound
from edge.spool import Spool
from edge.state import SiteState
from privacy.envelope import ParcelInfo, SecretKey, unseal
from protocol.assignment import Assignment, AssignmentKind, Blob, RoundInstruction, RoundPhase, State
from protocol.errors import IntegrityError, StudyRefused
from protocol.parcel import Item, ItemKind, unpack_batch
from protocol.study import Study
from tests.agentkit import study

ONE = Assignment(
    id="a1",
    kind=AssignmentKind.STUDY,
    study_digest="0" * 64,
    document=b"d",
    signature=b"s",
    blobs=(Blob(name="m", digest="1" * 64, size_bytes=3),),
)


@pytest.fixture
def state(tmp_path: Path) -> SiteState:
    return SiteState(tmp_path / "state.db")


def test_an_assignment_is_kept_once(state: SiteState, tmp_path: Path) -> None:
    assert state.store(ONE)
    assert not state.store(ONE)
    with pytest.raises(StudyRefused) as caught:
        state.store(replace(ONE, document=b"other"))
    assert caught.value.code == "study.replay"
    (record,) = SiteState(tmp_path / "state.db").open()
    assert (record.assignment, record.state) == (ONE, State.RECEIVED)
    assert state.study("0" * 64) == record
    assert state.study("1" * 64) is None


def test_states_move_on_and_a_final_one_stays(state: SiteState) -> None:
    state.store(ONE)
    state.move("a1", State.RUNNING, counts={"rows": 3})
    state.move("a1", State.DONE, counts={"parcels": 1})
    state.move("a1", State.FAILED, code="worker.failed")
    record = state.record("a1")
    assert record is not None
    assert (record.state, record.code, record.counts) == (State.DONE, "", {"rows": 3, "parcels": 1})
    assert state.open() == []


def test_a_state_is_reported_until_the_centre_has_this_very_one(state: SiteState) -> None:
    state.store(ONE)
    (seen,) = state.unreported()
    state.move("a1", State.RUNNING)
    state.reported(seen)  # an older one
    (now,) = state.unreported()
    assert now.state is State.RUNNING
    state.reported(now)
    assert state.unreported() == []
    state.move("a1", State.RUNNING)
    assert state.unreported() == []
    state.store(ONE)  # the centre asks again: it has forgotten
    assert [r.state for r in state.unreported()] == [State.RUNNING]


def test_changes_together_are_all_made_or_none(state: SiteState, tmp_path: Path) -> None:
    state.store(ONE)

    def change() -> None:
        with state.together():
            state.move("a1", State.RUNNING)
            state.set_fact("name", "value")
            raise StudyRefused("study.replay")

    with pytest.raises(StudyRefused):
        change()
    assert state.open()[0].state is State.RECEIVED
    assert state.fact("name") is None
    with state.together():
        state.move("a1", State.RUNNING)
        state.set_fact("name", "value")
    again = SiteState(tmp_path / "state.db")
    assert (again.open()[0].state, again.fact("name")) == (State.RUNNING, "value")


def test_a_centre_cannot_fill_the_disk(state: SiteState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MAX_OPEN", 3)
    for number in range(3):
        state.store(replace(ONE, id=f"a{number}"))
    for assignment in (replace(ONE, id="b"), replace(ONE, id="c", document=b"x" * (256 * 1024 + 1))):
        with pytest.raises(StudyRefused):
            state.store(assignment)
    state.move("a0", State.DONE)
    assert state.store(replace(ONE, id="b"))


def instruction(**changes: Any) -> RoundInstruction:
    value: dict[str, Any] = {
        "run": "r",
        "study_digest": "0" * 64,
        "site": "site-a",
        "round": 1,
        "phase": RoundPhase.TRAIN,
        "attempt": 0,
        "message": "0" * 64,
        "message_size": 1,
        "deadline": 0.0,
    }
    return RoundInstruction(**(value | changes))


def test_an_instruction_is_carried_out_once_and_in_order(state: SiteState) -> None:
    assert not state.instruct(instruction(), "d1", "a1")
    assert not state.instruct(instruction(), "d1", "a1")  # taken up again after a crash
    state.answered("a1")
    assert state.instruct(instruction(), "d1", "a2")
    with pytest.raises(StudyRefused):
        state.instruct(instruction(), "other", "a3")
    assert not state.instruct(instruction(phase=RoundPhase.EVALUATE), "d2", "a4")
    assert not state.instruct(instruction(attempt=2), "d3", "a5")
    for earlier in (instruction(attempt=1), instruction(round=0, phase=RoundPhase.PREPARE)):
        with pytest.raises(StudyRefused) as caught:
            state.instruct(earlier, "d4", "a6")
        assert caught.value.code == "study.replay"
    assert not state.instruct(instruction(run="other", round=0), "d5", "a7")


def test_a_models_serial_never_falls_nor_its_version_without_a_roll_back(state: SiteState) -> None:
    state.accept_model("risk", "champion", 2, 1, "a")
    state.accept_model("risk", "champion", 2, 1, "a")
    state.accept_model("risk", "champion", 5, 3, "b")
    for serial, version, rollback in ((2, 1, False), (4, 9, False), (4, 9, True), (6, 2, False)):
        with pytest.raises(IntegrityError, match=r"model\.rollback"):
            state.accept_model("risk", "champion", serial, version, "c", rollback=rollback)
    with pytest.raises(IntegrityError, match=r"model\.manifest"):
        state.accept_model("risk", "champion", 5, 3, "other")
    state.accept_model("risk", "champion", 6, 2, "c", rollback=True)
    with pytest.raises(IntegrityError, match=r"model\.rollback"):
        state.accept_model("risk", "champion", 5, 3, "b")
    state.accept_model("risk", "candidate", 1, 1, "d")  # another alias has serials of its own
    state.accept_model("other", "champion", 1, 1, "e")
    assert [(m.alias, m.serial, m.version, m.rollback) for m in state.accepted("risk")] == [
        ("candidate", 1, 1, 0), ("champion", 2, 1, 0), ("champion", 5, 3, 0), ("champion", 6, 2, 1),
    ]  # fmt: skip
    assert len(state.accepted()) == 5


def test_a_serial_that_an_earlier_release_noted_still_counts(tmp_path: Path) -> None:
    import sqlite3

    SiteState(tmp_path / "old.db").close()
    with sqlite3.connect(tmp_path / "old.db") as old:
        old.execute("INSERT INTO models VALUES ('risk', 7)")
        old.execute("PRAGMA user_version = 0")  # as that release left it
    old.close()
    state = SiteState(tmp_path / "old.db")
    with pytest.raises(IntegrityError, match=r"model\.rollback"):
        state.accept_model("risk", "champion", 6, 1, "a")
    state.accept_model("risk", "champion", 7, 1, "a")
    state.close()


# --- sealing


def test_parts_are_sealed_as_they_fill_and_held(tmp_path: Path) -> None:
    vault, signer = SecretKey.generate(), SecretKey.generate()
    recipients = [{"role": "vault", "key": vault.public.to_base64()}]
    asked = Study.model_validate(study().model_dump(by_alias=True) | {"recipients": recipients})
    spool = Spool(tmp_path / "spool", 10**9)
    steps: list[str] = []
    sealer = Sealer(
        spool,
        Journal(tmp_path / "journal.jsonl"),
        assignment=ONE,
        study=asked,
        site="site-a",
        signer=signer,
        reserve=lambda: steps.append("reserve"),
        pause=lambda: steps.append("pause"),
        part_bytes=100,
    )
    for number in range(5):
        sealer.add(Item(kind=ItemKind.DICOM, name=f"{number}.dcm", data=b"x" * 40))
    assert len(sealer.held) == 2
    assert steps == ["reserve", "pause", "pause"]
    sealer.finish({"consent": 2})
    assert steps == ["reserve", "pause", "pause", "pause"]
    assert spool.pending() == []
    released = spool.release("a1")
    batches = []
    for entry in released:
        info = ParcelInfo(
            parcel_id=entry.parcel_id, study=ONE.study_digest, site="site-a", content_type=entry.content_type
        )
        data = entry.path.read_bytes()
        batches.append(unpack_batch(b"".join(unseal(BytesIO(data), key=vault, sender=signer.public, expect=info))))
        assert entry.size_bytes <= sealed_bound(40 * len(batches[-1].items))
    assert [(b.part, b.last, len(b.items), b.withheld) for b in batches] == [
        (0, False, 2, {}),
        (1, False, 2, {}),
        (2, True, 1, {"consent": 2}),
    ]
    assert [b.batch_id for b in batches] == [batch_id(ONE.study_digest, "site-a", "a1", n) for n in range(3)]
    assert len({b.batch_id for b in batches}) == 3


def test_about_whom_the_rows_are_takes_room_too(tmp_path: Path) -> None:
    """Some 20 bytes a row: of short rows it is more than the rows themselves."""
    recipients = [{"role": "vault", "key": SecretKey.generate().public.to_base64()}]
    rooms: list[int] = []
    sealer = Sealer(
        Spool(tmp_path / "spool", 10**9), Journal(tmp_path / "journal.jsonl"), assignment=ONE, site="site-a",
        study=Study.model_validate(study().model_dump(by_alias=True) | {"recipients": recipients}),
        signer=SecretKey.generate(), reserve=lambda: None, pause=lambda: None, room=rooms.append,
        subjects=lambda item: ["P" * 17] * item.rows, part_bytes=60_000,
    )  # fmt: skip
    for number in range(3):
        sealer.add(Item(kind=ItemKind.TABLE, name=f"{number}.parquet", data=b"x" * 1000, rows=2000, persons=2000))
    sealer.finish({})
    assert len(sealer.held) == 3, "a part is no larger than it may be"
    for room, entry in zip(rooms, sealer.held, strict=True):
        assert entry.size_bytes <= room

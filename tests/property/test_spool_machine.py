"""The spool against a model of itself: any order of steps, faults of the disk, power cuts and restarts keeps what was
released and nothing else. A step that was cut short has happened, or it has not.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from errno import EIO
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge.spool import ParcelMeta, Spool, SpoolEntry
from protocol.errors import IntegrityError, StorageError
from protocol.parcel import Receipt
from tests.fault.seam import Mode, PowerCut, Seam

MAX_BYTES = 3_000


@dataclass
class Model:
    """What a spool should hold: as the machine's own members."""

    held: dict[str, tuple[str, int]]
    waiting: dict[str, int]
    bad: dict[str, int]
    sent: set[str]


def meta(number: int, assignment: str) -> ParcelMeta:
    return ParcelMeta(
        parcel_id=f"{number:032x}", assignment_id=assignment, study_digest="ab" * 32, content_type="records"
    )


def writer(size: int, fail: bool = False) -> Callable[[BinaryIO], str]:
    def write(target: BinaryIO) -> str:
        target.write(b"x" * size)
        if fail:
            raise IntegrityError("parcel.payload")
        return hashlib.sha256(b"x" * size).hexdigest()

    return write


def receipt(entry: SpoolEntry) -> Receipt:
    return Receipt(parcel_id=entry.parcel_id, digest=entry.digest, index=0, proof=(), checkpoint="")


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.root = self.folder / "spool"
        self.root.mkdir()
        self.spool = Spool(self.root, MAX_BYTES)
        self.count = 0
        self.held: dict[str, tuple[str, int]] = {}  # parcel -> (assignment, size)
        self.waiting: dict[str, int] = {}  # parcel -> size, in order
        self.bad: dict[str, int] = {}
        self.sent: set[str] = set()
        self.struck = ""

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def used(self) -> int:
        return sum(size for _, size in self.held.values()) + sum(self.waiting.values()) + sum(self.bad.values())

    @rule(assignment=st.sampled_from("ab"), size=st.integers(1, 1_500), fail=st.booleans())
    def hold(self, assignment: str, size: int, fail: bool) -> None:
        self.count += 1
        made, write = meta(self.count, assignment), writer(size, fail)
        if self.used() + size > MAX_BYTES:
            with pytest.raises(StorageError):
                self.spool.hold(made, write)
        elif fail:
            with pytest.raises(IntegrityError):
                self.spool.hold(made, write)
        else:
            self.held[self.spool.hold(made, write).parcel_id] = (assignment, size)

    @rule(assignment=st.sampled_from("ab"))
    def release(self, assignment: str) -> None:
        mine = {p: size for p, (a, size) in self.held.items() if a == assignment}
        assert [e.parcel_id for e in self.spool.release(assignment)] == list(mine)
        self.waiting.update(mine)
        self.held = {p: v for p, v in self.held.items() if p not in mine}

    @rule(assignment=st.sampled_from("ab"))
    def discard(self, assignment: str) -> None:
        mine = [p for p, (a, _) in self.held.items() if a == assignment]
        assert self.spool.discard(assignment) == len(mine)
        self.held = {p: v for p, v in self.held.items() if p not in mine}

    @precondition(lambda self: self.waiting)
    @rule(outcome=st.sampled_from(["sent", "bad", "broken"]))
    def deliver(self, outcome: str) -> None:
        entry = self.spool.sending(self.spool.pending()[0])
        if outcome == "sent":
            self.spool.sent(entry, receipt(entry))
            self.sent.add(entry.parcel_id)
            del self.waiting[entry.parcel_id]
        elif outcome == "bad":
            self.spool.bad(entry, "parcel.signature")
            self.bad[entry.parcel_id] = self.waiting.pop(entry.parcel_id)

    @precondition(lambda self: self.bad)
    @rule()
    def retry(self) -> None:
        parcel_id = next(iter(self.bad))
        Spool(self.root, MAX_BYTES).retry(parcel_id)
        self.waiting[parcel_id] = self.bad.pop(parcel_id)

    @rule(
        step=st.sampled_from(["hold", "release", "discard", "sent", "bad", "retry"]),
        at=st.integers(1, 12),
        how=st.sampled_from([Mode.CUT, Mode.FAIL, Mode.STUCK]),
        lost=st.booleans(),
    )
    def goes_wrong(self, step: str, at: int, how: Mode, lost: bool) -> None:
        act, after = self.disturbable(step)
        seam = Seam(self.root, at, how, error=EIO)
        with seam, suppress(PowerCut, StorageError):
            act()
        self.struck = seam.struck
        seam.heal()
        if how is Mode.CUT:
            if lost and seam.dead:
                seam.lose()
            self.restart()
            after.held.clear()
        if step == "discard":  # nothing has left: what is held may go in part, and the next try lets the rest go
            self.spool.discard("a")
        for assignment in "ab":  # what any next step begins with: a release that was begun is completed
            self.spool.released(assignment)
        gone = {entry.parcel_id for entry, _ in self.spool.receipts()}
        for entry in self.spool.pending():
            if entry.parcel_id in gone:  # its receipt is here, its bytes are not gone yet: the next delivery does it
                self.spool.sent(entry, receipt(entry))
        if self.places() != self.modelled():
            self.held, self.waiting, self.bad, self.sent = after.held, after.waiting, after.bad, after.sent
        assert self.places() == self.modelled()

    def places(self) -> dict[str, str]:
        """Where each parcel lies; to be sent is to be sent."""
        same = {"new": "waiting", "sending": "waiting"}
        return {entry.parcel_id: same.get(folder, folder) for folder, entry in self.spool.entries()}

    def modelled(self) -> dict[str, str]:
        places = {"held": self.held, "waiting": self.waiting, "bad": self.bad, "sent": self.sent}
        return {parcel: name for name, parcels in places.items() for parcel in parcels}

    def disturbable(self, step: str) -> tuple[Callable[[], object], Model]:
        """A step, and the model after it; doing nothing where there is nothing to do it to."""
        after = Model(dict(self.held), dict(self.waiting), dict(self.bad), set(self.sent))
        first = self.spool.pending()[0] if self.waiting else None
        if step == "hold" and self.used() + 100 <= MAX_BYTES:
            self.count += 1
            made = meta(self.count, "a")
            after.held[made.parcel_id] = ("a", 100)
            return lambda: self.spool.hold(made, writer(100)), after
        if step in ("release", "discard"):
            mine = {p: size for p, (a, size) in self.held.items() if a == "a"}
            after.held = {p: v for p, v in self.held.items() if p not in mine}
            after.waiting |= mine if step == "release" else {}
            return lambda: getattr(self.spool, step)("a"), after
        if step == "sent" and first is not None:
            del after.waiting[first.parcel_id]
            after.sent.add(first.parcel_id)
            return lambda: self.spool.sent(self.spool.sending(first), receipt(first)), after
        if step == "bad" and first is not None:
            after.bad[first.parcel_id] = after.waiting.pop(first.parcel_id)
            return lambda: self.spool.bad(self.spool.sending(first), "parcel.signature"), after
        if step == "retry" and self.bad:
            parcel_id = next(iter(self.bad))
            after.waiting[parcel_id] = after.bad.pop(parcel_id)
            return lambda: self.spool.retry(parcel_id), after
        return lambda: None, after

    @rule()
    def restart(self) -> None:
        self.spool = Spool(self.root, MAX_BYTES)
        self.spool.recover()
        self.held.clear()

    @invariant()
    def holds_what_it_should(self) -> None:
        assert [e.parcel_id for e in self.spool.pending()] == sorted(self.waiting)
        assert self.spool.usage() == (len(self.held) + len(self.waiting) + len(self.bad), self.used())
        assert {e.parcel_id for e, _ in self.spool.receipts()} == self.sent
        assert self.spool.verify() == []


# In each, what the spool holds before it: parcels of `a` (some held, some waiting) and one set aside.
STEPS = {"hold": 5, "release": 3, "discard": 2, "sent": 6, "bad": 3, "retry": 3}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", [Mode.CUT, Mode.FAIL, Mode.STUCK])
def test_each_fault_of_the_machine_happens(step: str, how: Mode) -> None:
    """Hypothesis may come by all of them; here they are, one after the other."""
    for at in range(1, STEPS[step] + 1):
        machine = SpoolMachine()
        for size in (10, 20, 30):
            machine.hold("a", size, fail=False)
            machine.release("a")
        machine.deliver("bad")
        machine.hold("a", 40, fail=False)
        machine.goes_wrong(step, at, how, lost=True)
        assert machine.struck, at
        machine.holds_what_it_should()
        machine.teardown()


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)

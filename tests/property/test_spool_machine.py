"""The spool against a model of itself: any order of steps and restarts keeps what was released and nothing else."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge.spool import ParcelMeta, Spool
from protocol.errors import IntegrityError, StorageError
from protocol.parcel import Receipt

MAX_BYTES = 3_000


class SpoolMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.spool = Spool(self.root, MAX_BYTES)
        self.count = 0
        self.held: dict[str, tuple[str, int]] = {}  # parcel -> (assignment, size)
        self.waiting: dict[str, int] = {}  # parcel -> size, in order
        self.bad: dict[str, int] = {}
        self.sent: set[str] = set()

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def used(self) -> int:
        return sum(size for _, size in self.held.values()) + sum(self.waiting.values()) + sum(self.bad.values())

    @rule(assignment=st.sampled_from("ab"), size=st.integers(1, 1_500), fail=st.booleans())
    def hold(self, assignment: str, size: int, fail: bool) -> None:
        self.count += 1
        meta = ParcelMeta(
            parcel_id=f"{self.count:032x}", assignment_id=assignment, study_digest="ab" * 32, content_type="records"
        )

        def write(target: BinaryIO) -> str:
            target.write(b"x" * size)
            if fail:
                raise IntegrityError("parcel.payload")
            return hashlib.sha256(b"x" * size).hexdigest()

        if self.used() + size > MAX_BYTES:
            with pytest.raises(StorageError):
                self.spool.hold(meta, write)
        elif fail:
            with pytest.raises(IntegrityError):
                self.spool.hold(meta, write)
        else:
            self.held[self.spool.hold(meta, write).parcel_id] = (assignment, size)

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
            self.spool.sent(
                entry, Receipt(parcel_id=entry.parcel_id, digest=entry.digest, index=0, proof=(), checkpoint="")
            )
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
        assert not list(self.root.rglob(".tmp-*"))


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)

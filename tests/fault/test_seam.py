"""Each step of each thing that must survive one, gone wrong in every way: the outcome is the undisturbed one.

In this process, with what was never synced kept or lost, and by SIGKILL in a child of it; `test_kill_points.py` does it
to the demo. `make test` takes a share of the steps, another one in each way; `make test-full` takes every one.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from edge.journal import Journal
from edge.ledger import Ledger
from edge.spool import FOLDERS, ParcelMeta, Spool
from edge.state import SiteState
from edge.storage import TEMPORARY
from protocol.parcel import Receipt
from tests.fault.sweep import Work, sweep

# --- the spool: two parcels of one assignment are made, released, delivered; one is set aside and retried meanwhile


class SpoolRun:
    """What a release or a receipt returned for is told to the world outside, and is there for ever."""

    def __init__(self, run: Path) -> None:
        self.run, self.spool = run, Spool(run / "state" / "spool", 10_000)
        self.spool.recover()
        assert self.told("released") <= {entry.parcel_id for _, entry in self.spool.entries()}
        assert self.told("sent") <= {entry.parcel_id for entry, _ in self.spool.receipts()}

    def told(self, what: str, *parcel_ids: str) -> set[str]:
        path = self.run / what
        with path.open("a") as file:
            file.writelines(f"{parcel_id}\n" for parcel_id in parcel_ids)
        return set(path.read_text().split())

    def work(self) -> None:
        if not self.spool.released("a"):
            self.spool.discard("a")
            for number in (1, 2):
                self.spool.hold(_meta(), _writer(bytes([number]) * 3000))
            self.told("released", *(entry.parcel_id for entry in self.spool.release("a")))
        for folder, entry in self.spool.entries():
            if folder == "bad":
                self.spool.retry(entry.parcel_id)
        for entry in self.spool.pending():
            again = self.spool.sending(entry)
            if entry.sequence % 2 == 0:
                self.spool.bad(again, "parcel.signature")
                again = self.spool.sending(self.spool.retry(entry.parcel_id))
            self.spool.sent(again, _receipt(again.parcel_id, again.digest))
            self.told("sent", again.parcel_id)

    def close(self) -> None:
        pass


def _meta() -> ParcelMeta:
    return ParcelMeta(
        parcel_id=secrets.token_hex(16), assignment_id="a", study_digest="ab" * 32, content_type="records"
    )


def _writer(data: bytes) -> Callable[[BinaryIO], str]:
    def write(target: BinaryIO) -> str:
        target.write(data[:1000])
        target.write(data[1000:])
        return hashlib.sha256(data).hexdigest()

    return write


def _receipt(parcel_id: str, digest: str) -> Receipt:
    return Receipt(parcel_id=parcel_id, digest=digest, index=0, proof=(), checkpoint="c")


def spool_outcome(run: Path) -> Any:
    root = run / "state" / "spool"
    spool = Spool(root, 10_000)
    assert spool.verify() == []
    leftovers = [p.name for folder in FOLDERS for p in (root / folder).iterdir()]
    assert [name for name in leftovers if not name.startswith(TEMPORARY)] == []  # those a read-only disk kept
    SpoolRun(run).close()  # a later start clears what a lost unlink brought back
    assert [p.name for p in root.rglob("*") if p.is_file() and p.parent.name != "sent"] == []
    return [entry.digest for entry, _ in spool.receipts()], spool.usage()


BOTH = [hashlib.sha256(bytes([number]) * 3000).hexdigest() for number in (1, 2)]
SPOOL = Work(lambda run: None, SpoolRun, spool_outcome, lambda found: found == (BOTH, (0, 0)))


# --- the ledger and the site's state: three releases reserved and committed, the head remembered


@dataclass
class LedgerRun:
    run: Path
    ledger: Ledger = field(init=False)
    state: SiteState = field(init=False)

    def __post_init__(self) -> None:
        self.state = SiteState(self.run / "state" / "state.db")
        self.ledger = Ledger(self.run / "state" / "ledger.db")
        self.ledger.verify(self.state.fact("ledger_head"))

    def work(self) -> None:
        for number in (1, 2, 3):
            key, size = f"r/{number}", 10 * number
            known = self.ledger.spend(key)
            if known is None or known.state == "reserved":
                spend = self.ledger.reserve(key, "d", "s", k=5, cohort=9, bytes=size, cost=None, persons=4)
                assert self.ledger.spend(key) == spend
                self.ledger.commit(key, size - 1)
            self.state.set_fact("ledger_head", self.ledger.head())

    def close(self) -> None:
        self.ledger.close()
        self.state.close()


def ledger_prepare(run: Path) -> None:
    LedgerRun(run).close()


def ledger_outcome(run: Path) -> Any:
    made = LedgerRun(run)
    try:
        total = made.ledger.total("d")
        spends = [(s.key, s.bytes, s.state) for s in made.ledger.spends()]
        assert made.state.fact("ledger_head") == made.ledger.head()
        return total.bytes, total.releases, spends, made.ledger.verify()
    finally:
        made.close()


SPENT = [(f"r/{number}", 10 * number - 1, "committed") for number in (1, 2, 3)]
LEDGER = Work(ledger_prepare, LedgerRun, ledger_outcome, lambda found: found == (9 + 19 + 29, 3, SPENT, 6))


# --- the journal: what an append returned for is there for ever


@dataclass
class JournalRun:
    run: Path

    def __post_init__(self) -> None:
        self.journal = Journal(self.run / "state" / "journal.jsonl")

    def work(self) -> None:
        told = self.run / "told"
        if told.exists():
            self.journal.verify(remembered=told.read_text())
        for number in range(5):
            done = {line.fields.get("part") for line in self.journal.tail(99)}
            if number not in done:
                self.journal.append("parcel.planned", part=number)
            told.write_text(self.journal.head())

    def close(self) -> None:
        pass


def journal_outcome(run: Path) -> Any:
    journal = Journal(run / "state" / "journal.jsonl")
    journal.verify((run / "told").read_text())
    return [line.fields["part"] for line in journal.tail(99) if line.event == "parcel.planned"]


JOURNAL = Work(lambda run: None, JournalRun, journal_outcome, lambda found: found == [0, 1, 2, 3, 4])


WORKS = {"spool": SPOOL, "ledger": LEDGER, "journal": JOURNAL}


@pytest.mark.parametrize("name", WORKS)
def test_steps_of_the_sites_own_files(name: str, memory: Path) -> None:
    sweep(WORKS[name], memory, 3)


def test_the_spool_killed_at_every_step(memory: Path) -> None:
    sweep(SPOOL, memory, ways=("kill",))


@pytest.mark.full
@pytest.mark.parametrize("name", WORKS)
def test_every_step_of_the_sites_own_files(name: str, memory: Path) -> None:
    sweep(WORKS[name], memory)

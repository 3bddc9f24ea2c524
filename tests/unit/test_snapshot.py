"""A moment of a state folder taken while others write: what must lie in what, does."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge import snapshot
from edge.heads import Heads
from edge.journal import Journal
from edge.ledger import Ledger
from edge.snapshot import take
from edge.spool import ParcelMeta, Spool
from edge.state import SiteState
from privacy import folders
from privacy.envelope import SecretKey
from protocol.errors import ConflictError
from protocol.parcel import Receipt


def _sealed(target: Any) -> str:
    data = os.urandom(64)
    target.write(data)
    return hashlib.sha256(data).hexdigest()


class Daemon:
    """Does what the agent does with its folder, in its order: spend, plan, seal, release, send, keep the receipt."""

    def __init__(self, state_dir: Path) -> None:
        self.spool = Spool(state_dir / "spool", 10**9)
        self.journal = Journal(state_dir / "journal.jsonl")
        self.ledger = Ledger(state_dir / "ledger.db")
        self.state = SiteState(state_dir / "state.db")
        self.stop = threading.Event()

    def work(self) -> None:
        number = 0
        while not self.stop.is_set() and number < 60:  # no more, however slow the machine
            number += 1
            name = f"a{number}"
            self.ledger.reserve(name, "d", "s", k=1, cohort=1, bytes=1000, cost=None, persons=1)
            for part in range(3):
                parcel = os.urandom(16).hex()
                self.journal.append("parcel.planned", assignment=name, parcel=parcel, part=part)
                meta = ParcelMeta(parcel_id=parcel, assignment_id=name, study_digest="0" * 64, content_type="records")
                self.spool.hold(meta, _sealed)
            self.spool.release(name)
            self.state.set_fact("journal_head", self.journal.head())
            self.state.set_fact("ledger_head", self.ledger.head())
            if number % 2:
                continue
            for entry in self.spool.pending()[:4]:
                entry = self.spool.sending(entry)
                receipt = Receipt(parcel_id=entry.parcel_id, digest=entry.digest, index=0, proof=(), checkpoint="")
                self.spool.sent(entry, receipt)

    def close(self) -> None:
        self.ledger.close()
        self.state.close()


def test_every_moment_is_whole_and_never_spent_too_little(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    daemon = Daemon(state_dir)
    thread = threading.Thread(target=daemon.work)
    thread.start()
    taken = []
    try:
        while not list((state_dir / "spool" / "sent").iterdir()):
            time.sleep(0.01)
        for number in range(12):
            into = tmp_path / f"taken{number}"
            into.mkdir()
            take(state_dir, into)
            taken.append(into)
    finally:
        daemon.stop.set()
        thread.join()
        daemon.close()
    parcels = 0
    for into in taken:
        with closing(SiteState(into / "state.db")) as state, closing(Ledger(into / "ledger.db")) as ledger:
            journal = Journal(into / "journal.jsonl", readonly=True)
            journal.verify(state.fact("journal_head"))
            ledger.verify(state.fact("ledger_head"))
            planned = {str(line.fields["parcel"]): str(line.fields["assignment"]) for line in journal.tail(10**6)}
            assert set(planned.values()) <= {spend.key for spend in ledger.spends()}
        spool = Spool(into / "spool", 10**9)
        assert spool.verify() == []
        places: dict[str, list[str]] = {}
        for folder, entry in spool.entries():
            assert planned[entry.parcel_id] == entry.assignment_id
            assert folder in ("new", "sending", "sent")
            places.setdefault(entry.assignment_id, []).append(entry.parcel_id)
        assert all(len(set(found)) == len(found) == 3 for found in places.values())  # all of a release, each once
        parcels += sum(map(len, places.values()))
        spool.recover()
        assert not list((into / "spool" / "bad").iterdir())
    assert parcels > 0


@pytest.mark.slow
def test_a_release_under_way_is_waited_for(tmp_path: Path) -> None:
    """A mark that stays, as of a daemon that was killed: no backup of half a release."""
    state_dir, into = tmp_path / "state", tmp_path / "into"
    for folder in (state_dir, into):
        folder.mkdir()
    daemon = Daemon(state_dir)
    (state_dir / "spool" / "marks" / "m.json").write_text(json.dumps({"names": ["x"]}))
    with pytest.raises(ConflictError) as caught:
        take(state_dir, into)
    assert caught.value.code == "conflict.state"
    daemon.spool.recover()
    (tmp_path / "again").mkdir()
    take(state_dir, tmp_path / "again")
    daemon.close()


def test_a_release_in_the_middle_of_a_look_is_taken_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state_dir, into = tmp_path / "state", tmp_path / "into"
    for folder in (state_dir, into):
        folder.mkdir()
    daemon = Daemon(state_dir)
    for parcel in ("1" * 32, "2" * 32):
        meta = ParcelMeta(parcel_id=parcel, assignment_id="a", study_digest="0" * 64, content_type="records")
        daemon.spool.hold(meta, _sealed)
    looked: list[Path] = []
    held = sorted((state_dir / "spool" / "held").iterdir())

    def between(folder: Path) -> list[Path]:
        """One parcel is moved before the first look at new/, the other after it."""
        first = folder == state_dir / "spool" / "new" and not looked
        if first:
            looked.append(folder)
            os.rename(held[0], folder / held[0].name)
        found = list(real(folder))
        if first:
            os.rename(held[1], folder / held[1].name)
        return found

    real = snapshot._files
    monkeypatch.setattr(snapshot, "_files", between)
    take(state_dir, into)
    assert looked
    assert {path.name for path in (into / "spool" / "new").iterdir()} == {path.name for path in held}
    daemon.close()


def test_a_head_signed_while_it_is_taken_is_not_of_lines_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`journal.heads` is appended to: a link to it would bring along what comes after the journal was copied."""
    state_dir, into = tmp_path / "state", tmp_path / "into"
    for folder in (state_dir, into):
        folder.mkdir()
    daemon, heads, key = Daemon(state_dir), Heads(state_dir), SecretKey.from_bytes(b"\x01" * 32)
    days = iter(range(100))

    def sign() -> None:
        daemon.journal.append("agent.started")
        heads.sign(daemon.journal, "site-a", key, lambda: next(days) * 86_400.0)

    def copied(source: Path, target: Path) -> None:
        real(source, target)
        if source.name == "ledger.db":
            sign()

    sign()
    real = folders.copy_database
    monkeypatch.setattr(snapshot, "copy_database", copied)
    take(state_dir, into)
    found = Heads(into).verify(Journal(into / "journal.jsonl", readonly=True), key.public)
    assert (found["lines"], found["signed_lines"]) == (1, 1)
    daemon.close()

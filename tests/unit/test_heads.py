"""Signed heads of the journal: whoever rewrites its past without the site's key is found."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest

from edge.heads import Heads
from edge.journal import GENESIS, Journal
from privacy.envelope import SecretKey
from protocol.errors import IntegrityError
from protocol.parcel import canonical_json

KEY, OTHER = SecretKey.from_bytes(b"\x01" * 32), SecretKey.from_bytes(b"\x02" * 32)
DAY = 86_400.0


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def damaged(folder: Path, key: SecretKey = KEY) -> None:
    with pytest.raises(IntegrityError, match=r"journal\.chain"):
        Heads(folder).verify(Journal(folder / "journal.jsonl", readonly=True), key.public)


def rewritten(folder: Path, start: int) -> None:
    """The chain made anew from a line on, whole in itself: what a hand with the file can do."""
    path, prev = folder / "journal.jsonl", GENESIS
    made = []
    for at, raw in enumerate(path.read_bytes().splitlines()):
        value = json.loads(raw)
        value["prev"] = prev
        if at == start:
            value["fields"] = {"count": 1}
        made.append(canonical_json(value))
        prev = hashlib.sha256(made[-1]).hexdigest()
    path.write_bytes(b"".join(line + b"\n" for line in made))


def test_each_change_is_signed_and_a_day_stays(tmp_path: Path, journal: Journal) -> None:
    heads = Heads(tmp_path)
    heads.sign(journal, "site-a", KEY, lambda: 0.0)
    assert not (tmp_path / "journal.head").exists()  # nothing to sign yet
    for at in (1.0, 2.0, DAY + 1):
        journal.append("agent.started")
        heads.sign(journal, "site-a", KEY, lambda at=at: at)  # type: ignore[misc]
    before = (tmp_path / "journal.head").stat().st_mtime_ns
    heads.sign(journal, "site-a", KEY, lambda: 3 * DAY)  # nothing new: nothing is written
    assert (tmp_path / "journal.head").stat().st_mtime_ns == before
    assert len((tmp_path / "journal.heads").read_bytes().splitlines()) == 2
    journal.append("agent.stopped")
    found = heads.verify(Journal(tmp_path / "journal.jsonl", readonly=True), KEY.public)
    assert found == {
        "lines": 4, "head": journal.head(), "signed": 3, "signed_lines": 3, "signed_at": int(DAY + 1),
    }  # fmt: skip
    assert (tmp_path / "journal.heads").stat().st_mode & 0o777 == 0o600


def test_a_past_made_anew_is_found(tmp_path: Path, journal: Journal) -> None:
    heads = Heads(tmp_path)
    for at in range(4):
        journal.append("agent.started", count=at + 10)
        heads.sign(journal, "site-a", KEY, lambda at=at: at * DAY)  # type: ignore[misc]
    heads.verify(Journal(tmp_path / "journal.jsonl", readonly=True), KEY.public)
    damaged(tmp_path, OTHER)
    kept = (tmp_path / "journal.jsonl").read_bytes()
    rewritten(tmp_path, 1)
    assert Journal(tmp_path / "journal.jsonl", readonly=True).verify() == 4  # the chain alone is whole
    damaged(tmp_path)
    (tmp_path / "journal.jsonl").write_bytes(b"".join(kept.splitlines(keepends=True)[:3]))
    damaged(tmp_path)
    (tmp_path / "journal.jsonl").write_bytes(kept)
    lines = (tmp_path / "journal.heads").read_bytes().splitlines()
    (tmp_path / "journal.heads").write_bytes(b"\n".join([*lines[:1], lines[1].replace(b'"lines":2', b'"lines":3')]))
    damaged(tmp_path)


def test_heads_of_a_key_that_is_lost_are_vouched_for_by_the_one_that_follows(tmp_path: Path, journal: Journal) -> None:
    """docs/runbooks/lost-site-key.md; a key of which nothing came, and one that comes back."""
    never, days = SecretKey.from_bytes(b"\x03" * 32), iter(range(100))

    def work(key: SecretKey) -> None:
        heads = Heads(tmp_path)
        for _ in range(2):
            journal.append("agent.started")
            heads.sign(journal, "site-a", key, lambda: next(days) * DAY)

    def found(key: SecretKey) -> int:
        return int(Heads(tmp_path).verify(Journal(tmp_path / "journal.jsonl", readonly=True), key.public)["signed"])

    work(KEY)
    assert found(KEY) == 3  # two days, and the newest
    Heads(tmp_path).succeed("site-a", never)  # the machine stops before this key is written
    Heads(tmp_path).succeed("site-a", OTHER)
    assert found(OTHER) == 2
    work(OTHER)
    assert found(OTHER) == 5
    damaged(tmp_path, KEY)
    Heads(tmp_path).succeed("site-a", KEY)  # found again
    work(KEY)
    assert found(KEY) == 7
    aside = next(tmp_path.glob("journal.before-*"))
    aside.write_bytes(aside.read_bytes().replace(b"site-a", b"site-b"))
    damaged(tmp_path)


def test_who_holds_the_folder_alone_cannot_have_his_heads_vouched_for(tmp_path: Path, journal: Journal) -> None:
    """The daemon signs with its own key, whatever lies there."""
    heads = Heads(tmp_path)
    for at in range(2):
        journal.append("agent.started")
        heads.sign(journal, "site-a", KEY, lambda at=at: at * DAY)  # type: ignore[misc]
    thief = tmp_path / "thief"
    thief.mkdir()
    Heads(thief).sign(journal, "site-a", OTHER)
    for name in ("journal.head", "journal.heads", "journal.signer"):
        (tmp_path / name).write_bytes((thief / name).read_bytes())
    journal.append("agent.started")
    Heads(tmp_path).sign(journal, "site-a", KEY)
    damaged(tmp_path)


def test_a_head_is_of_the_lines_it_names(tmp_path: Path, journal: Journal) -> None:
    """Signed while others append."""
    heads, days = Heads(tmp_path), iter(range(10_000))
    writer = threading.Thread(target=lambda: [journal.append("parcel.sealed") for _ in range(150)])
    writer.start()
    while writer.is_alive():
        heads.sign(journal, "site-a", KEY, lambda: next(days) * DAY)
    found = heads.verify(Journal(tmp_path / "journal.jsonl", readonly=True), KEY.public)
    assert found["lines"] == 150
    assert found["signed"] > 1


def test_a_torn_daily_line_is_passed_over(tmp_path: Path, journal: Journal) -> None:
    heads = Heads(tmp_path)
    journal.append("agent.started")
    heads.sign(journal, "site-a", KEY, lambda: 0.0)
    with (tmp_path / "journal.heads").open("ab") as target:
        target.write(b'{"at":17')
    journal.append("agent.started")
    heads.sign(journal, "site-a", KEY, lambda: DAY)
    reader = Journal(tmp_path / "journal.jsonl", readonly=True)
    assert Heads(tmp_path).verify(reader, KEY.public)["signed"] == 3

"""The journal: fixed words only, one chain, and what a crash or a hand leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.journal import EVENTS, FIELDS, GENESIS, Journal
from protocol.errors import CorsiaError, IntegrityError, StorageError

STUDY = "ab" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def refused(call: Callable[[], object], error: type[CorsiaError], code: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.code == code


def test_lines_are_canonical_and_chained(path: Path) -> None:
    journal = Journal(path)
    assert (journal.head(), journal.verify(), journal.tail()) == (GENESIS, 0, [])
    journal.append("study.received", study=STUDY)
    head = journal.append("study.decided", study=STUDY, rules={"k": "ok", "cohort": "policy.cohort"}, count=3)
    raw = path.read_bytes().splitlines()
    assert json.loads(raw[0])["prev"] == GENESIS
    assert json.loads(raw[1])["prev"] == hashlib.sha256(raw[0]).hexdigest()
    assert head == journal.head() == hashlib.sha256(raw[1]).hexdigest()
    (line,) = journal.tail(1)
    assert (line.seq, line.event, line.digest) == (1, "study.decided", head)
    assert line.fields == {"study": STUDY, "rules": {"k": "ok", "cohort": "policy.cohort"}, "count": 3}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Journal(path).head() == head
    assert Journal(path, readonly=True).verify(remembered=head) == 2


def test_only_listed_words_are_written(path: Path) -> None:
    journal = Journal(path)
    for event, fields in (("study.read", {}), ("study.received", {"patient": "x"}), ("study.received", {"at": 1})):
        with pytest.raises(AssertionError) as caught:
            journal.append(event, **fields)
        assert "patient x" not in str(caught.value)
    journal.append(
        "error.raised",
        code="Mario Rossi, nato a Roma",
        rules={"Mario Rossi": ["Mario Rossi", {"a": "Rossi\n"}]},
        size=float("nan"),
        bytes=float("inf"),
        epsilon=0.5,
        state=None,
        reason="",
        digest=b"raw",
    )
    text = path.read_text()
    assert "Rossi" not in text
    (line,) = journal.tail()
    assert line.fields == {
        "code": "-",
        "rules": {"-": ["-", {"a": "-"}]},
        "size": "-",
        "bytes": "-",
        "epsilon": 0.5,
        "state": None,
        "reason": "",
        "digest": "-",
    }
    assert not {"at", "event", "prev", "seq", "text", "message", "column", "columns", "value"} & FIELDS
    assert all("." in event for event in EVENTS)


@pytest.mark.parametrize("torn", [b"{", b'{"at":1', b"\x00\x00\x00", b'{"at":1,"event":"study.received"}'])
def test_a_torn_last_line_is_cut_and_told(path: Path, torn: bytes) -> None:
    Journal(path).append("agent.started")
    with path.open("ab") as target:
        target.write(torn)
    reader = Journal(path, readonly=True)
    assert reader.verify() == 1
    assert path.read_bytes().endswith(torn)  # a reader mends nothing
    journal = Journal(path)
    assert [(line.event, line.fields) for line in journal.tail()] == [
        ("agent.started", {}),
        ("journal.repaired", {"bytes": len(torn)}),
    ]
    journal.append("agent.stopped")
    assert Journal(path).verify() == 3


def test_a_torn_first_line(path: Path) -> None:
    path.write_bytes(b'{"at"')
    assert [line.event for line in Journal(path).tail()] == ["journal.repaired"]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[0].replace(b"lung", b"lunk"), *lines[1:]],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: lines[1:],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [*lines, lines[2]],
        lambda lines: [lines[0], b"", *lines[1:]],
        lambda lines: [lines[0], b"[]", *lines[1:]],
        lambda lines: [lines[0], b"\xff", *lines[1:]],
        lambda lines: [lines[0], b"[" * 100_000, *lines[1:]],
        lambda lines: [lines[0] + b" ", *lines[1:]],
        lambda lines: [*lines[:2], lines[2].replace(b'"seq":2', b'"seq":2.0')],
    ],
)
def test_any_other_damage_is_refused(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    journal = Journal(path)
    for _ in range(3):
        journal.append("study.received", dataset="lung")
    path.write_bytes(b"".join(line + b"\n" for line in change(path.read_bytes().splitlines())))
    for readonly in (False, True):
        refused(lambda readonly=readonly: Journal(path, readonly=readonly), IntegrityError, "journal.chain")
    refused(journal.verify, IntegrityError, "journal.chain")


def test_a_shortened_journal_is_found(path: Path) -> None:
    journal = Journal(path)
    journal.append("agent.started")
    head = journal.append("agent.stopped")
    os.truncate(path, len(path.read_bytes().splitlines(keepends=True)[0]))
    refused(lambda: journal.append("agent.started"), IntegrityError, "journal.chain")
    again = Journal(path)
    assert again.verify() == 1
    refused(lambda: again.verify(remembered=head), IntegrityError, "journal.chain")


def test_threads_and_processes_append_to_one_chain(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from edge.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]))\nfor n in range(20): j.append('study.approved', count=n)"
    )
    journals = [Journal(path), Journal(path)]

    def run(journal: Journal) -> None:
        for number in range(20):
            journal.append("parcel.sealed", count=number)

    threads = [threading.Thread(target=run, args=(journals[n % 2],)) for n in range(4)]
    with subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=Path(__file__).parents[2]) as child:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert child.wait() == 0
    assert Journal(path).verify() == 100


def test_a_disk_that_refuses(path: Path) -> None:
    refused(lambda: Journal(path / "none" / "j"), StorageError, "storage.failed")
    program = """
import resource, sys
from pathlib import Path
from edge.journal import Journal
from protocol.errors import StorageError
journal = Journal(Path(sys.argv[1]))
journal.append("agent.started")
size = Path(sys.argv[1]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 250, resource.RLIM_INFINITY))
try:
    journal.append_all([("egress.paused", {}), ("egress.resumed", {})])  # there is room for the first
except StorageError as error:
    print(error.code)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.append("agent.stopped")
print(*[line.event for line in journal.tail()])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == ["storage.full", "agent.started", "agent.stopped"]


def test_reading_needs_no_file(path: Path) -> None:
    assert Journal(path, readonly=True).verify() == 0
    assert not path.exists()
    with pytest.raises(AssertionError):
        Journal(path, readonly=True).append("agent.started")

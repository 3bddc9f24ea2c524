"""Several files made durable together, on both sides of the wall."""

from __future__ import annotations

import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from edge.journal import Journal
from edge.storage import TEMPORARY, named_errors, write_files
from protocol.durable import create_file, sync_files, sync_folder
from protocol.errors import ConflictError, StorageError
from protocol.heap import keep_buffers


@pytest.mark.parametrize("count", [0, 1, 3, 50])
def test_files_are_synced_one_by_one_or_together(tmp_path: Path, count: int) -> None:
    paths = [tmp_path / str(number) for number in range(count)]
    for path in paths:
        path.write_bytes(b"x")
    sync_files(paths)
    sync_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)


@pytest.mark.parametrize("count", [1, 50])
def test_what_cannot_be_synced_is_an_error(tmp_path: Path, count: int) -> None:
    with pytest.raises(OSError, match="No such file"):
        sync_files([tmp_path / "gone" / str(number) for number in range(count)])


def test_a_group_of_files_is_whole_and_leaves_no_temporary(tmp_path: Path) -> None:
    (tmp_path / (TEMPORARY + "b")).write_bytes(b"left by a crash")
    (tmp_path / "c").write_bytes(b"old")
    write_files(tmp_path, {"a": b"1", "b": b"2", "c": b"3", "d": b"4"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"1", "b": b"2", "c": b"3", "d": b"4"}
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_group_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / (TEMPORARY + "b")).mkdir()  # in the way
    with pytest.raises(OSError, match="directory"):
        write_files(tmp_path, {"a": b"new", "b": b"2"})
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("statement", "code"),
    [("INSERT INTO held VALUES (zeroblob(1000000))", "storage.full"), ("SELECT * FROM gone", "storage.failed")],
)
def test_a_database_says_full_as_a_file_does(tmp_path: Path, statement: str, code: str) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as database:
        database.execute("CREATE TABLE held (bytes BLOB)")
        database.execute("PRAGMA max_page_count = 10")
        with pytest.raises(StorageError) as caught, named_errors("what is held"):
            database.execute(statement)
    assert (caught.value.code, caught.value.message) == (code, "what is held")


def test_lines_appended_together_are_one_chain_and_none_when_one_is_wrong(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("agent.started", site="a")
    head = journal.append_all([("parcel.delivered", {"index": number}) for number in range(5)])
    with pytest.raises(AssertionError):
        journal.append_all([("parcel.delivered", {"index": 5}), ("no.such", {})])
    assert journal.head() == head
    assert Journal(tmp_path / "journal.jsonl").verify(head) == 6
    assert [line.fields["index"] for line in journal.tail(5)] == list(range(5))


def test_the_heap_is_set_where_the_c_library_can() -> None:
    assert keep_buffers() is True  # glibc, on which this is tested


def test_of_many_that_create_a_file_one_does_and_none_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "share"

    def create(number: int) -> str:
        try:
            create_file(path, bytes([number]) * 100_000)
        except ConflictError as error:
            return error.code
        return ""

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(8)))
    assert sorted(created) == ["", *["conflict.exists"] * 7]
    assert path.read_bytes() == bytes([created.index("")]) * 100_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["share"]

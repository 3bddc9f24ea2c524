"""The spool: one parcel's way through the folders, its bound, and a disk that refuses."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from edge.spool import FOLDERS, ParcelMeta, Spool, SpoolEntry
from protocol.errors import ConflictError, CorsiaError, InputError, IntegrityError, StorageError
from protocol.parcel import Receipt

STUDY = "ab" * 32


def meta(number: int = 0, assignment: str = "a-1") -> ParcelMeta:
    return ParcelMeta(parcel_id=f"{number:032x}", assignment_id=assignment, study_digest=STUDY, content_type="records")


def writer(data: bytes) -> Callable[[BinaryIO], str]:
    def write(target: BinaryIO) -> str:
        for at in range(0, len(data), 1000):
            target.write(data[at : at + 1000])
        return hashlib.sha256(data).hexdigest()

    return write


def receipt(entry: SpoolEntry) -> Receipt:
    return Receipt(parcel_id=entry.parcel_id, digest=entry.digest, index=3, proof=("00" * 32,), checkpoint="c")


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def refused(call: Callable[[], object], error: type[CorsiaError], code: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.code == code


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", 1_000_000)


def test_the_way_of_a_parcel(spool: Spool, tmp_path: Path) -> None:
    root = tmp_path / "spool"
    held = spool.hold(meta(1), writer(b"x" * 2500))
    assert (held.sequence, held.size_bytes, held.path.read_bytes()) == (1, 2500, b"x" * 2500)
    assert spool.pending() == []
    (released,) = spool.release("a-1")
    assert released.path.parent.name == "new"
    assert spool.pending() == [released]
    under_way = spool.sending(released)
    assert under_way.path.exists()
    assert spool.sending(under_way) == under_way
    assert spool.pending() == [under_way]
    with spool.open(released) as source:
        assert source.read() == b"x" * 2500
    spool.sent(under_way, receipt(under_way))
    spool.sent(under_way, receipt(under_way))
    assert spool.pending() == []
    assert spool.usage() == (0, 0)
    assert files(root) == [f"sent/000000000001-{1:032x}.json"]
    assert [(e.parcel_id, r) for e, r in spool.receipts()] == [(held.parcel_id, receipt(held))]
    assert [(f, e.parcel_id) for f, e in spool.released("a-1")] == [("sent", held.parcel_id)]
    assert Spool(root, 10).hold(meta(2), writer(b"y")).sequence == 2


def test_everything_is_for_the_owner_alone(spool: Spool, tmp_path: Path) -> None:
    spool.hold(meta(1), writer(b"x"))
    for path in (tmp_path / "spool").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_release_and_discard_take_an_assignment_as_a_whole(spool: Spool) -> None:
    for number, assignment in enumerate(["a-1", "a-2", "a-1", "a-2", "a-1"]):
        spool.hold(meta(number, assignment), writer(b"x"))
    assert [e.sequence for e in spool.release("a-1")] == [1, 3, 5]
    assert spool.release("a-1") == []
    assert spool.discard("a-2") == 2
    assert spool.release("a-2") == []
    assert [e.sequence for e in spool.pending()] == [1, 3, 5]
    assert spool.discard("a-1") == 0
    assert spool.verify() == []


def test_recover_discards_what_was_not_released(spool: Spool, tmp_path: Path) -> None:
    root = tmp_path / "spool"
    spool.hold(meta(1, "a-1"), writer(b"x"))
    spool.release("a-1")
    spool.sending(spool.pending()[0])
    spool.hold(meta(2, "a-2"), writer(b"y"))
    for folder in ("held", "meta", "sent", "marks", "bad"):
        (root / folder / ".tmp-half").write_bytes(b"half")
    (root / "meta" / "000000000009-orphan.json").write_bytes(b"{}")
    again = Spool(root, 1_000_000)
    again.recover()
    assert [(folder, e.parcel_id) for folder, e in again.entries()] == [("new", f"{1:032x}")]
    assert files(root) == [f"meta/000000000001-{1:032x}.json", f"new/000000000001-{1:032x}.parcel"]
    again.recover()
    assert len(again.pending()) == 1


def test_a_release_cut_in_the_middle_is_completed(spool: Spool, tmp_path: Path) -> None:
    root = tmp_path / "spool"
    entries = [spool.hold(meta(n), writer(b"x")) for n in range(3)]
    names = ", ".join(f'"{e.path.stem}"' for e in entries)
    os.rename(entries[0].path, root / "new" / entries[0].path.name)
    (root / "marks" / "m.json").write_text(f'{{"names": [{names}]}}')
    again = Spool(root, 1_000_000)
    again.recover()
    assert [e.sequence for e in again.pending()] == [1, 2, 3]
    assert list((root / "marks").iterdir()) == []


def test_a_mark_cannot_name_a_file_elsewhere(spool: Spool, tmp_path: Path) -> None:
    root = tmp_path / "spool"
    (root / "x.parcel").write_bytes(b"x")
    (root / "marks" / "m.json").write_text('{"names": ["../x", 7, "000000000001-zz"]}')
    spool.recover()
    assert (root / "x.parcel").exists()
    assert spool.pending() == []


@pytest.mark.parametrize("folder", ["sending", "new"])  # new: the receipt came by hand
def test_a_receipt_written_before_the_crash_counts(spool: Spool, tmp_path: Path, folder: str) -> None:
    entry = spool.hold(meta(1), writer(b"x"))
    (entry,) = spool.release("a-1")
    kept = entry.path.read_bytes()
    side = (tmp_path / "spool" / "meta" / f"{entry.path.stem}.json").read_bytes()
    spool.sent(spool.sending(entry), receipt(entry))
    (tmp_path / "spool" / folder / entry.path.name).write_bytes(kept)  # the parcel's removal did not come
    (tmp_path / "spool" / "meta" / f"{entry.path.stem}.json").write_bytes(side)
    again = Spool(tmp_path / "spool", 1_000)
    again.recover()
    assert again.pending() == []
    assert again.usage() == (0, 0)


def test_a_foreign_receipt_changes_nothing(spool: Spool) -> None:
    spool.hold(meta(1), writer(b"x"))
    (entry,) = spool.release("a-1")
    entry = spool.sending(entry)
    for wrong in (replace(receipt(entry), digest="0" * 64), replace(receipt(entry), parcel_id="0" * 32)):
        refused(lambda wrong=wrong: spool.sent(entry, wrong), IntegrityError, "log.proof")
    assert spool.pending() == [entry]


def test_bad_and_retry(spool: Spool, tmp_path: Path) -> None:
    spool.hold(meta(1), writer(b"x"))
    (entry,) = spool.release("a-1")
    spool.bad(spool.sending(entry), "parcel.signature")
    ((folder, listed),) = spool.entries()
    assert (folder, spool.code(listed), spool.pending()) == ("bad", "parcel.signature", [])
    again = Spool(tmp_path / "spool", 1_000)  # the steward's command, beside the daemon
    again.recover()
    assert again.code(listed) == "parcel.signature"
    assert again.retry(entry.parcel_id).path.parent.name == "new"
    assert spool.code(listed) == ""
    assert [e.parcel_id for e in spool.pending()] == [entry.parcel_id]
    refused(lambda: again.retry(entry.parcel_id), ConflictError, "conflict.state")
    refused(lambda: again.retry("../" + entry.parcel_id), InputError, "input.usage")
    refused(lambda: spool.sent(replace(entry, parcel_id="9" * 32), replace(receipt(entry), parcel_id="9" * 32)),
            ConflictError, "conflict.state")  # fmt: skip


def test_a_damaged_parcel_is_found_and_not_retried(spool: Spool) -> None:
    first, second = (spool.hold(meta(n), writer(b"x" * 5)) for n in range(2))
    assert spool.verify() == []
    first.path.write_bytes(b"y" * 5)
    second.path.write_bytes(b"x" * 4)
    assert spool.verify() == [(first.parcel_id, "parcel.chunk"), (second.parcel_id, "parcel.truncated")]
    released = spool.release("a-1")
    spool.bad(released[0], "parcel.chunk")
    refused(lambda: spool.retry(first.parcel_id), ConflictError, "conflict.state")


def test_a_parcel_without_description_is_set_aside(spool: Spool, tmp_path: Path) -> None:
    spool.hold(meta(1), writer(b"x"))
    (entry,) = spool.release("a-1")
    (tmp_path / "spool" / "meta" / f"{entry.path.stem}.json").write_bytes(b"[]")
    assert spool.verify() == [(entry.parcel_id, "storage.failed")]
    spool.recover()
    assert spool.pending() == []
    assert (tmp_path / "spool" / "bad" / entry.path.name).exists()


def test_a_damaged_receipt_is_not_taken_for_none(spool: Spool, tmp_path: Path) -> None:
    spool.hold(meta(1), writer(b"x"))
    (entry,) = spool.release("a-1")
    spool.sent(entry, receipt(entry))
    (tmp_path / "spool" / "sent" / f"000000000001-{entry.parcel_id}.json").write_bytes(b"{")
    refused(lambda: Spool(tmp_path / "spool", 10).released("a-1"), StorageError, "storage.failed")


def test_the_bound_holds(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 5_000)
    refused(lambda: spool.hold(meta(0), writer(b"x" * 5_001)), StorageError, "storage.spool-full")
    first = spool.hold(meta(1), writer(b"x" * 3_000))
    refused(lambda: spool.hold(meta(2), writer(b"x" * 2_001)), StorageError, "storage.spool-full")
    spool.hold(meta(3), writer(b"x" * 2_000))
    refused(lambda: spool.hold(meta(4), writer(b"")), StorageError, "storage.spool-full")
    assert spool.usage() == (2, 5_000)
    spool.release("a-1")
    spool.sent(spool.sending(first), receipt(first))
    spool.hold(meta(5), writer(b"x" * 3_000))  # room again, without being told
    assert len(files(tmp_path / "spool")) == 5


def test_two_writers_share_the_bound(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 10_000)
    both = threading.Barrier(2)
    codes: list[str] = []

    def slow(target: BinaryIO) -> str:
        target.write(b"x" * 6_000)
        both.wait(5)
        return hashlib.sha256(b"x" * 6_000).hexdigest()

    def run(number: int) -> None:
        try:
            spool.hold(meta(number), slow)
            codes.append("")
        except StorageError as error:
            codes.append(error.code)
            both.wait(5)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(codes) == ["", "storage.spool-full"]
    assert spool.usage() == (1, 6_000)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "storage.full"),
        (errno.EDQUOT, "storage.full"),
        (errno.EIO, "storage.failed"),
    ],
)
def test_a_writer_that_the_disk_refuses_leaves_nothing(spool: Spool, tmp_path: Path, number: int, code: str) -> None:
    def fails(target: BinaryIO) -> str:
        target.write(b"half of it")
        raise OSError(number, "refused")

    refused(lambda: spool.hold(meta(1), fails), StorageError, code)
    assert files(tmp_path / "spool") == []
    spool.hold(meta(1), writer(b"x"))


def test_the_writers_own_error_passes_and_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    def refuses(target: BinaryIO) -> str:
        target.write(b"half")
        raise IntegrityError("parcel.payload")

    refused(lambda: spool.hold(meta(1), refuses), IntegrityError, "parcel.payload")
    with pytest.raises(AssertionError):
        spool.hold(meta(1), lambda _target: "no digest")
    assert files(tmp_path / "spool") == []


def test_a_really_full_disk(tmp_path: Path) -> None:
    """Every file of the child may grow to 4 KiB: parcel, then description and mark are refused at some length."""
    program = """
import hashlib, resource, signal, sys
from pathlib import Path
from edge.spool import ParcelMeta, Spool
from protocol.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
spool = Spool(Path(sys.argv[1]), 10**9)
def write(target):
    target.write(b"x" * 10_000)
    return hashlib.sha256(b"x" * 10_000).hexdigest()
meta = ParcelMeta(parcel_id="0" * 32, assignment_id="a", study_digest="ab" * 32, content_type="records")
try:
    spool.hold(meta, write)
except StorageError as error:
    print(error.code)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 4096))
try:
    spool.hold(meta, lambda target: hashlib.sha256(b"").hexdigest())
except StorageError as error:
    print(error.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "spool")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.split() == ["storage.full", "storage.full"]
    assert files(tmp_path / "spool") == []


@pytest.mark.parametrize(
    "change",
    [
        {"parcel_id": "../../x"},
        {"parcel_id": "A" * 32},
        {"parcel_id": "0" * 32 + "\n"},
        {"study_digest": "ab"},
        {"assignment_id": ""},
        {"assignment_id": "a/b"},
        {"assignment_id": "a" * 65},
    ],
)
def test_ids_that_are_no_ids_are_refused(spool: Spool, change: dict[str, str]) -> None:
    refused(lambda: spool.hold(replace(meta(), **change), writer(b"x")), InputError, "input.message")


def test_a_parcel_id_is_used_once(spool: Spool) -> None:
    spool.hold(meta(1), writer(b"x"))
    refused(lambda: spool.hold(meta(1), writer(b"x")), ConflictError, "conflict.exists")
    assert set(FOLDERS) == {"held", "new", "sending", "bad"}

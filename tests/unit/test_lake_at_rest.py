"""What lies in the lake is ciphertext, bound to its place, and ends with the study's key."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from central.vault import Analysis, Lake, sealed
from central.vault.contents import Entry
from corsia.leaks import leaks_in
from corsia.opened import opened
from protocol.errors import CorsiaError, IntegrityError, StudyRefused
from protocol.parcel import Item, ItemKind, canonical_json
from tests.vaultkit import World, publish, table

CELL, PIXELS, PATIENT, COLUMN = "Canarino Giallo", b"\xabPIXELS-CANARY\xcd" * 4, "PCANARYPSEUDONYM", "original_Canary"
NAMES = [CELL, PIXELS.decode("latin-1"), PATIENT, COLUMN]


def _fill(world: World) -> None:
    world.submit(
        output={
            "columns": [
                {"name": "age", "dtype": "float"},
                {"name": "count", "dtype": "int"},
                {"name": "sex", "dtype": "string"},
                {"name": "pseudonym", "dtype": "string"},
                {"name": "original_*", "dtype": "float"},
            ],
            "files": True,
            "documents": True,
        }
    )
    frame = pd.DataFrame(
        {
            "age": [50.0] * 6,
            "count": 1,
            "sex": [CELL] * 6,
            "pseudonym": [f"{PATIENT}{n}" for n in range(6)],
            COLUMN: 1.5,
        }
    )
    image = Item(kind=ItemKind.DICOM, name="1.dcm", data=b"\0" * 140 + PIXELS, rows=1, persons=1)
    text = canonical_json({"resourceType": "Patient", "name": CELL})
    record = Item(kind=ItemKind.DOCUMENT, name="1.json", data=text, rows=1, persons=1)
    report = Item(kind=ItemKind.REPORT, name="report.json", data=canonical_json({"note": CELL}))
    world.land(world.batch(table(frame), image, record, report))
    world.drain()


def _readable(folder: Path) -> list[str]:
    """Files below a folder that hold a planted value, in whatever encoding, or its name."""
    found = []
    for path in folder.rglob("*"):
        data = path.name.encode() + (path.read_bytes() if path.is_file() else b"")
        found += [str(path)] if leaks_in(data, NAMES) else []
    return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "state")
    _fill(made)
    return made


def test_no_file_of_the_centre_holds_a_row_a_pixel_or_a_pseudonym(world: World, tmp_path: Path) -> None:
    analysis = Analysis(world.store, world.lake, world.public)
    publish(world, world.signing, study_id="trial")
    analysis.predict("risk", "trial")
    analysis.summary("trial")
    analysis.sql("trial", "SELECT a.sex, count(*) FROM features a CROSS JOIN features b GROUP BY a.sex")
    assert not _readable(world.root)
    plain = opened(world.root / "vault", "trial", tmp_path / "plain")
    found = {n for path in plain.rglob("*") if path.is_file() for n, _ in leaks_in(path.read_bytes(), NAMES)}
    assert found == {0, 1, 2, 3}, "the search finds each of them once they are decrypted"
    assert {path.parent.name for path in plain.rglob("*.parquet")} >= {"predictions"}


def test_analysis_reads_what_was_written(world: World) -> None:
    frame = Analysis(world.store, world.lake, world.public).table("trial").to_pandas()
    assert frame.sex.tolist() == [CELL] * 6
    (row,) = (path.name for path in (world.lake.root / "trial").iterdir())
    assert world.lake.read(f"trial/{row}/1.dcm").endswith(PIXELS)


def test_a_file_in_anothers_place_is_refused(world: World) -> None:
    (batch,) = (world.lake.root / "trial").iterdir()
    for name in ("records.parquet", "1.dcm.sealed"):
        shutil.copyfile(batch / name, batch / f"x{name}")
    for read in (lambda: world.lake.table(f"trial/{batch.name}/xrecords.parquet"),
                 lambda: world.lake.read(f"trial/{batch.name}/x1.dcm")):  # fmt: skip
        with pytest.raises(IntegrityError) as caught:
            read()
        assert caught.value.code == "lake.damaged"


def test_a_plain_or_damaged_table_is_refused(world: World) -> None:
    (batch,) = (world.lake.root / "trial").iterdir()
    path = batch / "records.parquet"
    whole = path.read_bytes()
    for at in range(4, len(whole), 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(IntegrityError):
            world.lake.table(f"trial/{batch.name}/records.parquet")
    for cut in (0, 3, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(IntegrityError):
            world.lake.table(f"trial/{batch.name}/records.parquet")
    pq.write_table(pa.table({"age": [1.0]}), path)
    with pytest.raises(IntegrityError):
        world.lake.table(f"trial/{batch.name}/records.parquet")


def test_a_disk_that_refuses_is_no_damage(world: World) -> None:
    (batch,) = (world.lake.root / "trial").iterdir()
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    at, reads = f"trial/{batch.name}", []
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # EMFILE at every open
    try:
        for read in (lambda: world.lake.names(at),
                     lambda: sealed.read_table(lambda: open(batch / "records.parquet", "rb"), key=b"", place=""),
                     lambda: sealed.read_object(lambda: open(batch / "1.dcm.sealed", "rb"), key=b"",
                                                place="")):  # fmt: skip
            try:
                read()
            except CorsiaError as error:
                reads.append(error.code)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    assert reads == ["storage.failed"] * 3


def test_each_study_has_its_own_key(world: World) -> None:
    world.lake.write("other", "b", [Entry(name="t.parquet", data=pa.table({"age": [1.0]}))])
    keys = {path.name: path.read_bytes() for path in (world.root / "vault" / "lake-keys").iterdir()}
    assert set(keys) == {"trial.key", "other.key"}
    assert len(set(keys.values())) == 2
    assert not set(keys.values()) & {path.read_bytes() for path in (world.root / "vault" / "keys").iterdir()}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (world.root / "vault" / "lake-keys").iterdir())


def test_without_its_key_a_copy_says_nothing(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.lake.root, tmp_path / "backup" / "lake")
    analysis = Analysis(world.store, world.lake, world.public)
    assert analysis.table("trial").num_rows == 6
    world.lake.destroy_key("trial")
    world.lake.destroy_key("trial")
    with pytest.raises(StudyRefused) as caught:
        analysis.table("trial")
    assert caught.value.code == "study.erased"
    with pytest.raises(StudyRefused):
        world.lake.write("trial", "again", [])
    fresh = Lake.of(tmp_path / "backup")  # a vault that never had the key, even one that makes its own
    (batch,) = (fresh.root / "trial").iterdir()
    fresh.write("trial", "mine", [])
    with pytest.raises(IntegrityError):
        fresh.table(f"trial/{batch.name}/records.parquet")
    with pytest.raises(IntegrityError):
        fresh.read(f"trial/{batch.name}/1.dcm")

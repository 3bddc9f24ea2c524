"""A withdrawn consent at the centre: what goes, what stays, what never comes back, and a crash at each step."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from sqlalchemy import select

from central import withdrawals
from central.federation.keys import RunKeys
from central.federation.told import Told
from central.store.models import CuratedRow, LogRow, PredictionRow, WithdrawalRow
from central.vault import Analysis
from corsia.leaks import leaks_in
from corsia.opened import opened
from protocol import faults
from protocol.errors import IntegrityError
from protocol.parcel import Item, ItemKind, canonical_json
from protocol.withdrawal import Withdrawal, read_subjects, subjects_item
from tests.vaultkit import World, publish, table

GONE, STAYS = ["P" + letter * 16 for letter in "AB"], ["P" + letter * 16 for letter in "CDEFGH"]
STEPS = ("withdrawal.noted", "withdrawal.rewritten", "withdrawal.swept")


class Cut(Exception):
    """The process dies here."""


@contextmanager
def cut_at(name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def point(reached: str) -> None:
        if reached == name:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(faults, "point", point)
        yield


def image(patient: str) -> bytes:
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    dataset.PatientID = patient
    target = io.BytesIO()
    pydicom.dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()


def fhir(*patients: str) -> bytes:
    return canonical_json(
        {"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "Patient", "identifier": [
            {"system": "urn:corsia:pseudonym", "value": patient}]}} for patient in patients]}
    )  # fmt: skip


def deidentified(people: list[str]) -> list[Item]:
    frame = pd.DataFrame({"pseudonym": people, "age": [50.0 + n for n in range(len(people))], "count": 1})
    items = [table(frame)]
    for number, who in enumerate(people[:4], 1):  # enough images: each is a file and an fsync
        items.append(Item(kind=ItemKind.DICOM, name=f"{who}-{number}.dcm", data=image(who), rows=1, persons=1))
        items.append(Item(kind=ItemKind.DOCUMENT, name=f"{number}.json", data=fhir(who), rows=1, persons=1))
    report = Item(kind=ItemKind.REPORT, name="report.json", data=canonical_json({"rows": len(people)}))
    return [*items, report]


@pytest.fixture
def bare(tmp_path: Path) -> World:
    return World(tmp_path / "state")


@pytest.fixture
def world(bare: World) -> World:
    made = bare
    columns = [
        {"name": "pseudonym", "dtype": "string"}, {"name": "age", "dtype": "float"}, {"name": "count", "dtype": "int"}
    ]  # fmt: skip
    made.submit(
        lane="anonymize", pipeline={"name": "anonymize"},
        output={"columns": columns, "files": True, "documents": True}, privacy={"k": 5},
    )  # fmt: skip
    made.land(made.batch(*deidentified([*GONE, *STAYS])))
    made.land(made.batch(*deidentified(STAYS), part=1))
    made.land(made.batch(*deidentified([*GONE, *STAYS]), site="site-b"), site="site-b")
    made.drain()
    publish(made, made.signing, study_id="trial")
    return made


def tell(world: World, *gone: str, site: str = "site-a", study: str = "trial", **changes: Any) -> str:
    batch = world.batch(
        Withdrawal(subjects=frozenset(gone)).item(), site=site, study_id=study, batch_id="f" * 32, **changes
    )
    return world.land(batch, site=site, study_id=study, content_type="withdrawal")


def check(world: World, plain: Path, rows: int = 20) -> None:
    """The persons are nowhere at site-a's part of the lake, everything else is where it was."""
    frame = Analysis(world.store, world.lake, world.public).table("trial").to_pandas()
    mine, other = (frame[frame.site == site] for site in ("site-a", "site-b"))
    assert sorted(mine.pseudonym) == sorted(2 * STAYS)
    assert sorted(other.pseudonym) == sorted([*GONE, *STAYS]), "another site's pseudonyms are other people"
    with world.store.read() as session:
        curated = {row.path: row for row in session.scalars(select(CuratedRow))}
    shown = opened(world.root / "vault", "trial", plain)
    for path, row in curated.items():
        files = list((plain / path).iterdir())
        assert row.files == sum(file.suffix == ".dcm" for file in files)
        assert row.rows == len(pd.read_parquet(plain / path / "records.parquet"))
        held = [n for file in files for n, _ in leaks_in(file.name.encode() + file.read_bytes(), GONE)]
        assert bool(held) is (row.site == "site-b")
    folders = {f"trial/{path.name}" for path in shown.iterdir() if not path.name.startswith("withdrawn-")}
    assert folders == set(curated), "no folder is left that still holds the rows"


def _parcels(world: World) -> int:
    return len(list(world.landing.glob("*.parcel")))


def test_rows_files_documents_and_predictions_go_and_the_log_says_so(world: World, tmp_path: Path) -> None:
    Analysis(world.store, world.lake, world.public).predict("risk", "trial")
    before = _parcels(world)
    parcel = tell(world, *GONE, "P" + "Z" * 16)
    world.drain()
    assert world.parcel(parcel) == ("opened", "")
    check(world, tmp_path)
    assert _parcels(world) == before, "one came with the word, and the one that held the rows went"
    with world.store.read() as session:
        row = session.get_one(WithdrawalRow, parcel)
        (leaf,) = [json.loads(leaf) for leaf in session.scalars(select(LogRow.leaf)) if b"withdrawal" in leaf]
        (made,) = session.scalars(select(PredictionRow))
        (told,) = withdrawals.summary(session, world.digest())
    assert (row.rows, row.files) == (2, 4)
    assert set(leaf) == {"id", "kind", "sha256"}
    assert made.path == ""
    assert not (world.lake.root / "trial" / "predictions").exists()
    assert told | {"received_at": 0, "log_index": 0} == {
        "site": "site-a", "rows": 2, "files": 4, "models": [{"name": "risk", "version": 1}], "received_at": 0,
        "log_index": 0,
    }  # fmt: skip
    database = b"".join(path.read_bytes() for path in world.root.glob("corsia.db*"))
    assert not leaks_in(database, [*GONE, *STAYS]), "who it was is in no column"


@pytest.mark.parametrize("step", STEPS)
def test_cut_off_at_any_step_it_ends_the_same(
    world: World, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel = tell(world, *GONE)
    with cut_at(step, monkeypatch):
        opener = world.opener()
        assert opener.step()
        assert world.parcel(parcel) == ("landed", "")
    world.lake.recover()
    world.drain()
    assert world.parcel(parcel) == ("opened", "")
    check(world, tmp_path)
    with world.store.read() as session:
        row = session.get_one(WithdrawalRow, parcel)
    assert (row.rows, row.files) == (2, 4)


def test_an_unreadable_batch_delays_the_word_and_hinders_no_other_batch(world: World, tmp_path: Path) -> None:
    with world.store.read() as session:
        (first,) = [r.path for r in session.scalars(select(CuratedRow)) if (r.site, r.part) == ("site-a", 0)]
    world.land(world.batch(*deidentified([*GONE, *STAYS]), part=2))
    world.drain()
    away = tmp_path / "away"
    (world.lake.root / first).rename(away)
    parcel = tell(world, *GONE)
    world.drain()
    assert world.parcel(parcel) == ("landed", ""), "a good word is never refused for what the lake has become"
    with world.store.read() as session:
        rows = {row.part: row.rows for row in session.scalars(select(CuratedRow)) if row.site == "site-a"}
    assert rows == {0: 8, 1: 6, 2: 6}
    away.rename(world.lake.root / first)
    world.drain()
    assert world.parcel(parcel) == ("opened", "")
    frame = Analysis(world.store, world.lake, world.public).table("trial").to_pandas()
    assert sorted(frame[frame.site == "site-a"].pseudonym) == sorted(3 * STAYS)


def test_no_parcel_that_nobody_opens_again_stays_with_the_rows(world: World) -> None:
    rejected = world.land(world.batch(*deidentified([*GONE, *STAYS]), site="site-b"))
    same = world.batch(*deidentified([*GONE, *STAYS]), part=2)
    first, second = world.land(same), world.land(same)
    world.drain()
    assert [world.parcel(p)[0] for p in (rejected, first, second)] == ["rejected", "opened", "opened"]
    other = {row.parcel_id for row in _curated(world) if row.site == "site-b" or row.part == 1}
    parcel = tell(world, *GONE)
    world.drain()
    assert {path.stem for path in world.landing.glob("*.parcel")} == other | {parcel}


def _curated(world: World) -> list[CuratedRow]:
    with world.store.read() as session:
        return list(session.scalars(select(CuratedRow)))


def test_a_row_that_comes_later_does_not_come_back(world: World, tmp_path: Path) -> None:
    tell(world, GONE[0])
    again = world.land(world.batch(*deidentified([*GONE, *STAYS]), part=2))  # made before, delivered after
    world.drain()
    tell(world, GONE[1], part=1)
    world.drain()
    assert world.parcel(again) == ("opened", "")
    frame = Analysis(world.store, world.lake, world.public).table("trial").to_pandas()
    assert not set(frame[frame.site == "site-a"].pseudonym) & set(GONE)
    assert not (world.landing / f"{again}.parcel").exists()
    rerun = world.land(world.batch(*deidentified([*GONE, *STAYS]), part=3), site="site-a")
    world.drain()
    assert world.parcel(rerun) == ("opened", "")
    with world.store.read() as session:
        rows = {row.part: (row.rows, row.files) for row in session.scalars(select(CuratedRow)) if row.site == "site-a"}
    assert rows == {0: (6, 2), 1: (6, 4), 2: (6, 2), 3: (6, 2)}


def test_raw_rows_are_found_by_the_subjects_beside_them(bare: World) -> None:
    bare.submit("raw", output={"columns": [{"name": "age", "dtype": "float"}], "files": True})
    people = [GONE[0], *STAYS, GONE[0]]
    rows = table(pd.DataFrame({"age": [float(n) for n in range(8)]}))
    files = [
        Item(kind=ItemKind.DICOM, name=f"{n}.dcm", data=b"\0" * 140 + b"raw") for n in range(2)
    ]  # it names nobody that the centre could tell
    about = subjects_item({"records.parquet": people, "0.dcm": GONE[0], "1.dcm": STAYS[0]})
    bare.land(bare.batch(rows, *files, about, study_id="raw"), study_id="raw")
    bare.drain()
    for _ in range(2):  # told twice, it is removed once
        tell(bare, GONE[0], study="raw")
        bare.drain()
    frame = Analysis(bare.store, bare.lake, bare.public).table("raw").to_pandas()
    assert frame.age.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    with bare.store.read() as session:
        (row,) = [row for row in session.scalars(select(CuratedRow)) if row.path.startswith("raw/")]
        counts = [
            (w.rows, w.files) for w in session.scalars(select(WithdrawalRow)) if w.study_digest == row.study_digest
        ]
    assert bare.lake.names(row.path) == ["1.dcm", "records.parquet", "subjects.json"]
    left = read_subjects(bare.lake.read(f"{row.path}/subjects.json"))
    assert left == {"records.parquet": STAYS, "1.dcm": STAYS[0]}
    assert sorted(counts) == [(0, 0), (2, 1)]


def test_what_names_nobody_goes_as_a_whole_but_sums_stay(bare: World) -> None:
    sums = {
        "lane": "extract",
        "pipeline": {"name": "aggregate"},
        "output": {"columns": [{"name": "age", "dtype": "float"}]},
    }
    bare.submit("nameless", output={"columns": [{"name": "age", "dtype": "float"}]})
    bare.submit("sums", **sums)
    for study in ("nameless", "sums"):
        frame = table(pd.DataFrame({"age": [1.0, 2.0]}))
        bare.land(bare.batch(frame, study_id=study), study_id=study)
        tell(bare, GONE[0], study=study)
    bare.drain()
    analysis = Analysis(bare.store, bare.lake, bare.public)
    assert analysis.table("nameless").num_rows == 0
    assert analysis.table("sums").num_rows == 2


NO_SUBJECTS: list[object] = [
    {"records.parquet": [GONE[0]]},
    {"records.parquet": GONE[0]},
    {"other.parquet": [GONE[0]]},
    {"records.parquet": ["MRN0000003", GONE[0]]},
    {"records.parquet": None},
    ["records.parquet"],
]


def test_subjects_that_do_not_fit_are_refused(bare: World) -> None:
    bare.submit("raw", output={"columns": [{"name": "age", "dtype": "float"}]})
    bad = []
    for part, subjects in enumerate(NO_SUBJECTS):
        about = Item(kind=ItemKind.SUBJECTS, name="subjects.json", data=json.dumps(subjects).encode())
        rows = table(pd.DataFrame({"age": [1.0, 2.0]}))
        bad.append(bare.land(bare.batch(rows, about, study_id="raw", part=part), study_id="raw"))
    bare.drain()
    assert {bare.parcel(parcel) for parcel in bad} == {("rejected", "parcel.payload")}


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"subjects": "P"}', b'{"subjects": ["MRN0000003"]}', b'{"subjects": [1]}',
     b'{"subjects": [], "more": 1}', b"[" * 100_000],
)  # fmt: skip
def test_a_malformed_word_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        Withdrawal.from_bytes(data)
    assert caught.value.code == "parcel.payload"


def test_a_word_in_anothers_name_or_of_other_kind_changes_nothing(world: World) -> None:
    word = Withdrawal(subjects=frozenset(GONE)).item()
    bad = [
        world.land(world.batch(word), content_type="withdrawal", signer=world.sites["site-b"]),
        world.land(world.batch(word, site="site-b"), content_type="withdrawal"),
        world.land(world.batch(table(), part=4), content_type="withdrawal"),
        world.land(world.batch(word, table(), part=5), content_type="withdrawal"),
        world.land(world.batch(word, part=6)),
    ]
    world.drain()
    states = [world.parcel(parcel) for parcel in bad]
    assert {state for state, _ in states} == {"rejected"}
    assert [code for _, code in states] == [
        "parcel.signature", "parcel.context", "parcel.payload", "parcel.payload", "parcel.payload"
    ]  # fmt: skip
    assert Analysis(world.store, world.lake, world.public).table("trial").num_rows == 22


def test_of_a_run_the_federation_notes_it_and_lists_the_models(bare: World, tmp_path: Path) -> None:
    keys = RunKeys(tmp_path / "run-keys")
    bare.submit(
        "fed", lane="train", pipeline={"name": "train"}, output={},
        training={"learner": "survival", "features": ["age"], "outcome": ("time", "status"), "rounds": 2,
                  "publish": {"model": "risk"}},
    )  # fmt: skip
    publish(bare, bare.signing, study_id="fed", serial=2)
    word = Withdrawal(subjects=frozenset()).item()
    parcel = bare.land(
        bare.batch(word, study_id="fed"), study_id="fed", content_type="withdrawal", recipient=keys.public("fed")
    )
    foreign = bare.land(
        bare.batch(word, study_id="fed"), study_id="fed", content_type="withdrawal",
        recipient=RunKeys(tmp_path / "others").public("fed"),
    )  # fmt: skip
    bare.drain()
    assert bare.parcel(parcel) == ("landed", ""), "it is not the vault's to open"
    told = Told(bare.store, bare.landing, keys, bare.public)
    assert (told.step(), told.step()) == (2, 0)
    assert bare.parcel(parcel) == ("opened", "")
    assert bare.parcel(foreign) == ("rejected", "parcel.key")
    with bare.store.read() as session:
        (said,) = withdrawals.summary(session, bare.digest("fed"))
    assert (said["rows"], said["models"]) == (0, [{"name": "risk", "version": 2}])

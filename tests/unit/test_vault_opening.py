"""From landed parcels to the lake: what is accepted, each way to be refused, idempotence, completion."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import func, select

from central.store.models import AssignmentRow, CuratedRow, EventRow, ParcelRow, StudyRow
from privacy.envelope import SecretKey
from protocol.parcel import Item, ItemKind, canonical_json, pack_batch
from tests.vaultkit import World, parquet, rows, table


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.submit()
    return made


def _curated(world: World) -> list[CuratedRow]:
    with world.store.read() as session:
        return list(session.scalars(select(CuratedRow).order_by(CuratedRow.site, CuratedRow.part)))


def _kinds(world: World) -> list[str]:
    with world.store.read() as session:
        return list(session.scalars(select(EventRow.kind).order_by(EventRow.seq)))


def dicom(name: str = "img0001.dcm") -> Item:
    return Item(kind=ItemKind.DICOM, name=name, data=b"\0" * 128 + b"DICM" + b"\0" * 20, rows=1, persons=1)


def test_a_parcel_becomes_rows_files_and_one_event(world: World) -> None:
    world.submit("images", output={"columns": [{"name": "age", "dtype": "float"}], "files": True})
    report = Item(
        kind=ItemKind.REPORT,
        name="report.json",
        data=canonical_json({"k": 4, "note": "Mario Rossi", "rules": {"x": 2}}),
    )
    batch = world.batch(table(rows()[["age"]]), dicom(), report, study_id="images", withheld={"consent": 3})
    parcel = world.land(batch, study_id="images")
    world.drain()
    assert world.parcel(parcel) == ("opened", "")
    (row,) = _curated(world)
    assert (row.rows, row.files, row.persons, row.withheld) == (6, 1, 6, {"consent": 3})
    assert row.report == {"k": 4, "rules": {"x": 2}, "curated_columns": 1}, "numbers stay, text does not"
    folder = world.lake.root / row.path
    assert sorted(p.name for p in folder.iterdir()) == [
        "img0001.dcm.sealed", "records.parquet", "report.json.sealed"
    ]  # fmt: skip
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
    assert _kinds(world) == ["batch.curated"]


def test_types_are_cast_to_what_the_study_declares(world: World) -> None:
    frame = pd.DataFrame(
        {
            "age": [1, 2, 3],
            "count": [1.0, None, 3.0],
            "sex": pd.Categorical(["F", "M", "F"]),
            "seen": ["2020-01-02", None, "2021-03-04"],
            "alive": [True, False, None],
            "original_firstorder_Mean": [None, None, None],
        }
    )
    world.land(world.batch(table(frame)))
    world.drain()
    (row,) = _curated(world)
    schema = world.lake.table(f"{row.path}/records.parquet").schema
    assert [str(t) for t in schema.types] == ["double", "int64", "string", "date32[day]", "bool", "double"]
    assert schema.metadata is None, "no foreign metadata in the lake"


def _other_site(world: World) -> dict[str, Any]:
    return {"signer": world.sites["site-b"]}


BROKEN: dict[str, tuple[Callable[[World], str], str]] = {
    "another site's signature": (lambda w: w.land(w.batch(), signer=w.sites["site-b"]), "parcel.signature"),
    "a header of another site": (lambda w: w.land(w.batch(), as_site="site-b"), "parcel.context"),
    "sealed to another key": (lambda w: w.land(w.batch(), recipient=SecretKey.generate().public), "parcel.key"),
    "content of another lane": (lambda w: w.land(w.batch(), content_type="features"), "parcel.context"),
    "a batch of another study": (lambda w: w.land(w.batch(study_digest="0" * 64)), "parcel.context"),
    "a batch of another site": (lambda w: w.land(w.batch(site="site-b")), "parcel.context"),
    "no batch": (lambda w: w.land(b"nothing"), "parcel.payload"),
    "a batch and more": (lambda w: w.land(b"".join(pack_batch(w.batch())) + b"x"), "parcel.payload"),
    "an id that is a path": (lambda w: w.land(w.batch(batch_id="../../../../tmp/x")), "parcel.payload"),
    "a message": (
        lambda w: w.land(w.batch(Item(kind=ItemKind.MESSAGE, name="message.bin", data=b"x"))),
        "parcel.payload",
    ),
    "an undeclared column": (
        lambda w: w.land(w.batch(table(rows().assign(surname="Rossi")))),
        "gate.undeclared",
    ),
    "text in a number's column": (
        lambda w: w.land(w.batch(table(pd.DataFrame({"age": ["Mario Rossi"]})))),
        "gate.undeclared",
    ),
    "a fraction in an integer's column": (
        lambda w: w.land(w.batch(table(pd.DataFrame({"count": [1.5]})))),
        "parcel.payload",
    ),
    "no Parquet": (
        lambda w: w.land(w.batch(Item(kind=ItemKind.TABLE, name="a.parquet", data=b"PAR1" + b"\xff" * 64 + b"PAR1"))),
        "parcel.payload",
    ),
    "truncated Parquet": (
        lambda w: w.land(w.batch(Item(kind=ItemKind.TABLE, name="a.parquet", data=parquet(rows())[:-200]))),
        "parcel.payload",
    ),
    "a nested column": (
        lambda w: w.land(w.batch(table(pd.DataFrame({"sex": [["a"], ["b"]]})))),
        "gate.undeclared",
    ),
    "a table with a wrong name": (lambda w: w.land(w.batch(table(name="records.dcm"))), "parcel.payload"),
    "a name with a line end": (
        lambda w: w.land(w.batch(Item(kind=ItemKind.REPORT, name="a.json\n", data=b"{}"))),
        "parcel.payload",
    ),
    "the same name twice": (lambda w: w.land(w.batch(table(), table(name="Records.parquet"))), "parcel.payload"),
    "undeclared files": (lambda w: w.land(w.batch(dicom())), "gate.undeclared"),
    "a report that is no object": (
        lambda w: w.land(w.batch(Item(kind=ItemKind.REPORT, name="report.json", data=b"[1]"))),
        "parcel.payload",
    ),
    "a reason that is a sentence": (
        lambda w: w.land(w.batch(withheld={"Mario Rossi did not agree": 1})),
        "parcel.payload",
    ),
    "a negative count": (lambda w: w.land(w.batch(withheld={"consent": -1})), "parcel.payload"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_parcel_is_rejected_and_the_next_one_opens(world: World, name: str) -> None:
    land, code = BROKEN[name]
    bad = land(world)
    good = world.land(world.batch(site="site-b"), site="site-b")
    world.drain()
    assert world.parcel(bad) == ("rejected", code)
    assert world.parcel(good) == ("opened", "")
    assert [row.site for row in _curated(world)] == ["site-b"]
    assert _kinds(world) == ["parcel.rejected", "batch.curated"]
    assert not list(world.lake.root.glob("**/*.tmp"))


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "missing", "swapped"])
def test_a_damaged_landed_file_is_rejected(world: World, damage: str) -> None:
    parcel = world.land(world.batch())
    path = world.landing / f"{parcel}.parcel"
    raw = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "swapped":
        other = world.land(world.batch(part=1))
        path.write_bytes((world.landing / f"{other}.parcel").read_bytes())
    else:
        middle = len(raw) // 2
        changed = {
            "flip": raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :],
            "cut": raw[:-1],
            "longer": raw + b"x",
        }
        path.write_bytes(changed[damage])
    world.drain()
    state, code = world.parcel(parcel)
    assert state == "rejected"
    assert code.startswith("parcel.")


def test_a_study_that_the_signer_did_not_sign_opens_nothing(world: World) -> None:
    parcel = world.land(world.batch())
    world.signing = SecretKey.generate()
    world.drain()
    assert world.parcel(parcel) == ("rejected", "parcel.signature")


def test_an_identity_that_is_not_in_the_roster_opens_nothing(world: World) -> None:
    from central.store.models import SiteRow

    forged = SecretKey.generate()
    with world.store.begin() as session:
        session.get_one(SiteRow, "site-a").identity = forged.public.to_base64()
    parcel = world.land(world.batch(), signer=forged)
    world.drain()
    assert world.parcel(parcel) == ("rejected", "parcel.signature")


def test_a_batch_that_comes_twice_is_curated_once(world: World) -> None:
    first, second = world.land(world.batch()), world.land(world.batch())
    world.drain()
    assert world.parcel(first) == world.parcel(second) == ("opened", "")
    assert len(_curated(world)) == 1
    assert _kinds(world).count("batch.curated") == 1


def test_a_batch_id_of_another_site_is_a_replay(world: World) -> None:
    mine = world.batch()
    world.land(mine)
    stolen = world.land(world.batch(site="site-b", batch_id=mine.batch_id), site="site-b")
    world.drain()
    assert world.parcel(stolen) == ("rejected", "parcel.replay")


def test_a_parcel_that_kills_the_vault_is_set_aside(world: World) -> None:
    parcel = world.land(world.batch())
    for _ in range(4):  # each attempt counted on disk, the process gone before it ended
        world.opener()._begin_attempt(parcel)
    world.drain()
    assert world.parcel(parcel) == ("rejected", "parcel.payload")


def test_a_lost_key_delays_and_does_not_reject(world: World) -> None:
    key = world.root / "vault" / "keys" / "trial.key"
    raw = key.read_bytes()
    parcel = world.land(world.batch())
    key.rename(key.with_suffix(".away"))
    world.drain()
    assert world.parcel(parcel) == ("landed", "")
    key.write_bytes(raw)
    key.chmod(0o600)
    world.drain()
    assert world.parcel(parcel) == ("opened", "")


def test_a_full_disk_delays_and_does_not_reject(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    parcel = world.land(world.batch())
    (world.lake.root / "trial").write_bytes(b"")  # no folder can be made here
    world.drain()
    assert world.parcel(parcel) == ("landed", "")
    (world.lake.root / "trial").unlink()
    world.drain()
    assert world.parcel(parcel) == ("opened", "")


def test_updates_are_not_the_vaults(world: World) -> None:
    parcel = world.land(world.batch())
    with world.store.begin() as session:
        session.get_one(ParcelRow, parcel).content_type = "update"
    world.drain()
    assert world.parcel(parcel) == ("landed", "")


def test_a_study_is_done_when_every_part_of_every_site_is_in(world: World) -> None:
    world.land(world.batch(part=0, last=False))
    world.land(world.batch(site="site-b"), site="site-b")
    world.drain()
    assert world.state() == "open"
    world.finish()
    world.drain()
    assert world.state() == "open", "site-a's last part is not in"
    world.land(world.batch(part=1, last=True))
    world.drain()
    assert world.state() == "done"
    assert _kinds(world).count("study.done") == 1


def test_a_refusing_site_does_not_hold_a_study_open(world: World) -> None:
    world.land(world.batch())
    world.finish(site_b="refused")
    world.drain()
    assert world.state() == "done"


def test_a_refused_withdrawal_is_no_refused_part(world: World) -> None:
    world.land(b"no batch", content_type="withdrawal")
    world.land(world.batch(table(), site="site-b"), site="site-b")
    world.land(world.batch(table(), last=False))
    world.finish()
    world.drain()
    assert world.state() == "open", "the last part of the site is on its way"
    world.land(world.batch(table(), part=1))
    world.drain()
    assert world.state() == "done"


@pytest.mark.parametrize("state", ["refused", "failed", "expired"])
def test_a_study_that_nobody_carried_out_has_failed(world: World, state: str) -> None:
    world.finish(state)
    world.drain()
    assert world.state() == "failed"


def test_a_study_with_a_rejected_part_has_failed(world: World) -> None:
    world.land(world.batch(withheld={"consent": -1}))
    world.land(world.batch(site="site-b"), site="site-b")
    world.finish()
    world.drain()
    assert world.state() == "failed"


def test_a_study_ends_while_others_parcels_keep_coming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large consortium's vault is never idle: what is over must close, and be erased, all the same."""
    monkeypatch.setattr("central.vault.opening._LOOK_EVERY_S", 0.0)
    world = World(tmp_path)
    world.submit("over", sites=["site-a"])
    world.finish(study_id="over", state="refused")
    world.submit(sites=["site-b"])
    for part in range(3):
        world.land(world.batch(site="site-b", part=part, last=False), site="site-b")
    opener = world.opener()
    assert opener.step()
    assert world.state("over") == "failed"
    assert world.state() == "open"


def test_an_inference_study_is_done_without_parcels(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.submit("score", lane="infer", pipeline={"name": "infer"}, model={"name": "m"}, output={})
    world.finish(study_id="score")
    world.drain()
    assert world.state("score") == "done"


def test_a_training_study_is_not_the_vaults_to_close(tmp_path: Path) -> None:
    world = World(tmp_path)
    training = {"learner": "survival", "features": ["age"], "outcome": ["time"], "publish": {"model": "m"}}
    world.submit("train", lane="train", pipeline={"name": "train"}, training=training, output={})
    world.finish(study_id="train")
    world.drain()
    assert world.state("train") == "open"


def test_study_keys_are_made_once_and_kept_private(world: World) -> None:
    first = world.keys.create("another")
    assert world.keys.create("another") == first
    path = world.root / "vault" / "keys" / "another.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not list(path.parent.glob(".*.tmp"))
    with world.store.read() as session:
        assert session.scalar(select(func.count()).select_from(StudyRow)) == 1


@pytest.mark.parametrize("bad", ["", "../x", "A", "a/b", "a\n", "x" * 64])
def test_a_study_key_has_a_plain_name(world: World, bad: str) -> None:
    from protocol.errors import InputError

    with pytest.raises(InputError):
        world.keys.create(bad)


def test_a_site_that_stays_away_does_not_keep_an_expired_study_open(world: World) -> None:
    for name in ("silent", "sent"):
        world.submit(name, sites=["site-a", "site-b"], expires=datetime.now(UTC) - timedelta(seconds=1))
    world.finish(study_id="sent", site_b="delivering", state="done")
    world.land(world.batch(study_id="sent"), study_id="sent")
    world.land(world.batch(study_id="sent", site="site-b"), study_id="sent", site="site-b")
    world.drain()
    assert [world.state(name) for name in ("silent", "sent")] == ["erased", "erased"], "its time is over"
    with world.store.read() as session:
        told = session.execute(select(EventRow.study, EventRow.kind).where(EventRow.kind.like("study.%"))).all()
    assert [kind for study, kind in told if study == "silent"] == ["study.failed", "study.erasing", "study.erased"]
    assert [kind for study, kind in told if study == "sent"] == ["study.done", "study.erasing", "study.erased"]
    with world.store.read() as session:
        states = {(row.study_digest, row.site): row.state for row in session.scalars(select(AssignmentRow))}
    assert states[(world.digest("silent"), "site-a")] == "expired"
    assert states[(world.digest("sent"), "site-b")] == "expired"
    assert states[(world.digest("sent"), "site-a")] == "done"
    assert world.state() == "open", "another study goes on"


def test_the_running_vault_opens_what_lands_while_it_sleeps(world: World) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=world.opener().run, args=(stop, 0.02))
    thread.start()
    try:
        time.sleep(0.8)
        parcel = world.land(world.batch())
        world.finish(site_b="refused")
        until = time.monotonic() + 1.5
        while (world.parcel(parcel)[0] == "landed" or world.state() == "open") and time.monotonic() < until:
            time.sleep(0.02)
        assert (world.parcel(parcel), world.state()) == (("opened", ""), "done")
    finally:
        stop.set()
        thread.join()

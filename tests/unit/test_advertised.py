"""What a site tells of its datasets: columns and rows in tens where it said so, and nothing that a row holds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from sqlalchemy import select

from central.gateway import catalogue as gateway
from central.store import Store
from central.store.models import AdvertisedRow
from corsia.synthetic import ct_series
from edge.advertised import Catalogue, advertised
from edge.config import DatasetConfig
from edge.messages import catalogue_message
from protocol.catalogue import AdvertisedDataset
from protocol.errors import InputError
from protocol.v1 import fleet_pb2 as pb

COLUMNS = {"id": "patient", "age": "quasi", "stage": "value", "note": "text", "seen": "date"}
HEADER = "id,age,stage,note,seen,unlisted\n"


TOLD = ("counts", "schema")


def dataset(
    folder: Path, persons: int, rows_each: int = 1, *, advertise: tuple[str, ...] = TOLD, **policy: object
) -> DatasetConfig:
    path = folder / "table.csv"
    row = "CANARY{},{},II,CANARY words,2020-01-01,CANARY\n"
    path.write_text(HEADER + "".join(row.format(n, 50 + n % 9) for n in range(persons) for _ in range(rows_each)))
    rules = {"lanes": ["extract"], "require_consent": False} | policy
    return DatasetConfig.model_validate({"table": path, "columns": COLUMNS, "policy": rules, "advertise": advertise})


def test_columns_and_rows_in_tens_are_told_and_no_cell(tmp_path: Path) -> None:
    told = advertised("lung", dataset(tmp_path, 27))
    assert (told.name, told.rows, told.lanes) == ("lung", 20, ("extract",))
    assert [(c.name, c.role, c.type) for c in told.columns] == [
        ("id", "patient", "key"), ("age", "quasi", "number"), ("stage", "value", "text"), ("note", "text", "text"),
        ("seen", "date", "date"),
    ]  # fmt: skip
    raw = catalogue_message([told])
    assert raw is not None
    sent = raw.SerializeToString()
    assert b"CANARY" not in sent
    assert b"unlisted" not in sent, "a column without a role is nobody's business"


def test_few_persons_are_not_counted_however_many_rows_they_have(tmp_path: Path) -> None:
    assert advertised("lung", dataset(tmp_path, 9, rows_each=20)).rows == 0
    assert advertised("lung", dataset(tmp_path, 10, rows_each=20)).rows == 200
    assert advertised("lung", dataset(tmp_path, 19, min_cohort=20)).rows == 0


def test_only_what_is_named_is_told(tmp_path: Path) -> None:
    assert advertised("lung", dataset(tmp_path, 27, advertise=("schema",))).rows == 0
    assert advertised("lung", dataset(tmp_path, 27, advertise=("counts",))).columns == ()


def test_kinds_alone_read_nothing_and_tell_name_kinds_and_lanes(tmp_path: Path) -> None:
    config = dataset(tmp_path, 27, advertise=("kinds",))
    (tmp_path / "table.csv").unlink()
    told = advertised("lung", config)
    assert told == AdvertisedDataset(name="lung", rows=0, columns=(), lanes=("extract",), kinds=("table",))
    assert advertised("lung", dataset(tmp_path, 27)).kinds == ()


def test_of_images_without_a_table_the_persons_are_counted(tmp_path: Path) -> None:
    for at in range(13):
        for number, data in enumerate(ct_series({"PatientID": f"CANARY{at}"}, seed=at, size=4, slices=3)):
            (tmp_path / f"{at}-{number}.dcm").write_bytes(data)
    (tmp_path / "readme.txt").write_text("CANARY")
    told = {least: _images(tmp_path, least).rows for least in (10, 13, 14)}
    assert told == {10: 10, 13: 10, 14: 0}
    assert _images(tmp_path, 10, advertise=("kinds",)) == AdvertisedDataset(
        name="ct", rows=0, columns=(), lanes=("extract",), kinds=("dicom",)
    )


def _images(folder: Path, least: int, *, advertise: tuple[str, ...] = TOLD) -> AdvertisedDataset:
    rules = {"lanes": ["extract"], "require_consent": False, "min_cohort": least}
    one = DatasetConfig.model_validate({"dicom": folder, "policy": rules, "advertise": advertise})
    return advertised("ct", one)


def test_a_table_that_cannot_be_read_is_told_without_rows(tmp_path: Path) -> None:
    config = dataset(tmp_path, 30)
    (tmp_path / "table.csv").write_bytes(b"\xff\xfe\x00")
    assert advertised("lung", config).rows == 0
    (tmp_path / "table.csv").unlink()
    assert len(advertised("lung", config).columns) == 5


def _news(made: Catalogue) -> tuple[AdvertisedDataset, ...]:
    end = time.monotonic() + 60
    while (found := made.news()) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def test_only_where_the_policy_says_so_and_once(tmp_path: Path) -> None:
    silent = Catalogue({"lung": dataset(tmp_path, 30, advertise=())})
    assert silent.news() == (), "once: so that the centre forgets what was told before"
    silent.told(())
    assert silent.news() is None
    made = Catalogue({"lung": dataset(tmp_path, 30)})
    found = _news(made)
    assert [one.rows for one in found] == [30]
    made.told(found)
    assert made.news() is None


def test_the_centre_puts_each_word_in_place_of_the_one_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    told = advertised("lung", dataset(tmp_path, 30, advertise=("kinds", *TOLD)))
    message = catalogue_message([told])
    assert message is not None
    assert gateway.read(message) == (told,), "there and back"
    for datasets in ((told,), (told,), ()):
        with store.begin() as session:
            gateway.write(session, "site-a", datasets)
            gateway.write(session, "site-b", (told,))
        with store.read() as session:
            rows = session.scalars(select(AdvertisedRow).order_by(AdvertisedRow.site)).all()
        assert all(row.kinds == ["table"] for row in rows)
        assert [row.site for row in rows] == ["site-a"] * len(datasets) + ["site-b"]
    store.engine.dispose()


def column(**changes: Any) -> dict[str, Any]:
    return {"columns": [{"name": "age", "role": "value", "type": "number"} | changes]}


WRONG: list[dict[str, Any]] = [
    {"name": ""}, {"name": "A"}, {"name": "../x"}, {"name": "x" * 64}, {"rows": 1 << 62}, {"lanes": ["dance"]},
    {"lanes": ["train"] * 9}, {"kinds": ["dance"]},
    {"kinds": ["table", "table"]}, column(name=""), column(name="a\x00"), column(name="a" * 129), column(type="<b>"),
    column(role="<b>"), column(role=""),
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_catalogue_is_refused(wrong: dict[str, Any]) -> None:
    good = {"name": "lung", "rows": 10, "lanes": ["train"], **column()}
    assert gateway.read(_message(good))
    with pytest.raises(InputError):
        gateway.read(_message(good | wrong))
    with pytest.raises(InputError):
        gateway.read(_message(good, good))


def _message(*values: dict[str, Any]) -> pb.Catalogue:
    return ParseDict({"datasets": list(values)}, pb.Catalogue())

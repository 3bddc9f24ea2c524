"""A table in a database is read as the same table in a file is, whatever a study selects; and nothing is written."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from edge.config import Consent, DatasetConfig, Policy
from edge.sources import DatasetSource, relation, selectors
from edge.sources.format import Format
from edge.sources.places import Database
from protocol.errors import ConfigurationError, CorsiaError, InputError, PermissionRefused, UnavailableError
from protocol.study import Condition
from protocol.study import Dataset as Asked
from tests.sourcekit import private
from tests.unit import test_sources as rows

HEAD = ("id", "age", "stage", "seen", "note", "consent", "gone")
ROLES = {"id": "patient", "age": "value", "stage": "quasi", "seen": "date", "note": "text"}
TABLE: list[tuple[Any, ...]] = [
    ("p1", 40, "I", "2020-05-01", "x", "yes", None),
    ("p1", 41, "II", "2021-05-01", "O'Neill; drop table t", "yes", None),
    ("p2", 55.5, " II ", "2020-12-31", "100%_done", "yes", None),
    ("p3", 60, "III", "2022-01-01", None, "no", None),
    ("p4", 70, "II", None, "z", "yes", "2020-01-01"),
    ("p4", 20, "I", "2020-01-01", "z", "yes", None),
    ("p5", None, "\tII", "2019-01-01", "a\\b", "yes", None),
    (" P6 ", 33, "iI", "2020-05-01", "", "yes", None),
    ("", 99, "II", "2020-05-01", "w", "yes", None),
    ("p7", 45, None, "no day", "w", "yes", None),
]


@pytest.fixture(name="place")
def _place(tmp_path: Path) -> Database:
    with sqlite3.connect(tmp_path / "d.sqlite") as database:
        database.execute(
            'create table "t" (id text, age real, stage text, seen date, note text, consent text, gone text)'
        )
        database.executemany("insert into t values (?, ?, ?, ?, ?, ?, ?)", TABLE)
        database.execute("create view v as select * from t")
    database.close()
    return Database(url_file=private(tmp_path / "url", f"sqlite:///{tmp_path / 'd.sqlite'}"), relation="t")


def source(place: Path | Database, where: tuple[Condition, ...] = ()) -> DatasetSource:
    here: dict[str, Any] = {"table": place} if isinstance(place, Path) else {"sql": place}
    config = DatasetConfig(
        columns=ROLES, consent=Consent(column="consent", granted=("yes",), withdrawn_on="gone"), policy=Policy(), **here
    )
    study = rows.study().model_copy(update={"dataset": Asked(name="d", columns=("age",), where=where)})
    return DatasetSource(config, study, today=date(2024, 6, 15))


WHERE = [
    (),
    (Condition(column="age", op=">", value=40),),
    (Condition(column="age", op="!=", value=40),),
    (Condition(column="age", op="in", value=(40, 55.5, 20)),),
    (Condition(column="age", op="<=", value=60), Condition(column="stage", op="==", value="II")),
    (Condition(column="stage", op="in", value=("II", "III")),),
    (Condition(column="stage", op="!=", value="I"),),
    (Condition(column="stage", op=">", value="I"),),
    (Condition(column="note", op="==", value="100%_done"),),
    (Condition(column="note", op="==", value="O'Neill; drop table t"),),
    (Condition(column="note", op="==", value="a\\b"),),
    (Condition(column="note", op="not-null"),),
    (Condition(column="seen", op=">=", value="2020-05-01"),),
    (Condition(column="seen", op="==", value="2020-05-01"),),
    (Condition(column="stage", op="==", value="' or 1=1 --"),),
    (Condition(column="id", op="==", value="p4"),),
    (Condition(column="age", op="<", value=10**30),),
]


@pytest.mark.parametrize(
    "where", WHERE, ids=lambda where: " ".join(f"{c.column}{c.op}{c.value}" for c in where) or "all"
)
def test_a_database_gives_what_a_file_gives(place: Database, tmp_path: Path, where: tuple[Condition, ...]) -> None:
    import pandas as pd

    pd.DataFrame(TABLE, columns=HEAD).to_parquet(tmp_path / "t.parquet")
    from_file, from_database = source(tmp_path / "t.parquet", where), source(place, where)
    expected, found = from_file.table(), from_database.table()
    assert expected is not None
    assert found is not None
    assert found.astype(object).where(found.notna(), None).to_dict("records") == (
        expected.astype(object).where(expected.notna(), None).to_dict("records")
    )
    assert from_database.withheld == from_file.withheld


def test_a_withdrawal_outside_the_selection_still_counts(place: Database) -> None:
    found = source(place, (Condition(column="age", op="<", value=30),)).table()
    assert found is not None
    assert list(found["id"]) == []  # p4's row of 20 years is not the one that says that he withdrew


def test_nothing_of_the_centre_becomes_sql(place: Database, tmp_path: Path) -> None:
    for column in ('age"; drop table t; --', "age) union select id from t --"):
        with pytest.raises(InputError, match="column-missing"):
            source(place, (Condition(column=column, op="==", value=1),)).table()
    with sqlite3.connect(tmp_path / "d.sqlite") as database:
        assert database.execute("select count(*) from t").fetchone() == (len(TABLE),)
    database.close()


def test_a_view_is_read_and_sqlite_is_opened_for_reading(place: Database, tmp_path: Path) -> None:
    from sqlalchemy import text

    from edge.sources import database

    found = source(place.model_copy(update={"relation": "v"})).table()
    assert found is not None
    assert len(found) > 3
    with database.opened(place) as reader, pytest.raises(CorsiaError):
        list(reader.rows(text("delete from t")))
    with sqlite3.connect(tmp_path / "d.sqlite") as again:
        assert again.execute("select count(*) from t").fetchone() == (len(TABLE),)
    again.close()


def test_what_cannot_be_read_is_named_without_the_address(place: Database, tmp_path: Path) -> None:
    absent = place.model_copy(update={"url_file": private(tmp_path / "u2", "sqlite:////nowhere/SECRET.db")})
    with pytest.raises(ConfigurationError, match=r"config\.missing") as error:
        source(absent).table()
    assert "SECRET" not in str(error.value)
    (tmp_path / "u3").write_text("sqlite:///x")
    (tmp_path / "u3").chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"config\.key-mode"):
        source(place.model_copy(update={"url_file": tmp_path / "u3"})).table()
    with pytest.raises(ConfigurationError, match=r"config\.") as error:
        source(place.model_copy(update={"url_file": private(tmp_path / "u4", "nosuch://u:SECRET@h/d")})).table()
    assert "SECRET" not in str(error.value)
    with pytest.raises(InputError, match=r"input\.source"):
        source(place.model_copy(update={"relation": "nothing"})).table()
    with pytest.raises(InputError, match=r"input\.table"):
        source(place.model_copy(update={"max_rows": 3})).table()


def test_a_database_whose_rights_nobody_knows_needs_the_sites_word(place: Database, tmp_path: Path) -> None:
    """The rule is the same for every dialect but two; here one whose server is none of ours."""
    from types import SimpleNamespace

    from edge.sources.database import _read_only

    link: Any = SimpleNamespace(dialect=SimpleNamespace(name="oracle"))
    with pytest.raises(PermissionRefused, match=r"permission\.source"):
        _read_only(link, place)
    _read_only(link, place.model_copy(update={"stated_read_only": True}))


@pytest.mark.parametrize(
    "one",
    [
        Condition(column="sex", op="==", value="F"),  # PostgreSQL knows no LIKE of an enumeration
        Condition(column="small", op="<", value=40_000),
        Condition(column="age", op="<", value=10**12),
        Condition(column="big", op="<", value=10**30),
        Condition(column="seen", op="<=", value="9999-12-31"),
        Condition(column="seen", op=">=", value="0001-01-01"),
    ],
)
def test_what_a_database_cannot_compare_is_compared_here(one: Condition) -> None:
    from sqlalchemy import BIGINT, DATE, INTEGER, SMALLINT, Column, Enum, MetaData, Table

    kinds: dict[str, Any] = {
        "sex": Enum("M", "F", name="sex"),
        "small": SMALLINT,
        "age": INTEGER,
        "big": BIGINT,
        "seen": DATE,
    }
    known = Table("t", MetaData(), *(Column(name, kind) for name, kind in kinds.items()))
    roles = dict.fromkeys(kinds, "value") | {"seen": "date"}
    near = {"small": 40, "age": 40_000, "big": 10**12, "seen": "2020-05-01"}
    assert not selectors.statement(known, ["age"], [one], roles, dialect="postgresql")[1]
    if one.column in near:
        nearer = one.model_copy(update={"value": near[one.column]})
        assert selectors.statement(known, ["age"], [nearer], roles, dialect="postgresql")[1]


def test_only_what_may_pass_is_waited_for(place: Database, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "d.sqlite") as database:
        database.execute("create table latin as select 'p1' as id, cast(x'e9' as text) as name")
    database.close()
    (tmp_path / "note").write_bytes(b"Not a database, but a note of somebody's. " * 50)
    note = place.model_copy(update={"url_file": private(tmp_path / "other", f"sqlite:///{tmp_path / 'note'}")})
    for lasting, names in ((place.model_copy(update={"relation": "latin"}), ["id", "name"]), (note, ["id"])):
        with pytest.raises(InputError, match=r"input\.source"):
            relation.read(lasting, names, set(names), Format())
    url = f"postgresql+psycopg://reader@/ward?host={tmp_path}"  # its socket is not there yet
    starting = place.model_copy(update={"url_file": private(tmp_path / "pg", url)})
    with pytest.raises(UnavailableError, match=r"unavailable\.source"):
        relation.read(starting, ["id"], {"id"}, Format())

"""PostgreSQL for real: credentials that may write are refused, whatever gives them the right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from edge.sources import database, relation
from edge.sources.format import Format
from edge.sources.places import Database
from protocol.errors import AuthenticationError, CorsiaError, InputError, PermissionRefused, UnavailableError
from protocol.study import Condition
from tests.sourcekit import Postgres, private

SETUP = """
create schema ward;
create table ward.cohort (id text, age int, seen timestamptz, weight numeric(6,2), smokes bool, photo bytea);
insert into ward.cohort select 'p' || n, n % 90, timestamptz '2024-01-01 23:30+00' + n * interval '1 day', n / 7.0,
  n % 2 = 0, null from generate_series(1, 12000) n;
create table ward.endless (id text, until date); insert into ward.endless values ('p1', 'infinity');
create materialized view ward.death as select 'p1' as id;
create foreign data wrapper elsewhere; create server other foreign data wrapper elsewhere;
create foreign table ward.visit (id text) server other;
create view ward.seen as select id, age from ward.cohort;
create role reader login password 'reader-SECRET';
grant usage on schema ward to reader; grant select on ward.cohort, ward.endless to reader;
create role writer login password 'writer-SECRET' in role reader; grant insert on ward.cohort to writer;
create role changer login password 'changer-SECRET' in role reader; grant update (age) on ward.cohort to changer;
create role maker login password 'maker-SECRET' in role reader; grant create on schema ward to maker;
create role hands; grant insert on ward.cohort to hands;
create role sleeper login password 'sleeper-SECRET' noinherit in role reader, hands;
create role keeper login password 'keeper-SECRET' in role reader;
create table ward.own (id text); alter table ward.own owner to keeper; revoke all on ward.own from keeper;
create role all_writer login password 'all-SECRET' in role reader, pg_write_all_data;
"""


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[Postgres]:
    server = Postgres()
    server.start()
    with psycopg.connect(server.url("owner", "owner-SECRET").replace("+psycopg", ""), autocommit=True) as link:
        link.execute(SETUP)
    yield server
    server.stop()


def place(server: Postgres, folder: Path, user: str = "reader", password: str = "") -> Database:
    url = server.url(user, password or f"{user.partition('_')[0]}-SECRET")
    return Database(url_file=private(folder / f"url-{user}", url), relation="ward.cohort")


@pytest.mark.parametrize("user", ["owner", "writer", "changer", "maker", "sleeper", "keeper", "all_writer"])
def test_who_may_write_is_refused(server: Postgres, tmp_path: Path, user: str) -> None:
    with pytest.raises(PermissionRefused, match=r"permission\.source"), database.opened(place(server, tmp_path, user)):
        pass


def test_a_reader_reads_streamed_and_typed(server: Postgres, tmp_path: Path) -> None:
    names = ["id", "age", "seen", "weight", "smokes"]
    frame = relation.read(place(server, tmp_path), names, {"id", "seen"}, Format())
    assert len(frame) == 12000
    assert [str(kind) for kind in frame.dtypes[["age", "weight", "smokes"]]] == ["int64", "float64", "boolean"]
    assert frame["weight"].iloc[6] == 1.0
    with database.opened(place(server, tmp_path)) as reader:
        from sqlalchemy import select

        sizes = [len(rows) for rows in reader.rows(select(reader.table("ward.cohort").c.id))]
    assert max(sizes) <= 5000
    assert sum(sizes) == 12000


def test_conditions_narrow_what_comes(server: Postgres, tmp_path: Path) -> None:
    roles = {"id": "patient", "age": "value", "seen": "date"}
    where = (Condition(column="age", op=">=", value=89), Condition(column="seen", op="<=", value="2024-12-31"))
    frame, everyone = relation.narrowed(
        place(server, tmp_path), list(roles), {"id", "seen"}, Format(), where=where, roles=roles, legal=["id"]
    )
    assert 4 <= len(frame) <= 5
    assert everyone is not None
    assert len(everyone) == 12000


def test_tables_whose_rows_lie_elsewhere_are_listed_too(server: Postgres, tmp_path: Path) -> None:
    with database.opened(place(server, tmp_path)) as reader:
        assert reader.names("ward") == ["cohort", "death", "endless", "own", "seen", "visit"]


def test_a_value_that_cannot_be_read_is_not_waited_for(server: Postgres, tmp_path: Path) -> None:
    endless = place(server, tmp_path).model_copy(update={"relation": "ward.endless"})
    with pytest.raises(InputError, match=r"a value .*input\.source"):
        relation.read(endless, ["id", "until"], {"id", "until"}, Format())


def test_no_write_gets_through_a_reader(server: Postgres, tmp_path: Path) -> None:
    from sqlalchemy import text

    for words in ("create temporary table t (a int)", "delete from ward.cohort"):
        with database.opened(place(server, tmp_path)) as reader, pytest.raises(CorsiaError):
            list(reader.rows(text(words)))


def test_refusals_tell_no_secret(server: Postgres, tmp_path: Path) -> None:
    with (
        pytest.raises(AuthenticationError, match=r"auth\.source") as error,
        database.opened(place(server, tmp_path, password="WRONG-SECRET")),
    ):
        pass
    assert "SECRET" not in str(error.value)
    unseen = place(server, tmp_path).model_copy(update={"relation": "ward.seen"})
    with pytest.raises(InputError, match=r"input\.source"):
        relation.read(unseen, ["id"], {"id"}, Format())
    silent = private(tmp_path / "silent", "postgresql+psycopg://reader:SECRET@127.0.0.1:1/x")
    with pytest.raises(UnavailableError, match=r"unavailable\.source"), database.opened(Database(url_file=silent)):
        pass

"""The central database across versions: forward with its rows, never backward, never half."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from central.store import Store, open_engine, schema
from central.store.engine import database_url, is_postgresql
from central.store.models import Base, ControlRow, PromotionRow, SiteRow
from protocol.errors import StorageError

MIGRATIONS = Path(schema.__file__).parent / "migrations"


def engine(folder: Path) -> Engine:
    return open_engine(database_url(folder))


def first(folder: Path, *, marked: bool = False) -> Engine:
    """A database as version 0001 made it, with a site, a study and a leaf."""
    from alembic import command

    made, config = engine(folder), Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with made.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            text(
                "INSERT INTO sites (name, network, identity, enrolled_at, revoked, last_seen, version, paused,"
                " spool_parcels, spool_bytes, ledger_head, journal_head)"
                " VALUES ('site-a', 'n', 'key', 1.5, false, 2.5, '0.0.9', true, 3, 4, :head, 'j')"
            ),
            {"head": "a" * 64},
        )
        connection.execute(text('INSERT INTO log ("index", leaf) VALUES (0, :leaf)'), {"leaf": b"\x00leaf"})
        if not marked:
            connection.execute(text("DROP TABLE alembic_version"))
    return made


def rows(made: Engine, table: str) -> list[tuple[object, ...]]:
    with made.connect() as connection:
        return [tuple(row) for row in connection.execute(text(f"SELECT * FROM {table}"))]  # noqa: S608


@pytest.mark.parametrize("marked", [False, True])
def test_an_older_database_comes_forward_with_its_rows(state_folder: Path, marked: bool) -> None:
    old = first(state_folder, marked=marked)
    before = {table: rows(old, table) for table in ("sites", "log")}
    with pytest.raises(StorageError) as caught:
        Store(state_folder)
    assert caught.value.code == "storage.older"
    assert schema.migrate(old, state_folder) == "0001"
    assert {table: rows(old, table) for table in before} == before
    store = Store(state_folder)
    with store.begin() as session:
        site = session.get(SiteRow, "site-a")
        assert site is not None
        assert (site.spool_bytes, site.ledger_head, site.paused) == (4, "a" * 64, True)
        session.add(ControlRow(study_digest="d"))
        session.add(PromotionRow(id="p", name="m", version=1, alias="champion", rollback=False, statement=b"s",
                                 signature=b"s", proposed_by="a", proposed_at=1.0))  # fmt: skip
    (copy,) = state_folder.glob("before-*.db")
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    (state_folder / "copy").mkdir()
    shutil.copy(copy, state_folder / "copy" / "corsia.db")
    kept = engine(state_folder / "copy")
    assert {table: rows(kept, table) for table in before} == before
    assert "promotions" not in inspect(kept).get_table_names()
    assert schema.migrate(old, state_folder) is None


@pytest.mark.slow
def test_the_steps_lead_to_what_the_models_say(state_folder: Path, request: pytest.FixtureRequest) -> None:
    """Fails where somebody changed `models.py` and wrote no step: see `central/store/schema.py`."""
    old = first(state_folder)
    schema.migrate(old, state_folder)
    with old.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    (state_folder / "new").mkdir()
    if is_postgresql(old.url):
        request.getfixturevalue("postgres").put(state_folder / "new")
    new = Store(state_folder / "new").engine
    for table in Base.metadata.tables:
        made, fresh = (
            {(c["name"], str(c["type"]), c["nullable"]) for c in inspect(one).get_columns(table)} for one in (old, new)
        )
        assert made == fresh, table
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    steps = [step.revision for step in ScriptDirectory.from_config(config).walk_revisions()]
    assert tuple(reversed(steps)) == schema.REVISIONS


def test_a_newer_database_is_refused_and_not_touched(state_folder: Path) -> None:
    store = Store(state_folder)
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for call in (lambda: Store(state_folder), lambda: schema.migrate(engine(state_folder), state_folder)):
        with pytest.raises(StorageError) as caught:
            call()
        assert caught.value.code == "storage.newer"
    assert not list(state_folder.glob("before-*"))
    assert rows(store.engine, "alembic_version") == [("9999",)]


def test_a_step_that_fails_leaves_the_old_database(state_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = first(state_folder)
    from alembic import op

    def broken(*_args: object, **_more: object) -> None:
        raise OperationalError("CREATE INDEX", {}, Exception("disk I/O error"))

    monkeypatch.setattr(op, "create_index", broken)
    with pytest.raises(StorageError) as caught:
        schema.migrate(old, state_folder)
    assert caught.value.code == "storage.failed"
    assert {"controls", "promotions", "alembic_version"}.isdisjoint(inspect(old).get_table_names())
    monkeypatch.undo()
    assert schema.migrate(old, state_folder) == "0001"
    Store(state_folder)


def test_what_is_no_database_is_refused_and_nothing_is_nothing(tmp_path: Path) -> None:
    assert schema.migrate(engine(tmp_path), tmp_path) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "corsia.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError) as caught:
        Store(tmp_path)
    assert caught.value.code == "storage.failed"


def test_the_next_step_is_written_from_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer is given, is what leads there."""
    from sqlalchemy import Column, Integer, MetaData, Table

    from central.store.migrations import __main__ as writer

    nothing = writer.rendered("Nothing.")[1]
    assert "create_table" not in nothing
    more = MetaData()
    for table in Base.metadata.tables.values():
        table.to_metadata(more)
    Table("later", more, Column("a", Integer, primary_key=True))
    monkeypatch.setattr(writer.Base, "metadata", more)
    number, text_ = writer.rendered("Something.")
    assert number == f"{len(schema.REVISIONS) + 1:04d}"
    assert f'down_revision = "{schema.REVISIONS[-1]}"' in text_
    assert text_.count("create_table") == 1
    compile(text_, "step", "exec")

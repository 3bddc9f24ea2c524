"""The storage contract, on each backend: SQLite and folders, PostgreSQL and S3. What stands above knows neither."""

from __future__ import annotations

import io
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from botocore.awsrequest import AWSRequest
from sqlalchemy import select, text

from central.audit import audit
from central.backup import _take
from central.objects import Bucket, bucket_of
from central.store import Store
from central.store.copying import fill, save
from central.store.engine import database_url, is_postgresql, open_engine
from central.store.models import EventRow, LogRow, ParcelRow, SiteRow
from central.vault import Lake
from central.vault.contents import Entry
from protocol.errors import ConfigurationError, ConflictError, CorsiaError, IntegrityError, StorageError
from tests.vaultkit import World, rows, table


@pytest.fixture(params=["folder", "grown"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A centre's state folder: everything in it, or its database on a server and its objects in a bucket."""
    folder = tmp_path / "state"
    if request.param == "folder":
        folder.mkdir()
        yield folder
        return
    from tests.servicekit import closing_connections

    request.getfixturevalue("postgres").put(folder)
    request.getfixturevalue("s3").put(folder)
    with closing_connections():
        yield folder


def append(state: Path, count: int) -> None:
    store = Store(state)
    for number in range(count):
        with store.begin() as session:
            store.append_leaf(session, b"%d" % number)
    store.engine.dispose()


def test_writers_of_several_processes_allot_indexes_without_gaps(state: Path) -> None:
    store = Store(state)
    store.engine.dispose()
    spawn = multiprocessing.get_context("spawn")
    writer = spawn.Process(target=append, args=(state, 40))
    writer.start()
    append(state, 40)
    writer.join()
    assert writer.exitcode == 0
    with store.read() as session:
        assert list(session.scalars(select(LogRow.index).order_by(LogRow.index))) == list(range(80))


def test_a_reader_sees_one_moment_and_writes_nothing(state: Path) -> None:
    store = Store(state)
    with store.read() as session:
        assert session.scalars(select(LogRow)).all() == []
        append(state, 1)
        assert session.scalars(select(LogRow)).all() == []
    with store.read() as session:
        assert len(session.scalars(select(LogRow)).all()) == 1


def test_what_fails_leaves_nothing_and_holds_nobody_up(state: Path) -> None:
    store = Store(state)
    with suppress(RuntimeError), store.begin() as session:
        store.append_leaf(session, b"never")
        session.flush()
        raise RuntimeError
    append(state, 2)
    with store.read() as session:
        assert [row.leaf for row in session.scalars(select(LogRow).order_by(LogRow.index))] == [b"0", b"1"]


def test_events_come_in_the_order_of_their_commits(state: Path) -> None:
    """What polls for `seq` above the last one must miss none, also when two write at once."""
    store, first, second = Store(state), threading.Event(), threading.Event()

    def slow() -> None:
        with store.begin() as session:
            store.emit(session, "site.invited", site="slow")
            session.flush()
            first.set()
            second.wait(0.3)

    thread = threading.Thread(target=slow)
    thread.start()
    first.wait(30)
    with store.begin() as session:
        store.emit(session, "site.invited", site="fast")
    thread.join()
    with store.read() as session:
        assert list(session.scalars(select(EventRow.site).order_by(EventRow.seq))) == ["slow", "fast"]


def test_numbers_outgrow_32_bits(state: Path) -> None:
    store = Store(state)
    with store.begin() as session:
        session.add(SiteRow(name="a", identity="k", enrolled_at=1.0, spool_bytes=10**13))
    found = store.site("a")
    assert found is not None
    assert found.spool_bytes == 10**13


def test_a_blob_is_there_whole_under_its_digest_on_every_machine(state: Path) -> None:
    store = Store(state)
    blob = store.put_blob("weights", [b"a" * 70_000, b"b"])
    assert store.put_blob("again", b"a" * 70_000 + b"b").digest == blob.digest
    if bucket_of(state) is not None:  # as another machine of the centre, or this one with a new disk
        (state / "blobs" / blob.digest).unlink()
    assert Store(state).get_blob(blob.digest) == b"a" * 70_000 + b"b"
    store.drop_blob(blob.digest)
    store.drop_blob(blob.digest)
    for wrong in (blob.digest, "../x", "f" * 64):
        with pytest.raises(IntegrityError):
            store.get_blob(wrong)


def test_a_study_goes_through_the_vault_to_its_end(state: Path) -> None:
    world = World(state)
    world.submit(privacy={"k": 5})
    world.land(world.batch(table(rows(6))))
    world.land(world.batch(table(rows(7)), site="site-b"), site="site-b")
    world.drain()
    folders = world.lake.folders("trial")
    assert len(folders) == 2
    assert sorted(sum(t.num_rows for t in world.lake.tables(f"trial/{f}")) for f in folders) == [6, 7]
    with world.store.read() as session:
        assert set(session.scalars(select(ParcelRow.state))) == {"opened"}
    assert audit(state)["batches"] == 2
    world.lake.write("trial", "f" * 32, [Entry(name="t.parquet", data=pa.table({"age": [1.0]}))])
    with pytest.raises(IntegrityError) as smuggled:
        audit(state)
    assert smuggled.value.code == "log.proof"
    prediction = world.lake.write_prediction("trial", "p1", pa.table({"score": [1.0]}))
    assert world.lake.table(prediction).num_rows == 1
    world.lake.drop_predictions("trial")
    assert world.lake.sweep("trial", {f"trial/{folders[0]}"}, keep="withdrawn-") == 2
    assert world.lake.folders("trial") == folders[:1]
    world.lake.destroy_key("trial")
    with pytest.raises(CorsiaError):
        world.lake.tables(f"trial/{folders[0]}")
    world.lake.drop("trial")
    world.lake.drop("trial")
    assert world.lake.folders("trial") == []


def test_what_a_cut_off_writing_left_is_replaced(state: Path) -> None:
    lake = Lake.of(state / "vault")
    lake.recover()

    def entries(count: int, fail: bool) -> Iterator[Entry]:
        for number in range(count):
            yield Entry(name=f"{number}.dcm", data=b"\x00pixels %d" % number)
        if fail:
            raise MemoryError

    with pytest.raises(MemoryError):
        lake.write("s", "b", entries(3, fail=True))
    assert lake.folders("s") == []
    path = lake.write("s", "b", entries(3, fail=False))
    assert lake.write("s", "b", entries(2, fail=False)) == path
    assert lake.names(path) == ["0.dcm", "1.dcm"]
    assert lake.read(f"{path}/1.dcm") == b"\x00pixels 1"
    for missing in (lambda: lake.read(f"{path}/2.dcm"), lambda: lake.names("s/c")):
        with pytest.raises(IntegrityError) as caught:
            missing()
        assert caught.value.code == "lake.damaged"


def test_a_database_is_copied_and_filled_row_for_row(state: Path, tmp_path: Path) -> None:
    """A backup is one file of any database; out of it either kind is filled, once, and counts on."""
    world = World(state)
    world.submit()
    world.land(world.batch())
    with world.store.begin() as session:
        world.store.emit(session, "site.invited", site="a")
    save(world.store.engine, tmp_path / "copy.db")
    for other in (f"sqlite:///{tmp_path / 'other.db'}", *_another(world)):
        engine = open_engine(other)
        assert fill(tmp_path / "copy.db", engine) >= 7
        with world.store.engine.connect() as one, engine.connect() as two:
            for name in ("sites", "studies", "assignments", "log", "parcels", "events"):
                said = text(f"SELECT * FROM {name} ORDER BY 1")  # noqa: S608
                assert [tuple(map(_plain, r)) for r in one.execute(said)] == [
                    tuple(map(_plain, r)) for r in two.execute(said)
                ]
        with pytest.raises(ConflictError):
            fill(tmp_path / "copy.db", engine)
        grown = Store(tmp_path / "elsewhere", other)
        with grown.begin() as session:
            grown.emit(session, "site.invited", site="b")  # a sequence goes on after what was brought along
        grown.engine.dispose()
        engine.dispose()


def _plain(value: object) -> object:
    """JSON and truth as text and number on either kind."""
    import json

    if isinstance(value, str) and value.startswith(("[", "{")):
        return json.dumps(json.loads(value))
    return json.dumps(value) if isinstance(value, list | dict) else value


def _another(world: World) -> list[str]:
    if not is_postgresql(world.store.engine.url):
        return []
    import psycopg

    url = world.store.engine.url
    with psycopg.connect(url.set(drivername="postgresql").render_as_string(False), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{url.database}-2" TEMPLATE template0')
    return [url.set(database=f"{url.database}-2").render_as_string(False)]


def test_a_url_that_cannot_be_kept_secret_or_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "database.url"
    for content, mode in (("postgresql://u:hidden@h/d", 0o644), ("mysql://u:hidden@h/d", 0o600), ("hidden", 0o600)):
        path.write_text(content)
        path.chmod(mode)
        with pytest.raises(ConfigurationError) as caught:
            database_url(tmp_path)
        assert "hidden" not in str(caught.value)
    path.write_text("postgresql://u:hidden@127.0.0.1:1/d")
    with pytest.raises(StorageError) as refused:
        Store(tmp_path)
    assert refused.value.code == "storage.failed"
    assert "hidden" not in str(refused.value)


def test_a_centre_without_the_way_to_its_database_does_not_begin_another(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from tests.servicekit import closing_connections

    request.getfixturevalue("postgres").put(tmp_path)
    with closing_connections():
        append(tmp_path, 1)
    (tmp_path / "database.url").unlink()
    with pytest.raises(ConfigurationError) as caught:
        Store(tmp_path)
    assert caught.value.code == "config.missing"
    assert not (tmp_path / "corsia.db").exists()


def test_a_centre_moves_with_all_it_has_and_its_backup_holds_it(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from central.moving import move_database, move_objects
    from tests.servicekit import closing_connections

    state = tmp_path / "state"
    world = World(state)
    world.submit()
    world.land(world.batch())
    world.drain()
    blob = world.store.put_blob("weights", b"weights")
    world.store.engine.dispose()
    request.getfixturevalue("postgres").put(tmp_path / "new")
    request.getfixturevalue("s3").put(tmp_path / "new")
    assert move_objects(state, tmp_path / "new" / "objects.toml") >= 2
    with closing_connections():
        assert move_database(state, tmp_path / "new" / "database.url") >= 5
        with pytest.raises(ConflictError):
            move_database(state, tmp_path / "new" / "database.url")
        assert not (state / "corsia.db").exists()
        assert not (state / "vault" / "lake").exists()
        (state / "blobs" / blob.digest).unlink()
        grown = World(state, signing=world.signing, sites=world.sites)
        assert grown.store.get_blob(blob.digest) == b"weights"
        (folder,) = grown.lake.folders("trial")
        assert sum(t.num_rows for t in grown.lake.tables(f"trial/{folder}")) == 6
        (tmp_path / "copy").mkdir()
        _take(state, tmp_path / "copy")
    assert (tmp_path / "copy" / "blobs" / blob.digest).read_bytes() == b"weights"
    assert {p.name for p in (tmp_path / "copy" / "vault" / "lake" / "trial" / folder).iterdir()}
    assert (tmp_path / "copy" / "corsia.db").is_file()


# --- what S3 alone has


@pytest.fixture
def bucket(request: pytest.FixtureRequest, tmp_path: Path) -> Bucket:
    request.getfixturevalue("s3").put(tmp_path)
    made = bucket_of(tmp_path)
    assert made is not None
    return made


def test_an_object_is_made_once(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.check()
    bucket.put_new("a/b", io.BytesIO(b"first"))
    with pytest.raises(ConflictError):
        bucket.put_new("a/b", io.BytesIO(b"second"))
    monkeypatch.setattr("central.objects.PART_BYTES", 5 << 20)
    large = b"x" * (12 << 20)
    bucket.put_new("a/large", io.BytesIO(large))
    with pytest.raises(ConflictError):
        bucket.put_new("a/large", io.BytesIO(b"y" * (6 << 20)))
    with bucket.open("a/b") as source:
        assert source.read() == b"first"
    with bucket.open("a/large") as source:
        assert source.read() == large
    assert bucket.names("a/") == ["a/b", "a/large"]
    with pytest.raises(FileNotFoundError), bucket.open("a/none"):
        pass
    assert bucket.clear("a/") == 2
    assert bucket.names("") == []


def test_only_one_of_many_writers_makes_an_object(bucket: Bucket) -> None:
    made: list[int] = []

    def write(number: int) -> None:
        with suppress(ConflictError):
            bucket.put_new("one", io.BytesIO(b"%d" % number))
            made.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    with bucket.open("one") as source:
        assert source.read() == b"%d" % made[0]


@pytest.mark.parametrize("call", ["PutObject", "CompleteMultipartUpload"])
def test_a_service_that_writes_over_is_refused(bucket: Bucket, call: str) -> None:
    """As services do that do not know the condition: here it is taken out of the request before it is signed."""

    def strip(request: AWSRequest, **_more: object) -> None:
        del request.headers["If-None-Match"]

    bucket._client.meta.events.register(f"before-sign.s3.{call}", strip)
    with pytest.raises(ConfigurationError) as caught:
        bucket.check()
    assert "conditional" in str(caught.value)
    assert bucket.names("") == []
    bucket._client.meta.events.unregister(f"before-sign.s3.{call}", strip)
    bucket.check()
    assert bucket.names("") == []


def test_a_centre_does_not_move_to_where_another_ones_objects_lie(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Also not after a move that was broken off, when what it had brought there was erased here meanwhile."""
    from central.moving import move_objects

    state, blobs = tmp_path / "state", tmp_path / "state" / "blobs"
    store = Store(state)
    kept, erased = (store.put_blob("weights", data).digest for data in (b"kept", b"erased"))
    store.engine.dispose()
    request.getfixturevalue("s3").put(tmp_path / "new")
    there = bucket_of(tmp_path / "new")
    assert there is not None
    for digest in (kept, erased):
        there.put_new(f"blobs/{digest}", io.BytesIO((blobs / digest).read_bytes()))
    (blobs / erased).unlink()
    with pytest.raises(ConflictError):
        move_objects(state, tmp_path / "new" / "objects.toml")
    there.remove(f"blobs/{erased}")
    there.remove(f"blobs/{kept}")
    there.put_new(f"blobs/{kept}", io.BytesIO(b"other"))
    with pytest.raises(ConflictError):
        move_objects(state, tmp_path / "new" / "objects.toml")
    assert not (state / "objects.toml").exists()
    there.remove(f"blobs/{kept}")
    assert move_objects(state, tmp_path / "new" / "objects.toml") == 1


def test_a_bucket_that_keeps_versions_or_a_wrong_key_is_refused(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server = request.getfixturevalue("s3")
    name = server.put(tmp_path / "versions")
    versions = bucket_of(tmp_path / "versions")
    assert versions is not None
    for status in ("Enabled", "Suspended"):  # which keeps those that there are
        server.client().put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})
        with pytest.raises(ConfigurationError):
            versions.check()
    server.put(tmp_path / "wrong", secret_key="notthekey")
    wrong = bucket_of(tmp_path / "wrong")
    assert wrong is not None
    with pytest.raises(StorageError) as caught:
        wrong.names("")
    assert "notthekey" not in str(caught.value)
    server.put(tmp_path / "open")
    (tmp_path / "open" / "objects.toml").chmod(0o644)
    server.put(tmp_path / "plain", endpoint="http://s3.example.org")
    for state in ("open", "plain"):
        with pytest.raises(ConfigurationError):
            bucket_of(tmp_path / state)

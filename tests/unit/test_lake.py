"""Tables, summaries and inference over the curated lake."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sqlalchemy import select

from central.store.models import EventRow, ModelRow, PredictionRow
from central.vault import Analysis
from central.vault.analysis import _connect
from central.vault.service import handlers
from privacy.envelope import SecretKey
from protocol.errors import CorsiaError, InputError, IntegrityError, StudyRefused
from tests.vaultkit import World, publish, rows, table


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.submit(privacy={"k": 5})
    return made


@pytest.fixture
def analysis(world: World) -> Analysis:
    return Analysis(world.store, world.lake, world.public)


def _fill(world: World) -> None:
    world.land(world.batch(table(rows(6))))
    frame = rows(7, 20).drop(columns="sex").assign(original_shape_Volume=[1.0, 2.0, None, math.nan, 5.0, 6.0, 7.0])
    world.land(world.batch(table(frame), site="site-b"), site="site-b")
    world.drain()


def test_a_table_unites_sites_by_column_name(world: World, analysis: Analysis) -> None:
    _fill(world)
    made = analysis.table("trial").to_pandas()
    assert list(made.columns) == ["site", "provenance", "age", "sex", "original_shape_Volume"]
    assert made.groupby("site")["provenance"].nunique().to_dict() == {"site-a": 1, "site-b": 1}
    assert made.site.value_counts().to_dict() == {"site-b": 7, "site-a": 6}
    assert made[made.site == "site-b"].sex.isna().all()


def test_a_table_without_rows_has_its_site_column(world: World, analysis: Analysis) -> None:
    assert analysis.table("trial").column_names == ["site", "provenance"]
    assert analysis.summary("trial")["rows"] == 0


def test_an_unknown_study_is_refused(analysis: Analysis) -> None:
    with pytest.raises(StudyRefused) as caught:
        analysis.table("nothing")
    assert caught.value.code == "study.unknown"


def test_what_the_database_does_not_record_is_not_read(world: World, analysis: Analysis) -> None:
    _fill(world)
    stray = world.lake.root / "trial" / ("f" * 32)
    stray.mkdir()
    (stray / "records.parquet").write_bytes(b"half a file")
    assert analysis.table("trial").num_rows == 13


def test_a_summary_has_statistics_and_hides_small_groups(world: World, analysis: Analysis) -> None:
    _fill(world)
    world.land(world.batch(table(pd.DataFrame({"count": [1, 2, 3, 4]})), part=1))
    world.drain()
    summary = analysis.summary("trial")
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["sites"] == {"site-a": 10, "site-b": 7}
    columns = {column["name"]: column for column in summary["columns"]}
    age = pd.concat([rows(6).age, rows(7, 20).age])
    assert columns["age"]["mean"] == pytest.approx(age.mean())
    assert columns["age"]["sd"] == pytest.approx(age.std())
    assert (columns["age"]["min"], columns["age"]["max"], columns["age"]["missing"]) == (20, 55, 4)
    assert columns["sex"]["distinct"] == 2
    volume = columns["original_shape_Volume"]
    assert (volume["missing"], volume["mean"]) == (12, pytest.approx(4.2))
    assert columns["count"] == {
        "name": "count", "type": "int64", "missing": 13, "mean": None, "sd": None, "min": None, "max": None
    }  # fmt: skip


def test_a_site_with_few_rows_is_not_counted_out(world: World, analysis: Analysis) -> None:
    world.land(world.batch(table(rows(2))))
    world.drain()
    assert analysis.summary("trial")["sites"] == {"site-a": None}


def test_sql_sees_the_joint_table_alone(world: World, analysis: Analysis) -> None:
    _fill(world)
    made = analysis.sql("trial", "SELECT site, max(age) AS oldest FROM features GROUP BY site ORDER BY site")
    assert made.to_pydict()["site"] == ["site-a", "site-b"]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM read_parquet('**/*.parquet')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM duckdb_secrets(), curated",
        "COPY features TO 'out.csv'",
        "ATTACH 'x.db'",
        "SET threads=8",
        "SELECT 1; SELECT 2",
        "DROP VIEW features",
        "not sql",
        "",
        "SELECT * FROM range(2000000)",
    ],
)
def test_sql_that_is_more_than_one_bounded_select_is_refused(world: World, analysis: Analysis, query: str) -> None:
    _fill(world)
    with pytest.raises(InputError) as refused:
        analysis.sql("trial", query)
    assert refused.value.code == "input.usage"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT CAST(sex || ' PLANTED' AS INTEGER) FROM features",
        "SELECT CAST(site AS DATE) FROM features",
        "SELECT error('cell ' || site) FROM features",
    ],
)
def test_an_sql_error_quotes_no_cell(
    world: World, analysis: Analysis, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    _fill(world)
    with pytest.raises(InputError) as refused:
        analysis.sql("trial", query)
    for told in (str(refused.value), caplog.text):
        assert "PLANTED" not in told
        assert "site-" not in told


@pytest.mark.parametrize("values", [[1e308, -1e308] * 3, [0.0] * 6, [math.inf] * 6])
def test_a_summary_survives_extreme_numbers(world: World, analysis: Analysis, values: list[float]) -> None:
    world.land(world.batch(table(pd.DataFrame({"age": values}))))
    world.drain()
    json.dumps(analysis.summary("trial"), allow_nan=False)


def test_hostile_column_names_are_only_names(world: World, analysis: Analysis) -> None:
    world.submit("names", output={"columns": [{"name": "*", "dtype": "float"}]})
    bad = 'x"; DROP TABLE curated; --'
    frame = pd.DataFrame({bad: [1.0] * 6, "SITE": [2.0] * 6, "Site": [2.0] * 6})
    world.land(world.batch(table(frame[[bad, "SITE"]]), study_id="names"), study_id="names")
    world.drain()
    summary = analysis.summary("names")
    assert [column["name"] for column in summary["columns"]] == [bad, "SITE_reported"]
    assert summary["sites"] == {"site-a": 6}


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/hostname')",
        "INSTALL httpfs",
        "LOAD httpfs",
        "COPY (SELECT 1) TO '/tmp/corsia-out.csv'",
        "SET enable_external_access=true",
        "SELECT * FROM read_parquet('http://127.0.0.1:1/x.parquet')",
        "ATTACH '/tmp/corsia-out.db'",
    ],
)
def test_the_engine_reaches_nothing(world: World, query: str) -> None:
    with _connect() as duck, pytest.raises(duckdb.Error):
        duck.execute(query)
    assert not Path("/tmp/corsia-out.csv").exists()


def test_the_socket_answers_with_parquet_and_codes(world: World, analysis: Analysis) -> None:
    import base64

    _fill(world)
    known = handlers(world.keys, analysis)
    reply = known["table"]({"study": "trial"})
    assert pq.read_table(io.BytesIO(base64.b64decode(reply["parquet"]))).num_rows == reply["rows"] == 13
    with pytest.raises(InputError):
        known["table"]({})
    with pytest.raises(InputError):
        known["predict"]({"model": "m", "study": "trial", "version": "1"})
    with pytest.raises(CorsiaError):
        known["predict"]({"model": "m", "study": "trial"})


def test_leftovers_are_removed_and_the_rest_stays(world: World) -> None:
    _fill(world)
    half = world.lake.root / "trial" / "x.tmp"
    half.mkdir()
    predictions = world.lake.root / "trial" / "predictions"
    predictions.mkdir()
    (predictions / "y.tmp").write_bytes(b"")
    before = sorted(p for p in world.lake.root.glob("**/*") if not p.name.endswith(".tmp"))
    assert world.lake.recover() == 2
    assert sorted(world.lake.root.glob("**/*")) == before


def test_a_published_model_scores_curated_rows(world: World, analysis: Analysis) -> None:
    world.land(world.batch(table(rows(6).assign(count=1))))
    world.land(world.batch(table(rows(5, 20).assign(count=[2, None, 2, 2, 2])), site="site-b"), site="site-b")
    world.drain()
    publish(world, world.signing, study_id="trial")
    made = analysis.predict("risk", "trial", alias="champion")
    assert (made.rows, made.version) == (11, 1)
    scores = world.lake.table(made.path).to_pandas()
    assert list(scores.columns) == ["site", "risk", "survival", "horizon"]
    assert scores.site.tolist() == ["site-a"] * 6 + ["site-b"] * 5
    assert scores.risk.notna().all()
    assert (world.lake.root / made.path).stat().st_mode & 0o777 == 0o600
    with world.store.read() as session:
        (row,) = session.scalars(select(PredictionRow))
        kinds = list(session.scalars(select(EventRow.kind)))
    assert (row.id, row.rows, row.path) == (made.id, 11, made.path)
    assert kinds[-1] == "prediction.made"
    assert analysis.table("trial").num_rows == 11, "predictions are no curated rows"


def test_a_model_with_a_foreign_signature_scores_nothing(world: World, analysis: Analysis) -> None:
    world.land(world.batch(table(rows(6).assign(count=1))))
    world.drain()
    publish(world, SecretKey.generate(), study_id="trial")
    with pytest.raises(IntegrityError) as caught:
        analysis.predict("risk", "trial")
    assert caught.value.code == "model.manifest"
    assert not (world.lake.root / "trial" / "predictions").exists()


def test_damaged_weights_score_nothing(world: World, analysis: Analysis) -> None:
    publish(world, world.signing, study_id="trial")
    with world.store.read() as session:
        path = world.store.blob_path(session.scalars(select(ModelRow)).one().weights)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError):
        analysis.predict("risk", "trial")


def test_a_study_without_the_models_columns_is_not_scored(world: World, analysis: Analysis) -> None:
    publish(world, world.signing, study_id="trial")
    with pytest.raises(InputError) as caught:
        analysis.predict("risk", "trial")
    assert caught.value.code == "input.rows"
    world.land(world.batch(table(rows(6))))
    world.drain()
    with pytest.raises(InputError) as caught:
        analysis.predict("risk", "trial")
    assert caught.value.code == "input.column-missing"

"""Questions to the curated lake: a study's table, SQL over it, its summary, standard analyses, a batch inference.

Tables are decrypted into memory and stay there: DuckDB reads no file and no network, loads no extension and never
spills to the disk. Only batches that the database records are read, so a half-written one is never seen. Nothing here
opens a parcel.
"""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from sqlalchemy import select

from central.erasure import ERASED
from central.store import Store
from central.store.models import CuratedRow, ModelRow, PredictionRow, StudyRow
from central.store.published import serving
from central.vault.compute import Compute, Here
from central.vault.lake import Lake, read_tables
from central.vault.remotes import mentioned, rows_of_remote
from privacy.envelope import PublicKey
from protocol.errors import InputError, IntegrityError, StudyRefused
from protocol.study import parse_study

if TYPE_CHECKING:
    import duckdb

__all__ = ["MIN_GROUP", "Analysis", "Prediction"]

MIN_GROUP = 5  # statistics over fewer persons are not shown
_ROWS_AT_ONCE = 50_000
MAX_SQL_ROWS = 1_000_000
_SQL_TIMEOUT_S = 60.0
_SQL_MEMORY = "2GB"
_SITE, _PROVENANCE, _PSEUDONYM = "site", "provenance", "pseudonym"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A batch inference that was stored: `path` is relative to the lake."""

    id: str
    model: str
    version: int
    rows: int
    path: str


class Analysis:
    """Read access to the lake.

    Args:
        publication_key: gives the public key that signs model manifests; asked for at each inference.
        compute: where batches are decrypted; here when None.
    """

    def __init__(
        self, store: Store, lake: Lake, publication_key: Callable[[], PublicKey], compute: Compute | None = None
    ) -> None:
        self._store, self._compute = store, compute or Here()
        self._lake = lake
        self._publication_key = publication_key

    def table(self, study_id: str) -> pa.Table:
        """All curated rows of a study, united by column name, after the columns `site` and `provenance`.

        `provenance` is the batch a row came in, as the log and the lake name it. A batch counts once, however often
        it was delivered; a column that only some batches have is null in the others, and takes the wider type.

        Raises:
            StudyRefused: `study.unknown`, `study.erased`, `study.expired`; so does every question here.
        """
        return self._read(self._study(study_id))

    def remote(self, name: str) -> pa.Table:
        """The rows of a remote table. Raises: InputError: `input.usage` when there is none."""
        return rows_of_remote(self._store, self._lake, name)

    def sql(self, study_id: str, query: str) -> pa.Table:
        """The answer to one SQL query over the study's rows, the table `features`, and remote ones, `remote_NAME`.

        DuckDB in memory, with neither files nor network nor extensions, bounded in memory, time and rows.

        Raises:
            StudyRefused: `study.unknown`.
            InputError: `input.usage` for a query that cannot be answered: DuckDB's word on its form, never a cell.
        """
        import duckdb

        table = self._read(self._study(study_id))
        with _connect() as duck:
            duck.register("features", table)
            for name, rows_there in mentioned(self._store, self._lake, query).items():
                duck.register(name, rows_there)
            timer = threading.Timer(_SQL_TIMEOUT_S, duck.interrupt)
            timer.start()
            try:
                statements = duck.extract_statements(query)
                if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                    raise InputError("input.usage", "give one SELECT over the table features")
                found = duck.sql(query).to_arrow_reader(_ROWS_AT_ONCE)
                batches, rows = [], 0
                for batch in found:
                    batches.append(batch)
                    rows += batch.num_rows
                    if rows > MAX_SQL_ROWS:
                        raise InputError("input.usage", f"the answer has more than {MAX_SQL_ROWS} rows")
                return pa.Table.from_batches(batches, found.schema)
            except (duckdb.ParserException, duckdb.BinderException, duckdb.CatalogException) as error:
                raise InputError("input.usage", str(error).splitlines()[0][:200]) from None
            except duckdb.Error as error:  # while it runs, the text may quote a cell
                raise InputError("input.usage", f"the query failed: {type(error).__name__}") from None
            finally:
                timer.cancel()

    def analyse(self, study_id: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """A standard analysis of the study's rows (`central.vault.standard`).

        Raises:
            StudyRefused: `study.unknown`.
            InputError, DisclosureRefused: see `standard.analyse`.
        """
        from central.vault import standard

        study = self._study(study_id)
        return {"study": study_id, **standard.analyse(self._read(study).to_pandas(), request, _least(study))}

    def summary(self, study_id: str) -> dict[str, Any]:
        """Rows and columns of a study's table: per site its rows, per column missing, mean, sd, min, max.

        Whatever rests on fewer than `MIN_GROUP` (or the study's k, if larger) values is None.

        Raises:
            StudyRefused: `study.unknown`.
        """
        study = self._study(study_id)
        least = _least(study)
        table = self._read(study)
        with _connect() as duck:
            duck.register("curated", table)
            sites = duck.sql("SELECT site, count(*) FROM curated GROUP BY site ORDER BY site").fetchall()
            columns = [
                _describe(duck, field, least) for field in table.schema if field.name not in (_SITE, _PROVENANCE)
            ]
        return {
            "study": study_id,
            "rows": table.num_rows,
            "min_group": least,
            "sites": {site: n if n >= least else None for site, n in sites},
            "columns": columns,
        }

    def distributions(self, study_id: str) -> dict[str, Any]:
        """How the values of each curated column lie: type, share that is missing, histogram; small cells are None.

        Texts of many levels, and columns that name patients, are not looked at: a level of few may name them.

        Raises:
            StudyRefused: `study.unknown`.
        """
        from privacy.disclosure.report import summary

        study = self._study(study_id)
        least = _least(study)
        table = self._read(study)
        names = [name for name in table.column_names if name not in (_PROVENANCE, _PSEUDONYM)]
        person = _PSEUDONYM if _PSEUDONYM in table.column_names else None
        frame = table.select([*names, *([person] if person else [])]).to_pandas()
        found = summary(frame, quasi=(), minimum=least, k=least, person=person)
        return {"study": study_id, "min_group": least, "columns": found["columns"]}

    def predict(self, model: str, study_id: str, *, version: int | None = None, alias: str | None = None) -> Prediction:
        """Score a study's curated rows with a published model, whose signed manifest is checked first.

        With neither version nor alias it is the champion, or the newest while there is none.

        Raises:
            InputError: `input.usage` when there is no such model, `input.rows` without rows, `input.column-missing`.
            IntegrityError: `model.manifest`, `blob.digest`; nothing is scored.
            StudyRefused: `study.unknown`.
        """
        study = self._study(study_id)
        chosen = self._model(model, version, alias)
        from pipelines.infer import load  # heavy: after what can be refused cheaply

        scorer = load(
            self._store.get_blob(chosen.manifest), self._store.get_blob(chosen.weights), self._publication_key()
        )
        table = self._read(study)
        if table.num_rows == 0:
            raise InputError("input.rows", "the study has no curated rows")
        scored = [_score(scorer, batch) for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE) if batch.num_rows]
        result = pa.concat_tables(scored)
        made = secrets.token_hex(16)
        path = self._lake.write_prediction(study_id, made, result)
        with self._store.begin() as session:
            session.add(
                PredictionRow(
                    id=made,
                    model=model,
                    version=chosen.version,
                    study_digest=study.digest,
                    rows=result.num_rows,
                    path=path,
                    created_at=time.time(),
                )
            )
            fields = {"model": model, "version": chosen.version, "rows": result.num_rows}
            self._store.emit(session, "prediction.made", study=study_id, **fields)
        return Prediction(id=made, model=model, version=chosen.version, rows=result.num_rows, path=path)

    def _study(self, study_id: str) -> StudyRow:
        with self._store.read() as session:
            row = session.get(StudyRow, study_id)
        if row is None:
            raise StudyRefused("study.unknown")
        if row.state == ERASED:
            raise StudyRefused("study.erased")
        parse_study(row.document).check_valid_at(datetime.now(UTC))
        return row

    def _model(self, name: str, version: int | None, alias: str | None) -> ModelRow:
        with self._store.read() as session:
            row = serving(session, name, version, alias)
        if row is None:
            raise InputError("input.usage", "no such model, version or alias")
        return row

    def _read(self, study: StudyRow) -> pa.Table:
        batches = self._batches(study)
        while True:
            try:
                found = self._compute.map(read_tables, (self._lake.reading(row.path) for row in batches))
                tables = [_with_origin(t, row) for row, some in zip(batches, found, strict=True) for t in some]
                break
            except IntegrityError:
                now = self._batches(study)  # a withdrawal may have written a batch anew meanwhile
                if [row.path for row in now] == [row.path for row in batches]:
                    raise
                batches = now
        if not tables:
            return pa.table({_SITE: pa.array([], pa.string()), _PROVENANCE: pa.array([], pa.string())})
        return pa.concat_tables(tables, promote_options="permissive")

    def _batches(self, study: StudyRow) -> list[CuratedRow]:
        with self._store.read() as session:
            query = select(CuratedRow).where(CuratedRow.study_digest == study.digest)
            return list(session.scalars(query.order_by(CuratedRow.site, CuratedRow.part, CuratedRow.batch_id)))


def _least(study: StudyRow) -> int:
    """The smallest group of a study's persons that is shown."""
    return max(MIN_GROUP, parse_study(study.document).privacy.k)


def _connect() -> duckdb.DuckDBPyConnection:
    """DuckDB without any file: no extension, no spill, no lake; it sees what is registered with it."""
    import duckdb

    off = ("autoinstall_known_extensions", "autoload_known_extensions", "allow_unsigned_extensions")
    duck = duckdb.connect(":memory:", config={**dict.fromkeys(off, "false"), "temp_directory": "", "threads": "2"})
    duck.execute(f"SET memory_limit='{_SQL_MEMORY}'")
    duck.execute("SET max_temp_directory_size='0B'")
    duck.execute("SET enable_external_access=false")
    duck.execute("SET lock_configuration=true")
    return duck


def _with_origin(table: pa.Table, row: CuratedRow) -> pa.Table:
    taken = (_SITE, _PROVENANCE)
    names = [f"{name}_reported" if name.casefold() in taken else name for name in table.column_names]
    table = table.rename_columns(names)
    for name, value in ((_PROVENANCE, row.batch_id), (_SITE, row.site)):
        table = table.add_column(0, name, pa.array([value] * table.num_rows, pa.string()))
    return table


def _describe(duck: duckdb.DuckDBPyConnection, field: pa.Field, least: int) -> dict[str, Any]:
    name = '"' + field.name.replace('"', '""') + '"'
    number = pa.types.is_floating(field.type) or pa.types.is_integer(field.type) or pa.types.is_boolean(field.type)
    told: dict[str, Any] = {"name": field.name, "type": str(field.type)}
    if not number:
        present, rows, distinct = _one(duck, f"count({name}), count(*), count(DISTINCT {name})")
        return told | {"missing": rows - present, "distinct": distinct if present >= least else None}
    value = f"CAST({name} AS DOUBLE)"
    some = f"FILTER (WHERE isfinite({value}))"
    present, rows, mean, low, high = _one(
        duck, f"count(*) {some}, count(*), avg({value}) {some}, min({value}) {some}, max({value}) {some}"
    )
    shown = [mean, _spread(duck, value, some), low, high] if present >= least else [None] * 4
    shown = [n if n is None or math.isfinite(n) else None for n in shown]
    return told | {"missing": rows - present} | dict(zip(("mean", "sd", "min", "max"), shown, strict=True))


def _spread(duck: duckdb.DuckDBPyConnection, value: str, some: str) -> float | None:
    import duckdb

    try:
        return float(_one(duck, f"stddev_samp({value}) {some}")[0])
    except (duckdb.OutOfRangeException, TypeError):  # squares beyond 1e308, or fewer than two values
        return None


def _one(duck: duckdb.DuckDBPyConnection, what: str) -> tuple[Any, ...]:
    (row,) = duck.sql(f"SELECT {what} FROM curated").fetchall()  # noqa: S608 - quoted column names only
    return tuple(row)


def _score(scorer: Any, batch: pa.RecordBatch) -> pa.Table:
    """Predictions beside the site and, where there is one, the pseudonym of each row."""
    frame = batch.to_pandas()
    scores = scorer.predict(frame)
    if len(scores) != len(frame):
        raise InputError("input.rows", "the model did not score every row")
    keep = [name for name in (_SITE, "pseudonym") if name in frame.columns and name not in scores.columns]
    for at, name in enumerate(keep):
        scores.insert(at, name, frame[name].to_numpy())
    return pa.Table.from_pandas(scores, preserve_index=False)

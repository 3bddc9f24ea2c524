"""Lane `infer` at this site: a published model is pulled, checked and used; its results stay here.

Place in the flow: agent (approved study) -> manifest and weights verified against the pinned publication key -> log and
serial (`models.accept`) -> worker scores the selected rows -> `results/STUDY.parquet`. Nothing but a count of rows
leaves, in the report.
"""

from __future__ import annotations

from io import BytesIO

from edge.lane import LaneRun
from edge.models import accept
from edge.site import Site
from edge.storage import named_errors, write_file
from edge.worker import Worker
from protocol.assignment import Assignment
from protocol.errors import DisclosureRefused, InputError, IntegrityError
from protocol.parcel import Item, ItemKind

__all__ = ["score"]


def score(site: Site, assignment: Assignment, lane: LaneRun, worker: Worker) -> dict[str, int]:
    """Score the study's rows; returns what is reported: `{"rows": n}`.

    Raises:
        IntegrityError: `model.manifest`; `log.proof` for a model that is not in the log this site knows;
            `model.rollback` for a model older than one accepted here.
        UnavailableError: the objects cannot be fetched now.
        StorageError: the results cannot be written; the old ones are untouched.
    """
    from pipelines import infer

    blobs = {blob.name: blob for blob in assignment.blobs}
    if not {infer.MANIFEST_FILE, infer.WEIGHTS_FILE} <= set(blobs):
        raise IntegrityError("model.manifest", "the assignment brings no model")
    objects = {name: site.link.fetch(blobs[name]) for name in (infer.MANIFEST_FILE, infer.WEIGHTS_FILE)}
    manifest = infer.verify(objects[infer.MANIFEST_FILE], objects[infer.WEIGHTS_FILE], site.identity.publication_key)
    wanted = lane.study.model
    if wanted is None or (manifest.name, manifest.alias) != (wanted.name, wanted.alias):
        raise IntegrityError("model.manifest", "another model than the study names")
    accept(
        manifest, objects[infer.MANIFEST_FILE], link=site.link, identity=site.identity, state=site.state,
        view=site.log_view, journal=site.journal, assignment=assignment.id,
    )  # fmt: skip
    tables: list[Item] = []
    source = lane.source()
    worker.run(lane.job, source, tables.append, objects)
    rows = _store(site, lane, tables)
    site.journal.append("model.predicted", assignment=assignment.id, model=manifest.name, rows=rows)
    return {"rows": rows}


def _store(site: Site, lane: LaneRun, tables: list[Item]) -> int:
    """Keep the one table of row numbers, pseudonyms and predictions; no column of the source goes with it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if len(tables) != 1 or tables[0].kind is not ItemKind.TABLE:
        raise InputError("input.rows", "the model gave no table")
    try:
        table = pq.read_table(BytesIO(tables[0].data), use_threads=False)
    except (pa.ArrowException, ValueError, OSError):
        raise InputError("input.rows", "the model gave no readable table") from None
    if set(table.column_names) & set(lane.job.roles):
        raise DisclosureRefused("gate.undeclared", "the results repeat a column of the source")
    folder = site.config.state_dir / "results"
    with named_errors():
        folder.mkdir(exist_ok=True, mode=0o700)
        write_file(folder / f"{lane.study.id}.parquet", tables[0].data)
    return int(table.num_rows)

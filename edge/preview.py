"""What would leave for a study, and what each rule says, without sending, spending, sealing or storing anything.

For the steward before an approval. It runs the installed lane in a worker on the site's own rows and puts the results
through the same gate as a real run; only counts, column names and the rules' words come out, and rows where the steward
asks to see some.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import plugins, sums
from edge.config import EdgeConfig
from edge.gate import PSEUDONYM, Check
from edge.lane import LaneRun
from edge.ledger import Ledger
from edge.memory import Release, look
from edge.policy import Rule, decide
from edge.worker import Worker
from pipelines import registry
from protocol.errors import CODES, CorsiaError, DisclosureRefused
from protocol.parcel import Item, ItemKind
from protocol.study import Lane, parse_study, study_digest

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["COUNTS", "Preview", "page", "preview"]

COUNTS = ("source_rows", "rows", "files", "documents", "persons", "bytes")
MAX_COLUMNS = 200
MAX_SUMS = 500
_SUMS = ("statistic", "column", "group", "bin", "value", "n")


@dataclass(slots=True, kw_only=True)
class Preview:
    """What a run of the study would do now. `code` is what would end it, or empty, and `hint` what to change.

    `report` is the lane's own; `summary` tells of the last table without telling it (`privacy.disclosure.report`).
    """

    study: str
    digest: str
    lane: str
    allowed: bool
    code: str = ""
    reason: str = ""
    rules: list[Rule] = field(default_factory=list)
    gate: list[Check] = field(default_factory=list)
    source_rows: int = 0
    rows: int = 0
    files: int = 0
    documents: int = 0
    persons: int = 0
    bytes: int = 0
    columns: list[str] = field(default_factory=list)
    withheld: dict[str, int] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    hint: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    first: list[dict[str, Any]] = field(default_factory=list, repr=False)
    first_rows: int = 0

    def to_json(self) -> dict[str, object]:
        """As plain values, without rows."""
        value = asdict(self)
        del value["first"], value["first_rows"]
        return value


def preview(
    config: EdgeConfig, document: bytes, *, first_rows: int = 0, should_stop: Callable[[], bool] = lambda: False
) -> Preview:
    """Run a study's lane up to the gate and tell what passed.

    Args:
        document: the study's TOML; its signature is not looked at, since nothing leaves.
        first_rows: how many rows to keep in `first` as they would leave, for the steward's eyes; never written.

    Raises:
        InputError: `input.study`. Every other refusal is told in the result.
    """
    study, digest = parse_study(document), study_digest(document)
    decision = decide(study, config, registry.INSTALLED, plugins.installed(config, study))
    made = Preview(
        study=study.id,
        digest=digest,
        lane=study.lane.value,
        allowed=decision.allowed,
        code=decision.code,
        reason=next((rule.reason for rule in decision.rules if not rule.ok), ""),
        hint=CODES[decision.code].hint if decision.code else "",
        rules=list(decision.rules),
        first_rows=first_rows,
    )
    if not decision.allowed:
        return made
    scratch = Path(tempfile.mkdtemp(prefix="preview-", dir=_folder(config)))
    worker = Worker(config.limits, scratch, should_stop=should_stop)
    try:
        _try(made, LaneRun.prepare(study, digest, config, decision), worker, config.state_dir)
    except CorsiaError as error:
        made.allowed, made.code, made.reason, made.hint = False, error.code, error.message, error.hint
    finally:
        worker.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return made


def _folder(config: EdgeConfig) -> Path:
    config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return config.state_dir


def _try(made: Preview, lane: LaneRun, worker: Worker, state_dir: Path) -> None:
    source = lane.source()
    try:
        made.source_rows = source.rows
        if lane.study.lane is Lane.TRAIN:
            outcome = worker.start_training(lane.job, source)
            made.withheld = dict(Counter(source.withheld) + Counter(outcome.withheld))
            return
        if lane.study.lane is Lane.INFER:
            made.withheld = source.withheld
            return
        gate = lane.gate(source)
        gate.look = lambda table: _tell(made, lane, table)
        try:
            withheld = lane.run(worker, source, gate, lambda item: _look(made, item))
            made.withheld = dict(withheld)
            gate.finish()
            if gate.release is not None:
                _remembered(made, lane, gate.release, state_dir)
        finally:
            made.gate = [*gate.checks, *made.gate]
            passed = gate.passed
            made.rows, made.files, made.documents = passed.rows, passed.files, passed.documents
            made.persons, made.bytes = passed.persons, passed.bytes
    finally:
        made.withheld = made.withheld or source.withheld


def _remembered(made: Preview, lane: LaneRun, release: Release, state_dir: Path) -> None:
    """Whether sums may join what was released before; asks the ledger's memory and leaves it as it is."""
    path = state_dir / "ledger.db"
    before = None
    if path.exists():
        ledger = Ledger(path)
        try:
            before = ledger.memory(lane.study.dataset.name)
        finally:
            ledger.close()
    try:
        look(state_dir, before, release)
    except DisclosureRefused as error:
        made.gate = [Check(rule="memory", ok=False, reason=error.message)]
        raise
    made.gate = [Check(rule="memory", ok=True)]


def _tell(made: Preview, lane: LaneRun, table: pa.Table) -> None:
    """Plots and uniqueness of a table, as far as they tell of nobody; names and texts of persons are not looked at."""
    from edge.tables import known_outside
    from privacy.disclosure.report import summary

    if lane.study.pipeline.name == sums.PIPELINE:  # each cell is a sum over persons, or hidden
        rows = table.slice(0, MAX_SUMS).to_pylist()
        made.summary = {"sums": [[row[name] for name in _SUMS] for row in rows]}
        return
    roles, effective = lane.job.roles, lane.decision.effective
    names = [n for n in table.column_names if roles.get(n) not in ("patient", "identifier", "text")]
    if len(names) > MAX_COLUMNS:
        names = [*known_outside(table.select(names), roles), *names][:MAX_COLUMNS]
    shown = list(dict.fromkeys(names))
    made.summary = summary(
        table.select(shown).to_pandas(),
        quasi=known_outside(table.select(shown), roles),
        minimum=max(effective.k, effective.traps.tab),
        k=effective.feature_k if lane.study.lane is Lane.EXTRACT else effective.k,
        traps=effective.traps,
        person=PSEUDONYM if PSEUDONYM in shown else None,
    )


def page(made: Preview) -> str:
    """The preview as one HTML page for the steward: decisions, counts, plots; no script, no link, no value of one."""
    from privacy.disclosure.report import page as drawn

    verdict = "would leave" if made.allowed else f"refused: {made.code}"
    counts: list[list[object]] = [["what", "count"]]
    counts += [[name, getattr(made, name)] for name in COUNTS]
    counts += [[f"withheld: {reason}", count] for reason, count in made.withheld.items()]
    first: dict[str, list[Any]] = {
        "Decision": [["study", made.study], ["digest", made.digest], ["lane", made.lane], ["outcome", verdict]],
        "What would leave": [*counts, ["columns", ", ".join(made.columns)]],
        "The site's rules": [["rule", "study", "site", "effective", "ok", "reason"]]
        + [[r.name, r.asked, r.site, r.effective, "yes" if r.ok else "NO", r.reason] for r in made.rules],
        "The egress gate": [["rule", "ok", "reason"]]
        + [[c.rule, "yes" if c.ok else "NO", c.reason] for c in made.gate],
    }
    if made.code:
        first["Decision"] += [["why", made.reason], ["what to change", made.hint]]
    if shown := made.summary.get("sums"):
        first["Sums"] = [_SUMS, *(["hidden" if one is None else one for one in row] for row in shown)]
    nothing: dict[str, Any] = {"persons": made.persons, "rows": made.rows, "k": None, "columns": {}}
    return drawn(made.summary if "columns" in made.summary else nothing, f"Preview of {made.study}", first=first)


def _look(made: Preview, item: Item) -> None:
    if item.kind is ItemKind.REPORT:
        made.report = json.loads(item.data)
    if item.kind is ItemKind.TABLE:
        import pyarrow.parquet as pq

        names = pq.read_schema(BytesIO(item.data)).names
        made.columns += [name for name in names if name not in made.columns]
        if (more := made.first_rows - len(made.first)) > 0:
            for batch in pq.ParquetFile(BytesIO(item.data)).iter_batches(batch_size=more, use_threads=False):
                made.first += batch.to_pylist()
                break

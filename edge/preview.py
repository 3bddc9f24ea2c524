"""What would leave for a study, and what each rule says, without sending, spending, sealing or storing anything.

For the steward before an approval. It runs the installed lane in a worker on the site's own rows and puts the results
through the same gate as a real run; only counts, column names and the rules' words come out.
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
from typing import Any

from edge.config import EdgeConfig
from edge.gate import Check
from edge.lane import LaneRun
from edge.policy import Rule, decide
from edge.worker import Worker
from pipelines import registry
from protocol.errors import CorsiaError
from protocol.parcel import Item, ItemKind
from protocol.study import Lane, parse_study, study_digest

__all__ = ["Preview", "preview"]


@dataclass(slots=True, kw_only=True)
class Preview:
    """What a run of the study would do now. `code` is what would end it, or empty; `report` is the lane's own."""

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

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


def preview(config: EdgeConfig, document: bytes, *, should_stop: Callable[[], bool] = lambda: False) -> Preview:
    """Run a study's lane up to the gate and tell what passed.

    Args:
        document: the study's TOML; its signature is not looked at, since nothing leaves.

    Raises:
        InputError: `input.study`. Every other refusal is told in the result.
    """
    study, digest = parse_study(document), study_digest(document)
    decision = decide(study, config, registry.INSTALLED)
    made = Preview(
        study=study.id,
        digest=digest,
        lane=study.lane.value,
        allowed=decision.allowed,
        code=decision.code,
        reason=next((rule.reason for rule in decision.rules if not rule.ok), ""),
        rules=list(decision.rules),
    )
    if not decision.allowed:
        return made
    scratch = Path(tempfile.mkdtemp(prefix="preview-", dir=_folder(config)))
    worker = Worker(config.limits, scratch, should_stop=should_stop)
    try:
        _try(made, LaneRun.prepare(study, digest, config, decision), worker)
    except CorsiaError as error:
        made.allowed, made.code, made.reason = False, error.code, error.message
    finally:
        worker.close()
        shutil.rmtree(scratch, ignore_errors=True)
    return made


def _folder(config: EdgeConfig) -> Path:
    config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return config.state_dir


def _try(made: Preview, lane: LaneRun, worker: Worker) -> None:
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
        try:
            withheld = lane.run(worker, source, gate, lambda item: _look(made, item))
            made.withheld = dict(withheld)
            gate.finish()
        finally:
            made.gate = list(gate.checks)
            passed = gate.passed
            made.rows, made.files, made.documents = passed.rows, passed.files, passed.documents
            made.persons, made.bytes = passed.persons, passed.bytes
    finally:
        made.withheld = made.withheld or source.withheld


def _look(made: Preview, item: Item) -> None:
    if item.kind is ItemKind.REPORT:
        made.report = json.loads(item.data)
    if item.kind is ItemKind.TABLE:
        import pyarrow.parquet as pq

        names = pq.read_schema(BytesIO(item.data)).names
        made.columns += [name for name in names if name not in made.columns]

"""Lane 4 at the hospital: a Flower ClientApp over local rows. Reads top to bottom.

    study -> `run` (load and check the rows, once)                                     nothing leaves
    instruction -> `Session.handle` -> ClientApp -> reply -> egress gate -> seal -> spool

Three kinds of message: `query.prepare` (sums from which all sites agree on one preprocessing), `train` (local steps
from the global model), `evaluate` (sums from which the centre computes the metric). Every reply is one ArrayRecord
of the names, dtypes and shapes that the instruction declared and one MetricRecord. This module opens no socket and
no file; the same app runs on an in-process grid, in Flower's simulation engine and over the fleet.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pipelines import Gate, Job, Source, clipping, learners, noising
from pipelines.flower import (
    ARRAYS,
    CONFIG,
    EXAMPLES,
    LOSS,
    METRICS,
    Arrays,
    ClientApp,
    Context,
    Message,
    RecordDict,
    array_record,
    arrays_of,
    measured,
    message_from_bytes,
    message_to_bytes,
    metric_record,
    record_of,
    reply,
)
from pipelines.masking import check_masks
from pipelines.replies import SHOWN_DIGITS
from privacy.deid.pseudonym import normalise_id
from protocol.errors import CorsiaError, DisclosureRefused, InputError
from protocol.study import Study, needs

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PREPARE", "PREPROCESSING", "Session", "TrainingData", "client_app", "load", "run"]

PREPARE = "query.prepare"
PREPROCESSING = "preprocessing"  # key of the second ArrayRecord of an instruction


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """One site's part in a study: what a ClientApp works on.

    Attributes:
        rows: the learner's own form of the usable rows.
    """

    study: Study
    site: str
    learner: learners.Learner
    rows: learners.Rows


def load(
    study: Study,
    site: str,
    frame: pd.DataFrame | None,
    documents: learners.Documents | None = None,
    patient: str | None = None,
    files: learners.Files | None = None,
) -> TrainingData:
    """Check the study's settings and a site's rows.

    Args:
        documents: the files of a kind (genotypes, ...), for learners that read more than the table.
        patient: the table's column of patient ids.
        files: the DICOM files, for learners on images.

    Raises:
        InputError: `input.study` for settings that this version cannot honour, `input.table`,
            `input.column-missing`, or `input.rows` without any usable row.
        DisclosureRefused: `gate.cohort` for fewer usable rows than the study's minimum cohort.
    """
    check_supported(study)
    learner = learners.for_study(study)
    if frame is None and not getattr(learner, "tableless", False):
        raise InputError("input.table", "lane 'train' needs a dataset with a table")
    if study.privacy.dp == "sample" and frame is not None and patient is not None and patient in frame.columns:
        frame = frame[~_persons(frame, patient).duplicated()]  # a row a patient, so that the noise hides a patient
    rows = learner.rows(cast("pd.DataFrame", frame), documents, patient, files)
    if rows.count == 0:
        raise InputError("input.rows", "no row has a usable outcome")
    if rows.count < study.privacy.min_cohort:
        raise DisclosureRefused("gate.cohort")
    return TrainingData(study=study, site=site, learner=learner, rows=rows)


def check_supported(study: Study) -> None:
    """Refuse what is asked but not there, instead of training with less protection than the study promises.

    Raises:
        InputError: `input.study`.
    """
    strategy = study.training.strategy if study.training else "fedavg"
    if study.privacy.secure_aggregation and needs(strategy) == "individual":
        raise InputError("input.study", f"training.strategy: {strategy} needs each site's update, not a sum")
    if study.privacy.secure_aggregation:
        check_masks(study)
    stopping = study.training.stopping if study.training else None
    if stopping is not None and not learners.for_study(study).scoring():
        raise InputError("input.study", "training.stopping: the learner's scores do not leave the sites")
    if study.privacy.dp != "none":
        noising.cost(study)  # raises for what cannot be noised
    elif study.privacy.epsilon is not None:
        raise InputError("input.study", "privacy.epsilon: without privacy.dp nothing is noised")


def run(job: Job, source: Source, gate: Gate) -> None:
    """The lane on the study itself: load and check, put nothing, tell what stays unused.

    Raises:
        InputError, DisclosureRefused: see `load`.
    """
    open_session(job, source, gate)


def open_session(job: Job, source: Source, gate: Gate) -> Session:
    """As `run`; the rows stay loaded for the rounds of a run."""
    made = Session(job, source)
    rows = made.rows
    for reason, count in {"incomplete": rows.dropped, **getattr(rows, "withheld", {})}.items():
        if count:
            gate.withhold(reason, count)
    gate.progress(rows.count, rows.count)
    return made


def _check_persons(job: Job, source: Source) -> None:
    """The cohort is counted in persons where the site says which column names them."""
    patient, frame = job.column("patient"), source.table()
    if patient is not None and frame is not None and patient in frame.columns:
        persons = _persons(frame, patient).nunique()
        if persons < job.study.privacy.min_cohort:
            raise DisclosureRefused("gate.cohort")


def _persons(frame: pd.DataFrame, patient: str) -> pd.Series[Any]:
    """Patient ids as they are compared everywhere: two spellings of one are one patient."""
    return frame[patient].map(lambda value: normalise_id(str(value)))


# -- the app -----------------------------------------------------------------------------------------------------------


def client_app(data: Callable[[Context], TrainingData]) -> ClientApp:
    """The ClientApp of this lane; `data` gives the rows of the node that runs it."""
    app = ClientApp()

    @app.query("prepare")  # type: ignore[untyped-decorator]
    def prepare(message: Message, context: Context) -> Message:
        mine = data(context)
        return _answer(message, mine, mine.learner.sums(mine.rows, mine.study.privacy.k))

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Message, context: Context) -> Message:
        mine = data(context)
        model, preprocessing, round_ = _read(message)
        fitted = mine.learner.fit(model, preprocessing, mine.rows, _seed(mine, round_))
        if mine.study.privacy.site_level:
            fitted = clipping.cut(model, fitted, mine.study.privacy.reach)
        fitted = _in_range(mine, fitted, norm=True)
        return _answer(message, mine, fitted, _loss(mine, model, preprocessing))

    @app.evaluate()  # type: ignore[untyped-decorator]
    def evaluate(message: Message, context: Context) -> Message:
        mine = data(context)
        model, preprocessing, _ = _read(message)
        sums = _in_range(mine, mine.learner.score(model, preprocessing, mine.rows))
        return _answer(message, mine, sums, _shown(mine, sums))

    return app


class Session:
    """The warm worker's side: rows and learner stay loaded for all rounds of a run.

    Args:
        job: the approved study at this site.
        source: consented, selected rows.
    """

    def __init__(self, job: Job, source: Source) -> None:
        self._data = load(
            job.study, job.site, source.table(), source.documents, job.column("patient"), source.files
        )  # fmt: skip
        _check_persons(job, source)
        self._data.learner.warm(job.compute)
        self._app = client_app(lambda _context: self._data)
        self._context = Context(0, 0, {}, RecordDict(), {})

    @property
    def rows(self) -> learners.Rows:
        """The usable rows."""
        return self._data.rows

    def handle(self, message: bytes) -> bytes:
        """Answer one instruction; the same instruction gives the same bytes.

        Raises:
            InputError: `input.message` for anything but an instruction of this lane.
        """
        asked = message_from_bytes(message)
        if asked.has_error() or asked.metadata.message_type not in (PREPARE, "train", "evaluate"):
            raise InputError("input.message", "not an instruction of lane 'train'")
        self._context.run_id, self._context.node_id = asked.metadata.run_id, asked.metadata.dst_node_id
        try:
            return message_to_bytes(self._app(asked, self._context))
        except CorsiaError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, RuntimeError) as error:
            raise InputError(
                "input.message", f"the instruction does not fit the learner: {type(error).__name__}"
            ) from None


def _read(message: Message) -> tuple[Arrays, Arrays, int]:
    model, preprocessing = (arrays_of(record_of(message, key)) for key in (ARRAYS, PREPROCESSING))
    return model, preprocessing, int(record_of(message, CONFIG)["server-round"])


def _answer(message: Message, data: TrainingData, arrays: Arrays, shown: Mapping[str, float] | None = None) -> Message:
    weight = 1 if data.study.privacy.site_level else data.rows.count  # the number of rows is no secret of a row
    metrics: dict[str, int | float] = {EXAMPLES: weight, **(shown or {})}
    return reply(message, RecordDict({ARRAYS: array_record(arrays), METRICS: metric_record(metrics)}))


def _in_range(data: TrainingData, arrays: Arrays, *, norm: bool = False) -> Arrays:
    """What a site answers, if its numbers are some that the gate would pass: else training has left their range.

    Raises:
        InputError: `input.diverged`.
    """
    most = data.study.training.max_norm if data.study.training and norm else math.inf
    length, finite = measured(arrays)
    if not finite or not length <= most:
        raise InputError("input.diverged")
    return arrays


def _shown(data: TrainingData, sums: Arrays) -> dict[str, float]:
    """This site's own metrics, rounded, only where the study asks for them by name; never under masks."""
    training = data.study.training
    hidden = data.study.privacy.secure_aggregation or data.study.privacy.dp != "none"
    asked = training.metrics if training and not hidden else ()
    return {k: round(v, SHOWN_DIGITS) for k, v in data.learner.metrics(sums).items() if k in asked and math.isfinite(v)}


def _loss(data: TrainingData, model: Arrays, preprocessing: Arrays) -> dict[str, float]:
    """The received model's mean loss on the site's rows, only for the strategy that weighs sites by it."""
    if data.study.training is None or data.study.training.strategy != "qfedavg":
        return {}
    return {LOSS: data.learner.metrics(data.learner.score(model, preprocessing, data.rows))["loss"]}


def _seed(data: TrainingData, round_: int) -> int:
    """A seed of its own for each (study seed, round, site), the same wherever the app runs."""
    seed: Any = data.study.training.seed if data.study.training else 0
    return int.from_bytes(hashlib.sha256(f"{seed}|{round_}|{data.site}".encode()).digest()[:6], "big")

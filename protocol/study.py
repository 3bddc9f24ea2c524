"""A study: the one file that says who asks for what, why, and what may leave.

The centre signs the exact bytes of the TOML; a site approves the SHA-256 of exactly these bytes. Reading is
strict: an unknown field, lane or operator is refused, never ignored.

Source: `docs/spec/study.md`.
"""

from __future__ import annotations

import fnmatch
import hashlib
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from protocol import toml
from protocol.errors import InputError, StudyRefused
from protocol.validation import first_fault

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "INDIVIDUAL",
    "MAX_STUDY_BYTES",
    "Column",
    "Condition",
    "DType",
    "Dataset",
    "Lane",
    "ModelReference",
    "Output",
    "Pipeline",
    "PluginKey",
    "Privacy",
    "Publish",
    "Recipient",
    "Stopping",
    "Strategy",
    "Study",
    "Training",
    "dump_study",
    "needs",
    "parse_study",
    "study_digest",
]

MAX_STUDY_BYTES = 256 * 1024
CANDIDATE = "candidate"  # the alias of a new version; no promotion gives it
CHAMPION = "champion"  # the alias that only a promotion by two operators gives
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Name = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
PluginKey = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}==[0-9][A-Za-z0-9.+!]{0,63}$")]
Scalar = bool | int | float | str


class Lane(StrEnum):
    """The four lanes, and inference, by which nothing but a count leaves the site."""

    HARVEST = "harvest"
    ANONYMIZE = "anonymize"
    EXTRACT = "extract"
    TRAIN = "train"
    INFER = "infer"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class Condition(_Model):
    """One row selector: `column op value`. Bound as a parameter, never as text. Conditions are ANDed."""

    column: Name
    op: Literal["==", "!=", "<", "<=", ">", ">=", "in", "not-null"]
    value: Scalar | tuple[Scalar, ...] | None = None


class Dataset(_Model):
    """Which of a site's datasets, and which of its columns and rows.

    `columns` are read from the dataset's table; consent, patient and de-identification columns are read by the
    site besides. `images` asks for the dataset's DICOM files, the others for its FHIR resources, genotypes, omics
    matrix and OMOP database.
    """

    name: Slug
    columns: tuple[Name, ...] = ()
    where: tuple[Condition, ...] = ()
    images: bool = False
    fhir: bool = False
    genotypes: bool = False
    matrix: bool = False
    omop: bool = False


class Pipeline(_Model):
    """An installed pipeline by name and version, with its parameters (checked by the pipeline itself).

    `plugin` is the distribution, `name==version`, that brings the learner of lanes `train` and `infer`.
    """

    name: Slug
    version: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+){0,2}$")] = "1"
    plugin: PluginKey | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)


DType = Literal["int", "float", "string", "bool", "date"]


class Column(_Model):
    """A declared output column. `name` may be a glob (`original_*`); `dtype` is what the gate checks."""

    name: Name
    dtype: DType


class Output(_Model):
    """All that may leave: the table's columns, whether DICOM files and FHIR may, and how many bytes in all."""

    columns: tuple[Column, ...] = ()
    files: bool = False
    documents: bool = False
    max_bytes: Annotated[int, Field(gt=0, le=10**13)] = 100_000_000

    def column(self, name: str) -> Column | None:
        """The declaration that covers a column, or None."""
        return next((c for c in self.columns if fnmatch.fnmatchcase(name, c.name)), None)


class Privacy(_Model):
    """What the study promises; a site's policy may ask for more, and the stricter value wins.

    `max_examples` bounds a site's weight under secure aggregation: with `training.max_norm` and the number of sites
    it decides how finely updates are rounded. A site with more rows cannot take part. `colluding_fraction` and
    `dropout_fraction` are those of a roster of more than 64 sites for which the graph of its masks is made.

    `dp` says what the noise hides, and who adds it: `sample`, one row of a site, the site itself; `central`, one site's
    update cut to `clip` (1), the federation; `distributed`, the same, each site a share of it before its masks, enough
    as long as at most `max_colluding` (1) of those that answered are in league with the centre.
    """

    k: Annotated[int, Field(ge=1, le=1000)] = 5
    l: Annotated[float, Field(ge=1, le=1000)] | None = None  # noqa: E741
    l_kind: Literal["distinct", "entropy"] = "distinct"
    t: Annotated[float, Field(gt=0, le=1)] | None = None
    sensitive: tuple[Name, ...] = ()
    min_cohort: Annotated[int, Field(ge=1, le=10**6)] = 10
    epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    dp: Literal["none", "sample", "central", "distributed"] = "none"
    secure_aggregation: bool = False
    max_examples: Annotated[int, Field(ge=1, le=10**9)] | None = None
    colluding_fraction: Annotated[float, Field(ge=0, le=0.2)] | None = None
    dropout_fraction: Annotated[float, Field(ge=0, le=0.3)] | None = None
    clip: Annotated[float, Field(gt=0, le=1e6)] | None = None
    max_colluding: Annotated[int, Field(ge=0, le=62)] | None = None

    @property
    def site_level(self) -> bool:
        """Whether noise hides a whole site's update (and not a row of it)."""
        return self.dp in ("central", "distributed")

    @property
    def reach(self) -> float:
        """The greatest length of a site's update under noise that hides it."""
        return 1.0 if self.clip is None else self.clip

    @property
    def colluding(self) -> int:
        """How many sites may be in league with the centre before distributed noise is too little."""
        return 1 if self.max_colluding is None else self.max_colluding

    @property
    def graph(self) -> dict[str, float]:
        """The fractions that are stated, as `privacy.secagg.Session` names them."""
        stated = {"colluding": self.colluding_fraction, "dropout": self.dropout_fraction}
        return {name: value for name, value in stated.items() if value is not None}


class Publish(_Model):
    """The name and alias under which the trained model is published; signing the study allows just these."""

    model: Slug
    alias: Slug = CANDIDATE

    @field_validator("alias")
    @classmethod
    def _by_two_persons(cls, value: str) -> str:
        if value == CHAMPION:
            raise ValueError(
                "no study publishes straight to 'champion': use alias = \"candidate\"; two operators promote it "
                "(corsia model promote, corsia model approve)"
            )
        return value


Strategy = Literal[
    "fedavg", "fedavgm", "fedprox", "fedadam", "fedadagrad", "fedyogi", "qfedavg", "fedmedian", "fedtrimmedavg",
    "krum", "multikrum", "bulyan", "newton", "cyclic",
]  # fmt: skip
INDIVIDUAL: frozenset[str] = frozenset(
    {"qfedavg", "fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan", "cyclic"}
)  # strategies that work on each site's own update


def needs(strategy: str) -> Literal["sum", "individual"]:
    """What a strategy must see of the sites' updates: only their sum, or each one."""
    return "individual" if strategy in INDIVIDUAL else "sum"


class Stopping(_Model):
    """Early stopping: end the run when a metric over all sites no longer gets better.

    A round counts as better when it beats the best before it by more than `min_delta`; after `patience` rounds that did
    not, the run ends. `restore_best` publishes the best round's model instead of the last one's.
    """

    monitor: Name
    mode: Literal["min", "max"]
    patience: Annotated[int, Field(ge=1, le=10_000)] = 3
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    restore_best: bool = True


class Training(_Model):
    """Lane 4: learner, strategy and rounds.

    `rounds` may be extended while the run is under way, up to `max_rounds`, which is what the sites approve: a site
    refuses a later round, and whatever a run costs in privacy is reckoned for so many. `max_model_bytes` bounds model
    and preprocessing together, as raw arrays.
    """

    learner: Slug
    features: tuple[Name, ...]
    outcome: tuple[Name, ...]
    rounds: Annotated[int, Field(ge=1, le=10_000)] = 5
    max_rounds: Annotated[int, Field(ge=1, le=10_000)] = 0  # not given: as `rounds`
    strategy: Strategy = "fedavg"
    strategy_parameters: dict[str, float] = Field(default_factory=dict)
    local_steps: Annotated[int, Field(ge=1, le=10**6)] = 20
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.05
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    deadline_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    quorum: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_norm: Annotated[float, Field(gt=0)] = 1e4
    max_model_bytes: Annotated[int, Field(ge=1, le=10**12)] = 1 << 30
    metrics: tuple[Name, ...] = ()
    stopping: Stopping | None = None
    publish: Publish

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("max_rounds") is None:
            return given | {"max_rounds": given.get("rounds", cls.model_fields["rounds"].default)}
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Training:
        if self.max_rounds < self.rounds:
            raise ValueError("training: max_rounds is below rounds")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, inner: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `max_rounds` where it says nothing."""
        value: dict[str, Any] = inner(self)
        if self.max_rounds == self.rounds:
            value.pop("max_rounds", None)
        return value


class ModelReference(_Model):
    """Lane `infer`: which published model a site is to pull."""

    name: Slug
    alias: Slug = CHAMPION


class Recipient(_Model):
    """A public key (base64 of `privacy.envelope` public bytes) and the process that holds its secret."""

    role: Literal["vault", "federation"]
    key: Annotated[str, Field(max_length=8192)]


class Study(_Model):
    """A whole study. See `docs/spec/study.md` for every field.

    A draft has neither recipients nor roster: the centre's signer adds them before it signs.
    """

    schema_version: Literal[1] = Field(1, alias="schema")
    id: Slug
    title: Text
    lane: Lane
    purpose: Slug
    description: str = Field("", max_length=4000)
    legal_basis: Literal["consent", "public-interest", "scientific-research", "legal-obligation"]
    controller: Text
    ethics_reference: Text
    expires: datetime
    sites: tuple[Slug, ...] = Field(min_length=1, max_length=1000)
    dataset: Dataset
    pipeline: Pipeline
    output: Output = Field(default_factory=Output)
    privacy: Privacy = Field(default_factory=Privacy)
    training: Training | None = None
    model: ModelReference | None = None
    recipients: tuple[Recipient, ...] = ()
    roster: dict[Slug, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if self.expires.tzinfo is None:
            raise ValueError("expires: give a time zone, as in 2030-01-01T00:00:00Z")
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("sites: a site is named twice")
        if (self.lane is Lane.TRAIN) != (self.training is not None):
            raise ValueError("training: lane 'train' needs the table [training], other lanes must not have it")
        if (self.lane is Lane.INFER) != (self.model is not None):
            raise ValueError("model: lane 'infer' needs the table [model], other lanes must not have it")
        if self.pipeline.plugin is not None and self.lane not in (Lane.TRAIN, Lane.INFER):
            raise ValueError("pipeline.plugin: is for lanes 'train' and 'infer'")
        if (self.privacy.l is not None or self.privacy.t is not None) and not self.privacy.sensitive:
            raise ValueError("privacy: l and t are of sensitive columns: name them")
        if self.privacy.secure_aggregation and self.training and needs(self.training.strategy) == "individual":
            raise ValueError(f"training: {self.training.strategy} needs each site's update, not a sum")
        _check_noise(self.privacy, self.training)
        out = self.output
        if self.lane in (Lane.HARVEST, Lane.ANONYMIZE, Lane.EXTRACT) and not (
            out.columns or out.files or out.documents
        ):
            raise ValueError("output: declare the columns (or files, or documents) that may leave")
        return self

    def check_valid_at(self, now: datetime) -> None:
        """Refuse an expired study.

        Raises:
            StudyRefused: `study.expired`.
        """
        if now >= self.expires:
            raise StudyRefused(
                "study.expired", f"study {self.id} expired at {self.expires.astimezone(UTC).isoformat()}"
            )

    def recipient(self, role: Literal["vault", "federation"]) -> str | None:
        """The base64 public key of a role, or None."""
        return next((r.key for r in self.recipients if r.role == role), None)


def _check_noise(privacy: Privacy, training: Training | None) -> None:
    """What differential privacy needs of a study.

    Raises:
        ValueError: for what is missing, or would not be covered by the noise.
    """
    if privacy.clip is not None and not privacy.site_level:
        raise ValueError("privacy: clip is for dp 'central' and 'distributed'")
    if privacy.max_colluding is not None and privacy.dp != "distributed":
        raise ValueError("privacy: max_colluding is for dp 'distributed'")
    if privacy.dp == "none":
        return
    if privacy.epsilon is None or privacy.delta is None:
        raise ValueError("privacy: differential privacy needs epsilon and delta")
    if training is None:
        return
    if privacy.dp == "distributed" and not privacy.secure_aggregation:
        raise ValueError("privacy: dp 'distributed' needs secure_aggregation")
    if training.metrics or training.strategy == "qfedavg" or training.stopping is not None:
        raise ValueError("training: metrics, qfedavg and stopping need scores and losses, which are not noised")
    if privacy.site_level and (needs(training.strategy) == "individual" or training.strategy == "newton"):
        raise ValueError(f"training: {training.strategy} is no sum of clipped updates, which dp {privacy.dp!r} needs")


def parse_study(raw: bytes) -> Study:
    """Read a study from TOML bytes.

    Raises:
        InputError: `input.study`, with the field and the reason.
    """
    try:
        return Study.model_validate(toml.read(raw, MAX_STUDY_BYTES))
    except ValidationError as error:
        raise InputError("input.study", first_fault(error, whole="study")) from None
    except ValueError as error:
        raise InputError("input.study", f"not TOML: {error}") from None


def dump_study(study: Study) -> bytes:
    """Write a study as TOML; `parse_study` reads it back equal."""
    return tomli_w.dumps(study.model_dump(mode="python", by_alias=True, exclude_none=True)).encode()


def study_digest(raw: bytes) -> str:
    """SHA-256 (hex) of the exact signed bytes: the study's name on the wire and in approvals."""
    return hashlib.sha256(raw).hexdigest()

"""The hospital's one TOML file as a frozen tree: datasets, policy, limits. Read once at start, passed as an argument.

Precedence: defaults < file < environment (`CORSIA_EDGE_STATE_DIR`, `CORSIA_EDGE_FLEET`). Paths are made absolute,
relative to the file. This module reads that file and nothing else, and holds no secret.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from edge.batch.config import BatchConfig
from edge.pace import quiet, span_of
from edge.sources.format import Format
from edge.sources.places import PATHS, PLACES, Database, Dicomweb, Dimse, FhirServer, Receiver, Redcap, completed
from pipelines.compute import DEVICE
from privacy.disclosure.traps import Traps
from privacy.envelope.keyfile import guard
from privacy.witness import WitnessKey
from protocol import toml
from protocol.errors import ConfigurationError, InputError
from protocol.study import Lane, PluginKey
from protocol.validation import first_fault

__all__ = [
    "Centre",
    "Consent",
    "DatasetConfig",
    "Delivery",
    "EdgeConfig",
    "Keys",
    "Limits",
    "Policy",
    "Witnesses",
    "load",
]

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-\[\]:]{1,255}:[0-9]{1,5}$")]
Name = Annotated[str, Field(min_length=1, max_length=128)]
Bytes = Annotated[int, Field(gt=0, le=10**15)]
ColumnRole = Literal["patient", "identifier", "text", "date", "birthdate", "quasi", "value"]


def _traps(value: Any) -> Any:
    """DataSHIELD's names hold points, which TOML reads as tables within tables."""
    if not isinstance(value, dict):
        return value
    flat: dict[str, float] = {}
    todo = [(str(name), one) for name, one in value.items()]
    while todo:
        name, one = todo.pop()
        if isinstance(one, dict):
            todo += [(f"{name}.{inner}", deeper) for inner, deeper in one.items()]
        else:
            flat[name] = one
    return Traps.of(flat)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Centre(_Model):
    """Where to dial. Optional: the join code brings it at enrolment."""

    fleet: Address


class Keys(_Model):
    """How the site's keys lie on the disk (docs/keys.md).

    Attributes:
        passphrase_file: the file whose text locks them, mode 0600, absolute after `load`; best on another disk, or
            given by systemd's LoadCredential instead.
    """

    passphrase_file: Path | None = None


class Limits(_Model):
    """Bounds on disk, memory and time of this daemon.

    Attributes:
        spool_bytes: sealed parcels on disk; at the bound work waits, nothing is dropped.
        worker_memory_bytes: data segment of one worker (RLIMIT_DATA).
        worker_timeout_s: a worker that says nothing for so long is killed.
        worker_threads: threads of numeric libraries in a worker; 1 keeps results bit-equal between restarts.
        device: on what a worker trains: `auto` (a GPU where there is one), `cpu`, `cuda:N`, `mps`.
        training_processes: that share the batches of a torch model; with `cuda:N` each takes a GPU, from N on.
        heartbeat_s: pause between two heartbeats.
    """

    spool_bytes: Bytes = 10_000_000_000
    worker_memory_bytes: Annotated[int, Field(ge=100_000_000, le=10**13)] = 8_000_000_000
    worker_timeout_s: Annotated[float, Field(ge=0.1, le=7 * 86_400)] = 3600.0
    worker_threads: Annotated[int, Field(ge=1, le=256)] = 1
    device: Annotated[str, Field(pattern=DEVICE)] = "auto"
    training_processes: Annotated[int, Field(ge=1, le=64)] = 1
    heartbeat_s: Annotated[float, Field(ge=0.1, le=3600)] = 10.0


class Delivery(_Model):
    """How parcels leave: how fast, when, and through what. Heartbeats and what comes down are never held back.

    Attributes:
        max_mbit_s: most that all parcels under way take together, in megabits a second; else what the line gives.
        quiet_hours: spans of the day, `22:00-06:00`, by this machine's clock, in which no parcel leaves; one under way
            goes on after them. Rounds wait too, so a training study may count this site as a drop-out.
        proxy: `http://HOST:PORT` of an HTTP proxy that the centre is reached through by CONNECT; without it, the
            variables `grpc_proxy`, `https_proxy`, `http_proxy` and `no_proxy` hold.
        proxy_auth: file of `USER:PASSWORD` for it, mode 0600, absolute after `load`.
    """

    max_mbit_s: Annotated[float, Field(ge=1, le=10**6)] | None = None
    quiet_hours: Annotated[tuple[str, ...], Field(max_length=24)] = ()
    proxy: Annotated[str, Field(pattern=r"^http://[A-Za-z0-9.\-\[\]:]{1,255}:[0-9]{1,5}/?$")] | None = None
    proxy_auth: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Delivery:
        for text in self.quiet_hours:
            span_of(text)
        if self.proxy_auth is not None and self.proxy is None:
            raise ValueError("delivery: proxy_auth is for a proxy: name it")
        return self

    def resting(self, now: datetime) -> bool:
        """Whether a time of this machine's clock lies in the quiet hours."""
        return quiet([span_of(text) for text in self.quiet_hours], now)


class MetricsConfig(_Model):
    """Numbers for Prometheus on 127.0.0.1 (docs/metrics.md); off without a port."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None


class Witnesses(_Model):
    """Whose signatures the centre's log must bear, so that it cannot show this site another log than others.

    Attributes:
        keys: `NAME+ID+KEY` of each witness (`corsia log witness --show-key`), pinned.
        quorum: how many of them must sign.
        within_s: how long the log may grow beyond what they have signed, before egress stops.
    """

    keys: Annotated[tuple[str, ...], Field(min_length=1, max_length=15)]
    quorum: Annotated[int, Field(ge=1, le=15)]
    within_s: Annotated[float, Field(ge=1, le=30 * 86_400)] = 86_400.0

    @model_validator(mode="after")
    def _consistent(self) -> Witnesses:
        try:
            distinct = {WitnessKey.from_vkey(key).public for key in self.keys}
        except InputError as error:
            raise ValueError(f"witnesses.keys: {error.message}") from None
        if len(distinct) < self.quorum:
            raise ValueError("witnesses: quorum is larger than the number of keys")
        return self


class Consent(_Model):
    """How consent is written in the table. A missing or unknown value withholds the row.

    Attributes:
        column: the consent column.
        granted: the values that mean yes, compared as text.
        withdrawn_on: a column with a date; a row with one that is not in the future is withheld.
    """

    column: Name
    granted: Annotated[tuple[str, ...], Field(min_length=1)]
    withdrawn_on: Name | None = None


class Policy(_Model):
    """What the site allows for one dataset. The site's rule beats the study; the stricter value wins.

    Attributes:
        release_columns: globs of columns that lane 1 may release raw. A column with the role identifier or text
            (or the patient's) is released only when it is named here exactly.
        min_l: each class of released rows has so many values of each sensitive column.
        max_t: and lies no further from all released rows than this, 0 to 1.
        sensitive: released columns to which both apply, besides those the study names.
        feature_k: lane 3 releases no row of a patient who shares the quasi-identifiers among the features with fewer
            than this; not given, it is the k of the study, at least `min_k`. 1 turns it off.
        traps: thresholds of federated statistics, by DataSHIELD's names (`nfilter.tab = 5`) or ours.
        max_bytes: per study; `max_bytes_per_year` is the ledger's total over 365 days.
        allow_unbounded_epsilon: whether results without differential privacy may leave.
        epsilon_per_study: most that one study may learn of a person from noised results; a study that asks for more
            is answered with more noise. `epsilon_per_year` is for all studies over 365 days: beyond it they are
            refused. Both hold at `delta`, as composed by the ledger.
        max_model_bytes: largest model that is fetched and trained here.
        plugins: researchers' models that may run on the dataset, as `name==version`.
        site_metrics: whether this site's own scores may leave where a study asks for them; without it they are left
            out, and a study that cannot do without (`qfedavg` weighs sites by their losses) is refused.
        require_secure_aggregation: refuse training whose updates are not masked.
        min_sites: smallest roster under which this site masks its updates.
        max_colluding: how many other sites may be in league with the centre without learning this site's update; in a
            roster of more than 64, the study's `privacy.colluding_fraction` must be made for as many.
    """

    lanes: tuple[Lane, ...] = ()
    pipelines: tuple[Slug, ...] = ()
    purposes: tuple[Slug, ...] = ()
    release_columns: tuple[Name, ...] = ()
    min_k: Annotated[int, Field(ge=1, le=1000)] = 5
    min_l: Annotated[float, Field(ge=1, le=1000)] | None = None
    max_t: Annotated[float, Field(gt=0, le=1)] | None = None
    sensitive: tuple[Name, ...] = ()
    min_cohort: Annotated[int, Field(ge=1, le=10**6)] = 10
    feature_k: Annotated[int, Field(ge=1, le=1000)] | None = None
    traps: Annotated[Traps, BeforeValidator(_traps)] = Field(default_factory=Traps)
    max_bytes: Bytes = 100_000_000
    max_bytes_per_year: Bytes = 10_000_000_000
    allow_unbounded_epsilon: bool = False
    epsilon_per_study: Annotated[float, Field(gt=0, le=1000)] = 1.0
    epsilon_per_year: Annotated[float, Field(gt=0, le=10_000)] = 5.0
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    max_model_bytes: Bytes = 1 << 30
    plugins: tuple[PluginKey, ...] = ()
    site_metrics: bool = False
    require_secure_aggregation: bool = False
    min_sites: Annotated[int, Field(ge=3, le=1000)] = 3
    max_colluding: Annotated[int, Field(ge=0, le=332)] = 1
    require_consent: bool = True
    approve: Literal["auto", "manual"] = "manual"

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        if (self.min_l is not None or self.max_t is not None) and not self.sensitive:
            raise ValueError("policy: min_l and max_t are of sensitive columns: name them")
        return self


class DatasetConfig(_Model):
    """One dataset: where it lies, what its columns are, how consent is read, what the site allows.

    Attributes:
        table: CSV, Parquet or Excel (.xlsx) file, absolute after `load`.
        dicom: folder of DICOM files, absolute after `load`.
        fhir: folder (or file) of FHIR R4 JSON and NDJSON, absolute after `load`.
        fhir_system: `Identifier.system` under which FHIR carries the table's patient ids; without it the identifiers
            typed MR, else the ids of the Patient resources.
        genotypes: folder (or file) of VCF, BCF or PLINK files, absolute after `load`.
        matrix: file (or folder) of samples x features, CSV or Parquet, absolute after `load`.
        omop: archive (or folder) of OMOP CDM tables, absolute after `load`.
        sql, omop_sql: a table, or an OMOP CDM 5.4 schema, in a database.
        dicomweb, dimse, receiver, fhir_server: from where `dicom` and `fhir` are pulled into the state folder.
        redcap: the data dictionary of a REDCap export.
        advertise: what the centre's researchers may know of the dataset (`edge.advertised`): its kinds of data; rows
            (of images alone: persons) in tens, none of fewer than `min_cohort`; columns with roles. Empty: nothing.
        format: how the table is written, where it is not plain CSV UTF-8.
        columns: column -> role, the site's own word. A column without a role is never released by lanes 2 and 3.
        row_is_person: the table names no patient, and the site states that no person has two rows.
    """

    table: Path | None = None
    dicom: Path | None = None
    fhir: Path | None = None
    fhir_system: Name | None = None
    genotypes: Path | None = None
    matrix: Path | None = None
    omop: Path | None = None
    sql: Database | None = None
    omop_sql: Database | None = None
    dicomweb: Dicomweb | None = None
    dimse: Dimse | None = None
    receiver: Receiver | None = None
    fhir_server: FhirServer | None = None
    redcap: Redcap | None = None
    advertise: tuple[Literal["kinds", "counts", "schema"], ...] = ()
    format: Format = Field(default_factory=Format)
    row_is_person: bool = False
    columns: dict[Name, ColumnRole] = Field(default_factory=dict)
    consent: Consent | None = None
    policy: Policy = Field(default_factory=Policy)

    @model_validator(mode="after")
    def _consistent(self) -> DatasetConfig:
        if all(getattr(self, name) is None for name in PATHS + PLACES):
            raise ValueError(f"give at least one of {', '.join(PATHS + PLACES)}")
        self._one_of_each()
        if sum(role == "patient" for role in self.columns.values()) > 1:
            raise ValueError("columns: only one column has the role 'patient'")
        named = "patient" in self.columns.values()
        if self.tabular and named == self.row_is_person:
            raise ValueError(
                "columns: one column of the table needs the role 'patient'; row_is_person = true is for tables without"
            )
        if any(self.columns.get(name) != "value" for name in self.policy.sensitive):
            raise ValueError("policy.sensitive: these columns need the role 'value'")
        return self

    def _one_of_each(self) -> None:
        """Raises ValueError for two tables, or what is said of none."""
        for file, place in (("table", "sql"), ("omop", "omop_sql")):
            if getattr(self, file) is not None and getattr(self, place) is not None:
                raise ValueError(f"{file} or {place}, not both")
        if self.redcap is not None and self.table is None:
            raise ValueError("redcap: `table` names the export")
        if self.sql is not None and not self.sql.relation:
            raise ValueError("sql.relation: name a table or view")

    def has(self, kind: str) -> bool:
        """Whether there is a kind of data besides the table: `dicom`, `fhir`, `genotypes`, `matrix`, `omop`."""
        return getattr(self, kind) is not None or (kind == "omop" and self.omop_sql is not None)

    @property
    def tabular(self) -> bool:
        """Whether there is a table, be it a file or in a database."""
        return self.table is not None or self.sql is not None


class EdgeConfig(_Model):
    """The whole file.

    Attributes:
        witnesses: none: receipts are linked all the same, but a log forked from the beginning is found by comparing
            checkpoints alone (`corsia log checkpoint compare`).
        plugins: folder of researchers' plug-ins, one folder each (`pip install --no-deps --target`), absolute after
            `load`. Not a folder of Corsia's own environment: what lies there is imported in a worker alone.
    """

    site: Slug
    state_dir: Path = Path("state")
    centre: Centre | None = None
    limits: Limits = Field(default_factory=Limits)
    keys: Keys = Field(default_factory=Keys)
    delivery: Delivery = Field(default_factory=Delivery)
    witnesses: Witnesses | None = None
    metrics: MetricsConfig = Field(default_factory=MetricsConfig)
    batch: BatchConfig = Field(default_factory=BatchConfig)
    plugins: Path | None = None
    datasets: dict[Slug, DatasetConfig] = Field(default_factory=dict)


def load(path: Path) -> EdgeConfig:
    """Read, check and complete the configuration.

    Args:
        path: the TOML file; its folder is what relative paths are relative to.

    Raises:
        ConfigurationError: `config.missing`, or `config.invalid` naming the field.
    """
    try:
        value = toml.read(path.read_bytes())
    except OSError as error:
        raise ConfigurationError("config.missing", f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError("config.invalid", f"{path}: not TOML: {error}") from None
    try:
        config = EdgeConfig.model_validate(_completed(value, path.resolve().parent))
    except ValidationError as error:
        raise ConfigurationError("config.invalid", f"{path}: {first_fault(error, whole='file')}") from None
    guard(config.state_dir, config.keys.passphrase_file)
    return config


def _completed(value: dict[str, Any], base: Path) -> dict[str, Any]:
    """The file's values under those of the environment, with absolute paths."""
    made = dict(value)
    state_dir = os.environ.get("CORSIA_EDGE_STATE_DIR")
    made["state_dir"] = Path(state_dir).absolute() if state_dir else _under(base, value.get("state_dir", "state"))
    if isinstance(value.get("delivery"), dict) and "proxy_auth" in value["delivery"]:
        made["delivery"] = value["delivery"] | {"proxy_auth": _under(base, value["delivery"]["proxy_auth"])}
    if "plugins" in value:
        made["plugins"] = _under(base, value["plugins"])
    if isinstance(keys := value.get("keys"), dict) and "passphrase_file" in keys:
        made["keys"] = keys | {"passphrase_file": _under(base, keys["passphrase_file"])}
    if fleet := os.environ.get("CORSIA_EDGE_FLEET"):
        made["centre"] = {"fleet": fleet}
    if isinstance(value.get("datasets"), dict):
        made["datasets"] = {
            name: completed(dataset, name, base, made["state_dir"]) if isinstance(dataset, dict) else dataset
            for name, dataset in value["datasets"].items()
        }
    return made


def _under(base: Path, value: Any) -> Any:
    return base / value if isinstance(value, str) else value

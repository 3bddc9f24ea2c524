"""Where a dataset's data lie when they lie behind a server: parts of `[datasets.NAME]` in edge.toml.

No secret stands here, only the names of files that hold one (mode 0600). Paths are absolute after `edge.config.load`.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from protocol.errors import ConfigurationError

__all__ = [
    "PATHS",
    "PLACES",
    "Database",
    "Dicomweb",
    "Dimse",
    "FhirServer",
    "HttpPlace",
    "Pulled",
    "Receiver",
    "Redcap",
    "completed",
    "is_pulled",
    "mirror_root",
]

PATHS = ("table", "dicom", "fhir", "genotypes", "matrix", "omop")
PLACES = ("sql", "omop_sql", "dicomweb", "dimse", "receiver", "fhir_server")
_MIRRORED = {"dicomweb": "dicom", "dimse": "dicom", "receiver": "dicom", "fhir_server": "fhir"}
Aet = Annotated[str, Field(pattern=r"^[ -\[\]-~]{1,16}$")]
_PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6(?:[0-4][0-9]{3}|5(?:[0-4][0-9]{2}|5(?:[0-2][0-9]|3[0-5]))))"
Address = Annotated[str, Field(pattern=rf"^[A-Za-z0-9.\-\[\]:]{{1,255}}:{_PORT}$")]
Modality = Annotated[str, Field(pattern=r"^[A-Z0-9]{2,16}$")]


def _plain(url: str) -> str:
    """An address without anything secret in it."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError("http:// or https:// without user and password: name a file for those")
    if parts.query or parts.fragment:
        raise ValueError("no query")
    return url.rstrip("/")


Url = Annotated[str, Field(max_length=2048), AfterValidator(_plain)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Pulled(_Model):
    """A place that is pulled into the site's state folder.

    Attributes:
        every_s: pause between two pulls by the daemon.
        patience_s: how long one pull goes on asking a place that does not answer.
        max_bytes: of all that is kept of it; beyond it nothing more is taken.
    """

    every_s: Annotated[float, Field(ge=0.5, le=7 * 86_400)] = 900.0
    patience_s: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    max_bytes: Annotated[int, Field(gt=0, le=10**15)] = 1_000_000_000_000


class HttpPlace(Pulled):
    """A server that speaks HTTP.

    Attributes:
        url: its base, as `https://pacs.example/dicom-web`.
        auth_file: one line USER:PASSWORD; token_file: one line, a bearer token. Both mode 0600.
        ca_file: certificates that sign the server's; else those of the system.
        timeout_s: of one answer.
    """

    url: Url
    auth_file: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0

    @model_validator(mode="after")
    def _one(self) -> HttpPlace:
        if self.auth_file is not None and self.token_file is not None:
            raise ValueError("auth_file or token_file, not both")
        return self


class _Images(_Model):
    """Which images of a PACS: no bound means all.

    Attributes:
        modalities: of the series.
        since, until: days of the study, inclusive.
    """

    modalities: tuple[Modality, ...] = ()
    since: date | None = None
    until: date | None = None

    @property
    def days(self) -> str:
        """The range as DICOM writes it; "" for none."""
        if self.since is None and self.until is None:
            return ""
        return "-".join("" if day is None else f"{day:%Y%m%d}" for day in (self.since, self.until))


class Dicomweb(HttpPlace, _Images):
    """A PACS by QIDO-RS and WADO-RS: `[datasets.NAME.dicomweb]`."""


class Dimse(Pulled, _Images):
    """A PACS by C-FIND and C-GET or C-MOVE: `[datasets.NAME.dimse]`.

    Attributes:
        address: its host and port; aet: its title; calling: ours, as it knows us.
        retrieve: `get`, or `move` for a PACS that cannot: it then sends to `listen`, by the name `calling`.
        callers: titles by which the PACS moves to us besides `aet`; no other is let in.
        ca_file: speak TLS, trusting these.
    """

    address: Address
    aet: Aet
    calling: Aet = "CORSIA"
    retrieve: Literal["get", "move"] = "get"
    listen: Address | None = None
    callers: Annotated[tuple[Aet, ...], Field(max_length=256)] = ()
    ca_file: Path | None = None
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0

    @model_validator(mode="after")
    def _told(self) -> Dimse:
        if (self.retrieve == "move") != (self.listen is not None):
            raise ValueError("listen is for retrieve = 'move', which needs it")
        if self.callers and self.listen is None:
            raise ValueError("callers are for retrieve = 'move'")
        return self


class Receiver(_Model):
    """Where modalities push to by C-STORE: `[datasets.NAME.receiver]`.

    Attributes:
        listen: host and port; aet: our title, by which alone we are called.
        callers: titles that may send.
        max_bytes: of all that is kept; beyond it C-STORE is answered "out of resources".
    """

    listen: Address
    aet: Aet = "CORSIA"
    callers: Annotated[tuple[Aet, ...], Field(min_length=1, max_length=256)]
    max_bytes: Annotated[int, Field(gt=0, le=10**15)] = 1_000_000_000_000


class FhirServer(HttpPlace):
    """A FHIR R4 server: `[datasets.NAME.fhir_server]`.

    Attributes:
        mode: `search`, type by type with paging; `export`, Bulk Data (NDJSON).
        types: of resources. Patient belongs among them, or nothing can be matched to the table.
        group: with `export`, of this Group alone.
        page_size: resources asked for at a time.
    """

    mode: Literal["search", "export"] = "search"
    types: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]{2,63}$")], ...], Field(min_length=1)] = (
        "Patient", "Encounter", "Condition", "Observation", "MedicationRequest", "Procedure", "DiagnosticReport",
    )  # fmt: skip
    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9.\-]{1,64}$")] | None = None
    page_size: Annotated[int, Field(ge=1, le=10_000)] = 200


class Database(_Model):
    """A relation, or an OMOP CDM 5.4 schema, of a database: `[datasets.NAME.sql]`, `[datasets.NAME.omop_sql]`.

    Attributes:
        url_file: one line, an SQLAlchemy URL with user and password; mode 0600.
        relation: a table or view, `schema.name` or `name`; for `omop_sql` the schema, "" for the default one.
        stated_read_only: for databases other than PostgreSQL and SQLite, whose rights we cannot look up: the site
            states that the credentials can only read.
        max_rows: beyond it the table is refused.
        timeout_s: of one statement, where the database knows such a bound.
    """

    url_file: Path
    relation: Annotated[str, Field(max_length=256, pattern=r"^[^\x00]*$")] = ""
    stated_read_only: bool = False
    max_rows: Annotated[int, Field(ge=1, le=10**9)] = 10_000_000
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 3600.0


class Redcap(_Model):
    """A REDCap project exported as CSV (`table` is the export): `[datasets.NAME.redcap]`.

    Attributes:
        dictionary: the project's data dictionary, CSV.
    """

    dictionary: Path


def mirror_root(state_dir: Path, dataset: str, kind: str) -> Path:
    """The folder of a mirror, of kind `dicom` or `fhir`; what was pulled lies in its `records`."""
    return state_dir / "sources" / dataset / kind


def is_pulled(dataset: Any, kind: str) -> bool:
    """Whether a kind of a dataset's data is pulled into a mirror, or pushed to it."""
    return any(getattr(dataset, place) is not None for place, of in _MIRRORED.items() if of == kind)


def completed(dataset: dict[str, Any], name: str, base: Path, state_dir: Any) -> dict[str, Any]:
    """A dataset as edge.toml has it, with absolute paths, and the folders into which its places are pulled.

    Raises:
        ConfigurationError: `config.invalid` for a folder and a server of one kind.
    """
    made = {k: base / v if k in PATHS and isinstance(v, str) else v for k, v in dataset.items()}
    for place in (*PLACES, "redcap"):
        if isinstance(inner := made.get(place), dict):
            named = {
                k: v for k, v in inner.items() if isinstance(v, str) and (k.endswith("_file") or k == "dictionary")
            }
            made[place] = inner | {k: base / v for k, v in named.items()}
    for place, kind in _MIRRORED.items():
        if place in made and isinstance(state_dir, Path):
            folder = mirror_root(state_dir, str(name), kind) / "records"
            if made.get(kind, folder) != folder:
                raise ConfigurationError("config.invalid", f"datasets.{name}: {kind} or {place}, not both")
            made[kind] = folder
    return made

"""Lane 2, edge anonymization: de-identified rows and DICOM files leave, everything that says who it is stays.

table -> roles -> pseudonyms, shifted dates, redacted text, bands, k -> `records.parquet`; each file -> PS3.15 profile
under the same pseudonym and date shift -> a second, independent look -> one item named by its new UID; a report of
counts and rules. A file that fails is withheld alone, by a fixed word, and the rest goes on. Consent and selection
were applied by the source; sealing and the last check of what leaves are the gate's.

Source: PS3.15 annex E.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines import Gate, Job, Source, SourceFile
from pipelines.records import parquet, typed
from privacy.deid import residual
from privacy.deid.profiles import Profile, load
from privacy.deid.pseudonym import Pseudonymizer, normalise_id
from privacy.deid.table import PSEUDONYM, TableEngine, TableSpec, as_text
from privacy.deid.text import TextEngine
from protocol.errors import DisclosureRefused, InputError
from protocol.parcel import Item, ItemKind, canonical_json

if TYPE_CHECKING:
    import pandas as pd

    from privacy.deid.dicom import DicomEngine

__all__ = ["Parameters", "run"]

# What a file is withheld for, by the error that refused it.
_REASONS = {"input.dicom": "unreadable", "input.pixels": "burned-in", "gate.residual": "residual"}


class Parameters(BaseModel):
    """Parameters of pipeline `anonymize` 1.

    Attributes:
        options: PS3.15 options of the basic profile (`retain-longitudinal-modified-dates`, ...).
        bands: column (role quasi or birthdate) -> width of its bands.
        text_language: of the free-text columns and descriptors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    options: tuple[str, ...] = Field(("retain-longitudinal-modified-dates",), max_length=16)
    bands: dict[str, float] = Field(default_factory=dict)
    text_language: Literal["it", "en"] = "it"


def run(job: Job, source: Source, gate: Gate) -> None:
    """Put `records.parquet`, one item a DICOM file, and `report.json`.

    Raises:
        InputError: `input.study` for parameters, `input.usage` for options not offered, `input.column-missing`,
            `input.table` when a column is not of its declared type. Nothing was put by then.
    """
    parameters = _parameters(job)
    profile = load("basic", frozenset(parameters.options))
    keys = Pseudonymizer(job.key)
    text = TextEngine(parameters.text_language)
    report: dict[str, Any] = {"key_id": keys.key_id}
    frame = source.table()
    known: dict[str, list[str]] = {}
    if frame is not None:
        report["table"], known = _put_table(job, frame, TableEngine(_spec(job, parameters), keys, text), gate)
    if job.study.dataset.images and job.study.output.files:
        report["files"] = _put_files(source, gate, keys, profile, text, known)
        report["files"] |= {"profile": profile.name, "edition": profile.edition, "options": sorted(profile.options)}
    gate.put(Item(kind=ItemKind.REPORT, name="report.json", data=canonical_json(report)))


def _parameters(job: Job) -> Parameters:
    try:
        return Parameters.model_validate(job.study.pipeline.parameters)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError("input.study", f"pipeline.parameters.{where}: {first['msg']}") from None


def _spec(job: Job, parameters: Parameters) -> TableSpec:
    """Roles are the site's; released is what the study both reads and declares as output."""
    study = job.study
    release = [name for name in study.dataset.columns if study.output.column(name) is not None]
    for name in release:
        if name not in job.roles:
            raise InputError("input.column-missing", f"the site gives column {name!r} no role")
    bands = {name: width for name, width in parameters.bands.items() if name in job.roles}
    return TableSpec(roles=job.roles, bands=bands, k=study.privacy.k, release=release)


# -- the table


def _put_table(
    job: Job, frame: pd.DataFrame, engine: TableEngine, gate: Gate
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Put the rows; return the report and, by normalised patient id, what identifies him in any text."""
    result = engine.deidentify(frame)
    columns = {}
    for name in result.frame.columns:
        declared = job.study.output.column(name)
        if declared is None:
            raise DisclosureRefused("gate.undeclared", f"the study does not declare column {name!r}")
        columns[name] = typed(result.frame[name], declared)
    for reason, count in result.withheld.items():
        gate.withhold(reason, count)
    if len(result.frame):
        persons = int(result.frame[PSEUDONYM].nunique())
        rows = len(result.frame)
        gate.put(Item(kind=ItemKind.TABLE, name="records.parquet", data=parquet(columns), persons=persons, rows=rows))
    return result.report, _known(job, frame, engine)


def _known(job: Job, frame: pd.DataFrame, engine: TableEngine) -> dict[str, list[str]]:
    patient = job.column("patient") or ""
    known: dict[str, list[str]] = defaultdict(list)
    names = [str(name) for name in frame.columns]
    for row in frame.itertuples(index=False, name=None):
        record = dict(zip(names, row, strict=True))
        known[normalise_id(as_text(record[patient]))] += engine.known(record)
    return {key: list(dict.fromkeys(values)) for key, values in known.items() if key}


# -- the files


def _put_files(
    source: Source,
    gate: Gate,
    keys: Pseudonymizer,
    profile: Profile,
    text: TextEngine,
    known: Mapping[str, list[str]],
) -> dict[str, Any]:
    """Put what comes out clean, withhold what does not; return the counts."""
    from privacy.deid.dicom import DicomEngine

    engine = DicomEngine(keys, profile=profile, text=text)
    done: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    persons: set[str] = set()
    names: set[str] = set()
    for number, file in enumerate(source.files(), 1):
        try:
            item, person, counts = _file(file, engine, profile, known)
        except (InputError, DisclosureRefused) as error:
            reason = _REASONS.get(error.code)
            if reason is None:
                raise
            gate.withhold(reason)
            done[reason] += 1
            continue
        if item.name in names:  # the same instance twice: one is enough
            done["duplicate"] += 1
            gate.withhold("duplicate")
            continue
        names.add(item.name)
        gate.put(item)
        done["released"] += 1
        elements.update(counts)
        persons.add(person)
        gate.progress(number, 0)
    return {"counts": dict(done), "elements": dict(elements), "persons": len(persons)}


def _file(
    file: SourceFile, engine: DicomEngine, profile: Profile, known: Mapping[str, list[str]]
) -> tuple[Item, str, dict[str, int]]:
    """De-identify one file and look again.

    Raises:
        InputError: `input.dicom`, `input.pixels`.
        DisclosureRefused: `gate.residual`.
    """
    result = engine.deidentify(file.data, lambda patient_id: known.get(normalise_id(patient_id), ()))
    if residual.left_in_file(file.data, result.data, profile.options):
        raise DisclosureRefused("gate.residual")
    item = Item(kind=ItemKind.DICOM, name=f"{result.sop_instance_uid}.dcm", data=result.data, persons=1, rows=1)
    return item, result.pseudonym, result.counts

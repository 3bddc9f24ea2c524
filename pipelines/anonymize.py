"""Lane 2, edge anonymization: de-identified rows, images and FHIR leave, everything that says who it is stays.

table -> roles -> pseudonyms, shifted dates, redacted text, bands or lattice, k, l, t -> `records.parquet`; each DICOM
file -> PS3.15 profile, pixels where asked -> a second, independent look -> one item named by its new UID; each FHIR
file -> every element known or gone -> one item named by pseudonym; a report with a certificate: counts and rules. One
key and one date shift for a person in all of them. What fails is withheld alone, by a fixed word, and the rest goes on.
Consent and selection were applied by the source; sealing and the last check of what leaves are the gate's.

Source: PS3.15 annex E; HL7 FHIR R4.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines import Gate, Job, Source, SourceFile
from pipelines.records import parquet, typed
from privacy.deid import residual
from privacy.deid.profiles import Profile, load
from privacy.deid.pseudonym import Pseudonymizer, normalise_id
from privacy.deid.table import PSEUDONYM, TableEngine, TableSpec, as_text
from privacy.deid.text import TextEngine
from protocol.errors import CorsiaError, DisclosureRefused, InputError
from protocol.parcel import Item, ItemKind, canonical_json
from protocol.validation import first_fault

if TYPE_CHECKING:
    import pandas as pd

    from privacy.deid.certificate import Certificate, CountedCleaner
    from privacy.deid.dicom import Deidentified, DicomEngine
    from privacy.deid.fhir import FhirEngine

__all__ = ["Parameters", "run"]

# What a file is withheld for, by the error that refused it.
_REASONS = {
    "input.deidentified": "deidentified-before",
    "input.dicom": "unreadable",
    "input.fhir": "unreadable",
    "input.pixels": "burned-in",
    "gate.residual": "residual",
}


class Parameters(BaseModel):
    """Parameters of pipeline `anonymize` 1. k, l, t and the sensitive columns are the study's `[privacy]`.

    Attributes:
        options: PS3.15 options of the basic profile (`retain-longitudinal-modified-dates`, ...).
        allow_risky: with `clean-pixel-data`, clean screenshots and photographs instead of withholding them.
        bands: column (role quasi or birthdate) -> width of its bands.
        hierarchies: column (role quasi or birthdate) -> how it may be generalised (`privacy.deid.hierarchy.build`); the
            lattice search then chooses the levels of all of them together.
        suppression_limit: share of rows that the search may withhold, 0 to 1; else it refuses the table.
        loss: what the search keeps smallest.
        text_language: of the free-text columns, descriptors and FHIR texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    options: tuple[str, ...] = Field(("retain-longitudinal-modified-dates",), max_length=16)
    allow_risky: bool = False
    bands: dict[str, float] = Field(default_factory=dict)
    hierarchies: dict[str, dict[str, Any]] = Field(default_factory=dict)
    suppression_limit: float | None = Field(None, ge=0, le=1)
    loss: Literal["ncp", "entropy", "discernibility"] = "ncp"
    text_language: Literal["it", "en"] = "it"


class _Known:
    """What the table's rows say of a person: it goes from his texts everywhere, and is looked for in his output."""

    def __init__(self) -> None:
        self._values: defaultdict[str, dict[str, None]] = defaultdict(dict)

    def learn(self, job: Job, frame: pd.DataFrame, engine: TableEngine) -> None:
        patient = job.column("patient") or ""
        names = [str(name) for name in frame.columns]
        for row in frame.itertuples(index=False, name=None):
            record = dict(zip(names, row, strict=True))
            self._values[normalise_id(as_text(record[patient]))].update(dict.fromkeys(engine.known(record)))

    def of(self, patient_id: str) -> Sequence[str]:
        person = normalise_id(patient_id)
        return tuple(self._values[person]) if person and person in self._values else ()


def run(job: Job, source: Source, gate: Gate) -> None:
    """Put `records.parquet`, one item a DICOM file, one a FHIR file, and `report.json`.

    Raises:
        InputError: `input.study` for parameters, `input.usage` for options not offered, `input.column-missing`,
            `input.table` when a column is not of its declared type. Nothing was put by then.
        DisclosureRefused: `gate.k` when no levels hold k, l and t within the suppression limit.
    """
    from privacy.deid.certificate import Certificate

    parameters = _parameters(job)
    profile = load("basic", frozenset(parameters.options))
    pixels = _pixels(parameters, profile)
    keys, text = Pseudonymizer(job.key), TextEngine(parameters.text_language)
    certificate = Certificate(keys.key_id, profile, pixels)
    report: dict[str, Any] = {"key_id": keys.key_id}
    known = _Known()
    frame = source.table()
    if frame is not None:
        engine = TableEngine(_spec(job, parameters), keys, text)
        report["table"] = _put_table(job, frame, engine, gate, certificate)
        known.learn(job, frame, engine)
    if job.study.dataset.images and job.study.output.files:
        from privacy.deid.dicom import DicomEngine

        files = DicomEngine(keys, profile=profile, text=text, pixels=pixels)
        report["files"] = _put_files(source, gate, files, known, certificate)
    if job.study.dataset.fhir and job.study.output.documents:
        from privacy.deid.fhir import FhirEngine

        documents = FhirEngine(keys, text, patient_system=job.patient_system)
        report["documents"] = _put_documents(source, gate, documents, known, certificate)
    report["certificate"] = certificate.as_dict(report.get("table"))
    gate.put(Item(kind=ItemKind.REPORT, name="report.json", data=canonical_json(report)))


def _parameters(job: Job) -> Parameters:
    try:
        return Parameters.model_validate(job.study.pipeline.parameters)
    except ValidationError as error:
        raise InputError("input.study", first_fault(error, "pipeline", "parameters")) from None


def _pixels(parameters: Parameters, profile: Profile) -> CountedCleaner | None:
    """The cleaner, which loads its models from their packages when the first picture needs them."""
    if "clean-pixel-data" not in profile.options:
        return None
    from privacy.deid.certificate import CountedCleaner
    from privacy.deid.pixels import PixelPolicy

    return CountedCleaner(PixelPolicy(allow_risky=parameters.allow_risky))


def _reason(error: CorsiaError) -> str:
    """The word under which what an engine refused is withheld; an error that is not of the file goes on."""
    reason = _REASONS.get(error.code)
    if reason is None:
        raise error
    return reason


# -- the table


def _spec(job: Job, parameters: Parameters) -> TableSpec:
    """Roles are the site's; released is what the study both reads and declares as output."""
    study = job.study
    release = [name for name in study.dataset.columns if study.output.column(name) is not None]
    for name in release:
        if name not in job.roles:
            raise InputError("input.column-missing", f"the site gives column {name!r} no role")
    sensitive = [name for name in study.privacy.sensitive if name in release]
    numbers = [name for name in sensitive if getattr(study.output.column(name), "dtype", "") in ("int", "float")]
    return TableSpec(
        roles=job.roles,
        bands={name: width for name, width in parameters.bands.items() if name in job.roles},
        hierarchies={name: how for name, how in parameters.hierarchies.items() if name in job.roles},
        suppression_limit=parameters.suppression_limit,
        loss=parameters.loss,
        k=study.privacy.k,
        l=study.privacy.l if sensitive else None,
        l_kind=study.privacy.l_kind,
        t=study.privacy.t if sensitive else None,
        sensitive=sensitive,
        ordered=numbers,
        release=release,
    )


def _put_table(
    job: Job, frame: pd.DataFrame, engine: TableEngine, gate: Gate, certificate: Certificate
) -> dict[str, Any]:
    result = engine.deidentify(frame)
    columns = {}
    for name in result.frame.columns:
        declared = job.study.output.column(name)
        if declared is None:
            raise DisclosureRefused("gate.undeclared", f"the study does not declare column {name!r}")
        columns[name] = typed(result.frame[name], declared)
    for reason, count in result.withheld.items():
        gate.withhold(reason, count)
    certificate.kept_back(result.withheld)
    if len(result.frame):
        persons = int(result.frame[PSEUDONYM].nunique())
        rows = len(result.frame)
        gate.put(Item(kind=ItemKind.TABLE, name="records.parquet", data=parquet(columns), persons=persons, rows=rows))
    return result.report


# -- the images


def _put_files(
    source: Source, gate: Gate, engine: DicomEngine, known: _Known, certificate: Certificate
) -> dict[str, Any]:
    """Put what comes out clean, withhold what does not; return the counts."""
    done: Counter[str] = Counter()
    persons: set[str] = set()
    names: set[str] = set()
    for number, file in enumerate(source.files(), 1):
        gate.progress(number, 0)
        try:
            item, result = _file(file, engine, known, certificate)
            reason = "duplicate" if item.name in names else ""  # the same instance twice: one is enough
        except (InputError, DisclosureRefused) as error:
            reason = _reason(error)
        if reason:
            gate.withhold(reason)
            certificate.kept_back({reason: 1})
            done[reason] += 1
            continue
        gate.put(item)
        certificate.passed(result)
        names.add(item.name)
        persons.add(result.pseudonym)
        done["released"] += 1
    return {"counts": dict(done), "persons": len(persons)}


def _file(file: SourceFile, engine: DicomEngine, known: _Known, certificate: Certificate) -> tuple[Item, Deidentified]:
    """De-identify one file and look again.

    Raises:
        InputError: `input.dicom`, `input.deidentified`, `input.pixels`.
        DisclosureRefused: `gate.residual`.
    """
    result = engine.deidentify(file.data, known.of)
    look = residual.inspect(file.data, result.data, engine.profile.options)
    certificate.looked(look)
    if look.hits:
        raise DisclosureRefused("gate.residual")
    item = Item(kind=ItemKind.DICOM, name=f"{result.sop_instance_uid}.dcm", data=result.data, persons=1, rows=1)
    return item, result


# -- the documents


def _put_documents(
    source: Source, gate: Gate, engine: FhirEngine, known: _Known, certificate: Certificate
) -> dict[str, Any]:
    """Read all to learn who is who, then put each file under a pseudonym; a resource that fails is left out alone."""
    from privacy.deid.fhir_files import parse, render
    from privacy.deid.fhir_r4 import EDITION

    for file in source.documents("fhir"):
        for text in _resources(file):
            with suppress(InputError):  # counted when it is its turn
                engine.learn(parse(text))
    done: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for file in source.documents("fhir"):
        clean: list[str] = []
        person = None
        for text in _resources(file):
            try:
                resource = parse(text)
                clean.append(render(engine.deidentify(resource, known.of)))
                person = engine.pseudonym(resource)
            except (InputError, DisclosureRefused, RecursionError) as error:
                reason = _reason(error) if isinstance(error, CorsiaError) else "unreadable"
                gate.withhold(reason)
                done[reason] += 1
        if clean:
            single = file.name.endswith(".json")
            name = (person if single else None) or engine.label(file.name)
            names[name] += 1
            name += f"-{names[name]}" if names[name] > 1 else ""
            name, end = (f"{name}.json", "") if single else (f"{name}.ndjson", "\n")
            data = "".join(text + end for text in clean).encode()
            gate.put(Item(kind=ItemKind.DOCUMENT, name=name, data=data, persons=1, rows=len(clean)))
            done["released"] += 1
    certificate.kept_back({reason: count for reason, count in done.items() if reason != "released"})
    return {"counts": dict(done), "elements": dict(engine.counts), "edition": EDITION}


def _resources(file: SourceFile) -> list[bytes]:
    """The text of each resource of a file: its lines, or the whole."""
    return [line for line in file.data.splitlines() if line.strip()] if file.name.endswith(".ndjson") else [file.data]

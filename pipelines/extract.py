"""Lane 3, edge feature extraction: images, genomes and records stay; one row of numbers a patient leaves.

table -> clinical columns; DICOM -> radiomics; FHIR and OMOP -> histories; genotypes -> scores and burdens; omics
matrix -> gene-set scores; area and day -> context. All parts meet in one row by the study's pseudonym; cohort checked;
one table and one report to the gate. A record that fails is set aside and counted, the others go on.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines import Gate, Job, Source
from pipelines.features import clinical, parts, questionnaires
from pipelines.features.events import MAX_REPORTED, Events, Findings, from_table
from pipelines.features.wearables import Parameters as Weeks
from pipelines.records import parquet, typed
from privacy.deid.pseudonym import Pseudonymizer
from protocol.errors import DisclosureRefused, InputError
from protocol.parcel import Item, ItemKind, canonical_json
from protocol.study import Column, Study
from protocol.validation import first_fault

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Parameters", "Patients", "parameters_of", "run"]

_KEY = "pseudonym"


class Parameters(BaseModel):
    """Parameters of pipeline `extract` 1; a part that is not named is not made.

    Attributes:
        images: compute radiomics (needs `dataset.images`); default: as `dataset.images` says.
        roi: region by name or glob, case ignored; several that match are joined. Without it there must be one.
        bin_width: short for `radiomics = {bin_width = ...}`.
        radiomics: settings of the extractor (`pipelines.features.ibsi.settings`).
        history: clinical history from FHIR, OMOP and `events` (`pipelines.features.history`); `answers`: questionnaires
            whose FHIR answers are scored first.
        events: the table holds events, one a row: name in `events.from_table` (code, system, day, value, unit, kind...)
            -> column of the table.
        questionnaires: the table holds questionnaires, one a row: instrument -> its item columns, in order; `day` is
            their date column.
        index: date column of the table that gives each patient's index date.
        genomics, matrix, context: see `pipelines.features.parts`.
        wearables: `pipelines.features.wearables`, over the table's rows; `day`: their date column.
        rows: what becomes of several rows of a patient in the table.
        bands: number column -> width: it leaves as the lower end of its band, so that patients share values.
        join: `inner` drops patients who lack a part, `left` keeps them with empty cells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    images: bool | None = Field(None, strict=True)
    roi: str | None = Field(None, min_length=1, max_length=128)
    bin_width: float | None = Field(None, gt=0, le=1e6, strict=True)
    radiomics: dict[str, Any] = Field(default_factory=dict)
    history: dict[str, Any] | None = None
    answers: tuple[str, ...] = ()
    events: dict[str, str] | None = None
    questionnaires: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    index: str | None = None
    genomics: parts.Genomics | None = None
    matrix: parts.Matrix | None = None
    context: parts.Context | None = None
    wearables: Weeks | None = None
    day: str | None = None
    rows: Literal["first", "mean"] = "first"
    bands: dict[str, Annotated[float, Field(gt=0, le=1e9)]] = Field(default_factory=dict)
    join: Literal["inner", "left"] = "inner"


def run(job: Job, source: Source, gate: Gate) -> None:
    """Put `features.parquet` (one row a patient, sorted by pseudonym) and `report.json`.

    Raises:
        InputError: `input.study` for parameters; `input.column-missing`, `input.table`, `input.rows`, and those of
            the parts.
        PolicyRefused: `policy.columns`.
        DisclosureRefused: `gate.cohort` below the study's minimum, `gate.undeclared` when the study does not declare
            the column `pseudonym`. Nothing was put by then.
    """
    if job.study.output.column(_KEY) is None:
        raise DisclosureRefused("gate.undeclared", "the study does not declare the column 'pseudonym'")
    patients = Patients(job, source, parameters_of(job.study, job.study.pipeline.parameters), gate)
    rows = patients.rows()
    if len(rows) < job.study.privacy.min_cohort:
        raise DisclosureRefused("gate.cohort", f"fewer than {job.study.privacy.min_cohort} patients remain")
    columns = {_KEY: typed(rows.index.to_series(name=_KEY), Column(name=_KEY, dtype="string"))}
    for name in sorted(rows.columns):
        declared = job.study.output.column(name)
        if declared is not None:
            columns[name] = typed(rows[name], declared)
    table = parquet(columns)
    gate.put(Item(kind=ItemKind.TABLE, name="features.parquet", data=table, persons=len(rows), rows=len(rows)))
    report = {"rows": len(rows), "columns": len(columns), **patients.report()}
    gate.put(Item(kind=ItemKind.REPORT, name="report.json", data=canonical_json(report)))


def parameters_of(study: Study, given: Mapping[str, Any]) -> Parameters:
    """The parameters of a study's rows.

    Raises:
        InputError: `input.study`, naming the field.
    """
    try:
        parameters = Parameters.model_validate(given)
    except ValidationError as error:
        raise InputError("input.study", first_fault(error, "pipeline", "parameters")) from None
    asked = study.dataset
    for name, wanted, there in (
        ("images", parameters.images, asked.images),
        ("history", parameters.history, asked.fhir or asked.omop or parameters.events or parameters.questionnaires),
        ("genomics", parameters.genomics, asked.genotypes),
        ("matrix", parameters.matrix, asked.matrix),
    ):
        if wanted and not there:
            raise InputError("input.study", f"pipeline.parameters.{name}: the study's [dataset] does not ask for it")
    return parameters


class Patients:
    """The parts of one job, each a frame by pseudonym, and what is to be said of them.

    Attributes:
        known: pseudonym -> the patient's id here. It never leaves the worker but to the site's own gate.
    """

    def __init__(self, job: Job, source: Source, parameters: Parameters, gate: Gate) -> None:
        self._job, self._source, self._parameters, self._gate = job, source, parameters, gate
        self._keys = Pseudonymizer(job.key)
        self.known: dict[str, str] = {}
        self._table = source.table()
        self._patient = job.column("patient")
        if self._table is not None and (self._patient is None or self._patient not in self._table.columns):
            raise InputError("input.column-missing", "no column of the table has the role 'patient'")
        self._findings, self._counts = Findings(), Counter[str]()
        self._versions: dict[str, Any] = {}
        self.join = parameters.join
        self.images: pd.DataFrame | None = None
        self.failed: frozenset[str] = frozenset()  # patients whose images cannot be used
        self.persons: frozenset[str] | None = None  # of the table
        if self._table is not None:
            self.persons = frozenset(self._person(str(one)) for one in self._table[self._patient])

    def rows(self) -> pd.DataFrame:
        """One row a patient, sorted by pseudonym."""
        made = [part for part in (self.clinical(), self.radiomics(), *self.documents()) if part is not None]
        return _banded(_joined(made, self, self._gate), self._parameters.bands)

    def clinical(self) -> pd.DataFrame | None:
        """The declared columns of the table, one row a patient."""
        names = clinical.columns(self._job)
        if self._table is None:
            if names:
                raise InputError("input.column-missing", f"the dataset has no table for column {names[0]!r}")
            return None
        persons = self._table[self._patient].astype(str).map(self._person)
        return clinical.aggregate(self._table, persons, names, self._parameters.rows)

    def radiomics(self) -> pd.DataFrame | None:
        """Declared features of each patient whose case is sound."""
        wanted = self._parameters
        if not (wanted.images if wanted.images is not None else self._job.study.dataset.images):
            return None
        import pandas as pd

        from pipelines.features import radiomics
        from pipelines.features.cases import Cases, radiomic

        settings = radiomics.Settings.of(
            wanted.radiomics | ({} if wanted.bin_width is None else {"bin_width": wanted.bin_width})
        )
        cases = Cases(radiomic(settings, wanted.roi))
        for file in self._source.files():
            if not cases.add(file, self._person):
                self._gate.withhold("unreadable")
            self._gate.progress(len(cases.made), len(self.persons or ()))
        cases.settle()
        if cases.failed:
            self._gate.withhold("image", len(cases.failed))
        self.failed = frozenset(cases.failed)
        self._findings.errors += [(record, code, "image") for record, code in cases.errors[:MAX_REPORTED]]
        self._versions = {"settings_digest": settings.digest, "versions": radiomics.versions()}
        globs = [column.name for column in self._job.study.output.columns]
        rows = {
            person: {k: v for k, v in found.items() if any(fnmatch.fnmatchcase(k, glob) for glob in globs)}
            for person, found in cases.made.items()
        }
        self.images = pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), dtype="str"), dtype="float64")
        return self.images

    def documents(self) -> Iterable[pd.DataFrame]:
        """Histories, genomics, matrix, wearables and context, where the study asks for them."""
        wanted, person, read = self._parameters, self._person, self._source.documents
        ids = None if self._table is None else self._table[self._patient].astype(str).unique().tolist()
        asked, findings, days = self._job.study.dataset, self._findings, self._index_days()
        if wanted.history is not None:
            files = {kind: read(kind) for kind in ("fhir", "omop") if getattr(asked, kind)}
            yield parts.histories(
                wanted.history,
                wanted.answers,
                files,
                self._recorded(),
                person=person,
                patient_system=self._job.patient_system,
                index_days=days,
                findings=findings,
            )
        if wanted.genomics is not None:
            yield parts.genotypes(wanted.genomics, read("genotypes"), ids=ids, person=person, counts=self._counts)
        if wanted.matrix is not None:
            yield parts.matrix(wanted.matrix, read("matrix"), ids=ids, person=person, counts=self._counts)
        if wanted.wearables is not None:
            renamed = self._needed(wanted.day).rename(columns={self._patient: "person", wanted.day: "day"})
            yield parts.weeks(renamed, wanted.wearables, person=person, index_days=days, findings=findings)
        if wanted.context is not None:
            table = self._needed(wanted.context.area)
            areas = dict(zip(table[self._patient].astype(str), table[wanted.context.area], strict=True))
            yield parts.contexts(wanted.context, areas, person=person, index_days=days, findings=findings)

    def report(self) -> dict[str, Any]:
        """Counts and versions; opaque ids of records that failed, with their codes."""
        told: dict[str, Any] = dict(self._versions)
        if self._counts or self._findings.counts:
            told["counts"] = dict(sorted((self._counts + self._findings.counts).items()))
        if self._findings.errors:
            told["errors"] = [{"record": record, "code": code} for record, code, _ in self._findings.errors]
        return told

    def _person(self, patient: str) -> str:
        made = self._keys.pseudonym(patient)
        self.known.setdefault(made, patient)
        return made

    def _recorded(self) -> list[Events]:
        """Events and questionnaires that the table itself holds."""
        wanted = self._parameters
        found: list[Events] = []
        if wanted.events is not None:
            columns = {column: name for name, column in wanted.events.items()}
            table = self._needed(*columns)[[str(self._patient), *columns]]
            found.append(from_table(table.rename(columns=columns | {self._patient: "person"}), person=self._person))
        for name, items in wanted.questionnaires.items():
            table = self._needed(wanted.day, *items).rename(columns={self._patient: "person", wanted.day: "day"})
            found.append(questionnaires.score(table, questionnaires.instrument(name, items), person=self._person))
        return found

    def _index_days(self) -> dict[str, int]:
        if self._parameters.index is None:
            return {}
        return parts.index_of(
            self._needed(self._parameters.index), str(self._patient), self._parameters.index, self._person
        )

    def _needed(self, *columns: str | None) -> pd.DataFrame:
        for column in columns:
            if self._table is None or column is None or column not in self._table.columns:
                raise InputError("input.column-missing", f"the table has no column {column!r}, which the parts need")
        return cast("pd.DataFrame", self._table)


def _banded(rows: pd.DataFrame, bands: Mapping[str, float]) -> pd.DataFrame:
    import pandas as pd

    for name, width in bands.items():
        if name not in rows.columns or not pd.api.types.is_numeric_dtype(rows[name]):
            raise InputError("input.study", f"pipeline.parameters.bands: the row has no number {name!r}")
        rows[name] = rows[name] // width * width
    return rows


def _joined(made: list[pd.DataFrame], patients: Patients, gate: Gate) -> pd.DataFrame:
    """One row a patient, sorted by pseudonym; who drops out is counted."""
    if not made:
        raise InputError("input.rows", "the study asks for no part of a feature row")
    rows = made[0]
    for part in made[1:]:
        reason = "no-image" if part is patients.images else "no-part"
        shared = rows.columns.intersection(part.columns)
        if len(shared):
            raise InputError("input.study", f"two parts of the row make a column {shared[0]!r}")
        if patients.persons is not None:
            without_row = part.index.difference(sorted(patients.persons))
            if len(without_row):
                gate.withhold("no-row", len(without_row))
                part = part.drop(without_row)
        lacking = rows.index.difference(part.index).difference(sorted(patients.failed))
        if patients.join == "inner" and len(lacking):
            gate.withhold(reason, len(lacking))
        rows = rows.join(part, how=patients.join)
    return rows.sort_index()

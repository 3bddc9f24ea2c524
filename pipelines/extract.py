"""Lane 3, edge feature extraction: images and records stay; one row of numbers a patient leaves.

files -> cases by pseudonym -> series + mask -> radiomics; table -> clinical columns; joined on the pseudonym;
cohort checked; one table and one report to the gate. A case that fails is set aside and counted.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines import Gate, Job, Source, SourceFile
from pipelines.features import clinical, radiomics, series
from pipelines.records import parquet, typed
from privacy.deid.pseudonym import Pseudonymizer
from protocol.errors import DisclosureRefused, InputError
from protocol.parcel import Item, ItemKind, canonical_json
from protocol.study import Column

if TYPE_CHECKING:
    import pandas as pd
    from pydicom.dataset import Dataset

__all__ = ["HELD_BYTES", "Cases", "Parameters", "run"]

HELD_BYTES = 1 << 30
_KEY = "pseudonym"


class Parameters(BaseModel):
    """Parameters of pipeline `extract` 1.

    Attributes:
        images: compute radiomics (needs `dataset.images`); default: as `dataset.images` says.
        roi: region by name or glob, case ignored; several that match are joined. Without it there must be one.
        bin_width: of the grey levels, in the image's unit.
        rows: what becomes of several rows of a patient.
        join: `inner` drops patients without image features, `left` keeps them with empty cells.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
    images: bool | None = None
    roi: str | None = Field(None, min_length=1, max_length=128)
    bin_width: float = Field(25.0, gt=0, le=1e6)
    rows: Literal["first", "mean"] = "first"
    join: Literal["inner", "left"] = "inner"


def run(job: Job, source: Source, gate: Gate) -> None:
    """Put `features.parquet` (one row a patient, sorted by pseudonym) and `report.json`.

    Raises:
        InputError: `input.study` for parameters; `input.column-missing`, `input.table`, `input.rows`.
        PolicyRefused: `policy.columns`.
        DisclosureRefused: `gate.cohort` below the study's minimum, `gate.undeclared` when the study does not declare
            the column `pseudonym`. Nothing was put by then.
    """
    parameters = _parameters(job)
    if job.study.output.column(_KEY) is None:
        raise DisclosureRefused("gate.undeclared", "the study does not declare the column 'pseudonym'")
    pseudonyms = Pseudonymizer(job.key)
    names = clinical.columns(job)
    records = _clinical(job, source, pseudonyms, names, parameters)
    images: pd.DataFrame | None = None
    failed: frozenset[str] = frozenset()
    if parameters.images if parameters.images is not None else job.study.dataset.images:
        images, failed = _radiomics(job, source, pseudonyms, parameters, gate, records)
    rows = _join(records, images, failed, parameters, gate)
    if len(rows) < job.study.privacy.min_cohort:
        raise DisclosureRefused("gate.cohort", f"fewer than {job.study.privacy.min_cohort} patients remain")
    columns = {_KEY: typed(rows.index.to_series(name=_KEY), Column(name=_KEY, dtype="string"))}
    for name in sorted(rows.columns):
        declared = job.study.output.column(name)
        if declared is not None:
            columns[name] = typed(rows[name], declared)
    gate.put(
        Item(
            kind=ItemKind.TABLE,
            name="features.parquet",
            data=parquet(columns),
            persons=len(rows),
            rows=len(rows),
        )
    )
    report: dict[str, Any] = {"rows": len(rows), "columns": len(columns), "clinical_columns": len(names)}
    if images is not None:
        settings = radiomics.Settings(bin_width=parameters.bin_width)
        report |= {"settings_digest": settings.digest, "versions": radiomics.versions()}
    gate.put(Item(kind=ItemKind.REPORT, name="report.json", data=canonical_json(report)))


def _parameters(job: Job) -> Parameters:
    try:
        parameters = Parameters.model_validate(job.study.pipeline.parameters)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError("input.study", f"pipeline.parameters.{where}: {first['msg']}") from None
    if parameters.images and not job.study.dataset.images:
        raise InputError("input.study", "pipeline.parameters.images: dataset.images is false")
    return parameters


def _clinical(
    job: Job, source: Source, pseudonyms: Pseudonymizer, names: tuple[str, ...], parameters: Parameters
) -> pd.DataFrame | None:
    table = source.table()
    if table is None:
        if names:
            raise InputError("input.column-missing", f"the dataset has no table for column {names[0]!r}")
        return None
    patient = job.column("patient")
    if patient is None or patient not in table.columns:
        raise InputError("input.column-missing", "no column of the table has the role 'patient'")
    persons = table[patient].astype(str).map(pseudonyms.pseudonym)
    return clinical.aggregate(table, persons, names, parameters.rows)


def _radiomics(
    job: Job,
    source: Source,
    pseudonyms: Pseudonymizer,
    parameters: Parameters,
    gate: Gate,
    records: pd.DataFrame | None,
) -> tuple[pd.DataFrame, frozenset[str]]:
    """Declared features of each patient whose case is sound (index = pseudonym), and whose case is not."""
    import pandas as pd

    cases = Cases(parameters)
    for file in source.files():
        if not cases.add(file, pseudonyms):
            gate.withhold("unreadable")
        gate.progress(len(cases.features), 0 if records is None else len(records))
    cases.settle()
    if cases.failed:
        gate.withhold("image", len(cases.failed))
    globs = [column.name for column in job.study.output.columns]
    rows = {
        person: {k: v for k, v in found.items() if any(fnmatch.fnmatchcase(k, glob) for glob in globs)}
        for person, found in cases.features.items()
    }
    index = pd.Index(list(rows), dtype="str")
    return pd.DataFrame(list(rows.values()), index=index, dtype="float64"), frozenset(cases.failed)


def _join(
    records: pd.DataFrame | None,
    images: pd.DataFrame | None,
    failed: frozenset[str],
    parameters: Parameters,
    gate: Gate,
) -> pd.DataFrame:
    """One row a patient, sorted by pseudonym; who drops out is counted."""
    if images is None:
        if records is None:
            raise InputError("input.rows", "the study asks for neither images nor columns of a table")
        return records.sort_index()
    if records is None:
        return images.sort_index()
    without_row = images.index.difference(records.index)
    if len(without_row):
        gate.withhold("no-row", len(without_row))
    without_image = records.index.difference(images.index).difference(sorted(failed))
    if parameters.join == "inner" and len(without_image):
        gate.withhold("no-image", len(without_image))
    return records.join(images, how=parameters.join).sort_index()


@dataclass(slots=True)
class _Case:
    images: list[Dataset] = field(default_factory=list)
    masks: list[Dataset] = field(default_factory=list)


class Cases:
    """Images and masks gathered by patient until their features are computed.

    A case is complete only when the last file has come. Above `HELD_BYTES` all cases but the one that is coming are
    computed and let go, so a source that gives files grouped by patient may be of any size; a patient of whom more
    comes after that has failed.
    """

    def __init__(self, parameters: Parameters, held_bytes: int = HELD_BYTES) -> None:
        self._parameters = parameters
        self._settings = radiomics.Settings(bin_width=parameters.bin_width)
        self._bound = held_bytes
        self._held = 0
        self._open: dict[str, _Case] = {}
        self.features: dict[str, dict[str, float]] = {}
        self.failed: set[str] = set()

    def add(self, file: SourceFile, pseudonyms: Pseudonymizer) -> bool:
        """Take one file; False when it does not parse or names no patient."""
        import pydicom

        try:
            dataset = pydicom.dcmread(BytesIO(file.data), force=True)
            patient, modality = str(dataset.get("PatientID") or ""), str(dataset.get("Modality") or "")
        except Exception:  # a hostile file may raise anything from inside the parser: the caller counts it
            return False
        if not patient.strip() or "SOPClassUID" not in dataset:
            return False
        person = pseudonyms.pseudonym(patient)
        if modality not in (*series.MODALITIES, "RTSTRUCT", "SEG"):
            return True
        if person in self.features or person in self.failed:
            self._fail(person)
            return True
        if person not in self._open and self._held > self._bound:
            self.settle()
        case = self._open.setdefault(person, _Case())
        (case.images if modality in series.MODALITIES else case.masks).append(dataset)
        self._held += len(file.data)
        return True

    def settle(self) -> None:
        """Compute and let go of every case at hand. A patient without any mask or image is simply without."""
        for person, case in sorted(self._open.items()):
            if not case.images or not case.masks:
                continue
            try:
                self.features[person] = _features(case, self._parameters.roi, self._settings)
            except InputError:
                self._fail(person)
        self._open.clear()
        self._held = 0

    def _fail(self, person: str) -> None:
        self.features.pop(person, None)
        self.failed.add(person)


def _features(case: _Case, roi: str | None, settings: radiomics.Settings) -> dict[str, float]:
    """Features of a case: the structure set that fits, else the segmentation.

    Raises:
        InputError: `input.image` when none fits, or several do.
    """
    groups = series.group(case.images)
    problem = InputError("input.image", "no mask refers to an image of the patient")
    for modality in ("RTSTRUCT", "SEG"):
        fitting = []
        for mask in case.masks:
            if str(mask.Modality) == modality:
                try:
                    fitting.append(series.region(mask, groups, roi))
                except InputError as error:
                    problem = error
        if len(fitting) > 1:
            raise InputError("input.image", "several masks of one kind fit the patient's images")
        if fitting:
            volume, region = fitting[0]
            return radiomics.extract(volume.voxels, region, volume.spacing, settings)
    raise problem

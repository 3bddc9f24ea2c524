"""Cases: a patient's images and masks, gathered file by file until their radiomic features can be computed.

Place: DICOM files of lane 3 -> `Cases.add` -> `settle` -> one mapping of features a patient. A case that fails is set
aside; of what failed only the count is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING

from pipelines import SourceFile
from pipelines.features import radiomics, series
from protocol.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["HELD_BYTES", "Cases"]

HELD_BYTES = 1 << 30


@dataclass(slots=True)
class _Case:
    first: str  # opaque name of its first file
    images: list[Dataset] = field(default_factory=list)
    masks: list[Dataset] = field(default_factory=list)


class Cases:
    """Images and masks gathered by patient until their features are computed.

    A case is complete only when the last file has come. Above `HELD_BYTES` all cases but the one that is coming are
    computed and let go, so a source that gives files grouped by patient may be of any size; a patient of whom more
    comes after that has failed.

    Attributes:
        features: pseudonym -> features.
        failed: pseudonyms of patients whose case cannot be used.
        errors: (opaque name of a file of the case, code), in the order they were found.
    """

    def __init__(self, settings: radiomics.Settings, roi: str | None = None, held_bytes: int = HELD_BYTES) -> None:
        self._settings, self._roi, self._bound = settings, roi, held_bytes
        self._held = 0
        self._open: dict[str, _Case] = {}
        self.features: dict[str, dict[str, float]] = {}
        self.failed: set[str] = set()
        self.errors: list[tuple[str, str]] = []

    def add(self, file: SourceFile, person: Callable[[str], str]) -> bool:
        """Take one file, `person` making its PatientID a pseudonym; False when it does not parse or names nobody."""
        import pydicom

        try:
            dataset = pydicom.dcmread(BytesIO(file.data), force=True)
            patient, modality = str(dataset.get("PatientID") or ""), str(dataset.get("Modality") or "")
        except Exception:  # a hostile file may raise anything from inside the parser: the caller counts it
            patient, modality, dataset = "", "", {}
        if not patient.strip() or "SOPClassUID" not in dataset:
            self.errors.append((file.name, "input.dicom"))
            return False
        who = person(patient)
        if modality not in (*series.MODALITIES, "RTSTRUCT", "SEG"):
            return True
        if who in self.features or who in self.failed:
            self._fail(who, file.name, "input.image")
            return True
        if who not in self._open and self._held > self._bound:
            self.settle()
        case = self._open.setdefault(who, _Case(file.name))
        (case.images if modality in series.MODALITIES else case.masks).append(dataset)
        self._held += len(file.data)
        return True

    def settle(self) -> None:
        """Compute and let go of every case at hand. A patient without any mask or image is simply without."""
        for person, case in sorted(self._open.items()):
            if not case.images or not case.masks:
                continue
            try:
                self.features[person] = _features(case, self._roi, self._settings)
            except InputError as error:
                self._fail(person, case.first, error.code)
        self._open.clear()
        self._held = 0

    def _fail(self, person: str, record: str, code: str) -> None:
        if person not in self.failed:
            self.errors.append((record, code))
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
                    fitting.append(series.region(mask, groups, roi, threshold=settings.mask_threshold))
                except InputError as error:
                    problem = error
        if len(fitting) > 1:
            raise InputError("input.image", "several masks of one kind fit the patient's images")
        if fitting:
            volume, region = fitting[0]
            return radiomics.extract(volume.voxels, region, volume.spacing, settings)
    raise problem

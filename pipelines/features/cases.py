"""Cases: a patient's images and masks, gathered file by file until what is made of them can be made.

Place: DICOM files of lanes 3, 4 and inference -> `Cases.add` -> `settle` -> one value a patient. A case that fails is
set aside; of what failed only the count is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Generic, TypeVar

from pipelines import SourceFile
from pipelines.features import radiomics, series
from protocol.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["HELD_BYTES", "Case", "Cases", "fitting", "radiomic"]

HELD_BYTES = 1 << 30
T = TypeVar("T")


@dataclass(slots=True)
class Case:
    """What came of one patient.

    Attributes:
        first: opaque name of its first file.
        images: CT, MR and PT objects.
        masks: RTSTRUCT and SEG objects.
    """

    first: str
    images: list[Dataset] = field(default_factory=list)
    masks: list[Dataset] = field(default_factory=list)


class Cases(Generic[T]):
    """Images and masks gathered by patient until something is made of them.

    A case is complete only when the last file has come. Above `HELD_BYTES` all cases but the one that is coming are
    made use of and let go, so a source that gives files grouped by patient may be of any size; a patient of whom more
    comes after that has failed.

    Args:
        make: a case's value, or None for a patient without; an `InputError` sets the case aside.
        masks: whether masks are gathered too.

    Attributes:
        made: patient, as `person` names him -> value.
        failed: patients whose case cannot be used.
        errors: (opaque name of a file of the case, code), in the order they were found.
    """

    def __init__(self, make: Callable[[Case], T | None], *, masks: bool = True, held_bytes: int = HELD_BYTES) -> None:
        self._make, self._masks, self._bound = make, masks, held_bytes
        self._held = 0
        self._open: dict[str, Case] = {}
        self.made: dict[str, T] = {}
        self.failed: set[str] = set()
        self.errors: list[tuple[str, str]] = []

    def add(self, file: SourceFile, person: Callable[[str], str]) -> bool:
        """Take one file, `person` naming its patient; False when it does not parse or names nobody."""
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
        if modality not in (*series.MODALITIES, *(("RTSTRUCT", "SEG") if self._masks else ())):
            return True
        if who in self.made or who in self.failed:
            self._fail(who, file.name, "input.image")
            return True
        if who not in self._open and self._held > self._bound:
            self.settle()
        case = self._open.setdefault(who, Case(file.name))
        (case.images if modality in series.MODALITIES else case.masks).append(dataset)
        self._held += len(file.data)
        return True

    def settle(self) -> None:
        """Make use of every case at hand and let it go."""
        for person, case in sorted(self._open.items()):
            try:
                made = self._make(case)
            except InputError as error:
                self._fail(person, case.first, error.code)
                continue
            if made is not None:
                self.made[person] = made
        self._open.clear()
        self._held = 0

    def _fail(self, person: str, record: str, code: str) -> None:
        if person not in self.failed:
            self.errors.append((record, code))
        self.made.pop(person, None)
        self.failed.add(person)


def radiomic(settings: radiomics.Settings, roi: str | None = None) -> Callable[[Case], dict[str, float] | None]:
    """Makes of a case the radiomic features of its region; nothing of a patient without any mask or image."""

    def make(case: Case) -> dict[str, float] | None:
        if not case.images or not case.masks:
            return None
        volume, region = fitting(case, roi, settings.mask_threshold)
        return radiomics.extract(volume.voxels, region, volume.spacing, settings)

    return make


def fitting(case: Case, roi: str | None, threshold: float | None) -> tuple[series.Series, series.Mask]:
    """A case's region and its series: the structure set that fits, else the segmentation.

    Raises:
        InputError: `input.image` when none fits, or several do.
    """
    groups = series.group(case.images)
    problem = InputError("input.image", "no mask refers to an image of the patient")
    for modality in ("RTSTRUCT", "SEG"):
        found = []
        for mask in case.masks:
            if str(mask.Modality) == modality:
                try:
                    found.append(series.region(mask, groups, roi, threshold=threshold))
                except InputError as error:
                    problem = error
        if len(found) > 1:
            raise InputError("input.image", "several masks of one kind fit the patient's images")
        if found:
            return found[0]
    raise problem

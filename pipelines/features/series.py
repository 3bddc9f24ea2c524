"""Image series and masks: from DICOM objects to a volume and regions on its grid.

First step of lane 3. A series whose geometry is not certain is refused, never repaired: one wrong slice would shift
every feature. Errors say what is wrong, never who.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.8.8.6 (ROI contour), C.8.20.2 (segmentation).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.planes import reading, stacked
from protocol.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["MODALITIES", "Series", "build", "group", "region", "regions", "select", "target"]

MODALITIES = frozenset({"CT", "MR", "PT"})

Mask = NDArray[np.bool_]
_Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One volume.

    Attributes:
        uid: SeriesInstanceUID.
        modality: CT, MR or PT.
        voxels: float32 [slices, rows, columns], rescaled (HU for CT), slices along `normal`.
        spacing: mm between slices, rows, columns.
        origin: mm, centre of voxel [0, 0, 0] in patient coordinates.
        row: unit vector along which the column index grows; `column`: the row index; `normal`: the slice index.
        instances: SOPInstanceUID of each slice; frames of one multi-frame image share theirs.
    """

    uid: str
    modality: str
    voxels: NDArray[np.float32]
    spacing: tuple[float, float, float]
    origin: _Vector
    row: _Vector
    column: _Vector
    normal: _Vector
    instances: tuple[str, ...]


def group(images: Sequence[Dataset]) -> dict[str, list[Dataset]]:
    """CT, MR and PT images by SeriesInstanceUID; localizers are left out, equal copies of an instance dropped.

    Raises:
        InputError: `input.image` when two different objects bear one SOP Instance UID.
    """
    series: dict[str, dict[str, Dataset]] = {}
    for image in images:
        with reading("an image lacks its identity"):
            if str(image.Modality) not in MODALITIES or "LOCALIZER" in (image.get("ImageType") or ()):
                continue
            known = series.setdefault(str(image.SeriesInstanceUID), {})
            twin = known.setdefault(str(image.SOPInstanceUID), image)
            same = twin.get("PixelData") == image.get("PixelData")
        if not same:
            raise InputError("input.image", "two different images bear the same UID")
    return {uid: list(members.values()) for uid, members in series.items()}


def build(images: Sequence[Dataset]) -> Series:
    """A volume from the slices of one series, given in any order.

    Raises:
        InputError: `input.image` for mixed patients, frames of reference, orientation, size or spacing, a missing or
            double slice, a tilted gantry, frames without a place, colour, or pixels that do not decode.
    """
    if not images:
        raise InputError("input.image", "the series has no image")
    if len(_stated(images, "PatientID")) > 1:
        raise InputError("input.image", "the series mixes patients")
    if len(_stated(images, "FrameOfReferenceUID")) > 1:
        raise InputError("input.image", "the series mixes frames of reference")
    stack = stacked(images)
    first = stack.planes[0]
    return Series(
        uid=str(images[0].SeriesInstanceUID),
        modality=str(images[0].Modality),
        voxels=stack.voxels,
        spacing=(stack.step, *first.spacing),
        origin=first.position,
        row=first.row,
        column=first.column,
        normal=np.cross(first.row, first.column),
        instances=stack.instances,
    )


def target(mask: Dataset) -> frozenset[str]:
    """SeriesInstanceUIDs and SOPInstanceUIDs of the images that an RTSTRUCT or SEG refers to.

    Raises:
        InputError: `input.image` when it refers to none.
    """
    found: set[str] = set()
    with reading("the mask lacks its references"):
        for frame in mask.get("ReferencedFrameOfReferenceSequence", ()):
            for study in frame.get("RTReferencedStudySequence", ()):
                found |= {str(s.SeriesInstanceUID) for s in study.get("RTReferencedSeriesSequence", ())}
        found |= {str(series.SeriesInstanceUID) for series in mask.get("ReferencedSeriesSequence", ())}
        for region in () if found else mask.get("ROIContourSequence", ()):
            for contour in region.get("ContourSequence", ()):
                found |= set(_referenced(contour, "ContourImageSequence"))
        for frame in () if found else mask.get("PerFrameFunctionalGroupsSequence", ()):
            for derivation in frame.get("DerivationImageSequence", ()):
                found |= set(_referenced(derivation, "SourceImageSequence"))
    if not found:
        raise InputError("input.image", "the mask refers to no image")
    return frozenset(found)


def region(
    mask: Dataset, groups: Mapping[str, list[Dataset]], roi: str | None, *, threshold: float | None = None
) -> tuple[Series, Mask]:
    """The series that a mask refers to, and the union of the regions that `roi` selects.

    Args:
        mask: RTSTRUCT or SEG.
        groups: what `group` gave.
        roi: a name or glob; None for the only region.
        threshold: of a fractional SEG, above 0 to 1: voxels with at least this fraction are inside.

    Raises:
        InputError: `input.image` unless exactly one of the series is meant, of the mask's own patient and frame of
            reference, and as `build` and `regions`.
    """
    wanted = target(mask)
    hits = [
        members
        for uid, members in groups.items()
        if uid in wanted or any(str(image.SOPInstanceUID) in wanted for image in members)
    ]
    if len(hits) != 1:
        raise InputError("input.image", f"the mask refers to {len(hits)} of the series at hand")
    for name, what in (("PatientID", "patient"), ("FrameOfReferenceUID", "frame of reference")):
        theirs, ours = _stated([mask, *_frames_of_reference(mask)], name), _stated(hits[0], name)
        if theirs and ours and not theirs & ours:
            raise InputError("input.image", f"the mask is of another {what} than the series")
    volume = build(hits[0])
    joined = np.zeros(volume.voxels.shape, dtype=np.bool_)
    for found in regions(mask, volume, roi, threshold=threshold).values():
        joined |= found
    return volume, joined


def _stated(objects: Sequence[Dataset], name: str) -> set[str]:
    """The values of an attribute that are not empty."""
    with reading("an image lacks its identity"):
        return {value for item in objects if (value := str(item.get(name) or "").strip())}


def _frames_of_reference(mask: Dataset) -> list[Dataset]:
    with reading("the mask lacks its references"):
        return list(mask.get("ReferencedFrameOfReferenceSequence") or ())


def regions(
    mask: Dataset, series: Series, roi: str | None = None, *, threshold: float | None = None
) -> dict[str, Mask]:
    """All regions (or those that `roi` selects) of an RTSTRUCT or SEG on the series' grid, by name.

    Raises:
        InputError: `input.image` for a fractional SEG without `threshold`, a contour off the slices or outside the
            image, another grid, no such region.
    """
    from pipelines.features import masks

    with reading("the mask is malformed"):
        modality = str(mask.get("Modality"))
        if modality == "RTSTRUCT":
            return masks.structures(mask, series, roi)
        if modality == "SEG":
            return masks.segments(mask, series, roi, threshold)
    raise InputError("input.image", "the mask is neither RTSTRUCT nor SEG")


def select(names: Mapping[str, Any] | Sequence[str], roi: str | None) -> list[str]:
    """The names that `roi` (a name, else a glob, case ignored) selects; without it the only one there is.

    Raises:
        InputError: `input.image` when nothing matches, or without `roi` when there are several.
    """
    known = list(names)
    if roi is None:
        if len(known) != 1:
            raise InputError("input.image", f"the mask has {len(known)} regions: name one")
        return known
    exact = [name for name in known if name == roi]
    wanted = roi.strip().casefold()
    chosen = exact or [name for name in known if fnmatch.fnmatchcase(name.strip().casefold(), wanted)]
    if not chosen:
        raise InputError("input.image", "the mask has no region of the name that the study asks for")
    return chosen


def _referenced(item: Dataset, sequence: str) -> Iterator[str]:
    for image in item.get(sequence, ()):
        yield str(image.ReferencedSOPInstanceUID)

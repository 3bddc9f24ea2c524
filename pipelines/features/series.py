"""Image series and masks: from DICOM objects to a volume and regions on its grid.

First step of lane 3. A series whose geometry is not certain is refused, never repaired: one wrong slice would shift
every feature. Errors say what is wrong, never who.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.8.8.6 (ROI contour), C.8.20.2 (segmentation).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["MODALITIES", "Series", "build", "group", "region", "regions", "select", "target"]

MODALITIES = frozenset({"CT", "MR", "PT"})
_ORIENTATION = 1e-4
_POSITION = 0.02  # of a spacing

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
        instances: SOPInstanceUID of each slice.
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
        with _reading("an image lacks its identity"):
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
        InputError: `input.image` for mixed orientation, size or spacing, a missing or double slice, a tilted gantry,
            multi-frame, colour, or pixels that do not decode.
    """
    if not images:
        raise InputError("input.image", "the series has no image")
    with _reading("an image lacks its geometry"):
        planes = [_plane(image) for image in images]
        first = planes[0]
        for plane in planes[1:]:
            _same_plane(first, plane)
        normal = np.cross(first.row, first.column)
        order = np.argsort([float(plane.position @ normal) for plane in planes], kind="stable")
        planes = [planes[at] for at in order]
        images = [images[at] for at in order]
        step = _step(planes, normal, images[0])
    with _reading("the pixels do not decode"):
        voxels = np.stack([_pixels(image) for image in images])
    return Series(
        uid=str(images[0].SeriesInstanceUID),
        modality=str(images[0].Modality),
        voxels=voxels,
        spacing=(step, *first.spacing),
        origin=planes[0].position,
        row=first.row,
        column=first.column,
        normal=normal,
        instances=tuple(str(image.SOPInstanceUID) for image in images),
    )


def target(mask: Dataset) -> frozenset[str]:
    """SeriesInstanceUIDs and SOPInstanceUIDs of the images that an RTSTRUCT or SEG refers to.

    Raises:
        InputError: `input.image` when it refers to none.
    """
    found: set[str] = set()
    with _reading("the mask lacks its references"):
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


def region(mask: Dataset, groups: Mapping[str, list[Dataset]], roi: str | None) -> tuple[Series, Mask]:
    """The series that a mask refers to, and the union of the regions that `roi` selects.

    Args:
        mask: RTSTRUCT or binary SEG.
        groups: what `group` gave.
        roi: a name or glob; None for the only region.

    Raises:
        InputError: `input.image` unless exactly one of the series is meant, and as `build` and `regions`.
    """
    wanted = target(mask)
    hits = [
        members
        for uid, members in groups.items()
        if uid in wanted or any(str(image.SOPInstanceUID) in wanted for image in members)
    ]
    if len(hits) != 1:
        raise InputError("input.image", f"the mask refers to {len(hits)} of the series at hand")
    volume = build(hits[0])
    joined = np.zeros(volume.voxels.shape, dtype=np.bool_)
    for found in regions(mask, volume, roi).values():
        joined |= found
    return volume, joined


def regions(mask: Dataset, series: Series, roi: str | None = None) -> dict[str, Mask]:
    """All regions (or those that `roi` selects) of an RTSTRUCT or binary SEG on the series' grid, by name.

    Raises:
        InputError: `input.image` for a fractional SEG, a contour off the slices, another grid, no such region.
    """
    from pipelines.features import masks

    with _reading("the mask is malformed"):
        modality = str(mask.get("Modality"))
        if modality == "RTSTRUCT":
            return masks.structures(mask, series, roi)
        if modality == "SEG":
            return masks.segments(mask, series, roi)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plane:
    position: _Vector
    row: _Vector
    column: _Vector
    spacing: tuple[float, float]
    shape: tuple[int, int]


def _plane(image: Dataset) -> _Plane:
    if int(image.get("NumberOfFrames") or 1) != 1:
        raise InputError("input.image", "multi-frame images are not supported")
    if int(image.SamplesPerPixel) != 1:
        raise InputError("input.image", "colour images are not supported")
    orientation = np.array([float(v) for v in image.ImageOrientationPatient])
    position = np.array([float(v) for v in image.ImagePositionPatient])
    height, width = (float(v) for v in image.PixelSpacing)
    row, column = orientation[:3], orientation[3:]
    if position.shape != (3,) or not np.isfinite([*position, *orientation, height, width]).all():
        raise InputError("input.image", "an image's position is malformed")
    unit = np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=1e-3)
    if orientation.shape != (6,) or not unit or min(height, width) <= 0:
        raise InputError("input.image", "an image's orientation or spacing is malformed")
    return _Plane(
        position=position,
        row=row / np.linalg.norm(row),
        column=column / np.linalg.norm(column),
        spacing=(height, width),
        shape=(int(image.Rows), int(image.Columns)),
    )


def _same_plane(first: _Plane, other: _Plane) -> None:
    if not np.allclose([other.row, other.column], [first.row, first.column], atol=_ORIENTATION):
        raise InputError("input.image", "the series mixes orientations")
    if other.shape != first.shape or not np.allclose(other.spacing, first.spacing, rtol=1e-4):
        raise InputError("input.image", "the series mixes sizes or pixel spacings")


def _step(planes: Sequence[_Plane], normal: _Vector, image: Dataset) -> float:
    """The distance between slices, in mm; planes are sorted along `normal`."""
    if len(planes) == 1:
        step = float(image.get("SpacingBetweenSlices") or image.get("SliceThickness") or 0)
        if not step > 0:
            raise InputError("input.image", "a single slice without thickness")
        return step
    positions = np.stack([plane.position for plane in planes])
    heights = positions @ normal
    steps = np.diff(heights)
    step = float(np.median(steps))
    if steps.min() <= _POSITION * min(planes[0].spacing):
        raise InputError("input.image", "the series has two slices at one place")
    if np.abs(steps - step).max() > max(_POSITION * step, 0.011):
        raise InputError("input.image", "slices are missing, or their distance varies")
    drift = positions - positions[0] - np.outer(heights - heights[0], normal)
    if np.abs(drift).max() > 10 * _POSITION * min(planes[0].spacing):
        raise InputError("input.image", "the slices are not stacked along their normal (tilted gantry)")
    return float((heights[-1] - heights[0]) / (len(planes) - 1))


def _pixels(image: Dataset) -> NDArray[np.float32]:
    slope, intercept = image.get("RescaleSlope"), image.get("RescaleIntercept")
    raw = image.pixel_array
    if raw.shape != (int(image.Rows), int(image.Columns)):
        raise InputError("input.image", "the pixels do not have the stated size")
    scaled = raw * (1.0 if slope is None else float(slope)) + (0.0 if intercept is None else float(intercept))
    if not np.isfinite(scaled).all():
        raise InputError("input.image", "the pixels are not finite")
    return np.asarray(scaled, dtype=np.float32)


def _referenced(item: Dataset, sequence: str) -> Iterator[str]:
    for image in item.get(sequence, ()):
        yield str(image.ReferencedSOPInstanceUID)


@contextmanager
def _reading(problem: str) -> Iterator[None]:
    """Whatever a hostile object makes the parser raise becomes one refusal of this object."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError("input.image", f"{problem} ({type(error).__name__})") from None

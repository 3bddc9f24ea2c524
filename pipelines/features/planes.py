"""Slices: the images of a series, or the frames of an enhanced image, with their planes and pixels.

Beneath `series`. A plane whose geometry is not certain is refused, never repaired.

Source: DICOM PS3.3 C.7.6.2 (image plane), C.7.6.16 (multi-frame functional groups).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from protocol.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Stack", "reading", "stacked"]

_ORIENTATION = 1e-4
_POSITION = 0.02  # of a spacing

_Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Slices along their normal.

    Attributes:
        voxels: float32 [slices, rows, columns], rescaled.
        planes: of each slice.
        step: mm between slices.
        instances: SOPInstanceUID of each slice.
    """

    voxels: NDArray[np.float32]
    planes: tuple[_Plane, ...]
    step: float
    instances: tuple[str, ...]


def stacked(images: Sequence[Dataset]) -> Stack:
    """The slices of the images, or of their frames, in the order of space.

    Raises:
        InputError: `input.image` unless they are whole, parallel, aligned and evenly spaced.
    """
    with reading("an image lacks its geometry"):
        parts = [part for image in images for part in _slices(image)]
        planes = [_plane(part.header) for part in parts]
        first = planes[0]
        for plane in planes[1:]:
            _same_plane(first, plane)
        normal = np.cross(first.row, first.column)
        order = np.argsort([float(plane.position @ normal) for plane in planes], kind="stable")
        planes = [planes[at] for at in order]
        parts = [parts[at] for at in order]
        step = _step(planes, normal, parts[0].header)
    with reading("the pixels do not decode"):
        voxels = np.stack([_pixels(part) for part in parts])
    instances = tuple(str(part.image.SOPInstanceUID) for part in parts)
    return Stack(voxels=voxels, planes=tuple(planes), step=step, instances=instances)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    header: Dataset
    image: Dataset
    frame: int | None


def _slices(image: Dataset) -> list[_Slice]:
    """The image, or each frame of an enhanced CT, MR or PET image with a header as a single image has it."""
    groups = image.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        return [_Slice(header=image, image=image, frame=None)]
    if len(groups) != int(image.NumberOfFrames):
        raise InputError("input.image", "a multi-frame image lacks the place of a frame")
    shared = (image.get("SharedFunctionalGroupsSequence") or [{}])[0]
    return [_Slice(header=_header(image, [own, shared]), image=image, frame=at) for at, own in enumerate(groups)]


_MACROS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}


def _header(image: Dataset, groups: Sequence[Any]) -> Dataset:
    from pydicom.dataset import Dataset

    header = Dataset()
    for name in ("Rows", "Columns", "SamplesPerPixel"):
        setattr(header, name, image[name].value)
    for sequence, names in _MACROS.items():
        found: Any = next((group[sequence].value[0] for group in groups if sequence in group), {})
        for name in names:
            if name in found:
                setattr(header, name, found[name].value)
    return header


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plane:
    position: _Vector
    row: _Vector
    column: _Vector
    spacing: tuple[float, float]
    shape: tuple[int, int]


def _plane(image: Dataset) -> _Plane:
    if int(image.get("NumberOfFrames") or 1) != 1:
        raise InputError("input.image", "a multi-frame image lacks the place of a frame")
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


def _pixels(part: _Slice) -> NDArray[np.float32]:
    slope, intercept = part.header.get("RescaleSlope"), part.header.get("RescaleIntercept")
    raw = part.image.pixel_array
    size = (int(part.header.Rows), int(part.header.Columns))
    if part.frame is not None:
        raw = raw.reshape(-1, *size)[part.frame]
    if raw.shape != size:
        raise InputError("input.image", "the pixels do not have the stated size")
    scaled = raw * (1.0 if slope is None else float(slope)) + (0.0 if intercept is None else float(intercept))
    if not np.isfinite(scaled).all():
        raise InputError("input.image", "the pixels are not finite")
    return np.asarray(scaled, dtype=np.float32)


@contextmanager
def reading(problem: str) -> Iterator[None]:
    """Whatever a hostile object makes the parser raise becomes one refusal of this object."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError("input.image", f"{problem} ({type(error).__name__})") from None

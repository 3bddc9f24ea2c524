"""A patient's series as samples of one size: choice of the series, resampling, intensities; pure but for decoding.

    DICOM objects of one patient -> `Reader.case` -> samples on the study's grid, float16 or float32

Resampling is linear between voxel centres, with a kernel widened where the grid is coarser than the image so that no
voxel is skipped; the grid has the image's centre. Outside the image lies the image's lowest value.
"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines import SourceFile
from pipelines.features import series
from pipelines.features.planes import reading
from protocol.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from pipelines.features.cases import Case

__all__ = ["Augment", "Grid", "ImageCase", "augmented", "check_images", "gridded", "meant", "read", "volume"]

Array = np.ndarray[Any, Any]
Size = Annotated[int, Field(ge=4, le=1024)]
Step = Annotated[float, Field(gt=0, le=100)]


class Augment(BaseModel):
    """Random changes of a sample while training, drawn anew at each step from seeds of round, site and sample.

    Attributes:
        flip: axes that may be turned round, each half of the time: `columns` (left and right), `rows`, `slices`.
        shift: most pixels by which a sample is moved along each axis; what comes in is the border's value.
        intensity: most by which values are scaled and moved, as a share (of one standard unit).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    flip: tuple[Literal["columns", "rows", "slices"], ...] = ()
    shift: Annotated[int, Field(ge=0, le=256)] = 0
    intensity: Annotated[float, Field(ge=0, le=1)] = 0.0


class Grid(BaseModel):
    """Which images, and the form in which a network sees them; part of `[pipeline.parameters]`.

    Attributes:
        dimensions: 2: each slice is a sample; 3: the volume is.
        size: (rows, columns) or (slices, rows, columns).
        spacing: of the grid, mm, as `size`; without it the image is stretched to the size.
        slices: in two dimensions, so many slices about the middle; 0: all.
        modality: CT, MR or PT alone.
        series: a glob on SeriesDescription, case ignored. Of several series the one with most slices is taken.
        window: intensities (low, high) that become 0 and 1; beyond them they are cut.
        normalise: by mean and scale over all sites (`agreed`), of each image (`image`), or `none` besides the window.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    dimensions: Literal[2, 3] = 2
    size: Annotated[tuple[Size, ...], Field(min_length=2, max_length=3)] = (64, 64)
    spacing: Annotated[tuple[Step, ...], Field(min_length=2, max_length=3)] | None = None
    slices: Annotated[int, Field(ge=0, le=4096)] = 0
    modality: Literal["CT", "MR", "PT"] | None = None
    series: Annotated[str, Field(max_length=128)] | None = None
    window: tuple[float, float] | None = None
    normalise: Literal["agreed", "image", "none"] = "agreed"
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _grid(self) -> Grid:
        if len(self.size) != self.dimensions or (self.spacing and len(self.spacing) != self.dimensions):
            raise ValueError("size, spacing: one number a dimension")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError("window: low before high")
        if self.dimensions == 3 and self.slices:
            raise ValueError("slices: are for dimensions = 2")
        if self.normalise == "none" and self.window is None:
            raise ValueError("normalise: without it give a window")
        if self.dimensions == 2 and "slices" in self.augment.flip:
            raise ValueError("augment: there are no slices to flip in two dimensions")
        return self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageCase:
    """One patient's samples.

    Attributes:
        uid: SeriesInstanceUID.
        x: float16 or float32 (samples, *size).
        mask: bool, as `x`, where a region was asked for.
        voxel_ml: volume of one voxel of the grid.
    """

    uid: str
    x: Array
    mask: Array | None
    voxel_ml: float


def read(
    files: Iterable[SourceFile], make: Callable[[Case], ImageCase | None], person: Callable[[str], str], *, masks: bool
) -> tuple[dict[str, ImageCase], Counter[str]]:
    """Each patient's case, and how many files (`unreadable`) and patients (`image`) were set aside.

    Args:
        make: what a case becomes.
        person: PatientID -> the name of the patient in the result.
        masks: whether masks are gathered too.
    """
    from pipelines.features.cases import Cases

    withheld: Counter[str] = Counter()
    cases: Cases[ImageCase] = Cases(make, masks=masks)
    for file in files:
        if not cases.add(file, person):
            withheld["unreadable"] += 1
    cases.settle()
    if cases.failed:
        withheld["image"] = len(cases.failed)
    return dict(sorted(cases.made.items())), withheld


def volume(case: Case, grid: Grid) -> series.Series | None:
    """The series of a patient that the study means, the one with most slices; None for a patient without.

    Raises:
        InputError: `input.image` when it is not sound.
    """
    groups = {uid: images for uid, images in series.group(case.images).items() if meant(images, grid)}
    if not groups:
        return None
    return series.build(max(sorted(groups.items()), key=lambda one: _slices(one[1]))[1])


def _slices(images: list[Dataset]) -> int:
    with reading("an image lacks its geometry"):
        return sum(int(image.get("NumberOfFrames") or 1) for image in images)


def meant(images: list[Dataset], grid: Grid) -> bool:
    """Whether a series is of the kind that the study asks for."""
    with reading("an image lacks its identity"):
        modality, text = str(images[0].get("Modality") or ""), str(images[0].get("SeriesDescription") or "")
    wanted = "*" if grid.series is None else grid.series.strip().casefold()
    return grid.modality in (None, modality) and fnmatch.fnmatchcase(text.strip().casefold(), wanted)


def gridded(found: series.Series, grid: Grid, mask: series.Mask | None = None) -> ImageCase:
    """A volume, and a region of it, on the study's grid."""
    voxels = found.voxels.astype(np.float32)
    spacing = found.spacing
    if grid.dimensions == 2 and 0 < grid.slices < len(voxels):
        start = (len(voxels) - grid.slices) // 2
        voxels = voxels[start : start + grid.slices]
        mask = None if mask is None else mask[start : start + grid.slices]
    if grid.window is not None:
        low, high = grid.window
        voxels = np.clip((voxels - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
    tables, steps = _tables(voxels.shape, spacing, grid)
    lowest = voxels.min()
    x = _resampled(voxels - lowest, tables) + lowest
    if grid.normalise == "image":
        deviation = float(x.std(dtype=np.float64))
        x = (x - np.float32(x.mean(dtype=np.float64))) / np.float32(deviation if deviation > 1e-6 else 1.0)
    small = grid.window is not None or grid.normalise == "image"
    shape = (-1, *grid.size)
    return ImageCase(
        uid=found.uid,
        x=x.reshape(shape).astype(np.float16 if small else np.float32),
        mask=None if mask is None else (_resampled(mask.astype(np.float32), tables) >= 0.5).reshape(shape),
        voxel_ml=math.prod(steps) / 1000,
    )


def _tables(
    shape: tuple[int, ...], spacing: tuple[float, ...], grid: Grid
) -> tuple[list[Array | None], tuple[float, ...]]:
    """For each axis the weights of the image's voxels in the grid's (None: as they are), and the grid's spacing."""
    skipped = 3 - grid.dimensions
    sizes = (*shape[:skipped], *grid.size)
    stretched = tuple(step * n / wanted for step, n, wanted in zip(spacing, shape, sizes, strict=True))
    steps = stretched if grid.spacing is None else (*spacing[:skipped], *grid.spacing)
    tables: list[Array | None] = [None] * skipped
    for axis in range(skipped, 3):
        tables.append(_weights(shape[axis], spacing[axis], sizes[axis], steps[axis]))
    return tables, steps


def _weights(there: int, step: float, wanted: int, new: float) -> Array:
    """float32 (wanted, there): a triangle about each new centre, as wide as the larger of the two steps."""
    old_at = (np.arange(there) - (there - 1) / 2) * step
    new_at = (np.arange(wanted) - (wanted - 1) / 2) * new
    near = np.clip(new_at, old_at[0], old_at[-1])  # between the outermost centre and the image's border
    weights = np.maximum(1.0 - np.abs(near[:, None] - old_at) / max(step, new), 0.0)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1e-12)
    outside = np.abs(new_at) > there * step / 2 + 1e-6
    weights[outside] = 0.0
    return np.asarray(weights, np.float32)


def _resampled(voxels: Array, tables: list[Array | None]) -> Array:
    for axis, table in enumerate(tables):
        if table is not None:
            voxels = np.moveaxis(np.tensordot(table, voxels, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(voxels, np.float32)


def augmented(x: Array, mask: Array | None, how: Augment, draw: np.random.Generator) -> tuple[Array, Array | None]:
    """One sample (and its mask) changed at random; all is drawn in a fixed order, whatever the settings.

    Args:
        x: float32, one sample in standard units.
    """
    axes = [axis for axis, name in enumerate(("columns", "rows", "slices"), start=1) if name in how.flip]
    turned = tuple(-axis for axis, half in zip((1, 2, 3), draw.random(3) < 0.5, strict=True) if half and axis in axes)
    shifts = draw.integers(-how.shift, how.shift, size=3, endpoint=True)[: x.ndim]
    scale, offset = draw.uniform(-how.intensity, how.intensity, size=2)
    places = [np.clip(np.arange(n) - by, 0, n - 1) for n, by in zip(x.shape, shifts, strict=True)]
    moved = tuple(np.ix_(*places))
    x = np.flip(x[moved], turned) * np.float32(1 + scale) + np.float32(offset)
    return x, None if mask is None else np.flip(mask[moved], turned)


def check_images(images: bool) -> None:
    """Refuse a study that asks for no images.

    Raises:
        InputError: `input.study`.
    """
    if not images:
        raise InputError("input.study", "dataset.images: this learner needs images")

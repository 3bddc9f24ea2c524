"""Regions: RTSTRUCT contours and binary SEG frames onto the grid of a series.

Called by `series.regions`. Contours are filled by the even-odd rule at voxel centres and combined by XOR, so inner
contours cut holes in any order. Nothing is interpolated, and no threshold is guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.features.series import Mask, Series, select
from protocol.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["segments", "structures"]

_CLOSED = frozenset({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"})
_GRID = 0.02  # of a voxel


def structures(mask: Dataset, series: Series, roi: str | None) -> dict[str, Mask]:
    """Regions of an RTSTRUCT by name; POINT and OPEN contours are passed over."""
    names = {int(item.ROINumber): str(item.ROIName) for item in mask.StructureSetROISequence}
    chosen = set(select(sorted(set(names.values())), roi))
    found: dict[str, Mask] = {}
    for region in mask.ROIContourSequence:
        name = names[int(region.ReferencedROINumber)]
        if name in chosen:
            filled = _fill(region, series)
            found[name] = found[name] | filled if name in found else filled
    return _not_empty(found, chosen)


def _fill(region: Dataset, series: Series) -> Mask:
    from skimage.draw import polygon2mask

    filled = np.zeros(series.voxels.shape, dtype=np.bool_)
    for contour in region.get("ContourSequence") or ():
        if str(contour.ContourGeometricType) not in _CLOSED:
            continue
        points = np.array([float(v) for v in contour.ContourData]).reshape(-1, 3)
        if len(points) < 3 or not np.isfinite(points).all():
            raise InputError("input.image", "a contour has too few points")
        indices = _indices(points, series)
        filled[_slice(contour, indices[:, 0], series)] ^= polygon2mask(filled.shape[1:], indices[:, 1:])
    return filled


def _indices(points: NDArray[np.float64], series: Series) -> NDArray[np.float64]:
    """mm [n, 3] -> slice, row, column [n, 3], rounded so that decimal strings do not decide about borders."""
    axes = np.stack([series.normal, series.column, series.row], axis=1)
    indices: NDArray[np.float64] = ((points - series.origin) @ axes / np.array(series.spacing)).round(6)
    return indices


def _slice(contour: Dataset, heights: NDArray[np.float64], series: Series) -> int:
    """The slice that a contour names, else the nearest; the contour must lie within half a slice of it."""
    named = [str(i.ReferencedSOPInstanceUID) for i in contour.get("ContourImageSequence") or ()]
    if named:
        if named[0] not in series.instances:
            raise InputError("input.image", "a contour names an image that is not in the series")
        at = series.instances.index(named[0])
    else:
        at = int(np.floor(heights.mean() + 0.5))
    if not 0 <= at < len(series.instances) or np.abs(heights - at).max() > 0.5:
        raise InputError("input.image", "a contour lies outside the slices")
    return at


def segments(mask: Dataset, series: Series, roi: str | None) -> dict[str, Mask]:
    """Regions of a binary SEG by segment label; its frames must lie on voxels of the series.

    Segments of one label are joined. A fractional SEG is refused: its threshold would be a guess.
    """
    if str(mask.SegmentationType) != "BINARY":
        raise InputError("input.image", "the segmentation is not binary")
    labels = {int(s.SegmentNumber): str(s.SegmentLabel) for s in mask.SegmentSequence}
    chosen = set(select(sorted(set(labels.values())), roi))
    frames = np.asarray(mask.pixel_array, dtype=np.bool_).reshape(-1, int(mask.Rows), int(mask.Columns))
    groups = mask.PerFrameFunctionalGroupsSequence
    if len(groups) != len(frames):
        raise InputError("input.image", "the segmentation lacks the place of a frame")
    shared = mask.SharedFunctionalGroupsSequence[0]
    found: dict[str, Mask] = {}
    for frame, group in zip(frames, groups, strict=True):
        name = labels[int(_macro(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)]
        if name in chosen:
            region = found.setdefault(name, np.zeros(series.voxels.shape, dtype=np.bool_))
            _paste(frame, group, shared, series, region)
    return _not_empty(found, chosen)


def _macro(group: Dataset, shared: Dataset, name: str) -> Any:
    return group[name].value[0] if name in group else shared[name].value[0]


def _paste(frame: Mask, group: Dataset, shared: Dataset, series: Series, region: Mask) -> None:
    """Lay one frame into the region; parts outside the image must be empty."""
    measures = _macro(group, shared, "PixelMeasuresSequence")
    orientation = [float(v) for v in _macro(group, shared, "PlaneOrientationSequence").ImageOrientationPatient]
    position = [float(v) for v in _macro(group, shared, "PlanePositionSequence").ImagePositionPatient]
    same = np.allclose(orientation, [*series.row, *series.column], atol=1e-4)
    if not same or not np.allclose([float(v) for v in measures.PixelSpacing], series.spacing[1:], rtol=1e-4):
        raise InputError("input.image", "the segmentation is not on the image's grid")
    exact = _indices(np.array([position]), series)[0]
    corner = np.round(exact).astype(int)
    if np.abs(exact - corner).max() > _GRID:
        raise InputError("input.image", "the segmentation is not on the image's grid")
    places = np.argwhere(frame) + corner[1:]
    if not len(places):
        return
    inside = (places >= 0).all() and (places < region.shape[1:]).all() and 0 <= corner[0] < region.shape[0]
    if not inside:
        raise InputError("input.image", "the segmentation reaches outside the image")
    region[corner[0], places[:, 0], places[:, 1]] = True


def _not_empty(found: dict[str, Mask], chosen: set[str]) -> dict[str, Mask]:
    filled = {name: region for name, region in sorted(found.items()) if region.any()}
    if not filled:
        raise InputError("input.image", f"none of the {len(chosen)} regions covers a voxel")
    return filled

"""Regions: RTSTRUCT contours, SEG frames and mask volumes onto the grid of a series.

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

__all__ = ["labels", "segments", "structures"]

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
        if (indices[:, 1:] < -1).any() or (indices[:, 1:] > np.array(filled.shape[1:])).any():
            raise InputError("input.image", "a contour reaches outside the image")
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
    if named and series.instances.count(named[0]) == 1:
        at = series.instances.index(named[0])
    else:  # none is named, or one frame among others
        at = int(np.floor(heights.mean() + 0.5))
    if not 0 <= at < len(series.instances) or np.abs(heights - at).max() > 0.5:
        raise InputError("input.image", "a contour lies outside the slices")
    return at


def segments(mask: Dataset, series: Series, roi: str | None, threshold: float | None = None) -> dict[str, Mask]:
    """Regions of a SEG by segment label; its frames must lie on voxels of the series.

    Segments of one label are joined. A fractional SEG is refused without a threshold: it would be a guess.
    """
    kind = str(mask.SegmentationType)
    if kind != "BINARY" and (kind != "FRACTIONAL" or threshold is None):
        raise InputError("input.image", "the segmentation is not binary, and no threshold is set")
    names = {int(s.SegmentNumber): str(s.SegmentLabel) for s in mask.SegmentSequence}
    chosen = set(select(sorted(set(names.values())), roi))
    pixels = mask.pixel_array
    if kind == "FRACTIONAL":
        pixels = pixels >= max(float(threshold or 0) * float(mask.MaximumFractionalValue), 1)
    frames = np.asarray(pixels, dtype=np.bool_).reshape(-1, int(mask.Rows), int(mask.Columns))
    groups = mask.PerFrameFunctionalGroupsSequence
    if len(groups) != len(frames):
        raise InputError("input.image", "the segmentation lacks the place of a frame")
    shared = mask.SharedFunctionalGroupsSequence[0]
    found: dict[str, Mask] = {}
    for frame, group in zip(frames, groups, strict=True):
        name = names[int(_macro(group, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)]
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


def labels(mask: Series, series: Series, roi: str | None) -> Mask:
    """The region of a volume of labels (NIfTI, NRRD, MHA) on the series' grid; `roi` is a label's number.

    The volume may have its axes in another order or direction, and may be a part of the image, but its voxels must be
    voxels of the image.

    Raises:
        InputError: `input.image` for values that are no labels, another grid, a region outside the image.
    """
    values = mask.voxels
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        raise InputError("input.image", "the mask's values are no labels: they are not whole numbers")
    known = [int(value) for value in np.unique(values) if value]
    if not known:
        raise InputError("input.image", "the mask is empty")
    chosen = {int(name) for name in select([str(value) for value in known], roi)}
    return _placed(np.isin(values, np.array(sorted(chosen), dtype=np.float64)), mask, series)


def _placed(inside: Mask, mask: Series, series: Series) -> Mask:
    """A region on the mask's grid -> on the series' grid, by turning, flipping and shifting alone."""
    ours, theirs = _axes(series), _axes(mask)
    turn = np.linalg.solve(ours, theirs)  # mask indices -> image indices
    order = np.abs(turn).argmax(axis=0)
    whole = np.zeros((3, 3))
    whole[order, range(3)] = np.sign(turn[order, range(3)])
    shift = np.linalg.solve(ours, mask.origin - series.origin)
    drift = np.abs(turn - whole) @ np.array(inside.shape) + np.abs(shift - shift.round())
    if len(set(order.tolist())) != 3 or drift.max() > _GRID * 5:
        raise InputError("input.image", "the mask is not on the image's grid")
    signs = whole.sum(axis=1)
    turned = np.flip(inside.transpose(np.argsort(order)), axis=tuple(np.flatnonzero(signs < 0).tolist()))
    first = shift.round().astype(int) - np.where(signs < 0, np.array(turned.shape) - 1, 0)
    ends = zip(first.tolist(), turned.shape, series.voxels.shape, strict=True)
    there = [(max(start, 0), min(start + length, limit)) for start, length, limit in ends]
    here = tuple(slice(a - s, max(b - s, 0)) for (a, b), s in zip(there, first.tolist(), strict=True))
    if np.count_nonzero(turned[here]) != np.count_nonzero(inside):
        raise InputError("input.image", "the mask reaches outside the image")
    region = np.zeros(series.voxels.shape, dtype=np.bool_)
    region[tuple(slice(a, b) for a, b in there)] = turned[here]
    return region


def _axes(series: Series) -> NDArray[np.float64]:
    """mm per step of slice, row and column index, as columns."""
    axes: NDArray[np.float64] = np.stack([series.normal, series.column, series.row], axis=1)
    axes *= np.array(series.spacing)
    return axes


def _not_empty(found: dict[str, Mask], chosen: set[str]) -> dict[str, Mask]:
    filled = {name: region for name, region in sorted(found.items()) if region.any()}
    if not filled:
        raise InputError("input.image", f"none of the {len(chosen)} regions covers a voxel")
    return filled

"""The six texture families of a discretised region, in every IBSI aggregation.

Names are the tags of the IBSI reference file. Slices and directions without a value (no pair of neighbours, say) are
left out of an average; a feature without any value is NaN.

Source: IBSI reference manual, arXiv 1612.07003, sections 3.6 to 3.11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from pipelines.features.ibsi import glcm, glrlm, neighbourhood, zones
from pipelines.features.ibsi.aliases import ALIASES, EXCEPTIONS
from pipelines.features.ibsi.matrices import DIRECTIONS, IN_PLANE, Counts, Floats, Region
from protocol.errors import InputError

__all__ = ["AGGREGATIONS", "ALIASES", "EXCEPTIONS", "TAGS", "textures"]

DIRECTIONAL = ("2D_avg", "2D_comb", "2_5D_avg", "2_5D_comb", "3D_avg", "3D_comb")
WHOLE = ("2D", "2_5D", "3D")
AGGREGATIONS = frozenset({*DIRECTIONAL, *WHOLE})
_BY_DIRECTION = (*glcm.TAGS, *glrlm.TAGS)
_AT_ONCE = (*zones.SIZE_TAGS, *zones.DISTANCE_TAGS, *neighbourhood.TONE_TAGS, *neighbourhood.DEPENDENCE_TAGS)
TAGS = (
    *(f"{tag}_{aggregation}" for tag in _BY_DIRECTION for aggregation in DIRECTIONAL),
    *(f"{tag}_{aggregation}" for tag in _AT_ONCE for aggregation in WHOLE),
)


def textures(
    levels: NDArray[np.int32],
    n_levels: int,
    morphological: NDArray[np.bool_],
    aggregations: frozenset[str] | None = None,
    *,
    correlation: bool = False,
) -> dict[str, float]:
    """Every texture feature of one region.

    Args:
        levels: int [slices, rows, columns]; 0 outside the intensity mask, 1..n_levels inside.
        n_levels: grey levels of the discretisation (Ng), those that do not occur included.
        morphological: bool, the same shape; distances to the edge are taken in it. It covers the intensity mask.
        aggregations: of `AGGREGATIONS`; all when None.
        correlation: also Haralick's maximal correlation coefficient (`cm_mcc_*`), which is not in IBSI.

    Returns:
        tag -> value, in the order of `TAGS`; NaN where the region does not define it.

    Raises:
        InputError: `input.image` when the region is empty, or levels and masks do not agree; `input.usage` for an
            aggregation that is not known.
    """
    wanted = AGGREGATIONS if aggregations is None else aggregations
    if not wanted <= AGGREGATIONS:
        raise InputError("input.usage", f"aggregations are {', '.join(sorted(AGGREGATIONS))}")
    inside, mask = _box(levels, n_levels, morphological)
    region = Region.of(inside, n_levels)
    found: dict[str, float] = {}
    for aggregation, values in _all(region, mask, wanted, correlation):
        found |= {f"{tag}_{aggregation}": _mean(value) for tag, value in values.items()}
    beyond = [f"{glcm.CORRELATION_TAG}_{name}" for name in DIRECTIONAL] if correlation else []
    ends = tuple(f"_{aggregation}" for aggregation in wanted)
    return {tag: found.get(tag, float("nan")) for tag in (*TAGS, *beyond) if tag.endswith(ends)}


def _box(
    levels: NDArray[np.int32], n_levels: int, morphological: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Levels and morphological mask within the smallest box that holds both."""
    if levels.ndim != 3 or levels.shape != morphological.shape:
        raise InputError("input.image", "levels and mask do not agree in shape")
    mask = morphological.astype(bool) | (levels > 0)
    box = []
    for axis in range(3):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(filled[0], filled[-1] + 1) if filled.size else slice(0))
    inside = levels[tuple(box)]
    if not inside.size or inside.max() < 1 or inside.min() < 0 or inside.max() > n_levels:
        raise InputError("input.image", "the region is empty, or a grey level is out of range")
    return inside, mask[tuple(box)]


def _all(
    region: Region, mask: NDArray[np.bool_], wanted: frozenset[str], correlation: bool
) -> Iterator[tuple[str, Mapping[str, Floats]]]:
    for aggregation, parts in _directional(glcm.tabulate, region, wanted):
        yield aggregation, _together([glcm.features(part, region) for part in parts])
        if correlation:
            each = [glcm.maximal_correlation(part, region) for part in parts]
            yield aggregation, {glcm.CORRELATION_TAG: np.concatenate(each)}
    for aggregation, parts in _directional(glrlm.tabulate, region, wanted):
        yield aggregation, _together([glrlm.features(part, region) for part in parts])
    yield from _zonal(region, mask, wanted)
    yield from _local(region, wanted)


def _directional(
    tabulate: Callable[..., Counts], region: Region, wanted: frozenset[str]
) -> Iterator[tuple[str, list[Counts]]]:
    """Matrices of each directional aggregation that have cells; nothing for an aggregation without."""
    parts: list[Counts] = []
    if wanted & {"2D_avg", "2D_comb"}:
        parts = [tabulate(region, direction, sliced=True) for direction in IN_PLANE]
        yield from _combined("2D", parts, wanted)
    if wanted & set(DIRECTIONAL[2:]):
        parts = [Counts.merged([part]) for part in parts]  # over slices
        parts = parts or [tabulate(region, direction, sliced=False) for direction in IN_PLANE]
        yield from _combined("2_5D", parts, wanted)
    if wanted & {"3D_avg", "3D_comb"}:
        parts += [tabulate(region, direction, sliced=False) for direction in DIRECTIONS[len(IN_PLANE) :]]
        yield from _combined("3D", parts, wanted)


def _combined(dimension: str, parts: list[Counts], wanted: frozenset[str]) -> Iterator[tuple[str, list[Counts]]]:
    """The directions apart, and merged (slice by slice in 2D); nothing where there is no cell."""
    filled = [part for part in parts if part.group.size]
    if filled and f"{dimension}_avg" in wanted:
        yield f"{dimension}_avg", filled
    if filled and f"{dimension}_comb" in wanted:
        yield f"{dimension}_comb", [Counts.merged(filled, keep=dimension == "2D")]


def _zonal(
    region: Region, mask: NDArray[np.bool_], wanted: frozenset[str]
) -> Iterator[tuple[str, Mapping[str, Floats]]]:
    for flat in (True, False):
        names = [name for name in (("2D", "2_5D") if flat else ("3D",)) if name in wanted]
        if names:
            found = zones.find(region, zones.depth(mask, flat=flat), flat=flat)
            for name in names:
                yield name, zones.size_features(found, region, sliced=name == "2D")
                yield name, zones.distance_features(found, region, sliced=name == "2D")


def _local(region: Region, wanted: frozenset[str]) -> Iterator[tuple[str, Mapping[str, Floats]]]:
    for flat in (True, False):
        names = [name for name in (("2D", "2_5D") if flat else ("3D",)) if name in wanted]
        if not names:
            continue
        tones, counts = neighbourhood.look(region, flat=flat)
        for name in names:
            whole = name == "2_5D"
            yield name, neighbourhood.dependence_features(Counts.merged([counts]) if whole else counts, region)
            yield name, neighbourhood.tone_features(tones.merged(region.values.size) if whole else tones, region)


def _together(parts: list[dict[str, Floats]]) -> dict[str, Floats]:
    return {tag: np.concatenate([part[tag] for part in parts]) for tag in parts[0]}


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")

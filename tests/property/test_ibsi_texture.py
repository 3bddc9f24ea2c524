"""Texture features against a slow, literal reading of the IBSI manual, against pyradiomics, and under turns."""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.features.ibsi.texture import ALIASES, TAGS, textures

Place = tuple[int, int, int]
Volume = NDArray[np.int32]
_SPACE = list(itertools.product((-1, 0, 1), repeat=3))
_HALF = [move for move in _SPACE if move > (0, 0, 0)]
_FACES = [move for move in _SPACE if sum(map(abs, move)) == 1]


def _random(seed: int, shape: Place, levels: int, share: float) -> tuple[Volume, NDArray[np.bool_]]:
    """Levels with holes, empty slices and loose parts; the morphological mask covers them and more."""
    random = np.random.default_rng(seed)
    volume = random.integers(1, levels + 1, shape).astype(np.int32)
    volume[random.random(shape) > 0.5] = min(2, levels)  # some zones larger than a few voxels
    volume[random.random(shape) > share] = 0
    if not volume.any():
        volume[0, 0, 0] = 1
    return volume, (volume > 0) | (random.random(shape) < 0.3)


@st.composite
def _regions(draw: Any) -> tuple[Volume, int, NDArray[np.bool_]]:
    shape = tuple(draw(st.integers(1, 5)) for _ in range(3))
    levels = draw(st.integers(1, 7))
    volume, mask = _random(draw(st.integers(0, 2**31)), shape, levels, draw(st.sampled_from((0.15, 0.6, 1.0))))
    return volume, levels + draw(st.integers(0, 3)), mask


# -- the manual, read literally: dictionaries of cells, one voxel at a time


def _add(a: Place, b: Place, times: int = 1) -> Place:
    return (a[0] + times * b[0], a[1] + times * b[1], a[2] + times * b[2])


def _entropy(shares: Any) -> float:
    return -sum(p * math.log2(p) for p in shares if p > 0)


def _co_occurrence(cells: Counter[tuple[int, int]], ng: int) -> dict[str, float] | None:
    total = sum(cells.values())
    if not total:
        return None
    p = {cell: count / total for cell, count in cells.items()}
    single: dict[int, float] = defaultdict(float)
    gap: dict[int, float] = defaultdict(float)
    both: dict[int, float] = defaultdict(float)
    for (i, j), share in p.items():
        single[i] += share
        gap[abs(i - j)] += share
        both[i + j] += share
    mean = sum(i * q for i, q in single.items())
    variance = sum((i - mean) ** 2 * q for i, q in single.items())
    gaps = sum(k * q for k, q in gap.items())
    sums = sum(k * q for k, q in both.items())
    hx, hxy = _entropy(single.values()), _entropy(p.values())
    hxy1 = -sum(q * math.log2(single[i] * single[j]) for (i, j), q in p.items())
    hxy2 = _entropy(a * b for a in single.values() for b in single.values())

    def over(f: Any) -> float:
        return sum(f(i, j) * q for (i, j), q in p.items())

    return {
        "cm_joint_max": max(p.values()),
        "cm_joint_avg": mean,
        "cm_joint_var": variance,
        "cm_joint_entr": hxy,
        "cm_diff_avg": gaps,
        "cm_diff_var": sum((k - gaps) ** 2 * q for k, q in gap.items()),
        "cm_diff_entr": _entropy(gap.values()),
        "cm_sum_avg": sums,
        "cm_sum_var": sum((k - sums) ** 2 * q for k, q in both.items()),
        "cm_sum_entr": _entropy(both.values()),
        "cm_energy": sum(q * q for q in p.values()),
        "cm_contrast": over(lambda i, j: (i - j) ** 2),
        "cm_dissimilarity": over(lambda i, j: abs(i - j)),
        "cm_inv_diff": over(lambda i, j: 1 / (1 + abs(i - j))),
        "cm_inv_diff_norm": over(lambda i, j: 1 / (1 + abs(i - j) / ng)),
        "cm_inv_diff_mom": over(lambda i, j: 1 / (1 + (i - j) ** 2)),
        "cm_inv_diff_mom_norm": over(lambda i, j: 1 / (1 + (i - j) ** 2 / ng**2)),
        "cm_inv_var": over(lambda i, j: 0 if i == j else 1 / (i - j) ** 2),
        "cm_corr": over(lambda i, j: (i - mean) * (j - mean)) / variance if len(single) > 1 else 1.0,
        "cm_auto_corr": over(lambda i, j: i * j),
        "cm_clust_tend": over(lambda i, j: (i + j - 2 * mean) ** 2),
        "cm_clust_shade": over(lambda i, j: (i + j - 2 * mean) ** 3),
        "cm_clust_prom": over(lambda i, j: (i + j - 2 * mean) ** 4),
        "cm_info_corr1": (hxy - hxy1) / hx if len(single) > 1 else 0.0,
        "cm_info_corr2": math.sqrt(max(1 - math.exp(-2 * (hxy2 - hxy)), 0)),
    }


def _sizes(cells: Counter[tuple[int, int]], voxels: int, names: str) -> dict[str, float]:
    number = sum(cells.values())
    p = {cell: count / number for cell, count in cells.items()}
    rows: dict[int, int] = defaultdict(int)
    columns: dict[int, int] = defaultdict(int)
    for (i, j), count in cells.items():
        rows[i] += count
        columns[j] += count

    def over(f: Any) -> float:
        return sum(f(i, j) * q for (i, j), q in p.items())

    values = [
        over(lambda i, j: 1 / j**2),
        over(lambda i, j: j**2),
        over(lambda i, j: 1 / i**2),
        over(lambda i, j: i**2),
        over(lambda i, j: 1 / (i * j) ** 2),
        over(lambda i, j: i**2 / j**2),
        over(lambda i, j: j**2 / i**2),
        over(lambda i, j: (i * j) ** 2),
        sum(n**2 for n in rows.values()) / number,
        sum(n**2 for n in rows.values()) / number**2,
        sum(n**2 for n in columns.values()) / number,
        sum(n**2 for n in columns.values()) / number**2,
        number / voxels,
        over(lambda i, j: (i - over(lambda a, b: a)) ** 2),
        over(lambda i, j: (j - over(lambda a, b: b)) ** 2),
        _entropy(p.values()),
        sum(q * q for q in p.values()),
    ]
    return dict(zip(names.split(), values, strict=False))


_RUN = (
    "rlm_sre rlm_lre rlm_lgre rlm_hgre rlm_srlge rlm_srhge rlm_lrlge rlm_lrhge rlm_glnu rlm_glnu_norm rlm_rlnu "
    "rlm_rlnu_norm rlm_r_perc rlm_gl_var rlm_rl_var rlm_rl_entr"
)
_SIZE = (
    "szm_sze szm_lze szm_lgze szm_hgze szm_szlge szm_szhge szm_lzlge szm_lzhge szm_glnu szm_glnu_norm szm_zsnu "
    "szm_zsnu_norm szm_z_perc szm_gl_var szm_zs_var szm_zs_entr"
)
_DISTANCE = (
    "dzm_sde dzm_lde dzm_lgze dzm_hgze dzm_sdlge dzm_sdhge dzm_ldlge dzm_ldhge dzm_glnu dzm_glnu_norm dzm_zdnu "
    "dzm_zdnu_norm dzm_z_perc dzm_gl_var dzm_zd_var dzm_zd_entr"
)
_DEPENDENCE = (
    "ngl_lde ngl_hde ngl_lgce ngl_hgce ngl_ldlge ngl_ldhge ngl_hdlge ngl_hdhge ngl_glnu ngl_glnu_norm ngl_dcnu "
    "ngl_dcnu_norm ngl_dc_perc ngl_gl_var ngl_dc_var ngl_dc_entr ngl_dc_energy"
)


def _tone(cells: dict[int, list[float]]) -> dict[str, float] | None:
    voxels = sum(len(part) for part in cells.values())
    if not voxels:
        return None
    p = {i: len(part) / voxels for i, part in cells.items()}
    s = {i: sum(part) for i, part in cells.items()}
    pairs = list(itertools.product(p, repeat=2))
    coarse = sum(p[i] * s[i] for i in p)
    busy = sum(abs(i * p[i] - j * p[j]) for i, j in pairs)
    levels = len(p)
    strong = sum((p[i] + p[j]) * (i - j) ** 2 for i, j in pairs)
    contrast = sum(p[i] * p[j] * (i - j) ** 2 for i, j in pairs) * sum(s.values()) / voxels
    return {
        "ngt_coarseness": 1 / coarse if coarse > 1e-6 else 1e6,
        "ngt_contrast": contrast / (levels * (levels - 1)) if levels > 1 else 0.0,
        "ngt_busyness": coarse / busy if levels > 1 and busy > 1e-12 else 0.0,
        "ngt_complexity": sum(abs(i - j) * (p[i] * s[i] + p[j] * s[j]) / (p[i] + p[j]) for i, j in pairs) / voxels,
        "ngt_strength": strong / sum(s.values()) if sum(s.values()) > 0 else 0.0,
    }


def _depths(mask: NDArray[np.bool_], flat: bool) -> dict[Place, int]:
    left = {place for place in np.ndindex(mask.shape) if mask[place]}
    moves = [move for move in _FACES if not flat or move[0] == 0]
    depths: dict[Place, int] = {}
    step = 0
    while left:
        step += 1
        edge = {place for place in left if any(_add(place, move) not in left for move in moves)}
        depths |= dict.fromkeys(edge, step)
        left -= edge
    return depths


def _zones(here: dict[Place, int], flat: bool) -> list[set[Place]]:
    left, found = dict(here), []
    while left:
        start = next(iter(left))
        zone, edge = {start}, [start]
        while edge:
            place = edge.pop()
            for move in _SPACE:
                other = _add(place, move)
                if other in left and other not in zone and here[other] == here[start] and not (flat and move[0]):
                    zone.add(other)
                    edge.append(other)
        for place in zone:
            del left[place]
        found.append(zone)
    return found


def _mean(parts: list[dict[str, float] | None]) -> dict[str, float]:
    known = [part for part in parts if part]
    return {name: float(np.mean([part[name] for part in known])) for name in known[0]} if known else {}


def _pairs(here: dict[Place, int], move: Place) -> Counter[tuple[int, int]]:
    cells: Counter[tuple[int, int]] = Counter()
    for place, level in here.items():
        other = here.get(_add(place, move))
        if other is not None:
            cells[level, other] += 1
            cells[other, level] += 1
    return cells


def _runs(here: dict[Place, int], move: Place) -> Counter[tuple[int, int]]:
    cells: Counter[tuple[int, int]] = Counter()
    for place, level in here.items():
        if here.get(_add(place, move, -1)) != level:
            length = next(n for n in itertools.count(1) if here.get(_add(place, move, n)) != level)
            cells[level, length] += 1
    return cells


def _merge(parts: list[Counter[tuple[int, int]]]) -> Counter[tuple[int, int]]:
    total: Counter[tuple[int, int]] = Counter()
    for part in parts:
        total.update(part)
    return total


def _slow(volume: Volume, ng: int, mask: NDArray[np.bool_]) -> dict[str, float]:
    here = {place: int(volume[place]) for place in np.ndindex(volume.shape) if volume[place]}
    planes = [{place: v for place, v in here.items() if place[0] == z} for z in range(volume.shape[0])]
    planes = [plane for plane in planes if plane]
    flat = [move for move in _HALF if move[0] == 0]
    out: dict[str, float] = {}

    def put(name: str, parts: list[dict[str, float] | None]) -> None:
        out.update({f"{tag}_{name}": value for tag, value in _mean(parts).items()})

    for tabulate, features in (
        (_pairs, lambda cells, _voxels: _co_occurrence(cells, ng)),
        (_runs, lambda cells, voxels: _sizes(cells, voxels, _RUN)),
    ):
        by_plane = [[tabulate(plane, move) for move in flat] for plane in planes]
        both = list(zip(planes, by_plane, strict=True))
        put("2D_avg", [features(part, len(plane)) for plane, parts in both for part in parts])
        put("2D_comb", [features(_merge(parts), 4 * len(plane)) for plane, parts in both])
        over = [_merge([parts[k] for parts in by_plane]) for k in range(4)]
        put("2_5D_avg", [features(part, len(here)) for part in over])
        put("2_5D_comb", [features(_merge(over), 4 * len(here))])
        space = [tabulate(here, move) for move in _HALF]
        put("3D_avg", [features(part, len(here)) for part in space])
        put("3D_comb", [features(_merge(space), 13 * len(here))])
    for name, places, level in (("2D", planes, True), ("2_5D", [here], True), ("3D", [here], False)):
        depths = _depths(mask, level)
        sizes, distances, tones, dependences = [], [], [], []
        for part in places:
            zones = _zones(part, level)
            by_size = Counter((part[min(zone)], len(zone)) for zone in zones)
            by_depth = Counter((part[min(zone)], min(depths[place] for place in zone)) for zone in zones)
            sizes.append(_sizes(by_size, len(part), _SIZE))
            distances.append(_sizes(by_depth, len(part), _DISTANCE))
            tone: dict[int, list[float]] = defaultdict(list)
            dependence: Counter[tuple[int, int]] = Counter()
            for place, value in part.items():
                moves = [move for move in _SPACE if any(move) and not (level and move[0])]
                near = [part[_add(place, move)] for move in moves if _add(place, move) in part]
                dependence[value, 1 + near.count(value)] += 1
                if near:
                    tone[value].append(abs(value - sum(near) / len(near)))
            tones.append(_tone(tone))
            dependences.append(_sizes(dependence, len(part), _DEPENDENCE))
        for parts in (sizes, distances, tones, dependences):
            put(name, parts)
    return {tag: out.get(tag, math.nan) for tag in TAGS}


def _close(ours: dict[str, float], theirs: dict[str, float], relative: float = 1e-9) -> None:
    assert list(ours) == list(theirs)
    apart = {
        tag: (ours[tag], theirs[tag])
        for tag in ours
        if not (
            math.isclose(ours[tag], theirs[tag], rel_tol=relative, abs_tol=1e-7)
            or (math.isnan(ours[tag]) and math.isnan(theirs[tag]))
        )
    }
    assert not apart


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(_regions())
def test_as_the_manual_reads(region: tuple[Volume, int, NDArray[np.bool_]]) -> None:
    volume, levels, mask = region
    _close(textures(volume, levels, mask), _slow(volume, levels, mask))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(_regions(), st.permutations((0, 1, 2)), st.tuples(*[st.booleans()] * 3))
def test_three_dimensional_features_do_not_depend_on_the_pose(
    region: tuple[Volume, int, NDArray[np.bool_]], axes: list[int], mirrored: tuple[bool, ...]
) -> None:
    volume, levels, mask = region
    flipped = [axis for axis, flip in enumerate(mirrored) if flip]
    turned, turned_mask = (np.flip(part.transpose(axes), flipped) for part in (volume, mask))
    wanted = frozenset({"3D_avg", "3D_comb", "3D"})
    _close(textures(turned, levels, turned_mask, wanted), textures(volume, levels, mask, wanted))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(_regions(), st.permutations((1, 2)), st.booleans())
def test_turns_within_the_slice_change_nothing(
    region: tuple[Volume, int, NDArray[np.bool_]], axes: list[int], mirrored: bool
) -> None:
    volume, levels, mask = region
    turned, turned_mask = (part.transpose(0, *axes)[::-1, :: -1 if mirrored else 1] for part in (volume, mask))
    _close(textures(turned, levels, turned_mask), textures(volume, levels, mask))


@pytest.mark.parametrize(
    ("seed", "shape", "levels", "share"),
    [(1, (9, 11, 13), 8, 0.7), (2, (4, 17, 5), 40, 0.9), (3, (12, 3, 8), 3, 0.4), (4, (15, 15, 15), 25, 1.0)],
)
def test_equals_pyradiomics(seed: int, shape: Place, levels: int, share: float) -> None:
    sitk = pytest.importorskip("SimpleITK")
    pytest.importorskip("radiomics")
    from radiomics import featureextractor, setVerbosity

    setVerbosity(logging.CRITICAL)
    volume, mask = _random(seed, shape, levels, share)
    low = int(volume[volume > 0].min())
    image = sitk.GetImageFromArray(volume.astype(np.float32))
    region = sitk.GetImageFromArray((volume > 0).astype(np.uint8))
    extractor = featureextractor.RadiomicsFeatureExtractor(binWidth=1, additionalInfo=False)
    extractor.disableAllFeatures()
    for family in ("glcm", "glrlm", "glszm", "gldm", "ngtdm"):
        extractor.enableFeatureClassByName(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = {name: float(value) for name, value in extractor.execute(image, region).items()}
    moved = np.where(volume > 0, volume - low + 1, 0).astype(np.int32)
    ours = textures(moved, int(moved.max()), mask, correlation=True)
    assert set(theirs) - set(ALIASES) == {"original_glcm_MCC"}
    names = {**ALIASES, "original_glcm_MCC": "cm_mcc_3D_avg"}
    apart = {
        name: (ours[tag], theirs[name])
        for name, tag in names.items()
        if not math.isclose(ours[tag], theirs[name], rel_tol=1e-6)
    }
    assert not apart

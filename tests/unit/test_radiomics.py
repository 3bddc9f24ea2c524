"""Radiomics against truth: the IBSI phantom, pyradiomics, brute force, and regions that define little."""

from __future__ import annotations

import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.features.ibsi import association, intensity, mesh, morphology, roi
from pipelines.features.radiomics import ALIASES, Settings, extract, versions
from protocol.errors import InputError
from tests.unit.test_extract import agrees

Spacing = tuple[float, float, float]
# pyradiomics' kurtosis is not the excess; its covariance divides by n, IBSI's by n - 1.
SHIFTED = {"original_firstorder_Kurtosis": 3.0}
SCALED = {f"original_shape_{axis}AxisLength" for axis in ("Major", "Minor", "Least")}


def smooth(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.int16]:
    """A volume with structure, negative and positive values."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=shape)
    return (gaussian_filter(noise, 1.5) * 900 + noise * 20 - 60).astype(np.int16)


def ball(shape: tuple[int, int, int], radius: float) -> NDArray[np.bool_]:
    grid = np.indices(shape) - (np.array(shape) - 1)[:, None, None, None] / 2
    return np.asarray((grid**2).sum(axis=0) < radius**2)


def test_the_whole_phantom(shared_data: Path) -> None:
    truth = json.loads((shared_data / "ibsi1_digital_phantom" / "ibsi1_digital_phantom.json").read_text("utf-8"))
    found = extract(
        np.array(truth["image_zyx"]), np.array(truth["mask_zyx"]) > 0, (2, 2, 2), Settings(bin_width=1), aliases=False
    )
    references = truth["reference_values"]
    assert sorted(found) == sorted(r["tag"] for r in references)
    wrong = [(r["tag"], found[r["tag"]], r["value"]) for r in references if not agrees(found[r["tag"]], r)]
    assert wrong == []
    assert len(references) == 482


REGIONS: dict[str, tuple[NDArray[np.bool_], Spacing, float]] = {
    "ball": (ball((16, 18, 20), 6.5), (1, 1, 1), 25),
    "anisotropic": (ball((9, 24, 20), 7), (5, 0.7, 0.9), 25),
    "ragged": (np.random.default_rng(1).random((7, 9, 8)) < 0.45, (2.5, 0.7, 1.1), 12.5),
    "two parts at the border": (ball((6, 6, 30), 3) | (np.arange(30) < 2) | (np.arange(30) > 26), (2, 1, 1), 40),
}


@pytest.mark.parametrize("name", REGIONS)
def test_all_aliases_equal_pyradiomics(name: str) -> None:
    compare(*REGIONS[name])


@pytest.mark.full
def test_all_aliases_equal_pyradiomics_on_a_large_region() -> None:
    compare(ball((128, 128, 128), 40), (1, 1, 1), 25)


def compare(mask: NDArray[np.bool_], spacing: Spacing, width: float) -> None:
    sitk = pytest.importorskip("SimpleITK")
    featureextractor = pytest.importorskip("radiomics.featureextractor", reason="pyradiomics is not installed")
    voxels = smooth(mask.shape)  # type: ignore[arg-type]
    logging.getLogger("radiomics").setLevel(logging.CRITICAL)
    images = [sitk.GetImageFromArray(voxels), sitk.GetImageFromArray(mask.astype(np.uint8))]
    for image in images:
        image.SetSpacing([float(step) for step in reversed(spacing)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = featureextractor.RadiomicsFeatureExtractor(binWidth=width, additionalInfo=False).execute(*images)
    found = extract(voxels, mask, spacing, Settings(bin_width=width, bin_origin="zero"))
    count = int(mask.sum())
    assert len(ALIASES) == 102
    for alias, tag in ALIASES.items():
        expected = float(oracle[alias]) - SHIFTED.get(alias, 0.0)
        expected *= math.sqrt(count / (count - 1)) if alias in SCALED else 1.0
        assert found[alias] == found[tag] == pytest.approx(expected, rel=1e-6, abs=1e-12), alias


def brute_association(values: NDArray[Any], mask: NDArray[np.bool_], spacing: Spacing) -> tuple[float, float]:
    places, inside = np.argwhere(mask) * spacing, values[mask] - values[mask].mean()
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    weights = np.divide(1.0, apart, out=np.zeros_like(apart), where=apart > 0)
    n, total, spread = len(inside), weights.sum(), (inside**2).sum()
    moran = n / total * (weights * np.outer(inside, inside)).sum() / spread
    return moran, (n - 1) / (2 * total) * (weights * (inside[:, None] - inside) ** 2).sum() / spread


@pytest.mark.parametrize("shape", [(5, 6, 7), (1, 4, 9), (1, 1, 6), (4, 1, 1)])
@pytest.mark.parametrize("held", [1 << 19, 64])
def test_association_of_all_pairs(shape: tuple[int, int, int], held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "_HELD", held)
    monkeypatch.setattr(association, "_AGAIN", held)
    monkeypatch.setattr(association, "_KEPT", 1 if held == 64 else 1 << 22)
    generator = np.random.default_rng(5)
    values, mask = generator.normal(size=shape) - 40, generator.random(shape) < 0.8
    mask.ravel()[:2] = True
    spacing = (1.0, 2.0, 0.7)
    assert association.moran_and_geary(values, mask, spacing) == pytest.approx(brute_association(values, mask, spacing))


def test_too_large_for_association(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "MAX_POINTS", 100)
    found = extract(smooth((9, 9, 9)), ball((9, 9, 9), 4), (1, 1, 1))
    assert math.isnan(found["morph_moran_i"])
    assert math.isnan(found["morph_geary_c"])
    assert math.isfinite(found["morph_volume"])


def brute_peaks(voxels: NDArray[Any], mask: NDArray[np.bool_], spacing: Spacing) -> tuple[float, float]:
    places = np.indices(voxels.shape).reshape(3, -1).T * spacing
    inside, flat = mask.ravel(), voxels.ravel().astype(float)
    near = np.linalg.norm(places[inside][:, None] - places[None], axis=2) <= intensity.PEAK_MM
    means = near @ flat / near.sum(axis=1)
    return means[flat[inside] == flat[inside].max()].max(), means.max()


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (5.0, 1.5, 1.7), (9.0, 9.0, 9.0)])
@pytest.mark.parametrize("slab", [4_000_000, 1])
def test_peaks_look_beyond_the_region(spacing: Spacing, slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensity, "_SLAB", slab)
    voxels = smooth((11, 13, 12))
    for mask in (ball((11, 13, 12), 3), np.roll(ball((11, 13, 12), 3), 4, axis=1), ball((11, 13, 12), 30)):
        found = extract(voxels, mask, spacing)
        expected = brute_peaks(voxels, mask, spacing)
        assert (found["loc_peak_loc"], found["loc_peak_glob"]) == pytest.approx(expected)


def test_shape_of_known_bodies() -> None:
    block = np.zeros((20, 20, 20), bool)
    block[4:10, 3:15, 5:8] = True
    found = extract(smooth((20, 20, 20)), block, (3.0, 1.0, 2.0))
    assert found["morph_vol_approx"] == pytest.approx(6 * 12 * 3 * 6)
    assert 0.85 < found["morph_vol_dens_aabb"] < 1
    assert found["morph_diam"] == pytest.approx(math.sqrt((5 * 3) ** 2 + 12**2 + (2 * 2) ** 2), rel=0.12)
    assert found["morph_pca_maj_axis"] == pytest.approx(4 * math.sqrt(9 * 35 / 12 * 216 / 215))
    round_ = extract(smooth((32, 32, 32)), ball((32, 32, 32), 13), (1, 1, 1))
    assert round_["morph_sphericity"] == pytest.approx(1, abs=0.1)
    assert round_["morph_area_dens_aee"] == pytest.approx(5 / 4 / round_["morph_sphericity"], rel=0.02)
    assert morphology._ellipsoid_area(np.ones(3)) == pytest.approx(4 * math.pi)


def test_hull_of_few_vertices_is_the_hull_of_all() -> None:
    from scipy.spatial import ConvexHull

    mask = np.pad(np.random.default_rng(2).random((8, 9, 7)) < 0.2, 1)
    spacing = (2.0, 0.5, 1.0)
    everything = []
    for axis in range(3):
        edges = np.argwhere(np.diff(mask.astype(int), axis=axis)).astype(float)
        edges[:, axis] += 0.5
        everything.append(edges)
    full, few = ConvexHull(np.concatenate(everything) * spacing), ConvexHull(mesh.vertices(mask, spacing))
    assert (few.volume, few.area) == pytest.approx((full.volume, full.area))


def test_moved_turned_and_surrounded_regions_keep_their_features() -> None:
    voxels, mask = smooth((20, 20, 20)), ball((20, 20, 20), 5.5)
    before = extract(voxels, mask, (1, 1, 1))
    moved = extract(np.roll(voxels, 3, axis=(0, 2)), np.roll(mask, 3, axis=(0, 2)), (1, 1, 1))
    local = {"loc_peak_loc", "loc_peak_glob"}  # these see what has been rolled in at the border
    assert {k: v for k, v in before.items() if k not in local} == pytest.approx(
        {k: v for k, v in moved.items() if k not in local}, rel=1e-9, nan_ok=True
    )
    strange = np.where(mask, voxels, 3000).astype(np.int16)
    outside = extract(strange, mask, (1, 1, 1))
    assert {k for k in before if before[k] != outside[k] and not math.isnan(before[k])} <= local


def regions_of_nothing_much() -> dict[str, NDArray[np.bool_]]:
    found = {name: np.zeros((6, 7, 8), bool) for name in ("voxel", "corner", "line", "slice", "pair", "apart")}
    found["voxel"][2, 3, 4] = True
    found["corner"][0, 0, 0] = True
    found["line"][2, 3, 1:6] = True
    found["slice"][3, 1:5, 2:6] = True
    found["pair"][2, 3, 3:5] = True
    found["apart"][0, 0, 0] = found["apart"][5, 6, 7] = True
    return found | {"everything": np.ones((6, 7, 8), bool)}


@pytest.mark.parametrize("name", list(regions_of_nothing_much()))
@pytest.mark.parametrize("constant", [False, True])
def test_small_and_constant_regions_give_numbers_or_nan(name: str, constant: bool) -> None:
    mask = regions_of_nothing_much()[name]
    voxels = np.full(mask.shape, -7, np.int16) if constant else smooth(mask.shape)  # type: ignore[arg-type]
    for settings in (Settings(), Settings(bin_count=8), Settings(ivh_bin_count=4), Settings(ivh_bin_width=0.5)):
        found = extract(voxels, mask, (3, 1, 1), settings)
        assert len(found) == 482 + 102
        assert not any(math.isinf(value) for value in found.values())
        assert found["stat_mean"] == pytest.approx(float(voxels[mask].mean()))
        assert found["morph_volume"] > 0
    assert math.isnan(found["morph_pca_maj_axis"]) == (mask.sum() == 1)
    assert math.isnan(found["morph_moran_i"]) == (constant or mask.sum() == 1)


BAD: dict[str, tuple[NDArray[Any], NDArray[np.bool_], Any, dict[str, Any]]] = {
    "empty": (np.zeros((3, 3, 3)), np.zeros((3, 3, 3), bool), (1, 1, 1), {}),
    "other shape": (np.zeros((3, 3, 3)), np.ones((3, 3, 4), bool), (1, 1, 1), {}),
    "two dimensions": (np.zeros((3, 3)), np.ones((3, 3), bool), (1, 1, 1), {}),
    "not finite": (np.full((3, 3, 3), np.nan), np.ones((3, 3, 3), bool), (1, 1, 1), {}),
    "no spacing": (np.zeros((3, 3, 3)), np.ones((3, 3, 3), bool), (1, 0, 1), {}),
    "out of range": (np.zeros((3, 3, 3)), np.ones((3, 3, 3), bool), (1, 1, 1), {"intensity_range": (5, 9)}),
    "narrow bins": (np.linspace(0, 1e6, 27).reshape(3, 3, 3), np.ones((3, 3, 3), bool), (1, 1, 1), {"bin_width": 0.1}),
    "huge grid": (np.zeros((99, 99, 99)), np.ones((99, 99, 99), bool), (9, 9, 9), {"resample_mm": 0.01}),
    "vanished": (np.zeros((9, 9, 9)), np.indices((9, 9, 9)).sum(axis=0) == 1, (1, 1, 1), {"resample_mm": 4}),
    "between the new voxels": (
        np.zeros((8, 8, 2)),
        np.indices((8, 8, 2))[0] == 3,
        (0.94, 0.11, 0.04),
        {"resample_mm": (5, 2, 5), "interpolator": "nearest"},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_clear_error(name: str) -> None:
    voxels, mask, spacing, settings = BAD[name]
    with pytest.raises(InputError, match=r"input\.image"):
        extract(voxels, mask, spacing, Settings(**settings))


def test_nothing_outside_the_region_must_be_a_number() -> None:
    voxels, mask = smooth((9, 9, 9)).astype(np.float64), ball((9, 9, 9), 3)
    before = extract(voxels, mask, (4, 4, 4))
    far = voxels.copy()
    far[0, 0, 0] = np.nan
    assert extract(far, mask, (4, 4, 4)) == pytest.approx(before, nan_ok=True)
    near = np.where(mask, voxels, np.nan)
    found = extract(near, mask, (1, 1, 1))
    assert found["loc_peak_glob"] == pytest.approx(brute_peaks_inside(voxels, mask))
    with pytest.raises(InputError, match="finite"):
        extract(near, mask, (1, 1, 1), Settings(resample_mm=0.7))


def brute_peaks_inside(voxels: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    places = np.argwhere(mask)
    near = np.linalg.norm(places[:, None] - places[None], axis=2) <= intensity.PEAK_MM
    return float((near @ voxels[mask] / near.sum(axis=1)).max())


@pytest.mark.parametrize("origin", ["bin_origin = 'zero'", "bin_origin = 'roi_min'"])
def test_intensities_too_large_to_tell_bins_apart(origin: str) -> None:
    settings = Settings.from_toml(origin)
    found = extract(np.full((3, 3, 3), 1e20), np.ones((3, 3, 3), bool), (1, 1, 1), settings)
    assert found["ih_max"] == 1


def test_levels() -> None:
    values = np.array([[[-30.0, -25.0, -1.0, 0.0, 24.9, 50.0, 99.0]]])
    mask = values < 60

    def levels(**how: Any) -> tuple[list[int], int]:
        found, count = roi.discretise(values, mask, **how)
        return found.ravel().tolist(), count

    assert levels(bin_width=25.0) == ([1, 1, 2, 2, 3, 4, 0], 4)
    assert levels(bin_width=25.0, origin="zero") == ([1, 2, 2, 3, 3, 5, 0], 5)
    assert levels(bin_width=25.0, origin=-100.0) == ([3, 4, 4, 5, 5, 7, 0], 7)
    assert levels(bin_width=25.0, origin=-10.0) == ([1, 1, 1, 1, 2, 3, 0], 3)
    assert levels(bin_count=4) == ([1, 1, 2, 2, 3, 4, 0], 4)
    assert levels(bin_count=16)[0][-2] == levels(bin_count=16)[1] == 16


def test_intensity_mask_by_range_and_outliers() -> None:
    values = np.array([[[-1000.0, -500.0, 0.0, 1.0, 2.0, 3.0, 400.0, 400.5]]])
    mask = np.ones(values.shape, bool)
    kept = roi.resegment(values, mask, intensity_range=(-500, 400))
    assert values[kept].tolist() == [-500, 0, 1, 2, 3, 400]
    kept = roi.resegment(values, mask, outlier_sigma=1.5)
    assert values[kept].tolist() == [-500, 0, 1, 2, 3, 400, 400.5]
    kept = roi.resegment(values, mask, intensity_range=(-500, 400), outlier_sigma=1.0)
    assert values[kept].tolist() == [-500, 0, 1, 2, 3]  # the deviation is that of all eight


def test_range_changes_intensities_but_no_shape() -> None:
    voxels, mask = smooth((12, 12, 12)), ball((12, 12, 12), 5)
    plain, cut = (
        extract(voxels, mask, (1, 1, 1)),
        extract(voxels, mask, (1, 1, 1), Settings(intensity_range=(-100, 40))),
    )
    assert cut["morph_volume"] == plain["morph_volume"]
    assert cut["stat_max"] <= 40 < plain["stat_max"]
    levels = np.floor((voxels[mask & (voxels >= -100) & (voxels <= 40)] + 100.0) / 25) + 1
    assert cut["ih_mean"] == pytest.approx(levels.mean())


def test_intensity_volume_histogram() -> None:
    inside = np.array([1.0, 1, 1, 2, 2, 3, 3, 3, 3, 9])
    plain = intensity.volume_histogram(inside)
    assert plain["ivh_i10"] == 4.0  # from 4 on there is 1 voxel of 10: integers between are intensities too
    assert plain["ivh_i90"] == 2.0
    assert plain["ivh_v10"] == pytest.approx(0.7)
    assert plain["ivh_v90"] == pytest.approx(0.1)
    ranged = intensity.volume_histogram(inside, bounds=(-1.0, 19.0))
    assert ranged["ivh_v10"] == pytest.approx(1.0)
    assert ranged["ivh_v90"] == 0.0
    widths = intensity.volume_histogram(inside, bin_width=2.5, bounds=(0.0, 10.0))
    assert widths["ivh_i10"] == 6.25  # the centre of an empty bin
    counted = intensity.volume_histogram(inside, bin_count=4)
    assert (counted["ivh_i10"], counted["ivh_i90"]) == (3.0, 2.0)
    assert intensity.volume_histogram(inside / 7)["ivh_i90"] == pytest.approx(2 / 7)


def test_mode_nearest_the_mean() -> None:
    found = intensity.histogram(np.array([1, 1, 2, 5, 5, 6]), 6)
    assert found["ih_mode"] == 5.0
    assert intensity.histogram(np.array([1, 1, 3, 3]), 3)["ih_mode"] == 1.0
    assert (found["ih_max_grad"], found["ih_max_grad_g"]) == (1.0, 4.0)
    assert (found["ih_min_grad"], found["ih_min_grad_g"]) == (-1.0, 1.0)


def test_versions_name_what_numbers_depend_on() -> None:
    assert set(versions()) == {"corsia-ibsi", "numba", "numpy", "scikit-image", "scipy"}
    assert "absent" not in versions().values()

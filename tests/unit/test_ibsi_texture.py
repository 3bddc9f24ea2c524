"""Texture families: the IBSI digital phantom, matrices worked out by hand, regions at the edge of what is defined."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.features.ibsi import glcm, matrices
from pipelines.features.ibsi.texture import AGGREGATIONS, ALIASES, EXCEPTIONS, TAGS, textures
from protocol.errors import InputError

# Two slices, 0 outside; worked out on paper below.
_HAND = np.array([[[1, 1, 2], [3, 1, 0]], [[2, 0, 2], [2, 0, 0]]], dtype=np.int32)
_ALL = np.ones(_HAND.shape, dtype=bool)


def test_ibsi_digital_phantom(shared_data: Path) -> None:
    phantom = json.loads((shared_data / "ibsi1_digital_phantom" / "ibsi1_digital_phantom.json").read_text())
    mask = np.array(phantom["mask_zyx"], dtype=bool)
    levels = np.where(mask, phantom["image_zyx"], 0).astype(np.int32)
    found = textures(levels, 6, mask)
    families = {"cm", "rlm", "szm", "dzm", "ngt", "ngl"}
    reference = [value for value in phantom["reference_values"] if value["family"] in families]
    assert len(reference) == 408
    assert {value["tag"] for value in reference} == set(found) == set(TAGS)
    apart = {
        value["tag"]: (value["value"], found[value["tag"]])
        for value in reference
        if not abs(float(f"{found[value['tag']]:.3g}") - value["value"]) <= value["tolerance"]
    }
    assert not apart


def test_co_occurrence_by_hand() -> None:
    # Pairs along x: 11, 12, 31; symmetric: 11 twice, 12, 21, 13, 31.
    volume = np.array([[[1, 1, 2, 0, 3, 1]]], dtype=np.int32)
    found = textures(volume, 4, volume > 0, frozenset({"3D_comb"}))
    assert found["cm_joint_max_3D_comb"] == pytest.approx(2 / 6)
    assert found["cm_joint_avg_3D_comb"] == pytest.approx((4 * 1 + 2 + 3) / 6)
    assert found["cm_contrast_3D_comb"] == pytest.approx((2 * 1 + 2 * 4) / 6)
    assert found["cm_energy_3D_comb"] == pytest.approx((4 + 4) / 36)
    assert found["cm_joint_entr_3D_comb"] == pytest.approx(math.log2(3) / 3 + 4 / 6 * math.log2(6))
    assert found["cm_inv_diff_norm_3D_comb"] == pytest.approx((2 + 2 / (1 + 1 / 4) + 2 / (1 + 2 / 4)) / 6)
    assert found["cm_inv_var_3D_comb"] == pytest.approx((2 * 1 + 2 / 4) / 6)
    assert found["cm_sum_entr_3D_comb"] == pytest.approx(math.log2(3))


def test_runs_by_hand() -> None:
    found = textures(_HAND, 3, _ALL, frozenset({"2_5D_avg", "2_5D_comb"}))
    # Runs of one and of two over both slices: along x 6 and 1, along y 4 and 2, down right 6 and 1, down left 8 and 0.
    assert found["rlm_sre_2_5D_avg"] == pytest.approx((6.25 / 7 + 4.5 / 6 + 6.25 / 7 + 1) / 4)
    assert found["rlm_sre_2_5D_comb"] == pytest.approx((24 + 4 / 4) / 28)
    assert found["rlm_r_perc_2_5D_comb"] == pytest.approx(28 / 32)
    # Of the four runs of two, three are of level 1 and one of level 2.
    assert found["rlm_lrhge_2_5D_comb"] == pytest.approx((4 * (3 * 1 + 1 * 4) + 6 * 1 + 14 * 4 + 4 * 9) / 28)


def test_zones_by_hand() -> None:
    # 26-connected: 1 1 1 (3), 2 with the 2 behind it (2), 3 (1), 2 2 at the left of slice 1 (2).
    found = textures(_HAND, 3, _ALL, frozenset({"3D", "2_5D"}))
    assert found["szm_z_perc_3D"] == pytest.approx(4 / 8)
    assert found["szm_lze_3D"] == pytest.approx((9 + 4 + 1 + 4) / 4)
    assert found["szm_lzhge_3D"] == pytest.approx((9 + 4 * 4 + 9 + 4 * 4) / 4)
    # In the slices: 3, 1, 1 and 2, 1.
    assert found["szm_z_perc_2_5D"] == pytest.approx(5 / 8)
    assert found["szm_zsnu_2_5D"] == pytest.approx((9 + 1 + 1) / 5)
    assert found["dzm_sde_3D"] == 1.0


def test_distance_is_taken_in_the_morphological_mask() -> None:
    levels = np.zeros((5, 7, 7), dtype=np.int32)
    levels[2, 3, 3] = 2
    levels[2, 3, 1] = 1
    whole = textures(levels, 2, np.ones(levels.shape, dtype=bool), frozenset({"2D", "3D"}))
    assert whole["dzm_lde_3D"] == pytest.approx((3**2 + 2**2) / 2)
    assert whole["dzm_lde_2D"] == pytest.approx((4**2 + 2**2) / 2)
    itself = textures(levels, 2, levels > 0, frozenset({"3D"}))
    assert itself["dzm_lde_3D"] == 1.0
    assert itself["dzm_z_perc_3D"] == 1.0


def test_neighbourhoods_by_hand() -> None:
    found = textures(np.array([[[1, 1, 2]]], dtype=np.int32), 2, np.ones((1, 1, 3), dtype=bool), frozenset({"3D"}))
    # Differences: |1 - 1|, |1 - 1.5|, |2 - 1|.
    assert found["ngt_coarseness_3D"] == pytest.approx(1 / (2 / 3 * 0.5 + 1 / 3 * 1))
    assert found["ngt_contrast_3D"] == pytest.approx(2 * (2 / 3 * 1 / 3) / 2 * 1.5 / 3)
    assert found["ngt_strength_3D"] == pytest.approx(2 / 1.5)
    # Dependences: 2, 2 of level 1, 1 of level 2.
    assert found["ngl_hde_3D"] == pytest.approx((4 + 4 + 1) / 3)
    assert found["ngl_dc_energy_3D"] == pytest.approx((2 / 3) ** 2 + (1 / 3) ** 2)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 4), (3, 1, 1), (2, 3, 4)])
@pytest.mark.parametrize("n_levels", [1, 9])
def test_one_level(shape: tuple[int, int, int], n_levels: int) -> None:
    levels = np.full(shape, n_levels, dtype=np.int32)
    found = textures(levels, n_levels, levels > 0, correlation=True)
    assert set(TAGS) < set(found)
    assert found["rlm_lgre_3D_avg"] == pytest.approx(1 / n_levels**2)
    assert found["szm_z_perc_3D"] == 1 / levels.size
    assert not any(math.isinf(value) for value in found.values())
    if levels.size == 1:
        assert math.isnan(found["cm_contrast_3D_avg"])
        assert math.isnan(found["ngt_coarseness_3D"])
    else:
        assert str(found["cm_contrast_3D_comb"]) == str(found["cm_joint_entr_3D_comb"]) == "0.0"
        assert found["cm_corr_3D_avg"] == 1
        assert found["cm_mcc_3D_avg"] == 1
        assert found["ngt_coarseness_3D"] == 1e6
        assert found["ngt_busyness_3D"] == found["ngt_strength_3D"] == 0


def test_slices_without_pairs_are_left_out_of_the_average() -> None:
    levels = np.zeros((3, 2, 2), dtype=np.int32)
    levels[0] = [[1, 2], [2, 1]]
    levels[2, 0, 0] = 5
    alone = textures(levels[:1], 5, levels[:1] > 0)
    both = textures(levels, 5, levels > 0)
    for tag in ("cm_contrast_2D_avg", "cm_contrast_2D_comb", "ngt_contrast_2D"):
        assert both[tag] == pytest.approx(alone[tag])
    assert both["rlm_hgre_2D_avg"] != pytest.approx(alone["rlm_hgre_2D_avg"])


def test_empty_levels_matter_only_where_the_number_of_levels_does() -> None:
    random = np.random.default_rng(1)
    levels = random.integers(1, 5, (4, 5, 6)).astype(np.int32)
    few, many = (textures(levels, n, levels > 0) for n in (4, 400))
    changed = {tag.split("_2")[0].split("_3")[0] for tag in few if few[tag] != pytest.approx(many[tag], rel=1e-12)}
    assert changed == {"cm_inv_diff_norm", "cm_inv_diff_mom_norm"}


def test_aggregations_are_those_asked_for() -> None:
    whole = textures(_HAND, 3, _ALL)
    for name in sorted(AGGREGATIONS):
        part = textures(_HAND, 3, _ALL, frozenset({name}))
        assert part == {tag: value for tag, value in whole.items() if tag.endswith(f"_{name}")}
        assert part


def test_the_box_around_the_region_does_not_matter() -> None:
    wide = np.pad(_HAND, ((3, 0), (1, 4), (0, 2)))
    assert textures(wide, 3, wide > 0) == textures(_HAND, 3, _HAND > 0)


def test_volumes_are_worked_through_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    levels = random.integers(0, 6, (7, 6, 5)).astype(np.int32)
    whole = textures(levels, 5, levels > 0)
    monkeypatch.setattr(matrices, "_SLAB", 1)
    assert textures(levels, 5, levels > 0) == pytest.approx(whole, rel=1e-12)


def test_sorting_and_counting_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    levels = random.integers(0, 900, (4, 6, 5)).astype(np.int32)
    sparse = textures(levels, 900, levels > 0)
    monkeypatch.setattr(matrices, "_DENSE", 1 << 40)
    assert textures(levels, 900, levels > 0) == pytest.approx(sparse, rel=1e-12)


def test_maximal_correlation_of_many_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    levels = random.integers(1, 40, (6, 7, 8)).astype(np.int32)
    wanted = frozenset({"3D_avg", "2D_comb"})
    dense = textures(levels, 40, levels > 0, wanted, correlation=True)
    monkeypatch.setattr(glcm, "_DENSE_LEVELS", 2)
    sparse = textures(levels, 40, levels > 0, wanted, correlation=True)
    assert sparse == pytest.approx(dense, rel=1e-8)
    assert 0.1 < dense["cm_mcc_3D_avg"] < 0.9


@pytest.mark.parametrize(
    ("levels", "mask"),
    [
        (np.zeros((2, 2, 2), dtype=np.int32), np.ones((2, 2, 2), dtype=bool)),
        (np.zeros((2, 2, 2), dtype=np.int32), np.zeros((2, 2, 2), dtype=bool)),
        (np.ones((2, 2, 2), dtype=np.int32), np.ones((2, 2, 3), dtype=bool)),
        (np.ones((2, 2), dtype=np.int32), np.ones((2, 2), dtype=bool)),
        (np.full((2, 2, 2), 9, dtype=np.int32), np.ones((2, 2, 2), dtype=bool)),
        (np.full((2, 2, 2), -1, dtype=np.int32), np.ones((2, 2, 2), dtype=bool)),
        (np.zeros((0, 2, 2), dtype=np.int32), np.ones((0, 2, 2), dtype=bool)),
    ],
)
def test_refused(levels: np.ndarray, mask: np.ndarray) -> None:
    with pytest.raises(InputError):
        textures(levels, 4, mask)


def test_unknown_aggregation() -> None:
    with pytest.raises(InputError, match="2_5D_avg"):
        textures(_HAND, 3, _ALL, frozenset({"4D"}))


def test_names() -> None:
    assert len(set(TAGS)) == len(TAGS) == 408
    assert set(ALIASES.values()) <= set(TAGS)
    assert len(ALIASES) == len(set(ALIASES.values())) == 74
    assert not set(EXCEPTIONS) & set(ALIASES)


_ALONE = """
import sys, numpy as np, pipelines.features.ibsi.texture as texture
levels = np.ones((2, 2, 2), dtype=np.int32)
assert "numba" not in sys.modules
assert texture.textures(levels, 1, levels > 0, frozenset({"3D_comb"}))["rlm_sre_3D_comb"] > 0
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["nowhere", "full"])
def test_works_where_nothing_can_be_kept(tmp_path: Path, where: str) -> None:
    """No folder to keep compiled kernels in, or one that writes fail in: compiled anew, with the same result."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n" if where == "full" else ""
    ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" if where == "full" else ""
    folder = tmp_path / "kept"
    if where == "nowhere":
        folder.write_text("not a folder")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    if where == "nowhere":
        environment["NUMBA_CACHE_LOCATOR_CLASSES"] = "UserProvidedCacheLocator"
    root = str(Path(matrices.__file__).parents[3])
    environment["PYTHONPATH"] = root
    subprocess.run([sys.executable, "-c", ignore + limit + _ALONE], env=environment, check=True, timeout=300)


_MANY_LEVELS = """
import re, numpy as np
from pathlib import Path
from pipelines.features.ibsi.texture import textures
away = np.arange(128) - 64
ball = away[:, None, None] ** 2 + away[:, None] ** 2 + away**2 <= 1600
levels = np.where(ball, np.random.default_rng(0).integers(1, 4001, ball.shape), 0).astype(np.int32)
assert len(textures(levels, 4000, ball)) == 408
# Not ru_maxrss: a new program inherits that of the process that started it.
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.full
def test_memory_with_thousands_of_levels() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(matrices.__file__).parents[3])}
    command = [sys.executable, "-c", _MANY_LEVELS]
    done = subprocess.run(command, env=environment, check=True, timeout=300, capture_output=True, text=True)
    assert int(done.stdout) < 500

"""The radiomics plug-in says of every column what it is, in which unit and by whose definition."""

from __future__ import annotations

import numpy as np

from pipelines.features.radiomics import ALIASES, Radiomics, Settings, extract
from pipelines.features.schema import Extractor, check_names


def test_every_column_that_is_made_is_described_and_no_other() -> None:
    plugin = Radiomics()
    assert isinstance(plugin, Extractor)
    draw = np.random.default_rng(1)
    voxels, mask = draw.normal(size=(6, 6, 6)), np.ones((6, 6, 6), dtype=bool)
    for given in ({"bin_width": 0.5}, {"bin_count": 8, "aggregation": "3D"}, {"aggregation": ["2D", "2.5D merged"]}):
        described = plugin.schema(given)
        check_names(described)
        made = extract(voxels, mask, (2.0, 1.0, 1.0), Settings.of(given), aliases=False)
        assert {feature.name for feature in described} == set(made)
        assert all(feature.definition and feature.source and feature.dtype == "float64" for feature in described)
    assert len(plugin.schema({})) == 482


def test_definitions_tell_features_apart_and_carry_units() -> None:
    described = {feature.name: feature for feature in Radiomics().schema({})}
    assert len({feature.definition for feature in described.values()}) == len(described)
    assert described["morph_volume"].unit == "mm3"
    assert described["stat_var"].unit == "{intensity}2"
    assert described["cm_joint_max_3D_avg"].definition.startswith(
        "joint maximum of the grey level co-occurrence matrix"
    )
    assert described["szm_lzlge_2_5D"].definition.startswith("large zone low grey level emphasis")
    assert described["ngl_hdhge_3D"].definition.startswith("high dependence count high grey level emphasis")
    assert set(ALIASES.values()) <= set(described)

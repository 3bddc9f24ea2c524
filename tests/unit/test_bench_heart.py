"""The heart benchmark: the published rows and splits, choices on training rows alone, and short runs of each part."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from corsia import bench_heart, heart
from protocol.errors import InputError

DATA = Path(__file__).parents[3] / "shared" / "data" / "heart-disease"
here = pytest.mark.skipif(not DATA.is_dir(), reason="the UCI heart disease files are not there")


@here
def test_rows_and_splits_are_the_published_ones() -> None:
    frames = heart.hospitals(DATA)
    assert list(frames) == ["cleveland", "hungarian", "switzerland", "va"]
    assert [len(f) for f in frames.values()] == [303, 261, 46, 130]
    assert [int(f["disease"].sum()) for f in frames.values()] == [139, 98, 45, 101]
    assert [int((f["split"] == "train").sum()) for f in frames.values()] == [199, 172, 30, 85]


@here
def test_the_features_are_the_published_thirteen() -> None:
    from pipelines import learners

    frames = heart.hospitals(DATA)
    study = heart.study_for(parameters={}, rounds=1, local_steps=1)
    assert len(learners.for_study(study).features) == 10
    model, preprocessing = heart.trained(frames, study)
    assert model["layer.0.weight"].shape == (1, 13)
    names = learners.for_study(study).vocabulary.names
    dropped = [name for name, kept in zip(names, preprocessing["kept"], strict=True) if not kept]
    assert dropped == [("cp", "1"), ("restecg", "0")]


@here
def test_folds_hold_training_rows_alone_each_of_them_once() -> None:
    frames = heart.hospitals(DATA)
    folds = list(bench_heart.folds(frames))
    assert len(folds) == 5
    for name, frame in frames.items():
        train = frame[frame["split"] == "train"].drop(columns="split").reset_index(drop=True)
        held = np.stack([(fold[name]["split"] == "test").to_numpy() for fold in folds])
        assert held.sum(axis=0).tolist() == [1] * len(train)
        assert all(fold[name].drop(columns="split").equals(train) for fold in folds)


@pytest.mark.slow
@here
def test_the_selection_never_sees_a_test_row() -> None:
    frames = heart.hospitals(DATA)
    grid = ((0.01, 0.01),)
    spoilt = {
        name: frame.assign(disease=np.where(frame["split"] == "test", 1 - frame["disease"], frame["disease"]))
        for name, frame in frames.items()
    }
    assert bench_heart.select(frames, grid) == bench_heart.select(spoilt, grid)


@pytest.mark.slow
@here
def test_the_object_has_the_keys_of_the_contract() -> None:
    result = bench_heart.bench_heart(DATA, seeds=(42,), noise_seeds=(0,), grid=((0.01, 0.003),))
    for name in ("fedavg", "fedadagrad", "best", "pooled", "local", "dp"):
        assert 0.5 < result[name]["mean_of_clients"] < 0.9
        assert 0.5 < result[name]["pooled_test"] < 0.9
    assert result["secagg_max_rel_diff"] <= 1e-6
    assert result["dp"]["epsilon"] <= 1
    assert result["best"]["mean_of_clients"] > 0.78
    assert json.loads(json.dumps(result)) == result


def test_files_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cleveland"):
        heart.hospitals(tmp_path)
    (tmp_path / "processed.cleveland.data").write_text("1,2,3\n")
    with pytest.raises(InputError, match="14 columns"):
        heart.hospitals(tmp_path)
    (tmp_path / "processed.cleveland.data").write_text("63,1,1,145,233,1,2,150,0,2.3,3,0,6,0\n")
    with pytest.raises(InputError, match="303 are published"):
        heart.hospitals(tmp_path)

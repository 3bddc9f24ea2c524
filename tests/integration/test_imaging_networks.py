"""Each network on images over three hospitals in this process, to where it has learned something."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from central.federation.local import train_locally
from pipelines import learners
from pipelines.train import TrainingData, load
from protocol.study import Study
from tests.imagekit import SITES, ImageSource, frame, series, source, study

THREE = {"dimensions": 3, "size": [8, 16, 16], "slices": 0}


def data(plan: Study, site: str, given: ImageSource | None = None) -> TrainingData:
    read = given or source(site)
    return load(plan, site, read.table(), read.documents, "patient_id", read.files)


@pytest.mark.parametrize(
    ("learner", "parameters", "metric", "least"),
    [
        ("cnn", {**THREE, "augment": {"flip": ["slices"]}}, "auc", 0.9),
        ("cnn", {"normalise": "image", "window": None}, "auc", 0.7),
        ("unet", {}, "dice", 0.7),
        ("unet", {**THREE, "channels": [4, 8, 8]}, "dice", 0.5),
    ],
    ids=["volumes", "each image by itself", "u-net", "u-net in volumes"],
)
def test_other_networks_learn_too(learner: str, parameters: dict[str, Any], metric: str, least: float) -> None:
    plan = study(learner, parameters, rounds=5, learning_rate=0.02)
    made = train_locally(plan, {site: data(plan, site) for site in SITES})
    assert made.metrics[metric] > least, made.metrics


def test_a_number_is_learned_in_its_own_unit() -> None:
    plan = study(parameters={"task": "continuous"})
    tables = {site: frame(site).assign(dense=[40.0 + 30 * (i % 2) for i in range(12)]) for site in SITES}
    made = train_locally(
        plan, {site: data(plan, site, ImageSource(tables[site], source(site)._files)) for site in SITES}
    )
    assert made.metrics["rmse"] < 15
    assert made.preprocessing["outcome"].tolist() == [55.0, 15.0]


def test_a_u_net_gives_a_volume() -> None:
    plan = study("unet", {"slices": 0, "size": [32, 32]}, rounds=8, local_steps=15, learning_rate=0.02)
    made = train_locally(plan, {site: data(plan, site) for site in SITES})
    learner = learners.named("unet", (), plan.pipeline.parameters)
    new = series("site-d", 1, 1)  # radius 10 mm
    table, _ = learner.predict_images(made.model, made.preprocessing, ImageSource(None, new).files())  # type: ignore[attr-defined]
    sphere = 4 / 3 * np.pi * 10**3 / 1000
    assert 0.5 * sphere < table["volume_ml"][0] < 1.6 * sphere

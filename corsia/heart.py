"""Fed-Heart-Disease: four real hospitals, the published protocol, and the rows of each split.

UCI Heart Disease (Janosi, Steinbrunn, Pfisterer, Detrano 1988; CC BY 4.0). Rows, features and splits after FLamby
(du Terrail et al. 2022, NeurIPS Datasets and Benchmarks): columns 10 to 12 are dropped, then rows with a missing value;
740 rows are left. The split of each hospital is fixed (66 % for training, seed 43, stratified).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.errors import ConfigurationError, InputError
from protocol.study import Study

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.learners.tabular import Tabular
    from pipelines.train import TrainingData

__all__ = ["HOSPITALS", "accuracy", "hospitals", "study_for", "trained", "training_data"]

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
OUTCOME = "disease"
_CATEGORICAL = {"cp": ("1", "2", "3", "4"), "restecg": ("0", "1", "2")}
_ROWS = (303, 261, 46, 130)


def hospitals(folder: Path) -> dict[str, pd.DataFrame]:
    """Rows by hospital, in the published order, with the column `split`: "train" or "test".

    Raises:
        InputError: `input.table` when the files are not the published ones.
        ConfigurationError: `config.extra-missing` without scikit-learn, which made the published split.
    """
    import pandas as pd

    try:
        from sklearn.model_selection import train_test_split  # type: ignore[import-untyped]
    except ImportError:
        raise ConfigurationError("config.extra-missing", "pip install 'corsia[demo]' for the published split") from None
    frames: dict[str, pd.DataFrame] = {}
    for name, rows in zip(HOSPITALS, _ROWS, strict=True):
        path = folder / f"processed.{name}.data"
        try:
            frame = pd.read_csv(path, header=None, na_values="?")
        except (OSError, ValueError):
            raise InputError("input.table", f"{path.name} cannot be read: see --data") from None
        if frame.shape[1] != len(COLUMNS) + 4:
            raise InputError("input.table", f"{path.name}: 14 columns are expected")
        frame = frame.drop(columns=[10, 11, 12]).dropna().reset_index(drop=True)
        frame.columns = [*COLUMNS, OUTCOME]
        frame[OUTCOME] = (frame[OUTCOME] > 0).astype(int)
        if len(frame) != rows:
            raise InputError("input.table", f"{path.name}: {len(frame)} complete rows, {rows} are published")
        stratify = frame[OUTCOME] if frame[OUTCOME].value_counts().min() > 2 else None
        train, _test = train_test_split(
            np.arange(rows), test_size=1.0 - 0.66, train_size=0.66, random_state=43, shuffle=True, stratify=stratify
        )
        frames[name] = frame.assign(split=np.where(np.isin(np.arange(rows), train), "train", "test"))
    return frames


def study_for(
    sites: tuple[str, ...] = HOSPITALS,
    *,
    parameters: Mapping[str, Any],
    k: int = 5,
    privacy: Mapping[str, Any] | None = None,
    **training: Any,
) -> Study:
    """A training study on these columns, published features; `parameters` and `training` are the method."""
    return Study.model_validate(
        {
            "schema": 1,
            "id": "heart-disease",
            "title": "Heart disease, four hospitals",
            "lane": "train",
            "purpose": "research",
            "legal_basis": "scientific-research",
            "controller": "Corsia benchmark",
            "ethics_reference": "none: published data",
            "expires": datetime(2100, 1, 1, tzinfo=UTC),
            "sites": list(sites),
            "dataset": {"name": "heart", "columns": [*COLUMNS, OUTCOME]},
            "pipeline": {
                "name": "train",
                "parameters": {"categorical": _CATEGORICAL, "drop_first": True, **parameters},
            },
            "privacy": {"k": k, **(privacy or {})},
            "training": {
                "learner": "tabular",
                "features": list(COLUMNS),
                "outcome": [OUTCOME],
                "publish": {"model": "heart-disease"},
                **training,
            },
        }
    )


def training_data(frames: Mapping[str, pd.DataFrame], study: Study) -> dict[str, TrainingData]:
    """Each site's training rows, as the lane loads them."""
    from pipelines.train import load

    return {name: load(study, name, frame[frame["split"] == "train"]) for name, frame in frames.items()}


def trained(frames: Mapping[str, pd.DataFrame], study: Study) -> tuple[Any, Any]:
    """Model and preprocessing after all rounds over the in-process grid, on the training rows of these sites."""
    from central.federation.local import train_locally

    plan = study.model_copy(update={"sites": tuple(frames)})
    reached = train_locally(plan, training_data(frames, plan))
    return reached.model, reached.preprocessing


def accuracy(
    learner: Tabular, made: tuple[Any, Any], frames: Mapping[str, pd.DataFrame], part: str = "test"
) -> dict[str, float]:
    """Accuracy at 0.5 of a model on the rows of a split.

    With `standardise = "local"` each hospital's test rows are standardised by its own training rows, and the pooled
    test rows by all training rows together, as published.

    Returns:
        `mean_of_clients`, `pooled_test`, and each hospital's own.
    """
    import pandas as pd

    def right(train: pd.DataFrame, test: pd.DataFrame) -> float:
        predicted = learner.predict(*made, test, reference=learner.rows(train))["probability"].to_numpy() > 0.5
        return float((predicted == (test[OUTCOME].to_numpy() > 0)).mean())

    train = {name: frame[frame["split"] == "train"] for name, frame in frames.items()}
    test = {name: frame[frame["split"] == part] for name, frame in frames.items()}
    each = {name: right(train[name], test[name]) for name in frames}
    pooled = right(pd.concat(list(train.values())), pd.concat(list(test.values())))
    return {"mean_of_clients": float(np.mean(list(each.values()))), "pooled_test": pooled, **each}

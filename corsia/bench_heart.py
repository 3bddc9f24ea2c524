"""`corsia bench heart`: federated learning on Fed-Heart-Disease, beside the published figures.

Published protocol: 15 rounds x 100 local updates of 4 rows, seeds 42 to 46, accuracy at 0.5 on the published test rows.
Each run is the product's own: learner, round loop and strategy over the in-process grid. What is chosen is chosen by
cross-validation on training rows; no test row is read before the models are final.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from corsia import heart

if TYPE_CHECKING:
    import pandas as pd

    from protocol.study import Study

__all__ = ["bench_heart", "folds", "select"]

SEEDS = range(42, 47)
NOISE_SEEDS = range(10)
BUDGET: dict[str, Any] = {"rounds": 15, "local_steps": 100}
_BATCH = 4
_MAX_EXAMPLES = 1 << 10  # rows of a hospital, for the fixed point of secure aggregation
_PUBLISHED = {"optimiser": "sgd", "batch": _BATCH, "l2": 0.0, "initial": "uniform"}
_METHODS: dict[str, dict[str, Any]] = {  # hyper-parameters of the published result rows
    "fedavg": {"learning_rate": 0.001},
    "fedadagrad": {
        "learning_rate": 0.003162,
        "strategy": "fedadagrad",
        "strategy_parameters": {"eta": 0.316228, "tau": 1e-8, "beta_1": 0.9},
    },
}
_CENTRALISED = {"optimiser": "adam", "batch": _BATCH, "l2": 0.0, "initial": "uniform", "standardise": "local"}
_EPOCHS = 50
GRID = tuple(itertools.product((0.001, 0.003, 0.01, 0.03), (0.0, 0.003, 0.01, 0.03)))  # learning rate, l2
FOLDS, SELECTION_SEED = 5, 1
EPSILON, DELTA = 1.0, 1e-4
# Usual ranges in adults, not taken from these rows. Rate, clip and share were fixed on invented rows.
_BOUNDS = {
    "age": (30, 80), "sex": (0, 1), "trestbps": (90, 200), "chol": (100, 400), "fbs": (0, 1), "thalach": (60, 200),
    "exang": (0, 1), "oldpeak": (0, 4),
}  # fmt: skip
_PRIVATE: dict[str, Any] = {"l2": 0.0, "private": {"bounds": _BOUNDS, "clip": 1.0, "share": 0.1}}
_PRIVATE_TRAINING: dict[str, Any] = {"rounds": 15, "local_steps": 1, "learning_rate": 1.0}
PUBLISHED = {
    "fedavg": {"mean_of_clients": 0.685, "mean_of_clients_sd": 0.028, "pooled_test": 0.748, "pooled_test_sd": 0.027},
    "fedadagrad": {
        "mean_of_clients": 0.731, "mean_of_clients_sd": 0.013, "pooled_test": 0.779, "pooled_test_sd": 0.015,
    },
    "pooled": {"mean_of_clients": 0.735, "mean_of_clients_sd": 0.003, "pooled_test": 0.795, "pooled_test_sd": 0.003},
    "dp": {"mean_of_clients": 0.685},
}  # fmt: skip

Frames = Mapping[str, "pd.DataFrame"]
Scores = dict[str, float]


def bench_heart(
    data: Path,
    tell: Callable[[str], object] = lambda _line: None,
    *,
    seeds: Iterable[int] = SEEDS,
    noise_seeds: Iterable[int] = NOISE_SEEDS,
    grid: Iterable[tuple[float, float]] = GRID,
) -> dict[str, Any]:
    """Every figure; means over the seeds, with the sample standard deviation as `..._sd`.

    Args:
        data: folder of the four `processed.*.data` files.
        tell: called with a line after each step.

    Raises:
        InputError: `input.table` when the files are not the published ones.
    """
    frames, seeds = heart.hospitals(data), list(seeds)
    result: dict[str, Any] = {
        "metric": "accuracy", "seeds": seeds, "test_rows": 254, "published": PUBLISHED, "normalisation": {},
    }  # fmt: skip
    for how in ("local", "agreed"):
        found = {name: _summary([_federated(frames, name, how, seed) for seed in seeds]) for name in _METHODS}
        result["normalisation"][how] = found
        _tell(tell, found, f"normalisation {how}")
    result |= result["normalisation"]["local"]
    chosen = select(frames, grid)
    result["selection"] = chosen
    tell(f"chosen on training rows: learning rate {chosen['learning_rate']}, l2 {chosen['l2']}")
    best = [_score(frames, _best(chosen, seed)) for seed in seeds]
    result["best"] = _summary(best) | {"normalisation": "agreed"}
    result["pooled"] = _summary([_pooled(frames, seed) for seed in seeds])
    alone = [_alone(frames, seed) for seed in seeds]
    result["local"] = _summary([one["mean"] for one in alone])
    result["local"]["hospitals"] = {name: _summary([one[name] for one in alone]) for name in frames}
    result["secagg_max_rel_diff"] = max(masked_difference(frames, _best(chosen, seed)) for seed in seeds)
    private = [_private(frames, seed) for seed in noise_seeds]
    result["dp"] = _summary([score for score, _ in private]) | private[0][1]
    _tell(tell, {name: result[name] for name in ("best", "pooled", "local", "dp")}, "")
    return result


# -- methods -----------------------------------------------------------------------------------------------------------


def _federated(frames: Frames, method: str, how: str, seed: int) -> Scores:
    parameters = {**_PUBLISHED, "standardise": how}
    return _score(frames, heart.study_for(parameters=parameters, seed=seed, **BUDGET, **_METHODS[method]))


def _best(chosen: Mapping[str, Any], seed: int) -> Study:
    parameters = {"optimiser": "sgd", "batch": _BATCH, "l2": chosen["l2"]}
    return heart.study_for(parameters=parameters, seed=seed, learning_rate=chosen["learning_rate"], **BUDGET)


def _pooled(frames: Frames, seed: int) -> Scores:
    import pandas as pd

    together = pd.concat(list(frames.values()), ignore_index=True)
    return _centralised({"pooled": together}, frames, seed)


def _alone(frames: Frames, seed: int) -> dict[str, Scores]:
    """Each hospital's own model on all test rows, and their mean."""
    each = {name: _centralised({name: frame}, frames, seed) for name, frame in frames.items()}
    keys = next(iter(each.values()))
    return each | {"mean": {key: fmean(score[key] for score in each.values()) for key in keys}}


def _centralised(training: Frames, frames: Frames, seed: int) -> Scores:
    """50 epochs of Adam in one place, standardised by its own training rows."""
    from corsia.heart_rounds import LearnerRounds, OneClass

    rows = sum(int((frame["split"] == "train").sum()) for frame in training.values())
    study = heart.study_for(
        tuple(training), parameters=_CENTRALISED, k=1, seed=seed, rounds=1, local_steps=_EPOCHS * -(-rows // _BATCH),
        learning_rate=0.001,
    )  # fmt: skip
    learner: Any = OneClass(**OneClass.arguments(study))
    reached = LearnerRounds(study, heart.training_data(training, study), learner).run()
    return heart.accuracy(learner, (reached.model, reached.preprocessing), frames)


def _score(frames: Frames, study: Study) -> Scores:
    return heart.accuracy(_learner(study), heart.trained(frames, study), frames)


def _learner(study: Study) -> Any:
    from pipelines import learners

    return learners.for_study(study)


# -- selection on training rows ----------------------------------------------------------------------------------------


def folds(frames: Frames, count: int = FOLDS, seed: int = SELECTION_SEED) -> Iterator[dict[str, pd.DataFrame]]:
    """The training rows alone, split anew: each part is the test rows once; hospitals and classes in equal shares."""
    parts: dict[str, tuple[pd.DataFrame, np.ndarray[Any, Any]]] = {}
    for name, frame in frames.items():
        rows = frame[frame["split"] == "train"].reset_index(drop=True)
        order = np.random.default_rng([seed, *name.encode()]).permutation(len(rows))
        dealt = order[np.argsort(rows[heart.OUTCOME].to_numpy()[order], kind="stable")]
        part = np.zeros(len(rows), np.int64)
        part[dealt] = np.arange(len(rows)) % count
        parts[name] = (rows, part)
    for i in range(count):
        yield {name: rows.assign(split=np.where(part == i, "test", "train")) for name, (rows, part) in parts.items()}


def select(frames: Frames, grid: Iterable[tuple[float, float]] = GRID) -> dict[str, Any]:
    """Learning rate and l2 of FedAvg with agreed normalisation: least log loss over all held-out training rows."""
    held = list(folds(frames))
    losses = {}
    for rate, l2 in grid:
        study = _best({"learning_rate": rate, "l2": l2}, SELECTION_SEED)
        losses[(rate, l2)] = float(np.concatenate([_losses(fold, study) for fold in held]).mean())
    rate, l2 = min(losses, key=lambda pair: losses[pair])
    return {
        "learning_rate": rate,
        "l2": l2,
        "log_loss": round(losses[(rate, l2)], 4),
        "how": f"least log loss in {FOLDS}-fold cross-validation on training rows, {len(losses)} candidates",
        "candidates": [[*pair, round(loss, 4)] for pair, loss in losses.items()],
    }


def _losses(fold: Frames, study: Study) -> np.ndarray[Any, Any]:
    import pandas as pd

    rows = pd.concat([frame[frame["split"] == "test"] for frame in fold.values()])
    predicted = _learner(study).predict(*heart.trained(fold, study), rows)["probability"].to_numpy()
    right = np.where(rows[heart.OUTCOME].to_numpy() > 0, predicted, 1 - predicted)
    return np.asarray(-np.log(np.maximum(right, 1e-12)))


# -- secure aggregation, differential privacy --------------------------------------------------------------------------


def masked_difference(frames: Frames, study: Study) -> float:
    """Relative difference (Euclidean norms) of the model trained under secure aggregation from the plain one."""
    masks = study.privacy.model_copy(update={"secure_aggregation": True, "max_examples": _MAX_EXAMPLES})
    plain, _ = heart.trained(frames, study)
    masked, _ = heart.trained(frames, study.model_copy(update={"privacy": masks}))
    a, b = (np.concatenate([model[name].ravel() for name in sorted(model)]) for model in (plain, masked))
    wide = a.astype(np.float64)
    return float(np.linalg.norm(wide - b) / np.linalg.norm(wide))


def _private(frames: Frames, seed: int) -> tuple[Scores, dict[str, Any]]:
    """Sample-level privacy at each hospital: 15 noised gradients and noised means, all of it within the budget.

    A study as any other, over the in-process grid; only its random words come from the seed.
    """
    from central.federation.local import train_locally
    from pipelines.guarantee import guarantee
    from pipelines.learners.private import PrivateTabular
    from privacy.dp.stream import Stream

    promise = {"dp": "sample", "epsilon": EPSILON, "delta": DELTA}
    study = heart.study_for(parameters=_PRIVATE, privacy=promise, **_PRIVATE_TRAINING)
    releases = itertools.count()
    learner: Any = PrivateTabular(
        epsilon=EPSILON, delta=DELTA, rounds=_PRIVATE_TRAINING["rounds"],
        stream=lambda: Stream(hashlib.sha256(f"heart|{seed}|{next(releases)}".encode()).digest()),
        **PrivateTabular.arguments(study),
    )  # fmt: skip
    data = {name: replace(one, learner=learner) for name, one in heart.training_data(frames, study).items()}
    reached = train_locally(study, data)
    made = guarantee(study, reached.round)
    spent = {name: made[name] for name in ("epsilon", "delta", "unit", "adjacency")}
    spent["multipliers"] = {
        "normalisation": round(made["preparation_multiplier"], 4), "gradient": round(made["multiplier"], 4)
    }  # fmt: skip
    return heart.accuracy(learner, (reached.model, reached.preprocessing), frames), spent


# -- figures -----------------------------------------------------------------------------------------------------------


def _summary(scores: list[Scores]) -> dict[str, Any]:
    """Mean and spread of both figures, and the mean of each hospital's own."""
    made: dict[str, Any] = {}
    for key in ("mean_of_clients", "pooled_test"):
        made[key] = round(fmean(score[key] for score in scores), 4)
        made[f"{key}_sd"] = round(stdev(score[key] for score in scores), 4) if len(scores) > 1 else 0.0
    made["clients"] = {name: round(fmean(score[name] for score in scores), 4) for name in heart.HOSPITALS}
    return made


def _tell(tell: Callable[[str], object], found: Mapping[str, Mapping[str, Any]], what: str) -> None:
    for name, figures in found.items():
        tell(f"{name:<11} {figures['mean_of_clients']:.3f} {figures['pooled_test']:.3f}  {what}".rstrip())

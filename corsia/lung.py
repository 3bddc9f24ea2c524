"""The NCCTG lung cancer cohort as hospitals: real rows, real institution codes, stated rules.

228 patients of 18 institutions (Loprinzi et al. 1994, J Clin Oncol 12:601), shipped in lifelines (MIT). The one row
without an institution is dropped. Institutions become hospitals by one rule: largest institution first, each to the
group that has the fewest rows so far (ties: lower code, earlier group). N training hospitals and one more that takes
no part in training, so N + 1 groups; above four the groups are too small to hold rows out, and are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.errors import ConfigurationError, InputError
from protocol.study import Study

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.train import TrainingData

__all__ = ["FEATURES", "HELD_OUT", "OUTCOME", "compare", "hospitals", "score", "split", "study_for", "training_data"]

FEATURES = ("age", "sex", "ph.ecog", "ph.karno", "pat.karno", "meal.cal", "wt.loss")
OUTCOME = ("time", "status")  # days; 1 censored, 2 dead
HELD_OUT = 0.3  # share of a hospital's rows kept out of training
MIN_HOSPITALS, MAX_HOSPITALS = 2, 4


def hospitals(training: int = 3, *, split_seed: int = 1) -> dict[str, pd.DataFrame]:
    """Rows by hospital: `site-a`... train, the last one joins for inference alone.

    Args:
        training: number of training hospitals, 2 to 4.
        split_seed: seed of the column `split` ("train" or "test"; the last hospital has only "test").

    Raises:
        InputError: `input.usage` for another number, with the reason.
        ConfigurationError: `config.extra-missing` without lifelines.
    """
    if not MIN_HOSPITALS <= training <= MAX_HOSPITALS:
        raise InputError(
            "input.usage",
            f"{training} training hospitals: the cohort has 227 usable rows of 18 institutions, so 2 to 4 training "
            "hospitals and one for inference; with more, a hospital would hold out fewer than a dozen rows",
        )
    rows = _rows()
    groups: list[list[Any]] = [[] for _ in range(training + 1)]
    sizes = [0] * len(groups)
    counts = rows["inst"].value_counts()
    for code in sorted(counts.index, key=lambda c: (-counts[c], c)):
        smallest = sizes.index(min(sizes))
        groups[smallest].append(code)
        sizes[smallest] += int(counts[code])
    names = [f"site-{letter}" for letter in "abcde"[: len(groups)]]
    frames = {
        name: rows[rows["inst"].isin(codes)].reset_index(drop=True) for name, codes in zip(names, groups, strict=True)
    }
    for i, (name, frame) in enumerate(frames.items()):
        last = i == len(frames) - 1
        held = np.ones(len(frame), bool) if last else split(len(frame), split_seed, name)
        frames[name] = frame.assign(split=np.where(held, "test", "train"))
    return frames


def _rows() -> pd.DataFrame:
    try:
        from lifelines.datasets import load_lung
    except ImportError:
        raise ConfigurationError("config.extra-missing", "pip install 'corsia[demo]' for the lung cohort") from None
    rows: pd.DataFrame = load_lung()
    rows = rows.dropna(subset=["inst"])
    # some releases of lifelines give the death indicator 0/1 instead of the original 1/2
    if set(rows["status"].unique()) <= {0, 1}:
        rows = rows.assign(status=rows["status"] + 1)
    rows = rows.assign(inst=rows["inst"].astype(int), status=rows["status"].astype(int))
    return rows[["inst", *OUTCOME, *FEATURES]].reset_index(drop=True)


def split(rows: int, seed: int, name: str) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows of a hospital are held out: a fixed share, drawn by (seed, hospital). Shape (rows,)."""
    draw = np.random.default_rng([seed, *name.encode()])
    held = np.zeros(rows, bool)
    held[draw.permutation(rows)[: round(rows * HELD_OUT)]] = True
    return held


def study_for(sites: list[str], *, rounds: int = 5, strategy: str = "fedavg", seed: int = 1) -> Study:
    """The training study of benchmark and comparison: the defaults of the product, nothing tuned on these rows."""
    return Study.model_validate(
        {
            "schema": 1,
            "id": "lung-survival",
            "title": "Lung cancer: survival model, federated",
            "lane": "train",
            "purpose": "research",
            "legal_basis": "scientific-research",
            "controller": "Corsia benchmark",
            "ethics_reference": "none: published data",
            "expires": datetime(2100, 1, 1, tzinfo=UTC),
            "sites": sites,
            "dataset": {"name": "lung", "columns": [*FEATURES, *OUTCOME]},
            "pipeline": {"name": "train"},
            "training": {
                "learner": "survival",
                "features": list(FEATURES),
                "outcome": list(OUTCOME),
                "rounds": rounds,
                "strategy": strategy,
                "seed": seed,
                "publish": {"model": "lung-survival"},
            },
        }
    )


def training_data(frames: Mapping[str, pd.DataFrame], study: Study) -> dict[str, TrainingData]:
    """Each site's training rows, as the lane loads them."""
    from pipelines.train import load

    return {name: load(study, name, frame[frame["split"] == "train"]) for name, frame in frames.items()}


def score(weights: bytes, held_out: pd.DataFrame, study: Study) -> float:
    """The c-index of a model (safetensors) on rows, all pairs across hospitals among them."""
    from central.federation.checkpoint import split_arrays
    from pipelines import learners
    from pipelines.learners.followup import concordance

    learner = learners.for_study(study)
    model, preprocessing = split_arrays(weights)
    risk = learner.predict(model, preprocessing, held_out)["risk"].to_numpy()
    dead = (held_out["status"] == 2).to_numpy()
    right, comparable = concordance(risk, held_out["time"].to_numpy(dtype=np.float64), dead)
    return right / comparable


def compare(
    frames: Mapping[str, pd.DataFrame], weights: bytes | None = None, study: Study | None = None
) -> dict[str, float]:
    """Federated, mean of local, and pooled model on the same held-out rows of all training hospitals.

    Local and pooled models come from the same learner, steps and seed, by the same loop over one site; they exist
    only here, in the harness that wrote the hospitals' rows: no site's rows cross a wall for them.

    Args:
        frames: rows by hospital with the column `split`; hospitals without training rows are left out.
        weights: the federated model; trained here on an in-process grid if not given.
        study: the training study; default `study_for`.

    Returns:
        `federated`, `local_mean`, `pooled`: c-index, higher is better.
    """
    import pandas as pd

    training = {name: frame for name, frame in frames.items() if (frame["split"] == "train").any()}
    plan = study or study_for(list(training))
    held_out = pd.concat([frame[frame["split"] == "test"] for frame in training.values()], ignore_index=True)
    local = [_trained({name: frame}, plan) for name, frame in training.items()]
    pooled = _trained({"pooled": pd.concat(list(training.values()), ignore_index=True)}, plan)
    federated = weights if weights is not None else _trained(training, plan)
    return {
        "federated": score(federated, held_out, plan),
        "local_mean": float(np.mean([score(model, held_out, plan) for model in local])),
        "pooled": score(pooled, held_out, plan),
    }


def _trained(frames: Mapping[str, pd.DataFrame], study: Study) -> bytes:
    from central.federation.checkpoint import join_arrays
    from central.federation.local import train_locally

    plan = study.model_copy(update={"sites": tuple(frames)})
    reached = train_locally(plan, training_data(frames, plan))
    return join_arrays(reached.model, reached.preprocessing)

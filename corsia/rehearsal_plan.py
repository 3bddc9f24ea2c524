"""What a rehearsal is played with: invented hospitals of very different sizes in four networks, and a study a lane."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

__all__ = ["LANES", "NETWORKS", "edge", "networks", "sizes", "studies", "table"]

NETWORKS = ("oncology", "cardiology", "neuroscience", "paediatric")
LANES = ("harvest", "anonymize", "extract", "train")
FEATURES = ("a", "b", "c", "d")
_SMALLEST, _LARGEST, _SPREAD = 60, 6000, 1.1


def sizes(sites: int, seed: int) -> list[int]:
    """Patients of each site: log-normal, as hospitals are; a few hold most of them."""
    drawn = np.random.default_rng([11, seed]).lognormal(mean=np.log(180.0), sigma=_SPREAD, size=sites)
    return [int(n) for n in np.clip(drawn, _SMALLEST, _LARGEST)]


def networks(names: list[str]) -> dict[str, str]:
    """Which network each site is of, in turn."""
    return {name: NETWORKS[at % len(NETWORKS)] for at, name in enumerate(names)}


def table(number: int, rows: int) -> str:
    """A site's invented patients as CSV."""
    random = np.random.default_rng([13, number])
    values = random.normal(size=(rows, len(FEATURES)))
    outcome = (values.sum(axis=1) + random.normal(size=rows) > 0).astype(int)
    age, sex = random.integers(30, 80, rows), random.choice(["F", "M"], rows)
    lines = [",".join(("patient_id", "age", "sex", *FEATURES, "outcome"))]
    lines += [  # no number that an age band could be read as: the gate would find a patient's in it
        f"ward{number}bed{i},{age[i]},{sex[i]}," + ",".join(f"{v:.6f}" for v in values[i]) + f",{outcome[i]}"
        for i in range(rows)
    ]
    return "\n".join(lines) + "\n"


def edge(heartbeat_s: float) -> dict[str, Any]:
    """What each site's edge.toml says."""
    roles = {"patient_id": "patient", "age": "quasi", "sex": "quasi", "outcome": "value",
             **dict.fromkeys(FEATURES, "value")}  # fmt: skip
    policy = {
        "lanes": list(LANES), "pipelines": list(LANES), "purposes": ["research"], "require_consent": False,
        "allow_unbounded_epsilon": True, "approve": "auto", "max_bytes": 1_000_000_000, "min_k": 3, "min_cohort": 8,
        "feature_k": 1, "release_columns": ["patient_id", *FEATURES, "outcome"],
    }  # fmt: skip
    return {
        "limits": {"heartbeat_s": heartbeat_s},
        "datasets": {"rows": {"table": "data/table.csv", "columns": roles, "policy": policy}},
    }


def studies(sites: list[str], rounds: int) -> dict[str, dict[str, Any]]:
    """One study a lane, by the lane."""
    floats = [{"name": name, "dtype": "float"} for name in (*FEATURES, "outcome")]
    pseudonym = {"name": "pseudonym", "dtype": "string"}
    grouped = [{"name": name, "dtype": "string"} for name in ("age", "sex")]
    return {
        "harvest": _common("harvest", sites) | {
            "dataset": {"name": "rows", "columns": ["patient_id", *FEATURES, "outcome"]},
            "output": {"columns": [{"name": "patient_id", "dtype": "string"}, *floats]},
        },
        "anonymize": _common("anonymize", sites) | {
            "dataset": {"name": "rows", "columns": ["patient_id", "age", "sex", *FEATURES, "outcome"]},
            "pipeline": {"name": "anonymize", "parameters": {"bands": {"age": 25}, "suppression_limit": 0.5}},
            "output": {"columns": [pseudonym, *grouped, *floats]}, "privacy": {"k": 3},
        },
        "extract": _common("extract", sites) | {
            "dataset": {"name": "rows", "columns": ["patient_id", *FEATURES, "outcome"]},
            "output": {"columns": [pseudonym, *floats]}, "privacy": {"k": 3, "min_cohort": 8},
        },
        "train": _common("train", sites) | {
            "dataset": {"name": "rows", "columns": [*FEATURES, "outcome"]},
            "training": {
                "learner": "tabular", "features": list(FEATURES), "outcome": ["outcome"], "rounds": rounds,
                "local_steps": 1, "publish": {"model": "rehearsed"},
            },
        },
    }  # fmt: skip


def _common(lane: str, sites: list[str]) -> dict[str, Any]:
    return {
        "schema": 1, "id": f"rehearsal-{lane}", "title": f"Rehearsal of lane {lane}", "lane": lane,
        "purpose": "research", "legal_basis": "scientific-research", "controller": "Corsia rehearsal",
        "ethics_reference": "none: invented rows", "pipeline": {"name": lane}, "sites": sites,
        "expires": datetime.now(UTC).replace(microsecond=0) + timedelta(days=2),
    }  # fmt: skip

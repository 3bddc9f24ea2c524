"""Which installed pipelines add noise, of which kind, and what a study of them will cost before any of it is drawn.

Place in the flow: policy asks `NOISING` whether a promise can be kept; the agent asks `cost` and reserves it in the
ledger, then the lane runs. A release's cost is a function of the study alone, with the numbers that hold at the site
put in, and of the phase of a training run; the lane draws by the same numbers. No data here.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from privacy.dp.accountant import Curve
from protocol.assignment import RoundPhase
from protocol.errors import PolicyRefused
from protocol.study import Study

__all__ = ["NOISING", "cost"]

# pipeline -> kind of differential privacy -> `module:function` from a study and a phase to the curve of one release
NOISING: Mapping[str, Mapping[str, str]] = {
    "aggregate": {"sample": "pipelines.aggregate:cost"},
    "train": dict.fromkeys(("sample", "central", "distributed"), "pipelines.guarantee:cost"),
}


def cost(study: Study, phase: RoundPhase | None = None) -> Curve | None:
    """What one release costs, None when no noise bounds it.

    Args:
        study: with the numbers that hold at the site.
        phase: of a training run's round; None for the study itself, which of a training study is the whole run.

    Raises:
        PolicyRefused: `policy.epsilon` when the pipeline adds no such noise, or what is asked for is not noised.
        InputError: `input.study` when the pipeline cannot noise what the study asks for.
    """
    if study.privacy.dp == "none":
        return None
    target = NOISING.get(study.pipeline.name, {}).get(study.privacy.dp)
    if target is None:
        raise PolicyRefused("policy.epsilon", "the installed pipeline adds no such noise")
    module, _, function = target.partition(":")
    made: Curve = getattr(importlib.import_module(module), function)(study, phase)
    return made

"""What differential privacy a training study promises, to whom and for what, and what each release of it costs.

Place in the flow: `noising` (site: what to reserve), `masking` and `central.federation.noise` (how much to draw) and
`central.federation.publish` (what to say) all read it here, so that they cannot differ. Everything follows from the
study; at a site, from the study with the site's stricter numbers in it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipelines import clipping, learners
from privacy.secagg import threshold_of
from privacy.secagg.session import MAX_COMPLETE
from protocol.assignment import RoundPhase
from protocol.errors import InputError, PolicyRefused
from protocol.study import Study

if TYPE_CHECKING:
    from privacy.dp.accountant import Curve

__all__ = ["cost", "guarantee", "multiplier", "sentences"]

_MOST = 2.0**20  # clipping lengths of noise: sums have room for it, and a model has not
_UNIT = {
    "sample": "one row of one site's table; one patient where that table names patients, of whom it uses one row each",
    "central": "one site: all of its rows together",
    "distributed": "one site: all of its rows together",
}
_UNIT_IMAGES = "one patient of one site, with all of his images"
_ADJACENCY = {
    "sample": "zero-out: one row is replaced by one that adds nothing to any sum; how many rows a site has is public",
    "central": "zero-out: one site's update is replaced by 0; which sites take part is public",
    "distributed": "zero-out: one site's update is replaced by 0; which sites take part is public",
}
_AGAINST = {
    "sample": "everybody outside the site, the federation included",
    "central": "everybody who sees models, but not the federation process, which sees updates before the noise",
    "distributed": "everybody outside the site, the federation included",
}
_MECHANISM = {
    "central": "discrete Gaussian noise on the sum of clipped updates, added once by the federation",
    "distributed": "each site's share of discrete Gaussian noise on its clipped update, added before its masks",
}
_VOIDS = (
    "a person whose rows lie at several sites, or under several identities, counts several times",
    "what a study without noise, or an earlier release, tells of the same rows is not counted here",
    "that a site refuses or fails, and how long it takes, depends on its rows and is seen",
)
_KIND_VOIDS = {
    "sample": ("bounds or settings that were chosen on these rows",),
    "central": (
        "a federation process that does not add the noise, or keeps the updates: no site can check it",
        "bounds or settings that were chosen on these rows",
    ),
    "distributed": (
        "more colluding sites among those that answered than privacy.max_colluding",
        "bounds or settings that were chosen on these rows",
    ),
}
_PLUGIN_VOIDS = "a plug-in that does more than it says: it runs where the noise is added, and each site reviews it"


def multiplier(study: Study) -> float:
    """Noise over clipping length of the sum of updates in one round, where noise hides a site.

    Raises:
        InputError: `input.study`.
    """
    p, t = study.privacy, study.training
    if t is None or not p.site_level or p.epsilon is None or p.delta is None:
        raise InputError("input.study", "privacy: dp 'central' and 'distributed' need epsilon, delta and [training]")
    try:
        made = _scale(p.epsilon, p.delta) * math.sqrt(t.max_rounds)
    except ValueError:
        made = math.inf
    if made > _MOST:
        raise InputError("input.study", "privacy: no noise is enough for this epsilon and delta")
    return made


@lru_cache(maxsize=64)  # asked again for every instruction of a run
def _scale(epsilon: float, delta: float) -> float:
    from privacy.dp.accountant import scale_for

    return scale_for(epsilon, delta)


def cost(study: Study, phase: RoundPhase | None = None, rounds: int | None = None) -> Curve:
    """What one release of a training study costs a site's dataset.

    Args:
        study: with the numbers that hold.
        phase: of a round; None for the whole run.
        rounds: of a run that was shorter than planned.

    Raises:
        PolicyRefused: `policy.epsilon` for scores, which are not noised.
        InputError: `input.study` for a learner or settings that cannot be noised.
    """
    from privacy.dp.accountant import ZERO

    if phase is RoundPhase.EVALUATE:
        raise PolicyRefused("policy.epsilon", "scores are not released in a study with differential privacy")
    if study.privacy.dp == "sample":
        schedule = learners.schedule_of(study)
        if schedule is None:
            raise InputError("input.study", "privacy.dp: the learner has no noise of its own")
        return schedule.cost(phase, rounds)
    learners.for_study(study)  # raises where its preprocessing would tell of rows
    if phase is RoundPhase.PREPARE:
        return ZERO  # the same for any rows
    one = _one_round(study)
    if phase is RoundPhase.TRAIN or study.training is None:
        return one
    return one.times(study.training.max_rounds if rounds is None else rounds)


def _one_round(study: Study) -> Curve:
    from privacy.dp.accountant import distributed_gaussian, gaussian

    scale = multiplier(study)
    if study.privacy.dp == "central":
        return gaussian(scale)
    if len(study.sites) > MAX_COMPLETE:  # a sum that is opened may be over fewer than the threshold
        raise InputError("input.study", f"privacy.dp: 'distributed' is for at most {MAX_COMPLETE} sites")
    variance, honest = clipping.share(scale, study.privacy, threshold_of(len(study.sites)))
    return distributed_gaussian(scale, share_variance=float(variance), honest=honest, size=1 << 40)


def guarantee(study: Study, rounds: int) -> dict[str, Any]:
    """What holds of everything that a run of so many rounds released, for machines; empty without noise.

    Attributes of the object: epsilon, delta, kind, unit, adjacency, against, mechanism, accountant, multiplier (noise
    over sensitivity of one step or round), releases, voids.
    """
    p, t = study.privacy, study.training
    if p.dp == "none" or p.delta is None or t is None:
        return {}
    schedule = learners.schedule_of(study) if p.dp == "sample" else None
    voids = [*_VOIDS, *_KIND_VOIDS[p.dp], *((_PLUGIN_VOIDS,) if study.pipeline.plugin is not None else ())]
    made: dict[str, Any] = {
        "epsilon": round(cost(study, rounds=rounds).epsilon(p.delta), 6),
        "delta": p.delta,
        "kind": p.dp,
        "unit": _UNIT_IMAGES if p.dp == "sample" and study.dataset.images else _UNIT[p.dp],
        "adjacency": _ADJACENCY[p.dp],
        "against": _AGAINST[p.dp],
        "accountant": "rdp",
        "voids": voids,
    }
    if schedule is not None:
        made |= {"mechanism": "Gaussian noise of each site on sums of its clipped rows", "rate": schedule.rate}
        made |= {"multiplier": schedule.gradient, "releases": rounds * schedule.steps}
        if schedule.sums is not None:
            made["preparation_multiplier"] = schedule.sums
    else:
        made |= {"mechanism": _MECHANISM[p.dp], "multiplier": multiplier(study), "releases": rounds, "clip": p.reach}
    return made


def sentences(made: dict[str, Any]) -> list[str]:
    """The same for people: lines of the model card's list."""
    if not made:
        return ["- No differential privacy (epsilon: none): the model may tell something about persons in the data."]
    stricter = "; a site whose policy is stricter added more noise" if made["kind"] == "sample" else ""
    return [
        f"- **Differential privacy** ({made['kind']}): epsilon {made['epsilon']:.4g} at delta {made['delta']:.3g}, "
        f"over everything that was released in this run, preprocessing included{stricter}.",
        f"- What it hides: {made['unit']}. Neighbours: {made['adjacency']}.",
        f"- From whom: {made['against']}.",
        f"- How: {made['mechanism']}; {made['releases']} noised steps at {made['multiplier']:.4g} times the clipping "
        f"length, by Renyi accounting. Scores on training rows were not released.",
        "- What voids it, or is outside it: " + "; ".join(made["voids"]) + ".",
    ]

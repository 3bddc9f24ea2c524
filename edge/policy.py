"""The site's rules against a study, one `Rule` a check: a pure function, no file, no clock, no data.

Place in the flow: after the study's signature, before approval and before any row is read. The stricter of the two
sides' numbers wins and goes to lane and gate as `effective`; what the site does not allow refuses the study. A rule
names columns of the site: it is for the steward, and only its code leaves the hospital.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from edge.config import DatasetConfig, EdgeConfig
from pipelines.noising import NOISING
from pipelines.registry import Installed
from privacy.disclosure.traps import Traps
from protocol.errors import PolicyRefused
from protocol.study import Lane, Study

__all__ = ["MASKING", "Decision", "Effective", "Rule", "decide"]

# Installed pipelines that mask their updates (those that add noise: `pipelines.noising`). A study that promises what
# the code cannot keep is refused, whatever the site allows.
MASKING: frozenset[str] = frozenset({"train"})
_DIRECT = ("patient", "identifier", "text")  # roles that name a person, or may
_TABLE_LANES = (Lane.HARVEST, Lane.ANONYMIZE, Lane.EXTRACT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One check. `asked` is the study's value, `site` the site's, `effective` what holds; all as text.

    `code` is the error code when it is not `ok`.
    """

    name: str
    asked: str
    site: str
    effective: str
    ok: bool
    reason: str
    code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """The numbers that hold for this study at this site: the stricter of both sides'.

    `epsilon` (at `delta`) is for the whole study, None when it adds no noise; the year's are the site's alone.
    """

    k: int
    min_cohort: int
    max_bytes: int
    max_bytes_per_year: int
    epsilon: float | None
    l: float | None = None  # noqa: E741
    t: float | None = None
    sensitive: tuple[str, ...] = ()
    delta: float = 0.0
    epsilon_per_year: float = 0.0
    delta_per_year: float = 0.0
    feature_k: int = 1
    max_model_bytes: int = 0
    site_metrics: bool = False
    traps: Traps = field(default_factory=Traps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """All rules, in order, and what follows. `code` is that of the first rule that refuses, or empty."""

    rules: tuple[Rule, ...]
    effective: Effective

    @property
    def allowed(self) -> bool:
        """Whether every rule is content."""
        return all(rule.ok for rule in self.rules)

    @property
    def code(self) -> str:
        """The first refusal's code, or empty."""
        return next((rule.code for rule in self.rules if not rule.ok), "")

    def require(self) -> None:
        """Refuse unless allowed.

        Raises:
            PolicyRefused: with the first refusing rule's code.
        """
        for rule in self.rules:
            if not rule.ok:
                raise PolicyRefused(rule.code, rule.reason)


def decide(
    study: Study, config: EdgeConfig, installed: Mapping[str, Installed], plugins: Collection[str] = ()
) -> Decision:
    """Check a study against the site's policy for its dataset.

    Args:
        study: a study whose signature has been verified.
        config: the site's configuration.
        installed: the pipelines installed here (`pipelines.registry.INSTALLED`).
        plugins: `name==version` of the plug-ins installed here (`edge.plugins.installed`).
    """
    dataset = config.datasets.get(study.dataset.name)
    if dataset is None:
        rule = _rule("dataset", study.dataset.name, "", False, "no dataset of this name is offered", "policy.dataset")
        nothing = Effective(
            k=study.privacy.k,
            min_cohort=study.privacy.min_cohort,
            max_bytes=0,
            max_bytes_per_year=0,
            epsilon=None,
        )
        return Decision(rules=(rule,), effective=nothing)
    policy, noised = dataset.policy, study.privacy.dp != "none"
    effective = Effective(
        k=max(study.privacy.k, policy.min_k),
        min_cohort=max(study.privacy.min_cohort, policy.min_cohort),
        max_bytes=min(study.output.max_bytes, policy.max_bytes),
        max_bytes_per_year=policy.max_bytes_per_year,
        epsilon=_stricter(min, study.privacy.epsilon, policy.epsilon_per_study) if noised else None,
        delta=min(study.privacy.delta or policy.delta, policy.delta),
        epsilon_per_year=policy.epsilon_per_year,
        delta_per_year=policy.delta,
        l=_stricter(max, study.privacy.l, policy.min_l),
        t=_stricter(min, study.privacy.t, policy.max_t),
        sensitive=tuple(dict.fromkeys([*study.privacy.sensitive, *policy.sensitive])),
        max_model_bytes=min(study.training.max_model_bytes if study.training else 0, policy.max_model_bytes),
        feature_k=policy.feature_k or max(study.privacy.k, policy.min_k),
        traps=policy.traps,
        site_metrics=policy.site_metrics,
    )
    rules = (
        _rule("dataset", study.dataset.name, study.dataset.name, True, "", "policy.dataset"),
        _sources(study, dataset),
        _lane(study, dataset),
        _pipeline(study, dataset, installed),
        _plugin(study, dataset, plugins),
        _purpose(study, dataset),
        _columns(study, dataset),
        _output(study, dataset),
        _number("k", study.privacy.k, policy.min_k, effective.k),
        _number("l", study.privacy.l, policy.min_l, effective.l),
        _number("t", study.privacy.t, policy.max_t, effective.t),
        _number("cohort", study.privacy.min_cohort, policy.min_cohort, effective.min_cohort),
        _number("bytes", study.output.max_bytes, policy.max_bytes, effective.max_bytes),
        _model(study, policy.max_model_bytes, effective),
        _epsilon(study, dataset, effective),
        _site_metrics(study, policy.site_metrics),
        _masks(study, dataset),
        _roster(study, dataset, config.site),
        _consent(study, dataset),
    )
    return Decision(rules=rules, effective=effective)


def _rule(name: str, asked: object, site: object, ok: bool, reason: str, code: str) -> Rule:
    return Rule(
        name=name,
        asked=str(asked),
        site=str(site),
        effective=str(asked) if ok else "refused",
        ok=ok,
        reason="" if ok else reason,
        code="" if ok else code,
    )


def _stricter(pick: Callable[..., float], asked: float | None, site: float | None) -> float | None:
    given = [value for value in (asked, site) if value is not None]
    return pick(given) if given else None


def _number(name: str, asked: float | None, site: float | None, effective: float | None) -> Rule:
    """The stricter number wins: never a refusal, since lane and gate enforce it."""
    reason = "" if asked == effective else "the site's value is stricter and holds"
    words = ["none" if value is None else str(value) for value in (asked, site, effective)]
    return Rule(name=name, asked=words[0], site=words[1], effective=words[2], ok=True, reason=reason, code="")


def _model(study: Study, site: int, effective: Effective) -> Rule:
    if study.training is None:
        return _number("model", None, site, None)
    return _number("model", study.training.max_model_bytes, site, effective.max_model_bytes)


def _sources(study: Study, dataset: DatasetConfig) -> Rule:
    """What the study reads besides the table; asking for results of a kind asks for the kind."""
    asked = {
        "dicom": study.dataset.images or study.output.files,
        "fhir": study.dataset.fhir or study.output.documents,
        "genotypes": study.dataset.genotypes,
        "matrix": study.dataset.matrix,
        "omop": study.dataset.omop,
    }
    there = [kind for kind in asked if dataset.has(kind)]
    missing = [kind for kind, wanted in asked.items() if wanted and kind not in there]
    wanted = _list(kind for kind, yes in asked.items() if yes)
    return _rule("sources", wanted, _list(there), not missing, "the dataset has no " + _list(missing), "policy.dataset")


def _lane(study: Study, dataset: DatasetConfig) -> Rule:
    allowed = dataset.policy.lanes
    reason = f"lane {study.lane.value!r} is not in the policy's lanes"
    return _rule("lane", study.lane.value, _list(allowed), study.lane in allowed, reason, "policy.lane")


def _pipeline(study: Study, dataset: DatasetConfig, installed: Mapping[str, Installed]) -> Rule:
    asked, entry = study.pipeline, installed.get(study.pipeline.name)
    if asked.name not in dataset.policy.pipelines:
        reason = f"pipeline {asked.name!r} is not in the policy's pipelines"
    elif entry is None:
        reason = f"pipeline {asked.name!r} is not installed"
    elif entry.version != asked.version:
        reason = f"version {entry.version} is installed, {asked.version} is asked"
    elif entry.lane != study.lane.value:
        reason = f"pipeline {asked.name!r} is for lane {entry.lane!r}"
    else:
        reason = ""
    site = _list(f"{e.name} {e.version}" for n, e in installed.items() if n in dataset.policy.pipelines)
    return _rule("pipeline", f"{asked.name} {asked.version}", site, not reason, reason, "policy.pipeline")


def _plugin(study: Study, dataset: DatasetConfig, plugins: Collection[str]) -> Rule:
    asked, allowed = study.pipeline.plugin, dataset.policy.plugins
    if asked is None:
        return _rule("plugin", "none", _list(allowed), True, "", "policy.plugin")
    reason = "" if asked in allowed else f"plug-in {asked!r} is not in the policy's plugins"
    reason = reason or ("" if asked in plugins else f"plug-in {asked!r} is not installed")
    return _rule("plugin", asked, _list(allowed), not reason, reason, "policy.plugin")


def _purpose(study: Study, dataset: DatasetConfig) -> Rule:
    allowed = dataset.policy.purposes
    reason = f"purpose {study.purpose!r} is not in the policy's purposes"
    return _rule("purpose", study.purpose, _list(allowed), study.purpose in allowed, reason, "policy.purpose")


def _columns(study: Study, dataset: DatasetConfig) -> Rule:
    """What is read: by lane 1 the releasable columns, by the others those with a role; selectors likewise."""
    asked = list(study.dataset.columns)
    if study.training is not None:
        asked += [*study.training.features, *study.training.outcome]
    where = [condition.column for condition in study.dataset.where]
    if study.lane is Lane.HARVEST:
        bad = [name for name in [*asked, *where] if not _releasable(name, dataset)]
        reason = "the site does not release: "
    else:
        # A selector on a name or a code would let the study ask about one person.
        bad = [name for name in asked if name not in dataset.columns]
        bad += [name for name in where if dataset.columns.get(name, _DIRECT[0]) in _DIRECT]
        if study.lane is Lane.TRAIN:
            bad += [name for name in asked if dataset.columns.get(name) in _DIRECT]
        reason = "the site gave no (suitable) role to: "
    site = dataset.policy.release_columns if study.lane is Lane.HARVEST else dataset.columns
    return _rule(
        "columns",
        _list(dict.fromkeys([*asked, *where])),
        _list(site),
        not bad,
        reason + _list(dict.fromkeys(bad)),
        "policy.columns",
    )


def _output(study: Study, dataset: DatasetConfig) -> Rule:
    """What lane 1 declares to leave must be releasable too; a glob there covers only what the gate lets through."""
    declared = [column.name for column in study.output.columns]
    bad = []
    if study.lane is Lane.HARVEST:
        bad = [name for name in declared if name in dataset.columns and not _releasable(name, dataset)]
    elif study.lane in (Lane.ANONYMIZE, Lane.EXTRACT):
        direct = ("patient", "identifier") if study.lane is Lane.ANONYMIZE else _DIRECT
        bad = [name for name in declared if dataset.columns.get(name) in direct]
    reason = "these may not leave: " + _list(bad)
    site = dataset.policy.release_columns if study.lane is Lane.HARVEST else ()
    return _rule("output", _list(declared), _list(site), not bad, reason, "policy.columns")


def _releasable(name: str, dataset: DatasetConfig) -> bool:
    role = dataset.columns.get(name)
    if role is None:
        return False
    if role in _DIRECT:
        return name in dataset.policy.release_columns
    return any(fnmatch.fnmatchcase(name, glob) for glob in dataset.policy.release_columns)


def _epsilon(study: Study, dataset: DatasetConfig, effective: Effective) -> Rule:
    privacy, policy = study.privacy, dataset.policy
    if study.lane is Lane.INFER:
        return _rule("epsilon", "nothing leaves", "any", True, "", "policy.epsilon")
    if privacy.dp == "none":
        ok, site = policy.allow_unbounded_epsilon, "unbounded" if policy.allow_unbounded_epsilon else "bounded"
        reason = "results without differential privacy may not leave"
        return _rule("epsilon", "unbounded", site, ok, reason, "policy.epsilon")
    asked = f"{privacy.dp} {privacy.epsilon:g} at {privacy.delta:g}"
    site = f"{policy.epsilon_per_study:g} at {policy.delta:g}, {policy.epsilon_per_year:g} a year"
    if privacy.dp not in NOISING.get(study.pipeline.name, {}):
        return _rule("epsilon", asked, site, False, "the installed pipeline adds no such noise", "policy.epsilon")
    holds = f"{privacy.dp} {effective.epsilon:g} at {effective.delta:g}"
    if privacy.site_level and (reason := _shared_noise(study, dataset, effective)):
        return _rule("epsilon", asked, site, False, reason, "policy.epsilon")
    reason = "" if holds == asked else "the site's value is stricter and holds"
    return Rule(name="epsilon", asked=asked, site=site, effective=holds, ok=True, reason=reason, code="")


def _shared_noise(study: Study, dataset: DatasetConfig, effective: Effective) -> str:
    """Why this site cannot join in noise that all sites must agree on, or empty."""
    privacy, policy = study.privacy, dataset.policy
    if (effective.epsilon, effective.delta) != (privacy.epsilon, privacy.delta):
        return "the site's value is stricter, and one site cannot change noise that is for all"
    if privacy.dp == "central" and not policy.allow_unbounded_epsilon:
        return "the federation adds the noise: what leaves this site has none, and may not leave"
    if privacy.dp == "distributed" and policy.max_colluding > privacy.colluding:
        return (
            f"the noise is too little if {policy.max_colluding} sites are in league: privacy.max_colluding is too low"
        )
    return ""


def _site_metrics(study: Study, allowed: bool) -> Rule:
    """The site's own scores are left out where it keeps them; a strategy that weighs sites by them cannot be served."""
    training, site = study.training, "yes" if allowed else "no"
    if training is not None and training.strategy == "qfedavg":
        reason = "the strategy weighs sites by their own losses, which the site keeps"
        return _rule("site-metrics", "losses", site, allowed, reason, "policy.site-metrics")
    asked = _list(training.metrics if training and not study.privacy.secure_aggregation else ()) or "none"
    kept = asked != "none" and not allowed
    effective, reason = ("withheld", "the site keeps its own metrics") if kept else (asked, "")
    return Rule(name="site-metrics", asked=asked, site=site, effective=effective, ok=True, reason=reason, code="")


def _masks(study: Study, dataset: DatasetConfig) -> Rule:
    asked, site = study.privacy.secure_aggregation, dataset.policy.require_secure_aggregation
    if asked and study.pipeline.name not in MASKING:
        return _rule("masks", "yes", "", False, "the installed pipeline masks no updates", "policy.pipeline")
    ok = asked or not site or study.lane is not Lane.TRAIN
    return _rule(
        "masks",
        "yes" if asked else "no",
        "required" if site else "not required",
        ok,
        "the site asks for secure aggregation",
        "policy.masks",
    )


def _roster(study: Study, dataset: DatasetConfig, site: str) -> Rule:
    """Under masks: enough sites, each named once with its identity, this one among them, and enough that are honest."""
    policy, roster = dataset.policy, study.roster
    if not study.privacy.secure_aggregation:
        return _rule("roster", "no masks", f"at least {policy.min_sites}", True, "", "policy.masks")
    from privacy.secagg.graph import COLLUDING, count_of
    from privacy.secagg.session import MAX_COMPLETE, MAX_ROSTER, threshold_of

    threshold = threshold_of(len(roster))
    # Two survivor sets of a round must share an honest site, and a sum must be over two honest ones.
    tolerated = min(2 * threshold - len(roster) - 1, threshold - 2)
    if len(roster) > MAX_COMPLETE:  # and the drawn graph must be made for as many
        stated = study.privacy.graph.get("colluding", COLLUDING)
        tolerated = min(tolerated, count_of(stated, len(roster)))
    if set(roster) != set(study.sites) or site not in roster or len(set(roster.values())) != len(roster):
        reason = "the roster does not name each site of the study once, this one among them"
    elif not policy.min_sites <= len(roster) <= MAX_ROSTER:
        reason = f"the roster has {len(roster)} sites"
    elif policy.max_colluding > tolerated:
        reason = f"a roster of {len(roster)} is safe against {tolerated} colluding sites at most"
    else:
        reason = ""
    asked = f"{len(roster)} sites, {threshold} survivors"
    allowed = f"at least {policy.min_sites}, {policy.max_colluding} may collude"
    return _rule("roster", asked, allowed, not reason, reason, "policy.masks")


def _consent(study: Study, dataset: DatasetConfig) -> Rule:
    needed = dataset.policy.require_consent or study.legal_basis == "consent"
    return _rule(
        "consent",
        study.legal_basis,
        "required" if dataset.policy.require_consent else "not required",
        not needed or dataset.consent is not None,
        "consent is needed, and no consent column is configured",
        "policy.consent",
    )


def _list(names: Iterable[str]) -> str:
    return ", ".join(str(name) for name in names)

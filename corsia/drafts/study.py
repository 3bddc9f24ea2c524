"""A training study from several hospitals' files: which columns, which sites, and the commented TOML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from corsia.drafts.cohort import Cohort
from corsia.drafts.column import Kind
from corsia.drafts.giveaway import copies
from corsia.drafts.outcome import Outcome
from corsia.roles import role_of
from protocol.errors import InputError
from protocol.study import parse_study

__all__ = ["Draft", "draft", "quoted", "toml"]

K, MIN_COHORT = 5, 10
_LEAST_MASKED = 3

_FILE = """\
# A training study, drafted by `corsia init study` from {files} files. Fields: docs/spec/study.md, docs/training.md.
# Read it, correct it, then: corsia study validate {name}
#   try it on this machine:   corsia study try {name} {data} --out try-out
#   for real:                 corsia study submit {name} --config central.toml
schema = 1
id = {id}
title = {title}
lane = "train"
purpose = "research"                  # a word that the sites' policies allow
legal_basis = "scientific-research"   # consent | public-interest | scientific-research | legal-obligation
controller = "TO BE FILLED IN: the institution that answers for the study"
ethics_reference = "TO BE FILLED IN: ethics committee, number and date"
expires = {expires}
sites = {sites}

[dataset]
name = {dataset}                      # what every site calls its table in edge.toml
columns = {columns}
# [[dataset.where]]                   # rows: == != < <= > >= in not-null
# column = "age"
# op = ">="
# value = 18

[pipeline]
name = "train"
version = "1"

[pipeline.parameters]
{parameters}

{categorical}[privacy]                             # a site may ask for more; the stricter value wins
k = {k}                                 # no statistic over fewer rows leaves a site
min_cohort = {min_cohort}                       # a site with fewer usable rows takes no part
{masks}
# dp = "sample"                       # differential privacy at each site: see docs/privacy-budget.md
# epsilon = 1.0
# delta = 1e-5

[training]
learner = {learner}
features = {features}
outcome = {outcome}
strategy = "fedavg"                   # others, and what they need to see: docs/training.md
rounds = {rounds}
local_steps = {steps}                      # steps at each site between two rounds
learning_rate = {rate}
seed = 1
deadline_s = 600.0                    # how long a round waits for a site
quorum = 1.0                          # share of the sites that must answer

[training.publish]                    # signing the study allows just this model name and alias
model = {id}
alias = "candidate"                    # two operators promote it: corsia model promote, approve
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A study file, and what the user should know.

    Attributes:
        features: in the order of the files; `dropped` are columns left out for giving the outcome away.
        sites: those with enough rows.
    """

    text: str
    features: tuple[str, ...]
    sites: tuple[str, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]


def draft(cohort: Cohort, outcome: Outcome, *, name: str, identifier: str, dataset: str) -> Draft:
    """Write the study.

    Args:
        name: of the file, for its comments.
        identifier: of study and model.
        dataset: what the sites call their table.

    Raises:
        InputError: `input.rows` when no feature is left or no site has enough rows with an outcome.
    """
    notes = [*cohort.notes, *outcome.notes]
    offered = [n for n in cohort.shared if n not in outcome.columns and not _is_consent(n)]
    constant = [n for n in offered if cohort.shared[n].distinct < 2]
    notes += [f"{n!r}: left out: one value in all files" for n in constant]
    rest = [n for n in offered if n not in constant and _usable(cohort, n)]
    dropped = copies(cohort, rest, outcome.columns)
    notes += [f"{n!r}: left out: it says the same as the outcome" for n in dropped]
    features = tuple(n for n in rest if n not in dropped)
    if not features:
        raise InputError("input.rows", "no column is left to predict from: all were left out")
    sites, told = _sites(cohort, outcome)
    notes += told + _codes(cohort, features)
    text = _text(cohort, outcome, features, sites, name=name, identifier=identifier, dataset=dataset)
    parse_study(text.encode())  # what was written is valid, or this is our fault and raises
    return Draft(text=text, features=features, sites=sites, dropped=tuple(dropped), notes=tuple(notes))


def _usable(cohort: Cohort, name: str) -> bool:
    column = cohort.shared[name]
    return column.kind is Kind.NUMBER or len(column.levels) > 0


def _is_consent(name: str) -> bool:
    return "consen" in name.casefold()


def _codes(cohort: Cohort, features: Sequence[str]) -> list[str]:
    """Numbers that may be codes: few whole values, no quasi-identifier."""
    told = []
    for name in features:
        column = cohort.shared[name]
        few = column.kind is Kind.NUMBER and 3 <= column.distinct <= 8
        if few and all(v.is_integer() for v in column.values) and role_of(name) == "value":
            values = ", ".join(f"{v:g}" for v in sorted(column.values))
            told.append(f"{name!r}: taken as a quantity ({values}); if these are codes: --categorical {name}")
    return told


def _sites(cohort: Cohort, outcome: Outcome) -> tuple[tuple[str, ...], list[str]]:
    kept, told = [], []
    for site, file in cohort.files.items():
        usable = sum(all(row) for row in zip(*(file.cells[name] for name in outcome.columns), strict=True))
        if usable < MIN_COHORT:
            told.append(f"{site}: left out: {usable} rows with an outcome, {MIN_COHORT} are needed")
            continue
        kept.append(site)
        if usable < file.rows:
            told.append(f"{site}: {file.rows - usable} rows without an outcome are not used")
        if len({cell.casefold() for cell in file.cells[outcome.columns[-1]] if cell}) == 1:
            told.append(f"{site}: all rows have the same outcome; it takes part")
    if not kept:
        raise InputError("input.rows", f"no file has {MIN_COHORT} rows with an outcome")
    if len(kept) < _LEAST_MASKED:
        told.append(f"secure aggregation is off: it needs {_LEAST_MASKED} sites, there are {len(kept)}")
    return tuple(kept), told


def _text(
    cohort: Cohort, outcome: Outcome, features: Sequence[str], sites: Sequence[str], *, name: str, identifier: str,
    dataset: str,
) -> str:  # fmt: skip
    levels = {n: list(cohort.shared[n].levels) for n in features if cohort.shared[n].kind is Kind.CATEGORY}
    survival = outcome.learner == "survival"
    masks = (
        "secure_aggregation = true             # the centre learns sums over sites, never one site's update"
        if len(sites) >= _LEAST_MASKED
        else f"# secure_aggregation = true           # with {_LEAST_MASKED} sites or more: the centre learns sums only"
    )
    named = " ".join(f"--data {site}={file.path.name}" for site, file in cohort.files.items() if site in sites)
    return _FILE.format(
        files=len(cohort.files), name=name, data=named, id=toml(identifier),
        title=toml(f"Predict {' and '.join(outcome.columns)} from {len(features)} columns of {len(sites)} hospitals"),
        expires=(datetime.now(UTC) + timedelta(days=365)).strftime("%Y-%m-%dT00:00:00Z"),
        sites=quoted(sites), dataset=toml(dataset), columns=quoted([*features, *outcome.columns]),
        parameters=_parameters(outcome), categorical=_categorical(levels), k=K, min_cohort=MIN_COHORT, masks=masks,
        learner=toml(outcome.learner), features=quoted(features), outcome=quoted(outcome.columns),
        rounds=10, steps=40, rate=0.05 if survival else 0.03,
    )  # fmt: skip


def _parameters(outcome: Outcome) -> str:
    said = {
        "task": "binary: yes or no; continuous: a number",
        "positive": "the value that means yes",
        "negative": "the value that means no",
        "event": "the value that means that it happened",
        "censored": "the value that means: not seen to happen by then",
    }
    lines = [f"{key} = {toml(value)}".ljust(38) + f"# {said[key]}" for key, value in outcome.parameters.items()]
    lines.append("l2 = 0.01".ljust(38) + "# keeps weights small")
    return "\n".join(lines)


def _categorical(levels: Mapping[str, Sequence[str]]) -> str:
    if not levels:
        return ""
    head = "[pipeline.parameters.categorical]      # column = its levels; any other counts as none of them\n"
    return head + "".join(f"{toml(name)} = {quoted(texts)}\n" for name, texts in levels.items()) + "\n"


def toml(value: Any) -> str:
    """A TOML value: a string (never with an escape that TOML lacks), number or truth value."""
    if not isinstance(value, str):
        return json.dumps(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def quoted(names: Sequence[str]) -> str:
    """An array of strings on one line."""
    return "[" + ", ".join(map(toml, names)) + "]"

"""The quasi-identifiers of one table: climb, search, recode, withhold, measure what is released.

    ladders = climb(spec, rows, latest)                  # hierarchies applied; refuses what they do not know
    outcome = recode(spec, rows, result, latest)         # rows: as they came; result: as the roles left them

The figures in the report are measured on the released frame itself by `disclosure`, not taken from the search; when
they do not hold, nothing is released. Not here: roles (`table`), the search (`lattice`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from privacy import disclosure
from privacy.deid import hierarchy, lattice
from privacy.deid.grouping import Criteria, Grouped, Sensitive
from privacy.deid.ladder import Ladder
from privacy.deid.loss import METRICS, cell_loss, discernibility
from privacy.deid.risk import risk
from protocol.errors import DisclosureRefused, InputError

if TYPE_CHECKING:
    import pandas as pd

    from privacy.deid.table import TableSpec

__all__ = ["Outcome", "climb", "recode", "shown"]

PSEUDONYM = "pseudonym"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Released rows, how many are withheld, rules of recoded columns, figures of the report."""

    frame: pd.DataFrame
    withheld: int
    rules: dict[str, str]
    report: dict[str, Any]


def climb(spec: TableSpec, rows: pd.DataFrame, latest: int) -> dict[str, Ladder]:
    """The ladder of each released column that has a hierarchy.

    Raises:
        InputError: `input.usage`, `input.table`.
    """
    ladders: dict[str, Ladder] = {}
    for name, wanted in spec.hierarchies.items():
        kind = wanted.get("kind")
        if spec.roles[name] == "birthdate" and kind != "birth":
            raise InputError("input.usage", f"column {name!r}: a birth date has the hierarchy birth")
        ladder = hierarchy.build(wanted, spec.folder, latest=latest).climb(rows[name], name)
        if spec.release is None or name in spec.release:
            ladders[name] = ladder
    return ladders


def shown(ladder: Ladder, level: int, values: pd.Series) -> pd.Series:
    """A column at a level; level 0 of values that are shown as they are keeps its type."""
    import pandas as pd

    if level == 0 and ladder.same:
        return values
    return pd.Series(ladder.labels_at(level), index=values.index, dtype="object")


def recode(spec: TableSpec, rows: pd.DataFrame, result: pd.DataFrame, latest: int) -> Outcome:
    """Choose levels, recode and withhold.

    Args:
        spec: of the table.
        rows: the rows as they came.
        result: the same rows by role, with the column `pseudonym`.
        latest: reference year of birth dates.

    Raises:
        DisclosureRefused: `gate.k`.
        InputError: `input.usage`, `input.table`.
    """
    quasi = [c for c in result.columns if spec.roles.get(c) in ("quasi", "birthdate")]
    secret = [c for c in spec.sensitive if c in result.columns]
    limit = spec.suppression_limit
    criteria = Criteria(
        k=spec.k,
        l_value=spec.l if secret else None,
        l_rule=spec.l_kind,
        c=spec.c,
        t=spec.t if secret else None,
        suppression=(0.0 if spec.hierarchies else 1.0) if limit is None else limit,
    )
    climbed = climb(spec, rows, latest)
    ladders = [climbed[c] if c in climbed else _fixed(result[c], rows[c], c) for c in quasi] or [_one(len(result))]
    table = Grouped(ladders, _sensitive(result, secret, spec.ordered), disclosure.class_ids(result, [PSEUDONYM]))
    found = _search(table, criteria, spec, strict=limit is not None or bool(spec.hierarchies))
    if found is None:
        released, node, kept = result.iloc[:0], table.top, np.zeros(len(result), dtype=np.bool_)
        chosen: dict[str, Any] = {"nodes": 1, "looked": 1, "optimal": True}
    else:
        released, node, kept = result.copy(), found.node, found.kept
        for name, level in zip(quasi, node, strict=False):
            if name in climbed:
                released[name] = shown(climbed[name], level, rows[name])
        released = released[kept]
        chosen = {"nodes": found.nodes, "looked": found.looked, "optimal": found.optimal}
    levels = {c: level for c, level in zip(quasi, node, strict=False) if c in climbed}
    rules = {
        c: f"{spec.hierarchies[c].get('kind', 'file')} level {n} of {len(climbed[c]) - 1}" for c, n in levels.items()
    }
    report = {
        **_measured(released, quasi, secret, spec, criteria),
        "loss": {"metric": spec.loss, **_losses(table, node, kept)},
        "search": {"how": spec.search, **chosen, "levels": levels, "limit": criteria.suppression},
    }
    return Outcome(frame=released, withheld=len(result) - len(released), rules=rules, report=report)


def _search(table: Grouped, criteria: Criteria, spec: TableSpec, *, strict: bool) -> lattice.Found | None:
    """None when nothing can be released and the table's rules leave it at that."""
    if not table.n:
        return None
    try:
        return lattice.search(table, criteria, metric=spec.loss, how=spec.search)
    except DisclosureRefused:
        if strict:
            raise
        return None


def _fixed(column: pd.Series, raw: pd.Series, name: str) -> Ladder:
    """A column that is already as it will be shown (bands, or untouched): one level over its raw values."""
    import pandas as pd

    pairs = pd.DataFrame({"raw": raw, "shown": column})
    leaves, groups = disclosure.class_ids(pairs, ["raw", "shown"]), disclosure.class_ids(pairs, ["shown"])
    first = np.unique(leaves, return_index=True)[1]
    group = groups[first] if len(first) else np.zeros(1, dtype=np.int64)
    labels: tuple[str | None, ...] = tuple(str(n) for n in range(int(group.max()) + 1))
    costs = (np.bincount(group)[group] - 1.0) / max(1, len(group) - 1)
    return Ladder(name=name, codes=leaves, maps=(group,), labels=(labels,), costs=(costs,), same=True)


def _one(n: int) -> Ladder:
    zero = np.zeros(1, dtype=np.int64)
    return Ladder(
        name="", codes=np.zeros(n, dtype=np.int64), maps=(zero,), labels=(("",),), costs=(np.zeros(1),), same=True
    )


def _sensitive(result: pd.DataFrame, names: Sequence[str], ordered: Sequence[str] | None) -> list[Sensitive]:
    found = []
    for name in names:
        codes, width = disclosure.ranked(result[name])
        line = disclosure.is_number(result[name]) if ordered is None else name in ordered
        found.append(Sensitive(name=name, codes=codes, width=width, ordered=line))
    return found


def _measured(
    frame: pd.DataFrame, quasi: Sequence[str], secret: Sequence[str], spec: TableSpec, criteria: Criteria
) -> dict[str, Any]:
    """k, l, t and risk of the released frame.

    Raises:
        DisclosureRefused: `gate.k` when they do not hold after all.
    """
    sizes = disclosure.class_sizes(frame, quasi, PSEUDONYM)
    k = int(sizes.min()) if len(sizes) else 0
    report: dict[str, Any] = {"k": {"required": spec.k, "achieved": k, "columns": list(quasi)}}
    values = disclosure.l_diversity(frame, quasi, secret)
    entropy = disclosure.l_diversity(frame, quasi, secret, "entropy")
    ordered = [c for c in secret if disclosure.is_number(frame[c])] if spec.ordered is None else list(spec.ordered)
    t = disclosure.t_closeness(frame, quasi, secret, ordered)
    report["l"] = {"required": spec.l, "kind": spec.l_kind, "achieved": int(values), "entropy": entropy}
    holds = criteria.l_value is None or (values if spec.l_kind != "entropy" else entropy) >= criteria.l_value - 1e-9
    if spec.l_kind == "recursive" and spec.l is not None:
        least = disclosure.recursive_c(frame, quasi, secret, int(spec.l))
        report["l"] |= {"c": spec.c, "above": least if np.isfinite(least) else None}
        holds = holds and least < spec.c
    report["l"]["columns"] = list(secret)
    report["t"] = {"required": spec.t, "achieved": t, "columns": list(secret), "ordered": ordered}
    holds = holds and (criteria.t is None or t <= criteria.t + 1e-9) and k >= spec.k
    if len(frame) and not holds:
        raise DisclosureRefused("gate.k", "the recoded table does not hold k, l and t")
    report["risk"] = risk(sizes.to_numpy(), 1.0 / spec.k, spec.population, disclosure.cohort(frame, PSEUDONYM))
    return report


def _losses(table: Grouped, node: tuple[int, ...], kept: Any) -> Mapping[str, float]:
    if not table.n:
        return dict.fromkeys(METRICS, 0.0)
    gone = np.bincount(table.row_ids, weights=(~kept).astype(np.float64), minlength=len(table.weights)).astype(
        np.float64
    )
    rows = np.flatnonzero(gone)
    losses: dict[str, float] = {}
    for metric in METRICS[:2]:
        cells = cell_loss(metric, table.ladders)
        more = cells.withheld(node, [leaves[rows] for leaves in table.leaves], gone[rows])
        losses[metric] = cells.at(node) + more
    classes = table.classes(node)
    sizes = np.bincount(classes.ids, weights=table.weights - gone).astype(np.float64)
    losses["discernibility"] = discernibility(sizes, float(gone.sum()), table.n)
    return losses

"""What a dataset's keys have spent, as values out of the ledger's rows.

Place in the flow: `edge.ledger` keeps the rows; here they become one spend a key and one total a dataset. No file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Protocol

from privacy.dp.accountant import ZERO, Curve, compose
from protocol.parcel import canonical_json

__all__ = ["Limits", "Row", "Spend", "Total", "cost_text", "extended", "greatest", "spend_of", "total_of"]

UNBOUNDED = "unbounded"


class Limits(Protocol):
    """A site's limits for a dataset; `edge.policy.Effective` fits."""

    @property
    def max_bytes(self) -> int:
        """Bytes that one study may take."""
        ...

    @property
    def max_bytes_per_year(self) -> int:
        """Bytes that all studies together may take within 365 days."""
        ...

    @property
    def epsilon(self) -> float | None:
        """Loss that one study may cause at `delta`; None where it adds no noise."""
        ...

    @property
    def delta(self) -> float:
        """See `epsilon`."""
        ...

    @property
    def epsilon_per_year(self) -> float:
        """Loss that all studies together may cause within 365 days, at `delta_per_year`."""
        ...

    @property
    def delta_per_year(self) -> float:
        """See `epsilon_per_year`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """What one key has spent. `cost` None is unbounded (no noise); `state` is `reserved` or `committed`."""

    key: str
    dataset: str
    study: str
    k: int
    cohort: int
    bytes: int
    cost: Curve | None
    persons: int
    state: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Sums over keys. `cost` is that of all noised releases together; `unbounded` counts those without noise."""

    bytes: int = 0
    persons: int = 0
    releases: int = 0
    cost: Curve = ZERO
    unbounded: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the ledger's table."""

    seq: int
    at: float
    event: str  # reserve | commit
    key: str
    dataset: str
    study: str
    k: int
    cohort: int
    bytes: int
    epsilon: str  # the text of an RDP curve, or "unbounded"
    persons: int
    memory: str  # digest of the dataset's memory after this row, empty where it did not change
    prev: str
    hash: str

    def computed(self) -> str:
        """The hash that this row must carry."""
        body = asdict(self)
        del body["hash"]
        if not self.memory:
            del body["memory"]
        return hashlib.sha256(self.prev.encode("ascii") + canonical_json(body)).hexdigest()

    def cost(self) -> Curve | None:
        """The curve, None when no noise bounds the loss."""
        return None if self.epsilon == UNBOUNDED else _curve(self.epsilon)


_curve = lru_cache(maxsize=1024)(Curve.from_text)  # the rounds of a run cost the same


def cost_text(cost: Curve | None) -> str:
    """As a row holds it."""
    return UNBOUNDED if cost is None else cost.to_text()


def spend_of(rows: Sequence[Row]) -> Spend | None:
    """What the rows of one key say together, None where there are none."""
    spend: Spend | None = None
    for row in rows:
        spend = extended(spend, row)
    return spend


def extended(spend: Spend | None, row: Row) -> Spend:
    """A key's spend after one more row of it.

    It is the greatest of a key's reservations, or its commit; `at` is the latest row's, so that unsure stays spent. A
    commit of fewer bytes gives bytes back, never privacy: noise may have been drawn, and seen.
    """
    cost, committed = row.cost(), row.event == "commit"
    size, persons = row.bytes, row.persons
    if spend is not None:
        cost, persons = greatest([spend.cost, cost]), max(spend.persons, persons)
        if spend.state == "committed" or not committed:
            size = spend.bytes if spend.state == "committed" else max(spend.bytes, size)
        committed = committed or spend.state == "committed"
    return Spend(
        key=row.key,
        dataset=spend.dataset if spend else row.dataset,
        study=spend.study if spend else row.study,
        k=row.k,
        cohort=row.cohort,
        bytes=size,
        cost=cost,
        persons=persons,
        state="committed" if committed else "reserved",
        at=row.at,
    )


def greatest(costs: Sequence[Curve | None]) -> Curve | None:
    """A bound on any one of these."""
    curves = [cost for cost in costs if cost is not None]
    return Curve(tuple(map(max, zip(*(c.values for c in curves), strict=True)))) if len(curves) == len(costs) else None


def total_of(spends: Sequence[Spend]) -> Total:
    """All of them together."""
    return Total(
        bytes=sum(s.bytes for s in spends),
        persons=sum(s.persons for s in spends),
        releases=len(spends),
        cost=compose(s.cost for s in spends if s.cost is not None),
        unbounded=sum(s.cost is None for s in spends),
    )

"""What the API answers, as a type checker and a notebook's completion see it; the values are plain dictionaries.

A centre may add fields to an answer within `/api/v1` (docs/api.md): what is not named here is there all the same.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict

__all__ = ["ColumnSummary", "Me", "RoundStatus", "RunOrders", "RunStatus", "TableSummary"]


class Me(TypedDict):
    """Who asks; `account` is empty for an operator known by a token file."""

    operator: str
    name: str
    account: str
    roles: list[str]
    scopes: list[str]


class RoundStatus(TypedDict):
    """A finished round: metrics by name, the sites whose answers went into it; times are Unix seconds."""

    round: int
    metrics: dict[str, Any]
    sites: list[str]
    started_at: float
    finished_at: float


class RunOrders(TypedDict):
    """What is wanted of a run now; `rounds` in all."""

    study: str
    wish: Literal["run", "pause", "stop"]
    rounds: int
    discard: bool


class RunStatus(TypedDict):
    """A federated run: `round` finished `of` so many, `code` of its failure or empty, `wish` of the operator."""

    id: str
    study: str
    state: Literal["running", "paused", "stopped", "done", "failed"]
    phase: str
    attempt: int
    round: int
    of: int
    max_rounds: int
    rounds: list[RoundStatus]
    wish: Literal["run", "pause", "stop"]
    discard: bool
    ended: str
    code: str


class ColumnSummary(TypedDict, total=False):
    """A curated column: of numbers mean, sd, min and max, of others the distinct values; None: too few persons."""

    name: str
    type: str
    missing: int
    distinct: int | None
    mean: float | None
    sd: float | None
    min: float | None
    max: float | None


class TableSummary(TypedDict):
    """A study's curated table; groups smaller than `min_group` are None."""

    study: str
    rows: int
    min_group: int
    sites: dict[str, int | None]
    columns: list[ColumnSummary]

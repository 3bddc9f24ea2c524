"""What the API answers, as a type checker and a notebook's completion see it; the values are plain dictionaries.

A centre may add fields to an answer within `/api/v1` (docs/api.md): what is not named here is there all the same. What
is named here is what `corsia.replies` asks of each answer before anything uses it.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict  # that of `typing` cannot be read by pydantic before Python 3.12

__all__ = ["ANSWERS", "ColumnSummary", "Me", "RoundStatus", "RunOrders", "RunStatus", "TableSummary"]


def _base64(text: str) -> str:
    base64.b64decode(text, validate=True)
    return text


Base64 = Annotated[str, AfterValidator(_base64)]
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$")]
Token = Annotated[str, Field(pattern=r"^[!-~]+$")]
Time = Annotated[float, Field(ge=0, le=253_402_300_799)]  # Unix seconds, up to the year 9999
Object = dict[str, Any]
Wish = Literal["run", "pause", "stop"]


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
    wish: Wish
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
    wish: Wish
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


class _Site(TypedDict):
    name: str
    fingerprint: str
    revoked: bool


class _Dataset(TypedDict):
    dataset: str
    site: str
    rows: int | None


class _Remote(TypedDict):
    name: str


class _Lane(TypedDict):
    lane: str


class _Brief(TypedDict):
    id: str
    digest: str
    lane: str
    title: str
    state: str
    sites: dict[str, str]
    totals: dict[str, int]


class _Assignment(TypedDict):
    site: str
    state: str
    code: str
    counts: Object


class _Version(TypedDict):
    name: str
    version: int


class _Decided(_Version):
    decision: str


class _Erasure(TypedDict):
    state: str
    reason: str
    models: list[_Decided]


class _Withdrawal(TypedDict):
    site: str
    rows: int
    files: int
    models: list[_Version]


class _Study(_Brief):
    document: str
    assignments: list[_Assignment]
    rounds: list[RoundStatus]
    run: RunStatus | None
    withdrawals: list[_Withdrawal]
    erasure: _Erasure | None


class _Submitted(TypedDict):
    id: str
    digest: str


class _Listed(_Version):
    alias: str
    serial: int
    promotion: str
    study: str
    uri: str


class _Weights(TypedDict):
    sha256: str


class _Manifest(TypedDict):
    weights: _Weights
    features: list[str]


class _Model(TypedDict):
    model: _Known
    manifest: _Manifest
    signature: Base64


class _Known(_Version):
    alias: str


class _Decision(TypedDict):
    id: str
    state: str
    proposed_by: str
    statement: Base64


class _Promotion(_Decision):
    version: int
    alias: str
    rollback: bool
    approved_by: str
    serial: int


class _Asked(TypedDict):
    id: str
    state: str


class _Promoted(_Version):
    id: str
    serial: int


class _Scored(TypedDict):
    version: int
    rows: int


class _Predictions(TypedDict):
    version: int
    predictions: list[Object]


class _Group(TypedDict):
    n: int | None
    missing: int | None


class _Spread(_Group):
    mean: float | None
    sd: float | None
    median: float | None


class _Levels(_Group):
    levels: dict[str, int | None]


class _Number(TypedDict):
    column: str
    type: Literal["number"]
    groups: dict[str, _Spread]
    p: float | None


class _Text(TypedDict):
    column: str
    type: Literal["category", "text"]
    groups: dict[str, _Levels]
    p: float | None


class _Table1(TypedDict):
    kind: Literal["table1"]
    study: str
    rows: list[Annotated[_Number | _Text, Field(discriminator="type")]]


class _Curve(TypedDict):
    group: str
    n: int
    time: list[float]
    survival: list[float]
    lower: list[float | None]
    upper: list[float | None]
    at_risk: list[int]


def _even(curve: _Curve) -> _Curve:
    if len({len(curve[name]) for name in ("time", "survival", "lower", "upper", "at_risk")}) != 1:
        raise ValueError("a curve's columns differ in length")
    return curve


class _Curves(TypedDict):
    kind: Literal["kaplan-meier"]
    study: str
    curves: list[Annotated[_Curve, AfterValidator(_even)]]
    logrank_p: float | None


class _Term(TypedDict):
    term: str
    lower: float | None
    upper: float | None


class _Hazard(_Term):
    hazard_ratio: float | None


class _Odds(_Term):
    odds_ratio: float | None


class _Cox(TypedDict):
    kind: Literal["cox"]
    study: str
    terms: list[_Hazard]


class _Logistic(TypedDict):
    kind: Literal["logistic"]
    study: str
    terms: list[_Odds]


class _Log(TypedDict):
    origin: str
    log_key: str
    leaves: list[Base64]
    checkpoints: list[str]


class _Proof(TypedDict):
    origin: str
    log_key: str
    checkpoint: str
    leaf: Base64
    proof: list[Hex]


class _Event(TypedDict):
    seq: int
    at: float
    kind: str
    site: str
    fields: Object


class _Provider(TypedDict):
    issuer: str
    client_id: str
    scopes: list[str]


class _NewToken(TypedDict):
    token: Token
    name: str
    scopes: list[str]
    expires_at: Time


ANSWERS: dict[tuple[str, str], Any] = {
    ("GET", "/me"): Me,
    ("GET", "/sites"): list[_Site],
    ("GET", "/datasets"): list[_Dataset],
    ("GET", "/remotes"): list[_Remote],
    ("GET", "/lanes"): list[_Lane],
    ("GET", "/studies"): list[_Brief],
    ("POST", "/studies"): _Submitted,
    ("GET", "/studies/{id}"): _Study,
    ("GET", "/studies/{id}/summary"): TableSummary,
    ("POST", "/studies/{id}/analyses"): Annotated[_Table1 | _Curves | _Cox | _Logistic, Field(discriminator="kind")],
    ("POST", "/studies/{id}/erasure"): _Erasure,
    ("GET", "/runs/{id}"): RunStatus,
    ("POST", "/runs/{id}/{command}"): RunOrders,
    ("GET", "/models"): list[_Listed],
    ("GET", "/models/{name}"): _Model,
    ("POST", "/models/{name}/predict"): _Scored,
    ("POST", "/models/{name}/invocations"): _Predictions,
    ("GET", "/models/{name}/promotions"): list[_Promotion],
    ("POST", "/models/{name}/promotions"): _Asked,
    ("POST", "/models/{name}/promotions/{id}/approval"): _Promoted,
    ("GET", "/decisions"): list[_Decision],
    ("POST", "/decisions"): Object,
    ("POST", "/decisions/{id}/approval"): Object,
    ("GET", "/log"): _Log,
    ("GET", "/log/proof/{index}"): _Proof,
    ("GET", "/events"): _Event,
    ("GET", "/auth/provider"): _Provider,
    ("POST", "/auth/device"): _NewToken,
}

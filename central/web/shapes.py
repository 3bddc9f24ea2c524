"""The forms of what the API answers, for its description alone: routes give what `views` reads, and a test compares.

A field may be added to an answer at any time; none changes its meaning or goes within `/api/v1`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["ANSWERS", "Problem"]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="allow")


class Problem(_Shape):
    """What went wrong (RFC 9457): a stable code of docs/errors.md, and what to do next."""

    type: str = Field(description="urn:corsia:error:CODE")
    title: str
    status: int
    detail: str
    code: str = Field(description="a code of docs/errors.md")
    hint: str = Field(description="what to do next")


class Me(_Shape):
    """Who asks."""

    operator: str
    name: str
    account: str = Field(description="empty for an operator known by a token file")
    roles: list[str]
    scopes: list[str]


class Site(_Shape):
    """An enrolled site. Times are Unix seconds."""

    name: str
    fingerprint: str
    network: str
    alive: bool
    last_seen: float | None
    version: str
    paused: bool
    revoked: bool
    spool_parcels: int
    spool_bytes: int
    enrolled_at: float
    certificate_until: float | None


class Column(_Shape):
    """A column of an advertised dataset."""

    name: str
    role: str
    type: str


class Dataset(_Shape):
    """What a site tells of a dataset; `rows` (persons, of images without a table) is rounded down, or null."""

    dataset: str
    site: str
    kinds: list[str]
    rows: int | None
    columns: list[Column]
    lanes: list[str]
    told_at: float


class Remote(_Shape):
    """A remote table that the centre harvested; one that is erased has no rows."""

    name: str
    state: str
    sha256: str
    rows: int
    columns: list[str]
    url: str
    licence: str
    terms: str
    publisher: str
    pulled_at: float


class Lane(_Shape):
    """Totals of a lane."""

    lane: str
    studies: int
    records: int
    files: int
    parcels: int
    bytes: int
    withheld: int


class Brief(_Shape):
    """A study in a list; `state` is open, done, failed, closed or erased."""

    id: str
    digest: str
    lane: str
    title: str
    state: str
    created_at: float
    sites: dict[str, str]
    totals: dict[str, int]


class Study(Brief):
    """A study with its words and all that came of it."""

    purpose: str
    description: str
    legal_basis: str
    controller: str
    ethics_reference: str
    expires: str
    document: str = Field(description="the signed bytes, TOML")
    assignments: list[dict[str, Any]]
    parcels: list[dict[str, Any]]
    rounds: list[dict[str, Any]]


class Submitted(_Shape):
    """A study that was signed; a site approves this digest."""

    id: str
    digest: str


class Reader(_Shape):
    """An account that may read a study's rows."""

    account: str
    name: str
    given_by: str
    given_at: float


class Run(_Shape):
    """A federated run; `state` is running, paused, stopped, done or failed."""

    id: str
    study: str
    state: str
    round: int
    of: int
    rounds: list[dict[str, Any]]


class Orders(_Shape):
    """What is wanted of a run now."""

    study: str
    wish: str
    rounds: int
    discard: bool


class Model(_Shape):
    """A published version of a model."""

    name: str
    version: int
    alias: str
    serial: int
    study: str
    weights_sha256: str
    weights_bytes: int
    created_at: float
    promotion: str


class Proposal(_Shape):
    """A proposal of an operator; `statement` (base64) is what an approval signs."""

    id: str
    state: str
    proposed_by: str
    proposed_at: float
    statement: str


class Predictions(_Shape):
    """One record a row of the request."""

    model: str
    version: int
    predictions: list[dict[str, Any]]


class Token(_Shape):
    """An API token without its secret."""

    id: str
    label: str
    scopes: list[str]
    created_at: float
    expires_at: float
    used_at: float | None


class NewToken(Token):
    """An API token; `token` is shown this once."""

    token: str


class Head(_Shape):
    """The log's size and newest signed checkpoint."""

    size: int
    checkpoint: str | None
    checkpoint_size: int


class Proof(_Shape):
    """Inclusion of a leaf (RFC 9162, section 2.1.3)."""

    index: int
    leaf: str
    proof: list[str]
    checkpoint: str
    origin: str
    log_key: str


class Log(_Shape):
    """The whole log: what `corsia log verify` reads."""

    origin: str
    log_key: str
    leaves: list[str]
    checkpoints: list[str]


class Provider(_Shape):
    """Where to log in by the device flow."""

    issuer: str
    client_id: str
    scopes: list[str]


ANSWERS: dict[tuple[str, str], Any] = {
    ("get", "/api/v1/me"): Me,
    ("get", "/api/v1/sites"): list[Site],
    ("get", "/api/v1/datasets"): list[Dataset],
    ("get", "/api/v1/remotes"): list[Remote],
    ("get", "/api/v1/lanes"): list[Lane],
    ("get", "/api/v1/studies"): list[Brief],
    ("post", "/api/v1/studies"): Submitted,
    ("get", "/api/v1/studies/{study_id}"): Study,
    ("get", "/api/v1/studies/{study_id}/readers"): list[Reader],
    ("get", "/api/v1/runs/{study_id}"): Run,
    ("post", "/api/v1/runs/{study_id}/pause"): Orders,
    ("post", "/api/v1/runs/{study_id}/resume"): Orders,
    ("post", "/api/v1/runs/{study_id}/stop"): Orders,
    ("post", "/api/v1/runs/{study_id}/extend"): Orders,
    ("get", "/api/v1/models"): list[Model],
    ("get", "/api/v1/models/{name}/promotions"): list[Proposal],
    ("post", "/api/v1/models/{name}/invocations"): Predictions,
    ("get", "/api/v1/decisions"): list[Proposal],
    ("get", "/api/v1/tokens"): list[Token],
    ("post", "/api/v1/tokens"): NewToken,
    ("get", "/api/v1/log"): Log,
    ("get", "/api/v1/log/head"): Head,
    ("get", "/api/v1/log/proof/{index}"): Proof,
    ("get", "/auth/provider"): Provider,
    ("post", "/auth/device"): NewToken,
}

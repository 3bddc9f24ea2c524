"""The REST API under `/api/v1`: sites, studies, runs, the log, events. Models are in `models.py`.

Routes read the database through `views` and call signer and vault over their sockets. Access is checked before a
request comes here (`auth.py`); errors become problem documents after it leaves (`problems.py`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Annotated, Any

import tomli_w
from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from central import erasure, ipc
from central.federation.control import Command, ask
from central.identity.rights import Principal
from central.store import Store
from central.store.models import CheckpointRow, LogRow
from central.web import views
from central.web.centre import Centre
from central.web.owned import Owned
from central.web.paging import PageOf
from privacy import transparency
from privacy.envelope import read_public
from protocol.errors import AuthenticationError, CorsiaError, InputError, UnavailableError
from protocol.study import MAX_STUDY_BYTES, parse_study

__all__ = ["CentreOf", "draft_of", "router"]

router = APIRouter(prefix="/api/v1")
_LOG_PAGE = 5000


def _centre(request: Request) -> Centre:
    centre: Centre = request.app.state.centre
    return centre


def _operator(request: Request) -> str:
    return str(request.state.operator)


CentreOf = Annotated[Centre, Depends(_centre)]
Asking = Annotated[str, Depends(_operator)]  # whose token came with the request


class SqlRequest(BaseModel):
    """Body of `POST /studies/{id}/sql`."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(min_length=1, max_length=20_000)


class StopRequest(BaseModel):
    """Body of `POST /runs/{id}/stop`, which may be left out."""

    model_config = ConfigDict(extra="forbid")
    discard: bool = False


class EraseRequest(BaseModel):
    """Body of `POST /studies/{id}/erasure`, which may be left out."""

    model_config = ConfigDict(extra="forbid")
    withdraw_models: bool = False


class ExtendRequest(BaseModel):
    """Body of `POST /runs/{id}/extend`: the rounds in all."""

    model_config = ConfigDict(extra="forbid")
    rounds: int = Field(ge=1, le=10_000)


@router.get("/me")
def get_me(request: Request, operator: Asking) -> dict[str, Any]:
    """Who the token belongs to, and what he may."""
    who: Principal = request.state.principal
    roles = [role.value for role in who.roles]
    return {
        "operator": operator,
        "name": who.name,
        "account": who.account,
        "roles": roles,
        "scopes": sorted(who.scopes),
    }


@router.get("/sites")
def get_sites(centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """Enrolled sites with their last heartbeat, by network and name."""
    with centre.store.read() as session:
        return page.of(views.sites(session), lambda row: (row["network"], row["name"]))


@router.get("/lanes")
def get_lanes(centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """Totals of each lane."""
    with centre.store.read() as session:
        found = views.lanes(session)
    order = {row["lane"]: number for number, row in enumerate(found)}
    return page.of(found, lambda row: (order[row["lane"]],))


@router.get("/studies")
def get_studies(centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """Studies, newest first."""
    with centre.store.read() as session:
        found = views.studies(session, page.limit + 1, after=page.newest())
    return page.cut(found, lambda row: (-row["created_at"], row["id"]))


async def draft_of(request: Request) -> bytes:
    """The study's TOML: the body itself, or made from a JSON object."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_STUDY_BYTES:
            raise InputError("input.study", f"the study is larger than {MAX_STUDY_BYTES} bytes")
    if "json" not in request.headers.get("content-type", ""):
        return bytes(body)
    try:
        value = json.loads(bytes(body))
        if not isinstance(value, dict):
            raise ValueError("object")
        return tomli_w.dumps(_without_none(value)).encode()
    except (ValueError, TypeError, RecursionError):
        raise InputError("input.study", "not a JSON object of study fields") from None


@router.post("/studies", status_code=201)
def post_study(
    request: Request, response: Response, centre: CentreOf, draft: Annotated[bytes, Depends(draft_of)]
) -> dict[str, Any]:
    """Submit a study (TOML body, or the same fields as JSON); the signer completes and signs it."""
    parse_study(draft)
    made = ipc.call(
        centre.signer, "submit", timeout_s=60.0, draft=draft.decode("utf-8"), token=str(request.state.token)
    )
    response.headers["Location"] = f"/api/v1/studies/{made['id']}"
    return {"id": made["id"], "digest": made["digest"]}


@router.get("/studies/{study_id}")
def get_study(study_id: str, centre: CentreOf) -> dict[str, Any]:
    """One study with every site's state, parcels, curated totals, rounds and predictions."""
    with centre.store.read() as session:
        return views.study(session, study_id)


@router.get("/studies/{study_id}/table")
def get_table(study_id: str, _: Owned, centre: CentreOf) -> Response:
    """The study's curated rows over all sites, as Parquet."""
    reply = ipc.call(centre.vault, "table", timeout_s=300.0, study=study_id)
    headers = {"Content-Disposition": 'attachment; filename="table.parquet"'}
    data = base64.b64decode(reply["parquet"])
    return Response(data, media_type="application/vnd.apache.parquet", headers=headers)


@router.get("/studies/{study_id}/summary")
def get_summary(study_id: str, _: Owned, centre: CentreOf) -> dict[str, Any]:
    """Rows and per-column statistics; small groups are null."""
    return ipc.call(centre.vault, "summary", timeout_s=120.0, study=study_id)


@router.post("/studies/{study_id}/sql")
def post_sql(study_id: str, _: Owned, body: SqlRequest, centre: CentreOf) -> Response:
    """One SELECT over the study's rows (the table `features`); the answer as Parquet."""
    reply = ipc.call(centre.vault, "sql", timeout_s=120.0, study=study_id, query=body.query)
    return Response(base64.b64decode(reply["parquet"]), media_type="application/vnd.apache.parquet")


@router.post("/studies/{study_id}/analyses")
def post_analysis(study_id: str, _: Owned, body: dict[str, Any], centre: CentreOf) -> dict[str, Any]:
    """A standard analysis: `{"kind": "table1" | "kaplan-meier" | "cox" | "logistic", ...}`; small groups are null."""
    return ipc.call(centre.vault, "analyse", timeout_s=300.0, study=study_id, request=body)


@router.post("/studies/{study_id}/erasure", status_code=202)
def post_erasure(study_id: str, centre: CentreOf, operator: Asking, body: EraseRequest | None = None) -> dict[str, Any]:
    """Erase a study's data for good: keys first, then parcels, lake and predictions. Shown by `GET /studies/{id}`."""
    withdraw = body.withdraw_models if body else False
    return erasure.ask(centre.store, study_id, operator=operator, withdraw_models=withdraw)


@router.get("/runs/{study_id}")
def get_run(study_id: str, centre: CentreOf) -> dict[str, Any]:
    """A federated run: state, rounds, metrics."""
    with centre.store.read() as session:
        found = views.run(session, study_id)
    if found is None:
        raise HTTPException(404)
    return found


@router.post("/runs/{study_id}/pause", status_code=202)
def post_pause(study_id: str, _: Owned, centre: CentreOf, operator: Asking) -> dict[str, Any]:
    """Pause a run: the exchange under way is finished, then nothing is asked of the sites until it is resumed."""
    return ask(centre.store, study_id, Command.PAUSE, operator=operator)


@router.post("/runs/{study_id}/resume", status_code=202)
def post_resume(study_id: str, _: Owned, centre: CentreOf, operator: Asking) -> dict[str, Any]:
    """Let a paused run go on."""
    return ask(centre.store, study_id, Command.RESUME, operator=operator)


@router.post("/runs/{study_id}/stop", status_code=202)
def post_stop(
    study_id: str, _: Owned, centre: CentreOf, operator: Asking, body: StopRequest | None = None
) -> dict[str, Any]:
    """End a run: the model of its last finished round is published, or with `discard` none."""
    discard = body.discard if body else False
    return ask(centre.store, study_id, Command.STOP, discard=discard, operator=operator)


@router.post("/runs/{study_id}/extend", status_code=202)
def post_extend(study_id: str, _: Owned, centre: CentreOf, operator: Asking, body: ExtendRequest) -> dict[str, Any]:
    """Raise the number of rounds in all, up to the study's `training.max_rounds`, which the sites approved."""
    return ask(centre.store, study_id, Command.EXTEND, rounds=body.rounds, operator=operator)


@router.get("/log")
def get_log(centre: CentreOf) -> StreamingResponse:
    """The whole log as one JSON object: origin, log key, leaves, checkpoints (what `corsia log verify` reads)."""
    return StreamingResponse(_export(centre.store, _head(centre)), media_type="application/json")


@router.post("/log/verify")
def post_log_verify(centre: CentreOf) -> dict[str, Any]:
    """Recompute the whole log here. Who does not trust this server takes `GET /log` and verifies it himself."""
    return transparency.verify_log(json.loads("".join(_export(centre.store, _head(centre)))))


@router.get("/log/head")
def get_log_head(centre: CentreOf) -> dict[str, Any]:
    """Size of the log and its newest signed checkpoint."""
    with centre.store.read() as session:
        return views.log_head(session)


@router.get("/log/proof/{index}")
def get_proof(index: int, centre: CentreOf) -> dict[str, Any]:
    """Inclusion proof of a leaf in the tree of the newest checkpoint (RFC 9162, section 2.1.3)."""
    with centre.store.read() as session:
        newest = session.scalar(select(CheckpointRow).order_by(CheckpointRow.size.desc()).limit(1))
        leaves = session.scalars(
            select(LogRow.leaf).where(LogRow.index < (newest.size if newest else 0)).order_by(LogRow.index)
        ).all()
    if newest is None or not 0 <= index < len(leaves):
        raise HTTPException(404)
    tree = transparency.Tree()
    for leaf in leaves:
        tree.append(leaf)
    return {
        "index": index,
        "leaf": base64.b64encode(leaves[index]).decode(),
        "proof": [step.hex() for step in tree.inclusion(index, newest.size)],
        "checkpoint": newest.text,
        **_head(centre),
    }


@router.get("/events")
def get_events(
    centre: CentreOf,
    request: Request,
    since: Annotated[int | None, Query(ge=0, lt=10**18)] = None,
    study: Annotated[str | None, Query(min_length=1, max_length=63)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Live events (server-sent events), from `Last-Event-ID`, else from `since`, else from now; of one study or all."""
    known = last_event_id if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 19 else None
    principals, token = request.app.state.principals, request.state.token

    def reads() -> bool:
        try:
            return bool(principals.identify(token).roles)
        except AuthenticationError:
            return False

    response: Response = request.app.state.feed.response(
        int(known) if known else since, study, person=request.state.principal.key, known=reads
    )
    return response


def _head(centre: Centre) -> dict[str, str]:
    try:
        return {"origin": centre.log_origin, "log_key": read_public(centre.log_public).to_base64()}
    except (OSError, CorsiaError):
        raise UnavailableError("unavailable.process", "the gateway has no log key yet") from None


def _export(store: Store, head: dict[str, str]) -> Iterator[str]:
    """The log piece by piece; leaves and checkpoints of one moment, since both only grow."""
    with store.read() as session:
        checkpoints = session.scalars(select(CheckpointRow.text).order_by(CheckpointRow.size)).all()
    yield json.dumps(head)[:-1] + ', "leaves": ['
    at = 0
    while True:
        with store.read() as session:
            page = session.scalars(
                select(LogRow.leaf).where(LogRow.index >= at).order_by(LogRow.index).limit(_LOG_PAGE)
            ).all()
        if page:
            yield (", " if at else "") + ", ".join(json.dumps(base64.b64encode(leaf).decode()) for leaf in page)
        at += len(page)
        if len(page) < _LOG_PAGE:
            break
    yield '], "checkpoints": ' + json.dumps(list(checkpoints)) + "}"


def _without_none(value: Any) -> Any:
    """TOML has no null: a field that is null is left out."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_none(inner) for inner in value]
    return value

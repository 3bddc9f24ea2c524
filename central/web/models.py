"""Models over REST: what is published, who proposed and approved what, and predictions.

Names lead to rows of the database; what a row leads to is verified before it is used. Promotions are statements that
operators signed on their own machines: they are passed on to the signer, which checks them.
"""

from __future__ import annotations

import base64
import io
import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from central import ipc
from central.frames import MAX_BODY_BYTES
from central.store.models import ModelRow
from central.store.published import newest, serving
from central.web import views
from central.web.centre import Centre
from central.web.inference import Inference
from central.web.owned import check_owned
from central.web.paging import PageOf
from protocol.errors import InputError

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/models")


def _centre(request: Request) -> Centre:
    centre: Centre = request.app.state.centre
    return centre


CentreOf = Annotated[Centre, Depends(_centre)]
Version = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
Alias = Annotated[str | None, Query(min_length=1, max_length=128)]


class PredictRequest(BaseModel):
    """Body of `POST /models/{name}/predict`."""

    model_config = ConfigDict(extra="forbid")
    study: str = Field(min_length=1, max_length=128)
    version: int | None = Field(None, ge=1, le=2**31 - 1)
    alias: str | None = Field(None, min_length=1, max_length=128)


class Signed(BaseModel):
    """An operator's statement and its signature, both base64; an approval needs no statement."""

    model_config = ConfigDict(extra="forbid")
    statement: str = Field("", max_length=8192)
    signature: str = Field(min_length=1, max_length=8192)


@router.get("")
def get_models(centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """Published models, newest first."""
    with centre.store.read() as session:
        found = views.models(session)
    found.sort(key=_newest_first)
    return page.of(found, _newest_first)


@router.get("/{name}")
def get_model(name: str, centre: CentreOf, version: Version = None, alias: Alias = None) -> dict[str, Any]:
    """A model's signed manifest, as it was published: `{"manifest": {...}, "signature": base64}` and more."""
    row = _model(centre, name, version, alias)
    with centre.store.read() as session:
        known = [m for m in views.models(session) if (m["name"], m["version"]) == (row.name, row.version)]
    blob = centre.store.get_blob(row.manifest)
    return {**json.loads(blob), "blob": base64.b64encode(blob).decode(), "model": known[0]}


@router.get("/{name}/table")
def get_table(name: str, request: Request, centre: CentreOf, version: Version = None, alias: Alias = None) -> Response:
    """What people read of a model, as Parquet: one row a feature, or a variant of an association study."""
    from pipelines.infer import Scorer

    inference: Inference = request.app.state.inference
    manifest, weights, scorer = inference.ready(_model(centre, name, version, alias))
    sink = io.BytesIO()
    (scorer or Scorer(manifest, weights)).table().to_parquet(sink, index=False)
    return Response(sink.getvalue(), media_type="application/vnd.apache.parquet")


@router.post("/{name}/predict")
def post_predict(name: str, body: PredictRequest, request: Request, centre: CentreOf) -> dict[str, Any]:
    """Batch inference over a study's curated rows; the scores stay in the lake. Chooses as `invocations` does."""
    check_owned(request, body.study)
    asked = body.model_dump(exclude_none=True)
    return ipc.call(centre.vault, "predict", timeout_s=600.0, model=name, **asked)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise InputError("input.rows", f"the request is larger than {MAX_BODY_BYTES >> 20} MiB")
    return bytes(body)


@router.post(
    "/{name}/invocations",
    openapi_extra={"requestBody": {"content": {"application/json": {}, "text/csv": {}}, "required": True}},
)
async def post_invocations(
    name: str, request: Request, centre: CentreOf, version: Version = None, alias: Alias = None
) -> dict[str, Any]:
    """Score the rows of the request (MLflow's `dataframe_split`, `dataframe_records`, `inputs`; or CSV).

    With neither version nor alias the champion answers, or the newest while there is none; the reply names it.
    """
    body, kind = await _body(request), request.headers.get("content-type", "")
    inference: Inference = request.app.state.inference
    return await run_in_threadpool(_invoke, centre, inference, name, version, alias, body, kind)


def _invoke(
    centre: Centre, inference: Inference, name: str, version: int | None, alias: str | None, body: bytes, kind: str
) -> dict[str, Any]:
    row = _model(centre, name, version, alias, serves=True)
    told = {"model": row.name, "version": row.version, "alias": row.alias, "serial": row.serial}
    return told | {"predictions": inference.predict(row, body, kind)}


@router.get("/{name}/promotions")
def get_promotions(name: str, centre: CentreOf, page: PageOf) -> list[dict[str, Any]]:
    """Proposals of operators and what became of them, newest first; `statement` is what an approval signs."""
    with centre.store.read() as session:
        found = views.promotions(session, name)
    found.sort(key=newest_proposal)
    return page.of(found, newest_proposal)


@router.post("/{name}/promotions", status_code=201)
def post_promotion(name: str, body: Signed, request: Request, centre: CentreOf) -> dict[str, Any]:
    """Keep a signed proposal that a version get an alias (`corsia model promote` makes it)."""
    asked = {"statement": body.statement, "signature": body.signature}
    return ipc.call(centre.signer, "propose", timeout_s=30.0, token=str(request.state.token), **asked)


@router.post("/{name}/promotions/{proposal}/approval")
def post_approval(name: str, proposal: str, body: Signed, request: Request, centre: CentreOf) -> dict[str, Any]:
    """Approve a proposal as another operator; the signer signs and logs the new manifest."""
    token = str(request.state.token)
    return ipc.call(centre.signer, "approve", timeout_s=30.0, token=token, proposal=proposal, signature=body.signature)


def newest_proposal(row: dict[str, Any]) -> tuple[float, str]:
    """The order of proposals."""
    return (-row["proposed_at"], row["id"])


def _newest_first(row: dict[str, Any]) -> tuple[float, int, str]:
    return (-row["created_at"], -row["version"], row["name"])


def _model(centre: Centre, name: str, version: int | None, alias: str | None, *, serves: bool = False) -> ModelRow:
    with centre.store.read() as session:
        row = (serving if serves else newest)(session, name, version, alias)
    if row is None:
        raise HTTPException(404)
    return row

"""The application: API, dashboard page, static files, and the layers around them.

Reads top to bottom: what is mounted, in which order a request meets it. Nothing here listens (`__main__.py`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from jinja2 import Environment, FileSystemLoader, select_autoescape
from sqlalchemy import select
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

from central.identity.principals import Principals
from central.identity.provider import Provider
from central.store.models import StudyRow
from central.trusted import SignerKeys
from central.web import api, datasets, decisions, login, models, owned, problems, tokens, views
from central.web.auth import SecurityHeaders, TokenAuth
from central.web.centre import Centre
from central.web.description import describe
from central.web.events import EventFeed
from central.web.inference import Inference
from central.web.repeats import Repeats

__all__ = ["Centre", "create_app"]

_HERE = Path(__file__).parent
_PAGE_STUDIES = 100
_NO_CURVE = ("rows", "answers", "num-examples")


def create_app(centre: Centre) -> FastAPI:
    """The ASGI application of one centre."""
    pages = _environment()
    app = FastAPI(
        title="Corsia",
        version="1",
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
    )
    app.state.centre = centre
    app.state.feed = EventFeed(centre.store, centre.stop)
    app.state.principals = principals = Principals(centre.operators, centre.store, centre.identity)
    app.state.provider = provider = None if centre.identity is None else Provider(centre.identity)
    app.state.inference = Inference(centre.store, SignerKeys(centre.signer))
    problems.install(app)
    app.include_router(api.router)
    app.include_router(models.router)
    app.include_router(decisions.router)
    app.include_router(datasets.router)
    app.include_router(owned.router)
    app.include_router(tokens.router)

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/", include_in_schema=False)
    def dashboard(_: Request) -> HTMLResponse:
        return HTMLResponse(pages.get_template("overview.html").render(overview(centre)))

    describe(app)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    door = pages.get_template("login.html")
    app.state.door = lambda said="": door.render(name=centre.name, oidc=provider is not None, said=said)
    app.include_router(login.router)
    app.add_middleware(Repeats, store=centre.store)
    app.add_middleware(
        TokenAuth,
        principals=principals,
        provider=provider,
        web=centre.web,
        login=app.state.door(),
        secure=login.is_secure(centre.identity),
    )
    app.add_middleware(SecurityHeaders)  # added last: outermost
    return app


def overview(centre: Centre) -> dict[str, Any]:
    """All that the dashboard's first page shows."""
    with centre.store.read() as session:
        training = session.scalars(
            select(StudyRow.id).where(StudyRow.lane == "train").order_by(StudyRow.created_at.desc()).limit(4)
        ).all()
        runs = [run for run in (views.run(session, study) for study in training) if run]
        return {
            "name": centre.name,
            "mlflow_uri": centre.mlflow_uri if centre.mlflow_uri.startswith(("http://", "https://")) else "",
            "sites": views.sites(session),
            "lanes": views.lanes(session),
            "studies": views.studies(session, _PAGE_STUDIES),
            "runs": [run | {"series": series(run)} for run in runs],
            "models": views.models(session),
            "log": views.log_head(session),
        }


def series(run: dict[str, Any]) -> list[dict[str, Any]]:
    """A run's metrics as curves: name and (round, value) points; only finite numbers."""
    curves: dict[str, list[list[float]]] = {}
    for done in run["rounds"]:
        for name, value in sorted(_flat(done["metrics"])):
            if (
                name not in _NO_CURVE
                and isinstance(value, int | float)
                and not isinstance(value, bool)
                and abs(value) < float("inf")
            ):
                curves.setdefault(name, []).append([done["round"], float(value)])
    return [{"name": name, "points": points} for name, points in curves.items()]


def _flat(metrics: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in metrics.items():
        label = f"{prefix}{name}"
        found += _flat(value, f"{label} ") if isinstance(value, dict) else [(label, value)]
    return found


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = _size
    environment.filters["ago"] = _ago
    environment.filters["when"] = _when
    environment.filters["number"] = lambda n: f"{n:,}".replace(",", "\u202f")
    return environment


def _size(size_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def _ago(at: float | None) -> str:
    if not at:
        return "never"
    seconds = max(0, int(time.time() - at))
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length} {unit} ago"
    return "just now" if seconds < 15 else f"{seconds // 15 * 15} s ago"


def _when(at: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at)) if at else "–"

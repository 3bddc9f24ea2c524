"""The application: API, dashboard page, static files, and the layers around them.

Reads top to bottom: what is mounted, in which order a request meets it. Nothing here listens (`__main__.py`).
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from central.identity.principals import Principals
from central.trusted import SignerKeys
from central.web import api, datasets, decisions, insight, login, models, owned, pages, problems, remotes, tokens
from central.web.auth import TokenAuth
from central.web.centre import Centre
from central.web.description import describe
from central.web.events import EventFeed
from central.web.headers import SecurityHeaders
from central.web.inference import Inference
from central.web.pages import refusals
from central.web.repeats import Repeats

__all__ = ["Centre", "create_app"]

_HERE = Path(__file__).parent


def create_app(centre: Centre) -> FastAPI:
    """The ASGI application of one centre."""
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
    provider = None
    if centre.identity is not None:
        from central.identity.provider import Provider  # only where people log in by one: it takes memory

        provider = Provider(centre.identity)
    app.state.provider = provider
    app.state.inference = Inference(centre.store, SignerKeys(centre.signer))
    problems.install(app, refusals.shown)
    app.include_router(api.router)
    app.include_router(models.router)
    app.include_router(decisions.router)
    app.include_router(insight.router)
    app.include_router(datasets.router)
    app.include_router(remotes.router)
    app.include_router(owned.router)
    app.include_router(tokens.router)

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    app.include_router(pages.router)
    describe(app)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    app.include_router(login.router)
    app.add_middleware(Repeats, store=centre.store)
    app.add_middleware(
        TokenAuth,
        principals=principals,
        provider=provider,
        web=centre.web,
        shown=refusals.shown,
        https_alone=centre.https_alone,
        secure=login.is_secure(centre.identity),
    )
    app.add_middleware(SecurityHeaders)  # added last: outermost
    return app

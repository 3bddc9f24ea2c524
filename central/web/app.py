"""The application: API, dashboard page, static files, and the layers around them.

Reads top to bottom: what is mounted, in which order a request meets it. Nothing here listens (`__main__.py`).
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from central.trusted import SignerKeys
from central.web import api, decisions, insight, models, pages, problems
from central.web.auth import SecurityHeaders, TokenAuth
from central.web.centre import Centre
from central.web.events import EventFeed
from central.web.inference import Inference
from central.web.pages.render import environment

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
    app.state.inference = Inference(centre.store, SignerKeys(centre.signer))
    problems.install(app)
    app.include_router(api.router)
    app.include_router(models.router)
    app.include_router(decisions.router)
    app.include_router(insight.router)

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=_HERE / "static"), name="static")
    login = environment().get_template("login.html").render(name=centre.name)
    app.add_middleware(TokenAuth, operators=centre.operators, login=login)
    app.add_middleware(SecurityHeaders)  # added last: outermost
    return app

"""The pages of the dashboard, one module a subject. They read `views` and its neighbours and hold no query."""

from __future__ import annotations

from fastapi import APIRouter

from central.web.pages import audit, data, drafting, models, overview, studies, training

__all__ = ["router"]

router = APIRouter(include_in_schema=False)
for _page in (overview, drafting, studies, training, models, data, audit):
    router.include_router(_page.router)

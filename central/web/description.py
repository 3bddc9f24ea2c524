"""The API's own description (`/api/v1/openapi.json`, OpenAPI 3.1): forms, rights, problems, pages and keys.

FastAPI describes routes and requests; here is added what the layers around them do, so that a client made from the
description meets no answer that it does not name.
"""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from central.identity.rights import SCOPES
from central.web.permits import is_open, right
from central.web.repeats import takes_key
from central.web.shapes import ANSWERS, Problem

__all__ = ["describe"]

_TEXT = """\
The one truth behind dashboard, notebook client and command line.

Send `Authorization: Bearer TOKEN`: an operator's token, an API token (`POST /api/v1/tokens`), or an access token of the
OpenID provider that is made for this centre. Each call names the right it takes as `x-corsia-right`.

Lists come in pages: `limit` rows, and the next page in the `Link` header (`rel="next"`). Errors are problem documents
(RFC 9457) with a stable `code`. A write that carries an `Idempotency-Key` can be sent again within a day: the first
answer comes again, marked `Idempotency-Replayed: true`.
"""
_REF = "#/components/schemas/{model}"
_BINARY = {"type": "string", "format": "binary"}
_FILES = {
    "table": "application/vnd.apache.parquet",
    "sql": "application/vnd.apache.parquet",
    "parcel": "application/octet-stream",
    "events": "text/event-stream",
    "export": "text/csv",
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key again within a day gets the first answer, and nothing is done twice.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def describe(app: FastAPI) -> None:
    """Let the application describe itself in full; made once, when first asked for."""

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _made(app)
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]


def _made(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(title="Corsia", version="1", description=_TEXT, routes=app.routes)
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "operator's, API or access token"}
    }
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    problem = _schema(Problem, schemas)
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            _complete(operation, method, path, problem)
            if (method, path) in ANSWERS:
                good = next(code for code in operation["responses"] if code.startswith("2"))
                form = _schema(ANSWERS[method, path], schemas)
                operation["responses"][good]["content"] = {"application/json": {"schema": form}}
    return made


def _complete(operation: dict[str, Any], method: str, path: str, problem: dict[str, Any]) -> None:
    """What is so of every call: its right, its problems, its pages."""
    filled, verb = re.sub("{[^}]*}", "1", path), method.upper()
    operation["tags"] = [path.removeprefix("/api/v1/").strip("/").split("/")[0]]
    if not is_open(verb, filled):
        needed = right(verb, filled)
        operation["security"] = [{"token": []}]
        operation["x-corsia-right"] = needed
        if needed:
            operation["description"] = f"{operation.get('description', '')}\n\nTakes `{needed}`: {SCOPES[needed]}."
    responses = operation["responses"]
    responses.pop("422", None)
    responses["default"] = {"description": "A problem", "content": {"application/problem+json": {"schema": problem}}}
    good = next(code for code in responses if code.startswith("2"))
    last = path.rpartition("/")[2]
    if last in _FILES:
        responses[good]["content"] = {_FILES[last]: {"schema": _BINARY}}
    if any(parameter["name"] == "cursor" for parameter in operation.get("parameters", ())):
        responses[good]["headers"] = {
            "Link": {"description": 'The next page, `rel="next"`.', "schema": {"type": "string"}}
        }
    if takes_key(verb, filled):
        operation.setdefault("parameters", []).append(_KEY)


def _schema(form: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """A form's schema; what it refers to goes to the components."""
    made = TypeAdapter(form).json_schema(ref_template=_REF, mode="serialization")
    schemas.update(made.pop("$defs", {}))
    if "title" in made and made.get("type") == "object":
        schemas[made["title"]] = made
        return {"$ref": _REF.format(model=made["title"])}
    return made

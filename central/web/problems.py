"""Errors as `application/problem+json` (RFC 9457), with this product's stable code and hint.

Every answer of 400 and above that the API gives is made here. Unexpected errors give an id to look up in the log,
never their text.
"""

from __future__ import annotations

import logging
import secrets
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from protocol import errors
from protocol.errors import CorsiaError, InputError

__all__ = ["install", "problem"]

log = logging.getLogger(__name__)

_STATUS: dict[type[CorsiaError], int] = {
    errors.ConfigurationError: 500,
    errors.InputError: 422,
    errors.AuthenticationError: 401,
    errors.PermissionRefused: 403,
    errors.PolicyRefused: 403,
    errors.DisclosureRefused: 403,
    errors.StorageError: 507,
    errors.UnavailableError: 503,
    errors.WorkerError: 500,
    errors.IntegrityError: 500,
}
_CODE_STATUS = {"study.unknown": 404, "unavailable.rate": 429}


def problem(error: CorsiaError, status: int | None = None) -> Response:
    """A problem document for an error of the product."""
    number = status or _CODE_STATUS.get(error.code) or _STATUS.get(type(error), 409)
    headers = {"WWW-Authenticate": 'Bearer realm="corsia"'} if number == HTTPStatus.UNAUTHORIZED else {}
    if error.retry_s:
        headers["Retry-After"] = str(max(1, round(error.retry_s)))
    return _answer(number, error.code, error.message, error.hint, headers)


def install(app: FastAPI) -> None:
    """Make the application answer every error as a problem document."""
    app.add_exception_handler(CorsiaError, _on_corsia)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(Exception, _on_unexpected)


async def _on_corsia(_: Request, error: Exception) -> Response:
    return problem(error) if isinstance(error, CorsiaError) else await _on_unexpected(_, error)


async def _on_http(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    summary = InputError("input.usage")
    return _answer(status, summary.code, HTTPStatus(status).phrase, "see /api/v1/openapi.json")


async def _on_validation(_: Request, error: Exception) -> Response:
    where = "request"
    if isinstance(error, RequestValidationError) and error.errors():
        where = ".".join(str(part) for part in error.errors()[0]["loc"])[:200]
    return problem(InputError("input.usage", f"not valid: {where}"))


async def _on_unexpected(_: Request, error: Exception) -> Response:
    error_id = secrets.token_hex(4)
    log.error("web.failed", extra={"fields": {"error_id": error_id}}, exc_info=error)
    return _answer(500, "worker.failed", f"unexpected error {error_id}", "look up the id in logs/web.jsonl")


def _answer(status: int, code: str, detail: str, hint: str, headers: dict[str, str] | None = None) -> Response:
    body = {
        "type": f"urn:corsia:error:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
    }
    return JSONResponse(body, status_code=status, media_type="application/problem+json", headers=headers)

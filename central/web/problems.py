"""Errors as `application/problem+json` (RFC 9457), with this product's stable code and hint.

Every answer of 400 and above is made here, as a value; how it is shown to who asked, as a document or as a page, is
the application's word (`pages.refusals`). Unexpected errors give an id to look up in the log, never their text.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from central.web.headers import protect
from protocol import errors
from protocol.errors import CorsiaError, InputError

__all__ = ["Problem", "Shown", "install", "of", "problem"]

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


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong with a request."""

    status: int
    code: str
    detail: str
    hint: str
    headers: dict[str, str] = field(default_factory=dict)

    def document(self) -> Response:
        """The answer for a program."""
        body = {
            "type": f"urn:corsia:error:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "hint": self.hint,
        }
        return JSONResponse(body, self.status, self.headers, media_type="application/problem+json")


Shown = Callable[[Request, Problem], Response]


def of(error: CorsiaError) -> Problem:
    """What an error of the product is to who asked."""
    number = _CODE_STATUS.get(error.code) or _STATUS.get(type(error), 409)
    headers = {"WWW-Authenticate": 'Bearer realm="corsia"'} if number == HTTPStatus.UNAUTHORIZED else {}
    if error.retry_s:
        headers["Retry-After"] = str(max(1, round(error.retry_s)))
    return Problem(number, error.code, error.message, error.hint, headers)


def problem(error: CorsiaError) -> Response:
    """A problem document for an error of the product."""
    return of(error).document()


def install(app: FastAPI, shown: Shown) -> None:
    """Make the application answer every error as it is to be shown."""

    async def on_corsia(request: Request, error: Exception) -> Response:
        return shown(request, of(error) if isinstance(error, CorsiaError) else _unexpected(error))

    async def on_http(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}  # `Allow` of a 405
        found = Problem(status, "input.usage", HTTPStatus(status).phrase, "see /api/v1/openapi.json", headers)
        return shown(request, found)

    async def on_validation(request: Request, error: Exception) -> Response:
        where = "request"
        if isinstance(error, RequestValidationError) and error.errors():
            where = ".".join(str(part) for part in error.errors()[0]["loc"])[:200]
        return shown(request, of(InputError("input.usage", f"not valid: {where}")))

    async def on_unexpected(request: Request, error: Exception) -> Response:
        answer = shown(request, _unexpected(error))
        protect(answer.headers)
        return answer

    app.add_exception_handler(CorsiaError, on_corsia)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(Exception, on_unexpected)


def _unexpected(error: Exception) -> Problem:
    error_id = secrets.token_hex(4)
    log.error("web.failed", extra={"fields": {"error_id": error_id}}, exc_info=error)
    return Problem(500, "worker.failed", f"unexpected error {error_id}", "look up the id in logs/web.jsonl")

"""What a centre's web process replies, read: one gate between the wire and everything that uses an answer.

    value = read("GET", "/studies/lung", raw, "https://centre.example.org")

Whatever answers in a centre's place (a portal, a proxy, another program) may send any JSON with any status. What is
not of the form that its path has is `unavailable.centre`; what passes is the whole answer, also what is not named in
`corsia.answers`: a centre may add fields.
"""

from __future__ import annotations

import io
import json
import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from corsia.answers import ANSWERS
from protocol.errors import CorsiaError, UnavailableError, from_code

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MAX_PAGES", "foreign", "onward", "read", "refusal", "rows"]

MAX_PAGES = 10_000  # of one list
_DEEPEST = 64  # levels; ours have a dozen
_LARGEST = 2**64
_PATHS = [
    (method, re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), shape)
    for (method, path), shape in ANSWERS.items()
]


def read(method: str, path: str, raw: bytes, url: str) -> Any:
    """The value of a good answer.

    Args:
        method: of the request.
        path: below `/api/v1`, with or without its query; or that of the log-in, as `/auth/provider`.
        url: the centre's, for the message.

    Raises:
        UnavailableError: `unavailable.centre`.

    Examples:
        >>> read("GET", "/log/proof/0", b"[]", "http://portal")
        Traceback (most recent call last):
        protocol.errors.UnavailableError: what answers at http://portal is no centre [unavailable.centre]
    """
    plain = path.partition("?")[0]
    form = next((n for n, (m, pattern, _) in enumerate(_PATHS) if m == method and pattern.fullmatch(plain)), None)
    try:
        value = json.loads(raw)
        _check(value)
        if form is not None:
            _reader(form).validate_python(value, strict=True)
    except (ValidationError, ValueError, RecursionError):
        raise foreign(url) from None
    return value


def refusal(status: int, raw: bytes) -> CorsiaError:
    """The error of an answer that is not good: by the code of its problem document, if it is one."""
    try:
        value = json.loads(raw)
        _check(value)
        return from_code(str(value["code"]), str(value["detail"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return UnavailableError("unavailable.centre", f"status {status} from the centre")


def rows(raw: bytes, url: str) -> pa.Table:
    """The rows of an answer in Parquet.

    Raises:
        UnavailableError: `unavailable.centre`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(io.BytesIO(raw), use_threads=False)
    except (pa.ArrowException, OSError, ValueError):
        raise foreign(url) from None


def onward(path: str, link: str) -> str:
    """The path of a list's next page, below `/api/v1`; "" when there is none, or the link names something else."""
    below = link.removeprefix("/api/v1")
    return below if below != link and below.partition("?")[0] == path.partition("?")[0] else ""


def foreign(url: str) -> UnavailableError:
    """What somebody else's answer is."""
    return UnavailableError("unavailable.centre", f"what answers at {url} is no centre")


@cache
def _reader(form: int) -> TypeAdapter[Any]:
    return TypeAdapter(_PATHS[form][2])


def _check(value: Any) -> None:
    """Refuse what no centre's JSON holds, wherever it stands: what cannot be printed, counted or written again.

    Raises:
        ValueError: a number without a value or beyond all measure, half a character, levels without end.
    """
    level = [value]
    for _ in range(_DEEPEST):
        inside: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inside += [*one, *one.values()]
            elif isinstance(one, list):
                inside += one
            elif isinstance(one, str):
                one.encode()
            elif isinstance(one, float) and not math.isfinite(one):
                raise ValueError("no number")
            elif isinstance(one, int) and abs(one) >= _LARGEST:
                raise ValueError("number")
        if not inside:
            return
        level = inside
    raise ValueError("depth")

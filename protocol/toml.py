"""TOML of others, read in bounded time and memory: studies, configurations, settings.

`tomllib` keeps every beginning of a dotted key, so a key of 20,000 parts in 40 kB would cost gigabytes; and it follows
nesting by recursion. Both end here, as does a whole number beyond the 64 bits that TOML has.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

__all__ = ["MAX_BYTES", "read"]

MAX_BYTES = 1 << 20
MAX_PARTS = 32  # of a dotted key; an OID has no more
_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_DEEP = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_PARTS}}}")


def read(raw: bytes, most: int = MAX_BYTES) -> dict[str, Any]:
    """A document's values.

    Args:
        raw: UTF-8.
        most: bytes that a document may have.

    Raises:
        ValueError: with the reason, for anything that is no such document.
    """
    if len(raw) > most:
        raise ValueError(f"larger than {most} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    if _DEEP.search(text):
        raise ValueError(f"a name of more than {MAX_PARTS} parts")
    try:
        made = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    todo: list[Any] = [made]
    while todo:
        value = todo.pop()
        if isinstance(value, dict | list):
            todo += value.values() if isinstance(value, dict) else value
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("a whole number beyond 64 bits")
    return made

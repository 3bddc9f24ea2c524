"""What is wrong with what was given, as one line for people: where and why, never the value itself."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

__all__ = ["first_fault", "unread"]

_NAME = "^[a-z0-9][a-z0-9-]{0,62}$"  # of sites, studies, datasets


def first_fault(error: ValidationError, *under: str, whole: str = "") -> str:
    """`field.sub: reason` of pydantic's first fault.

    Args:
        under: names before the field's own.
        whole: what to name when the fault is in no single field.
    """
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join([*under, *(str(part) for part in first["loc"])]) or whole
    return f"{where}: {_reason(first)}"


def _reason(fault: ErrorDetails) -> str:
    if fault["type"] == "extra_forbidden":
        return "there is no such field here; is it spelt right, and under the right heading?"
    if fault["type"] == "string_pattern_mismatch" and fault.get("ctx", {}).get("pattern") == _NAME:
        return "a name is of lower-case letters, digits and dashes, at most 63, and begins with no dash"
    return fault["msg"]


def unread(error: Exception) -> str:
    """Why a file cannot be read; nothing of what is in it.

    Example:
        >>> unread(FileNotFoundError(2, "No such file or directory", "x.toml"))
        'No such file or directory'
    """
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__

"""What pydantic found wrong, as one line for people: the first field and the reason, never the value that was given."""

from __future__ import annotations

from pydantic import ValidationError

__all__ = ["first_fault"]


def first_fault(error: ValidationError, *under: str, whole: str = "") -> str:
    """`field.sub: reason` of the first fault.

    Args:
        under: names before the field's own.
        whole: what to name when the fault is in no single field.
    """
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join([*under, *(str(part) for part in first["loc"])]) or whole
    return f"{where}: {first['msg']}"

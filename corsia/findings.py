"""One answer of `corsia doctor`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: `ok`, what was found, and what to do when it is not ok."""

    check: str
    ok: bool
    found: str
    advice: str = ""

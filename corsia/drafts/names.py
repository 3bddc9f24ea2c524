"""Names that look alike, and names as slugs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from privacy.deid.deny import fold

__all__ = ["near", "slug"]


def near(name: str, names: Sequence[str], cutoff: float = 0.6) -> list[str]:
    """Names that look like this one, the most alike first."""
    forms = {slug(other): other for other in names}
    return [forms[form] for form in difflib.get_close_matches(slug(name), list(forms), n=3, cutoff=cutoff)]


def slug(text: str) -> str:
    """Lower-case letters, digits and hyphens, at most 63, never empty."""
    return re.sub(r"[^a-z0-9]+", "-", fold(text)).strip("-")[:63].strip("-") or "x"

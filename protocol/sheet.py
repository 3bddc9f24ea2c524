"""Cells of tables that people open in a spreadsheet: what would be taken for a formula is made text."""

from __future__ import annotations

__all__ = ["cell"]


def cell(value: object) -> object:
    """A value for a CSV file; nothing for None, and `'` before a text that a spreadsheet would compute.

    Source: OWASP, "CSV Injection".
    """
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value

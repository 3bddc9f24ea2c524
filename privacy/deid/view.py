"""The text as the rules read it: composed, plain quotes and dashes, no invisible characters, no bare HTML tags.

Each character of the view knows where it stands in the original, so a span found here is cut out there.
Not here: any decision about what identifies.

Source: Unicode Standard Annex 15 (normalisation forms); HTML character references.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache

__all__ = ["View"]

_PLAIN = {c: "'" for c in "’‘ʼ´`′‛＇"} | {c: "-" for c in "‐‑‒–—―−﹣－"} | {c: '"' for c in "“”„«»"}
_KEPT = frozenset("°ºª…½¼¾²³µ™®·")
_MARKUP = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,10}\s{0,3}/?>|&(?:[A-Za-z]{2,8}|#\d{2,6}|#[xX][0-9A-Fa-f]{2,5});")
_INLINE = frozenset("b i u em strong span small font mark sub sup a wbr".split())
_BREAKS = frozenset("br p div tr li ul ol h1 h2 h3 h4 h5 h6 table".split())


@lru_cache(maxsize=8192)
def _char(char: str) -> str:
    """What one character reads as; empty when it is not seen."""
    if char.isascii() or char in _KEPT:
        return char
    if char in _PLAIN:
        return _PLAIN[char]
    category = unicodedata.category(char)
    if category == "Cf":
        return ""
    if category == "Zs":
        return " "
    if category == "Cc" or category.startswith("Z"):
        return char
    folded = unicodedata.normalize("NFKC", char)
    return folded if len(folded) <= 4 else char


class View:
    """A readable form of one text with the way back.

    Args:
        source: any text.

    Example:
        >>> view = View("Ro\\u200bssi")
        >>> view.text, view.original(0, 5)
        ('Rossi', (0, 6))
    """

    def __init__(self, source: str) -> None:
        self.text = source
        self._starts: list[int] | None = None
        self._ends: list[int] = []
        if source.isascii() and "<" not in source and "&" not in source:
            return
        chars: list[str] = []
        starts: list[int] = []
        at = 0
        for match in _MARKUP.finditer(source):
            _plain(source, at, match.start(), chars, starts, self._ends)
            for char in _markup(match[0]):
                chars.append(char)
                starts.append(match.start())
                self._ends.append(match.end())
            at = match.end()
        _plain(source, at, len(source), chars, starts, self._ends)
        self.text, self._starts = "".join(chars), starts

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Where a part of the view stands in the source."""
        if self._starts is None or end <= start:
            return start, end
        return self._starts[start], self._ends[end - 1]


def _plain(source: str, at: int, stop: int, chars: list[str], starts: list[int], ends: list[int]) -> None:
    while at < stop:
        end = at + 1
        while end < stop and not source[end].isascii() and unicodedata.combining(source[end]):
            end += 1
        piece = source[at:end]
        if len(piece) > 1:
            composed = unicodedata.normalize("NFC", piece)
            seen = composed[0] if len(composed) > 1 else composed
            seen = _char(seen)
        else:
            seen = "" if not piece.isascii() and unicodedata.combining(piece) else _char(piece)
        for char in seen:
            chars.append(char)
            starts.append(at)
            ends.append(end)
        at = end


def _markup(piece: str) -> str:
    if piece[0] == "&":
        read = html.unescape(piece)
        return _char(read) if len(read) == 1 else read
    name = piece.strip("</> \t\r\n").lower()
    return "" if name in _INLINE else "\n" if name in _BREAKS else "\t"

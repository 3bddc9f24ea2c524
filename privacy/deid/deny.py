"""The per-patient deny-list: what the record itself says about who it is, found again anywhere in a text.

Matched without regard to accents, case, order of name parts, separators inside numbers, and initials before a name.
Not here: what else identifies a person (`text.py`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import date
from functools import lru_cache

from privacy.deid.dates import parse_date

__all__ = ["DenyList", "fold"]

_WORD = re.compile(r"[^\W_]+")
_MIN_WORD, _MIN_NUMBER, _MIN_INSIDE = 3, 4, 6
# Words that stand in names, addresses and descriptors of everybody: never denied on their own.
_COMMON = frozenset(
    "via viale piazza piazzale corso largo vicolo strada contrada localita frazione borgo snc san santa santo "
    "dott dottore dottoressa dottssa prof sig sigra signor signora ing avv del della delle dei degli dal dalla con per "
    "the and von van der den unknown anonymous none null nan nat test true false yes male female maschio femmina "
    "not other altro ignoto nessuno italia italy ospedale hospital".split()
)


@lru_cache(maxsize=4096)
def _fold_char(char: str) -> str:
    return unicodedata.normalize("NFKD", char)[0].casefold()[:1] or char


def fold(text: str) -> str:
    """The text without accents and case, of the same length, so that positions agree."""
    return text.lower() if text.isascii() else "".join(map(_fold_char, text))


class DenyList:
    """Compiled once a patient, searched in many texts.

    Args:
        values: whole values of identifying fields (`Rossi^Mario`, `Via Roma 1`, `AB-12345`); split here.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        words: set[str] = set()
        numbers: set[str] = set()
        values = list(values)
        self.dates: frozenset[date] = frozenset(found for value in values if (found := parse_date(value)))
        for value in values:
            parts = _WORD.findall(fold(unicodedata.normalize("NFC", value)))
            if parse_date(value) is None:  # a year or a day alone says nothing
                words.update(part for part in parts if _worth(part))
            joined = "".join(parts)
            if len(joined) >= _MIN_INSIDE and any(c.isdigit() for c in joined) and len(joined) <= 32:
                numbers.add(joined)
        self._pattern = _compile(words, numbers)

    def __bool__(self) -> bool:
        return self._pattern is not None

    def find(self, text: str) -> list[tuple[int, int]]:
        """Start and end of each occurrence."""
        if self._pattern is None:
            return []
        return [match.span() for match in self._pattern.finditer(fold(text))]

    def replace(self, text: str, placeholder: str = "") -> str:
        """The text with every occurrence replaced."""
        for start, end in reversed(self.find(text)):
            text = text[:start] + placeholder + text[end:]
        return text


def _worth(part: str) -> bool:
    if part.isdigit():
        return len(part) >= _MIN_NUMBER
    return len(part) >= _MIN_WORD and part not in _COMMON


def _compile(words: set[str], numbers: set[str]) -> re.Pattern[str] | None:
    alternatives = []
    # A long part also inside a longer word ("mrossibianchi@..."): the whole word goes.
    inside = sorted((w for w in words if len(w) >= _MIN_INSIDE), key=len, reverse=True)
    if inside:
        alternatives.append(r"[^\W_]*(?:" + "|".join(map(re.escape, inside)) + r")[^\W_]*")
    if numbers:
        spaced = (r"[\s\-./_]?".join(map(re.escape, n)) for n in sorted(numbers, key=len, reverse=True))
        alternatives.append("(?:" + "|".join(spaced) + ")")
    short = sorted((w for w in words if len(w) < _MIN_INSIDE), key=len, reverse=True)
    if short:
        alternatives.append(r"(?<![^\W_])(?:[^\W\d_]\.\s?)?(?:" + "|".join(map(re.escape, short)) + r")(?![^\W_])")
    return re.compile("|".join(alternatives)) if alternatives else None

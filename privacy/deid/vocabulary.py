"""Closed-world cleaning of short descriptors: a word stays only if the standard or the imaging trade uses it.

A name, a record number or an opaque token is never in the vocabulary, whatever language it is in; so no list of names
is needed to remove it. What is lost are words of local invention. For running text use `text.py`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from privacy.deid.deny import DenyList, fold

__all__ = ["clean", "read_words"]

_FOLDER = Path(__file__).parent / "lexicon"
_PLACEHOLDER = re.compile(r"\[[A-Z]{2,20}\][.,;:]?")
_DECIMAL = re.compile(r"[+-]?\d{1,4}[.,]\d{1,6}")
# Days, however short: the text engine moves or replaces dates in running text, here they go.
_DATE = re.compile(
    r"(?<!\d)(?:\d{1,2}([.\-])\d{1,2}\1(?:\d{4}|\d\d)|\d{1,2}/\d{1,2}/(?:\d{4}|\d\d)?|\d{4}[/\-]\d{1,2}|[0-3]\d/[01]\d)(?!\d)"
)
_PART = re.compile(r"[^\W\d_]+|\d+")
_SIGNS = re.compile(r"[^\w\s+\-/()\[\],.:;*%<>=&'^#]")
_ALONE = frozenset("+-/&,.;:")  # signs that may stand between spaces
_MAX_DIGITS = 5  # in one chunk
_MAX_RUN = 6  # in neighbouring whole numbers
_MAX_CODE = 5  # characters of a chunk without any known word: "B70f", "H31s"


@lru_cache(maxsize=1)
def _words() -> frozenset[str]:
    return frozenset(fold(w) for name in ("dicom.txt", "imaging.txt") for w in read_words(name))


def read_words(name: str) -> list[str]:
    """The words of a lexicon file, in order; lines that begin with # are comments."""
    lines = (_FOLDER / name).read_text("utf-8").splitlines()
    return [word for line in lines if not line.startswith("#") for word in line.split()]


def clean(text: str, deny: DenyList) -> str:
    """The text with only the chunks (between spaces) that are known words, short codes or short numbers.

    Example:
        >>> clean("CT Chest 5mm, Zorzon Ugo 1234567", DenyList())
        'CT Chest 5mm,'
    """
    kept: list[str] = []
    run: list[int] = []
    for chunk in [*deny.replace(text).split(), ""]:
        if chunk.isdigit():
            run.append(len(kept))
        elif run:
            if sum(len(kept[i]) for i in run) > _MAX_RUN:
                kept = [word for i, word in enumerate(kept) if i not in run]
            run = []
        if chunk and _known(chunk):
            kept.append(_SIGNS.sub("", chunk))
        elif run:
            run.pop()
    return " ".join(word for word in kept if word)


def _known(chunk: str) -> bool:
    """Whether one chunk between spaces says nothing but known words, short codes and short numbers."""
    if _PLACEHOLDER.fullmatch(chunk) or _DECIMAL.fullmatch(chunk):
        return True
    if _DATE.search(chunk) or (not chunk.isascii() and any(c.isdigit() and not c.isascii() for c in chunk)):
        return False
    parts = _PART.findall(chunk)
    if not parts:
        return chunk in _ALONE
    letters = [part for part in parts if part[0].isalpha()]
    if any(len(part) > 1 and fold(part) not in _words() for part in letters):
        return False
    if sum(len(part) for part in parts if part[0].isdigit()) > _MAX_DIGITS:
        return False
    return any(len(part) > 1 for part in letters) or sum(map(len, parts)) <= _MAX_CODE

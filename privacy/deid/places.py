"""Places and hospitals in clinical text: municipalities in a place's position, known hospitals, and their limits.

Not here: streets and postal codes (`patterns.py`), persons (`names.py`).
"""

# ruff: noqa: E501 - patterns and notes are data, one a line
from __future__ import annotations

import re
from functools import lru_cache

from privacy.deid import names, patterns, wordlists
from privacy.deid.deny import fold
from privacy.deid.vocabulary import read_words

__all__ = ["find_places", "is_proper", "trimmed"]

_WORD = re.compile(r"[^\W_]{1,60}(?:['\-.][^\W_]{1,60}){0,8}")
_STOP = frozenset("di del della dei degli dell d in per con e ed of and for the al alla sul nel".split())


def find_places(text: str) -> list[tuple[int, int, str]]:
    """Start, end and kind of each place and hospital."""
    found = [(m.start(), m.end(), "facility") for m in _facilities().finditer(text)]
    for match in patterns.UNIT_PLACE.finditer(text):
        found += [(match.start(), end, "facility") for _, end, _ in _municipality(text, match, sure=True)]
    for match in patterns.CONTEXT_PLACE.finditer(text):
        if not names.EPONYM_BEFORE.search(text[max(0, match.start("v") - 40) : match.start("v")]):
            found += _municipality(text, match)
    for match in patterns.PLAIN_PLACE.finditer(text):
        before = text[max(0, match.start() - 40) : match.start()]
        if not names.EPONYM_BEFORE.search(before) and not re.match(
            r"\s?(?:criteri|grad|scor|class)", text[match.end() : match.end() + 8]
        ):
            start = names.at_sentence_start(text, match.start())
            found += [
                place
                for place in _municipality(text, match)
                if not start or " " in text[place[0] : place[1]] or fold(text[place[0] : place[1]]) in _CAPITALS
            ]
    return found


def _municipality(text: str, match: re.Match[str], *, sure: bool = False) -> list[tuple[int, int, str]]:
    """The longest beginning of a match that is a municipality and no everyday word or eponym."""
    start, end = match.span("v")
    while True:
        found = text[start:end]
        if fold(found) in wordlists.municipalities() and (" " in found or sure or _sure(found)):
            return [(start, end, "place")]
        cut = found.rfind(" ")
        if cut <= 0:
            return []
        end = start + cut


def _sure(word: str) -> bool:
    folded = fold(word)
    if len(word) < 4 or word.isupper():
        return False
    return folded in _CAPITALS or not (
        wordlists.is_medical(word) or wordlists.is_weak(word) or folded.endswith(("ato", "ata", "ente", "ale"))
    )


_CAPITALS = frozenset(
    "milano roma torino napoli palermo genova bologna firenze bari catania venezia verona messina padova trieste brescia parma taranto prato modena pavia "
    "reggio ravenna livorno cagliari foggia rimini salerno ferrara sassari latina monza siracusa pescara bergamo forli trento vicenza terni bolzano novara "
    "piacenza ancona andria arezzo udine cesena lecce pesaro como pisa lucca cremona varese".split()
)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The part of a candidate for a place before the first word that cannot be in one; empty when nothing is left."""
    last = start
    for word in _WORD.finditer(text, start, end):
        folded = fold(word[0])
        if (
            folded in _STOP
            or (len(word[0]) == 2 and word[0].isupper())
            or word[0].isdigit()
            or folded in ("cap", "c.a.p")
        ):
            if word[0].isdigit() or (len(word[0]) == 2 and word[0].isupper()):
                last = word.end()
            continue
        if wordlists.is_term(word[0]) and folded not in _CAPITALS and folded not in wordlists.municipalities():
            break
        if wordlists.is_trade(word[0]):
            break
        last = word.end()
    if last > start and text[last : last + 1] == ")":
        last += 1
    return start, min(last, end)


def is_proper(text: str, start: int, end: int) -> bool:
    """Whether what follows "clinica" or "ospedale" is more than words of the trade."""
    words = [word[0] for word in _WORD.finditer(text, start, end) if fold(word[0]) not in _STOP]
    return not words or any(word.isdigit() or not wordlists.is_trade(word) for word in words)


@lru_cache(maxsize=1)
def _facilities() -> re.Pattern[str]:
    known = sorted((word.replace("_", " ") for word in read_words("facilities.txt")), key=len, reverse=True)
    alone = [name for name in known if name not in ("Sacco", "Buzzi", "Grassi", "Vannini")]
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, alone))})(?!\w)")

"""The forms in which a value may come back: parts of names, dates as people write them, numbers with other separators.

    wanted = variants("PN", "Zanzottera^Ugo")
    wanted.forms                     # (" zanzottera ", " zanzottera ugo ", " ugo zanzottera ")
    wanted.excluded                  # ("short",): "Ugo" is looked for at its own place only

Pure functions on text, made for the second look alone. Not here: which values identify, where they are looked for.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

__all__ = ["DUMMIES", "MIN_LENGTH", "QUANTITIES", "Wanted", "fold", "normal", "standard_words", "variants"]

MIN_LENGTH = 4
_MIN_SOLID, _MAX_SOLID = 6, 64
QUANTITIES = frozenset({"AS", "DS", "IS", "TM"})
# What an engine may write in place of a value: nobody's.
DUMMIES = frozenset(
    {"", "ANON", "ANON^ANON", "ANONYMOUS", "ANONYMIZED", "NONE", "UNKNOWN", "0", "000D", "000Y", "urn:anon"}
    | {"19000101", "19000101000000", "000000"}
)
_TOKEN = re.compile(r"[^\W_]+(?:(?<=\d)\.(?=\d)[^\W_]+)*")
_BETWEEN = re.compile(r"(?<=\d)t(?=\d)")  # of ISO 8601
_MOMENT = re.compile(r"\b([12]\d{7})\d{4,6}(?:\.\d+)?\b")
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)")
_MONTHS = (
    "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre".split(),
    "january february march april may june july august september october november december".split(),
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for on behalf of one value.

    Attributes:
        forms: normalised words with one space at either end, searched as they stand.
        solid: letters and digits alone, searched with any separators between them; "" for none.
        excluded: why a part of the value is looked for at its own place only: short, vocabulary.
        firsts: the first word of each form.
    """

    forms: tuple[str, ...] = ()
    solid: str = ""
    excluded: tuple[str, ...] = ()
    firsts: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "firsts", frozenset(form[1:].split(" ", 1)[0] for form in self.forms))


def fold(text: str) -> str:
    """Without case and accents."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKD", text)
    return unicodedata.normalize("NFC", "".join(c for c in plain if not unicodedata.combining(c)).casefold())


def normal(text: str, *, moments: bool = True) -> str:
    """Words between single spaces, one at either end; a moment in time gives its date as well.

    Example:
        >>> normal("Rossi, Mario: 71.3 kg")
        ' rossi mario 71.3 kg '
    """
    folded = _BETWEEN.sub(" ", fold(text))
    words = f" {' '.join(_TOKEN.findall(folded))} "
    dates = _MOMENT.findall(folded) if moments else []
    return f"{words}\n{' '.join(['', *dates, ''])}" if dates else words


@lru_cache(maxsize=65_536)
def variants(vr: str, value: str) -> Wanted:
    """The forms to look for, for one value of an element (no backslash between several)."""
    if vr == "PN":
        return _of_name(value)
    if vr in ("DA", "DT"):
        return _of_date(value)
    words = _TOKEN.findall(fold(value))
    size = sum(map(len, words))
    if size < MIN_LENGTH:
        return Wanted(excluded=("short",) if words else ())
    if value in DUMMIES or all(word in standard_words() for word in words):
        return Wanted(excluded=("vocabulary",))
    if vr in QUANTITIES:
        return Wanted(forms=tuple(dict.fromkeys([f" {' '.join(words)} ", *_trimmed(vr, value)])))
    solid = "".join(words).replace(".", "")
    numbered = vr != "UI" and any(c.isdigit() for c in solid)
    fits = numbered and _MIN_SOLID <= len(solid) <= _MAX_SOLID and len(words) <= 6
    forms = [f" {' '.join(words)} "]
    if numbered and len(words) <= 3:
        forms.append(f" {''.join(words)} ")
    return Wanted(forms=tuple(dict.fromkeys(forms)), solid=solid if fits else "")


def _trimmed(vr: str, value: str) -> Iterator[str]:
    """A decimal without needless zeros, a time of day without its fraction."""
    if (
        vr == "DS"
        and "." in value
        and (short := value.strip(" +").rstrip("0").rstrip("."))
        and len(short) >= MIN_LENGTH
    ):
        yield f" {short.lower()} "
    if vr == "TM" and "." in value and len(whole := value.split(".")[0]) >= MIN_LENGTH:
        yield f" {whole} "


def _of_name(value: str) -> Wanted:
    forms: list[str] = []
    excluded: list[str] = []
    for group in value.split("="):
        components = [_TOKEN.findall(fold(part)) for part in group.split("^")]
        words = [word for part in components for word in part]
        for word in words:
            if len(word) < MIN_LENGTH:
                excluded.append("short")
            elif word in standard_words() or word.upper() in DUMMIES:
                excluded.append("vocabulary")
            else:
                forms.append(f" {word} ")
        two = [part for part in components[:2] if part]
        whole = [[w for part in two for w in part], [w for part in reversed(two) for w in part], *two]
        for several in whole:
            if len(several) > 1 and sum(map(len, several)) >= MIN_LENGTH and not _standard(several):
                forms += [f" {' '.join(several)} ", f" {''.join(several)} "]
    return Wanted(forms=tuple(dict.fromkeys(forms)), excluded=tuple(excluded))


def _standard(words: list[str]) -> bool:
    return all(word in standard_words() or word.upper() in DUMMIES for word in words)


def _of_date(value: str) -> Wanted:
    match = _DATE.match(value)
    if match is None or value in DUMMIES or value[:8] in DUMMIES:
        return Wanted() if value in DUMMIES or match else _of_odd(value)
    return Wanted(forms=tuple(dict.fromkeys(_written(*match.groups()))))


def _of_odd(value: str) -> Wanted:
    """A date that is none: an ACR-NEMA one (2020.01.10), or words."""
    digits = re.sub(r"\D", "", value)
    if len(digits) == 8 and (match := _DATE.match(digits)):
        return Wanted(forms=tuple(dict.fromkeys(_written(*match.groups()))))
    return variants("LO", value)


def _written(year: str, month: str, day: str) -> Iterator[str]:
    m, d = str(int(month)), str(int(day))
    yield from (f" {year}{month}{day} ", f" {day}{month}{year} ")
    for mm, dd in ((month, day), (m, d), (month, d), (m, day)):
        for first, second, third in ((year, mm, dd), (dd, mm, year), (mm, dd, year)):
            yield f" {first} {second} {third} "
            yield f" {first}.{second}.{third} "
    short = year[2:]
    for mm, dd in ((month, day), (m, d), (month, d), (m, day)):
        yield from (f" {dd} {mm} {short} ", f" {dd}.{mm}.{short} ")
    if 1 <= int(month) <= 12:
        for names in _MONTHS:
            name = names[int(month) - 1]
            for word in (name, name[:3]):
                for dd in {d, day}:
                    yield from (f" {dd} {word} {year} ", f" {word} {dd} {year} ", f" {dd}{word}{year} ")


@lru_cache(maxsize=1)
def standard_words() -> frozenset[str]:
    """Words of the standard: PS3.6 and PS3.16."""
    lines = (Path(__file__).parent / "lexicon" / "dicom.txt").read_text("utf-8").splitlines()
    return frozenset(fold(word) for line in lines if not line.startswith("#") for word in line.split())

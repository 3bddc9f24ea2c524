"""Dates as clinical notes write them, in Italian and English: found in running text, moved, written the same way.

    12/03/2021, 12.3.21, 12 III 2021, 2021-03-12T10:30, 12-15 marzo 2021, il 12/3, 3 marzo, marzo 2021, 03/2021,
    dodici marzo duemilaventuno, March 12th, 2021

A bare year stays. A date without a year is moved in the year given by the caller; what cannot be read gives None and
is then removed. Not here: by how many days, and which date is a birth date (`text.py`).
"""

# ruff: noqa: E501 - patterns and notes are data, one a line
from __future__ import annotations

import re
from datetime import date, timedelta

from privacy.deid.dates import MONTH_NAMES

__all__ = ["YEAR", "find_dates", "shift_written"]

_IT = "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre".split()
_EN = "january february march april may june july august september october november december".split()
_ROWS = (_IT, _EN, [m[:3] for m in _IT], [m[:3] for m in _EN])
_ROMAN = "I II III IV V VI VII VIII IX X XI XII".split()
_DAYS_IT = "lunedì martedì mercoledì giovedì venerdì sabato domenica".split()
_DAYS_EN = "monday tuesday wednesday thursday friday saturday sunday".split()
_PLAIN_DAYS = "lunedi martedi mercoledi giovedi venerdi".split()
_SHORT_IT = [day[:3] for day in _DAYS_IT]
_SHORT_EN = [day[:3] for day in _DAYS_EN]
_DAY_NAME = rf"(?:(?:{'|'.join([*_DAYS_IT, *_DAYS_EN, *_PLAIN_DAYS])})'?|(?:{'|'.join(_SHORT_IT + _SHORT_EN)})\.?),?"
_WEEKDAY = rf"(?:(?<!\w){_DAY_NAME}\s)?"
_MONTHS = MONTH_NAMES | {
    "gienn": 1,
    "genaio": 1,
    "febraio": 2,
    "magg": 5,
    "giu": 6,
    "lugl": 7,
    "settem": 9,
    "ottob": 10,
}
_MONTH = "(?:" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")(?![^\W\d_])\.?"
_DAY_WORD = (
    "(?:primo|due|tre|quattro|cinque|sei|sette|otto|nove|dieci|undici|dodici|tredici|quattordici|quindici|sedici"
    "|diciassette|diciotto|diciannove|venti(?:due|tre|quattro|cinque|sei|sette|nove)?|ventuno|ventotto|trenta|trentuno)"
)
_YEAR_WORD = r"(?:duemila[a-zàèéìòù]{0,16}|millenovecento[a-zàèéìòù]{0,16})"
_Y = r"(?:(?:19|20|18)\d\d|'?\d\d)"
_Y4 = r"(?:19|20|18)\d\d"
_TAIL_YEAR = rf"(?:[\s,.\-/]{{0,3}}(?:(?:del|dell'|of|anno)\s{{0,2}}){{0,2}}(?:(?<!\d)'?{_Y4}|(?<![\d.,])'\d\d|(?<=[ \-/.])\d\d(?![\d:.,]?\d|\s?(?:%|mg|anni|gg|mm|cm|ml|kg))))?"
YEAR = re.compile(rf"(?<!\d){_Y4}(?!\d)")
_PATTERNS = (
    # Whole numeric dates, either order, one separator, perhaps spaces about it, perhaps ranges of days.
    rf"{_WEEKDAY}(?<!\d)(?<!\d[.,/])(?:{_Y4}([\-/.])(?:0?[1-9]|1[0-2])\1\d{{1,2}}(?!\d)(?!\1\d))",
    rf"{_WEEKDAY}(?<!\d)(?<!\d[.,])(?:[0-3]?\d\s?[\-/]\s?)?[0-3]?\d([\-/.])[0-3]?\d\2(?:{_Y4}|'?\d\d)(?!\d)(?![\-/.,]\d)",
    rf"{_WEEKDAY}(?<!\d)[0-3]?\d\s?[\-/._]\s?[01]?\d\s?[\-/._,]\s?{_Y4}(?!\d)",
    r"(?<![\d/.,])[0-3]?\d/[01]?\d/'?\d\d(?!\d)",
    rf"(?<![\d.,])[0-3]\d [01]\d {_Y4}(?!\d)",
    r"(?<![\d.,])(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d)",
    r"(?<![\d.,])[0-3]\d(?:0[1-9]|1[0-2])(?:19|20)\d\d(?!\d)",
    rf"{_WEEKDAY}(?<!\d)[0-3]?\d[\s\-/.]{{1,2}}(?:VIII|VII|VI|IV|IX|XII|XI|X|V|III|II|I)[\s\-/.]{{1,2}}{_Y4}(?!\d)",
    # Month names.
    rf"{_WEEKDAY}(?<![\d.,])[0-3]?\d\s?(?:e|-|/|al|to)\s?[0-3]?\d\s{{1,2}}{_MONTH}{_TAIL_YEAR}",
    rf"{_WEEKDAY}(?<![\d.,])[0-3]?\d(?:°|º|\^|st|nd|rd|th)?[\s.\-/]{{0,3}}(?:of\s)?{_MONTH}{_TAIL_YEAR}",
    rf"{_WEEKDAY}(?<!\w){_MONTH}\s{{0,2}}[0-3]?\d(?:st|nd|rd|th)?(?!\d),?(?:\s{{1,2}}{_Y4})?(?!\d)",
    rf"(?<!\w){_MONTH}[\s,.\-/]{{0,3}}(?:(?:del|dell'anno|of)\s{{1,2}})?(?:{_Y4}|'\d\d)(?!\d)",
    rf"(?<!\w){_MONTH}[/\-]\d\d(?![\w/\-]|[.,]\d)",
    rf"(?<!\w){_DAY_WORD}\s{{1,2}}{_MONTH}(?:\s{{1,2}}(?:del\s{{1,2}})?(?:{_Y4}|{_YEAR_WORD}))?",
    r"(?<![\d/.,\-])(?:0?[1-9]|1[0-2])[/\-](?:19|20)\d\d(?!\d)",
)
_FIND = tuple(re.compile(p.replace(r"\2", r"\1"), re.IGNORECASE) for p in _PATTERNS)
# Day and month in figures alone are a date only where the words before say so.
_SHORT = re.compile(
    r"(?<!\w)(?:il|dal|al|del|data|l'|entro il|dopo il|giorno|lun\w*|mart\w*|merc\w*|giov\w*|ven\w*|sab\w*|dom\w*|on|since"
    r"|dall'|all'|dell'|until|from)[ì']?\s?(?P<v>[0-3]?\d(?P<s>[/.\-])(?:0?[1-9]|1[0-2]))"
    r"(?![\d/]|[.,\-]\d|\s?(?:mg|ml|cm|mm|%|Levine|cp|cpr|gtt|dei|delle|die|of\b))",
    re.IGNORECASE,
)
_LEADING = re.compile(
    rf"(?:(?<=[\n\r])|^)[ \t\-•*]{{0,8}}(?P<v>{_WEEKDAY}[0-3]?\d[/.](?:0?[1-9]|1[0-2]))(?=[ \t]{{1,3}}(?:ore|h|alle|at|[01]?\d[:.][0-5]\d|-|:)|:)",
    re.IGNORECASE,
)
_NAMED_DAY = re.compile(rf"(?<!\w)(?P<v>{_DAY_NAME}\s[0-3]?\d/(?:0?[1-9]|1[0-2]))(?![\d/]|[.,\-]\d)", re.IGNORECASE)
# "il 3 c.m.", "12 u.s.", "20 p.v.": a day of this, the last or the next month. It cannot be moved, so it is removed.
_RELATIVE = re.compile(
    rf"(?<![\d.,/])(?P<v>{_WEEKDAY}[0-3]?\d(?:[ ]?(?:c\.[ ]?m\.|u\.[ ]?s\.|p\.[ ]?v\.)|[ ](?:corrente|corr\.|inst\.|ult\.|prox\.|del (?:mese )?corrente)(?:[ ]mese)?))(?!\w)",
    re.IGNORECASE,
)
_PAIR = re.compile(r"(?<=[/\d])\s?(?:-|al|e)\s?(?P<v>[0-3]?\d[/.](?:0?[1-9]|1[0-2]))(?![\d/.,])", re.IGNORECASE)

_WEEKDAY_START = re.compile(
    rf"({'|'.join([*_DAYS_IT, *_DAYS_EN, *_PLAIN_DAYS, *_SHORT_IT, *_SHORT_EN])})('?\.?,?)(\s)", re.IGNORECASE
)
_RANGE = re.compile(r"(\d{1,2})(\s?(?:-|/|\be\b|\bal\b|\bto\b)\s?)(\d{1,2}\D.*)", re.IGNORECASE | re.DOTALL)
_ROMAN_MONTH = re.compile(r"(\d{1,2})([\s\-/.]{1,2})([IVX]{1,4})([\s\-/.]{1,2})(\d{4})")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)(?![^\W\d_])", re.IGNORECASE)
_NUMERIC = re.compile(r"(\d{1,2})(\s?[\-/._ ]\s?)(\d{1,2})(\s?[\-/._, ]\s?)('?)(\d{4}|\d\d)")
_ISO = re.compile(r"(\d{4})([\-/.]?)(\d{1,2})\2(\d{1,2})")
_NAMED = re.compile(
    r"(\d{1,2})((?:[°º^]|st|nd|rd|th)?[\s.\-/]{0,6}(?:of\s)?)([a-z]{3,12}\.?)(?:([\s,.\-/]{1,6}(?:del\s{1,4})?)('?)(\d{4}|\d\d))?",
    re.I,
)
_NAMED_FIRST = re.compile(r"([a-z]{3,12}\.?)(\s{0,4})(\d{1,2}(?:st|nd|rd|th)?)(,?)(?:(\s{1,4})(\d{4}))?", re.I)
_MONTH_YEAR = re.compile(r"([a-z]{3,12}\.?)([\s,.\-/]{0,6}(?:del\s{1,4})?)('?)(\d{4}|\d\d)", re.I)
_FIGURES_YEAR = re.compile(r"(\d{1,2})([/\-])(\d{4})")
_DAY_MONTH = re.compile(r"(\d{1,2})([/.\-])(\d{1,2})")


def find_dates(text: str) -> list[tuple[int, int]]:
    """Start and end of each date; they may overlap."""
    found = [match.span() for pattern in _FIND for match in pattern.finditer(text)]
    for pattern in (_SHORT, _LEADING, _NAMED_DAY, _RELATIVE):
        found += [match.span("v") for match in pattern.finditer(text)]
    ends = {end for _, end in found}
    found += [match.span("v") for match in _PAIR.finditer(text) if match.start() in ends]
    return found


def shift_written(text: str, days: int, year: int = 2001) -> str | None:
    """Move one written date and write it in the style it had.

    Args:
        text: what `find_dates` found.
        days: of the patient.
        year: stands for the year where none is written.

    Example:
        >>> shift_written("venerdì 12 mar. 2021", 20)
        'giovedì 1 apr. 2021'
        >>> shift_written("dodici marzo duemilaventuno", 20) is None
        True
    """
    text = text.strip()
    weekday = _WEEKDAY_START.match(text)
    body = text[weekday.end() :] if weekday else text
    for style in (_iso, _numeric, _roman, _named, _named_first, _month_year, _figures_year, _day_month, _range):
        result = style(body, days, year)
        if result is not None:
            written, moved = result
            return (
                (_weekday_like(weekday[1], moved) + weekday[2].lstrip("'") + weekday[3] + written)
                if weekday
                else written
            )
    return None


def _iso(text: str, days: int, year: int) -> tuple[str, date] | None:
    match = _ISO.fullmatch(text)
    moved = _moved(match[1], match[3], match[4], days) if match else None
    if not match or not moved:
        return None
    month, day = _width(moved.month, match[3], match[4]), _width(moved.day, match[4], match[3])
    return f"{moved.year:04d}{match[2]}{month}{match[2]}{day}", moved


def _numeric(text: str, days: int, year: int) -> tuple[str, date] | None:
    match = _NUMERIC.fullmatch(text)
    moved = _moved(_century(match[6]), match[3], match[1], days) if match else None
    if not match or not moved:
        return None
    shown = f"{moved.year:04d}"[-len(match[6]) :]
    return (
        f"{_width(moved.day, match[1], match[3])}{match[2]}{_width(moved.month, match[3], match[1])}{match[4]}{match[5]}{shown}",
        moved,
    )


def _named(text: str, days: int, year: int) -> tuple[str, date] | None:
    match = _NAMED.fullmatch(text)
    moved = _moved(_century(match[6]) if match[6] else year, _month(match[3]), match[1], days) if match else None
    if not match or not moved:
        return None
    tail = f"{match[4]}{match[5]}{f'{moved.year:04d}'[-len(match[6]) :]}" if match[6] else ""
    between = _ORDINAL.sub(_ordinal(moved.day), re.sub("[°º^]", "", match[2]), count=1)
    return f"{_width(moved.day, match[1])}{between}{_month_like(match[3], moved.month)}{tail}", moved


def _named_first(text: str, days: int, year: int) -> tuple[str, date] | None:
    match = _NAMED_FIRST.fullmatch(text)
    moved = _moved(match[6] or year, _month(match[1]), _ORDINAL.sub("", match[3]), days) if match else None
    if not match or not moved:
        return None
    tail = f"{match[5]}{moved.year:04d}" if match[6] else ""
    ordinal = _ordinal(moved.day) if _ORDINAL.search(match[3]) else ""
    return (
        f"{_month_like(match[1], moved.month)}{match[2]}{_width(moved.day, match[3])}{ordinal}{match[4]}{tail}",
        moved,
    )


def _roman(text: str, days: int, year: int) -> tuple[str, date] | None:
    match = _ROMAN_MONTH.fullmatch(text)
    month = _ROMAN.index(match[3]) + 1 if match and match[3] in _ROMAN else 0
    moved = _moved(match[5], month, match[1], days) if match else None
    if not match or not moved:
        return None
    return f"{_width(moved.day, match[1])}{match[2]}{_ROMAN[moved.month - 1]}{match[4]}{moved.year:04d}", moved


def _range(text: str, days: int, year: int) -> tuple[str, date] | None:
    """Two days of one month, if they are so after the move too: "12-15 marzo 2021"."""
    match = _RANGE.fullmatch(text)
    if not match:
        return None
    for style in (_numeric, _named):
        result = style(match[3], days, year)
        if result is None:
            continue
        written, last = result
        old = last - timedelta(days=days)
        first = _moved(old.year, old.month, match[1], days)
        if first is None or (first.year, first.month) != (last.year, last.month) or first > last:
            return None
        return f"{_width(first.day, match[1], written[:2] if written[0] == '0' else '')}{match[2]}{written}", first
    return None


def _ordinal(day: int) -> str:
    return "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def _month_year(text: str, days: int, year: int) -> tuple[str, date] | None:
    match = _MONTH_YEAR.fullmatch(text)
    moved = _moved(_century(match[4]), _month(match[1]), 15, days) if match else None
    if not match or not moved:
        return None
    shown = f"{moved.year:04d}"[-len(match[4]) :]
    return f"{_month_like(match[1], moved.month)}{match[2]}{match[3]}{shown}", moved


def _figures_year(text: str, days: int, year: int) -> tuple[str, date] | None:
    match = _FIGURES_YEAR.fullmatch(text)
    moved = _moved(match[3], match[1], 15, days) if match else None
    return (f"{_width(moved.month, match[1])}{match[2]}{moved.year:04d}", moved) if match and moved else None


def _day_month(text: str, days: int, year: int) -> tuple[str, date] | None:
    match = _DAY_MONTH.fullmatch(text)
    moved = _moved(year, match[3], match[1], days) if match else None
    if not match or not moved:
        return None
    return f"{_width(moved.day, match[1], match[3])}{match[2]}{_width(moved.month, match[3], match[1])}", moved


def _width(number: int, like: str, other: str = "") -> str:
    """Two digits where the writer padded, or wrote two in both places."""
    return f"{number:02d}" if like[0] == "0" or (len(like) == 2 and len(other) == 2) else str(number)


def _month(written: str) -> int:
    return _MONTHS.get(written.rstrip(".").lower(), 0)


def _month_like(written: str, month: int) -> str:
    """The name of `month` in the language, length and case of `written`."""
    plain = written.rstrip(".").lower()
    row = next((row for row in _ROWS if plain in row), _ROWS[2] if plain[:3] in _ROWS[2] else _ROWS[3])
    name = row[month - 1]
    if written[:1].isupper():
        name = name.upper() if written.rstrip(".").isupper() else name.capitalize()
    return name + ("." if written.endswith(".") else "")


def _weekday_like(written: str, moved: date) -> str:
    rows = (_DAYS_IT, _DAYS_EN, _SHORT_IT, _SHORT_EN)
    days = next((row for row in rows if written.lower() in row), _DAYS_IT)
    name = days[moved.weekday()]
    return name.upper() if written.isupper() else name.capitalize() if written[:1].isupper() else name


def _century(year: str) -> str:
    return year if len(year) == 4 else ("20" if int(year) <= 40 else "19") + year


def _moved(year: str | int, month: str | int, day: str | int, days: int) -> date | None:
    try:
        return date(int(year), int(month), int(day)) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None

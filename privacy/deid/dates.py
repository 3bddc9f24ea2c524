"""Dates as they stand in DICOM, in tables and in Italian and English text: read, moved, written the same way.

A date that cannot be read for certain gives None: the caller then removes it. Not here: by how many days to move.

Source: PS3.5 section 6.2 (DA, DT, TM).
"""

from __future__ import annotations

import re
from datetime import date, timedelta

__all__ = ["DATE_PATTERN", "MONTH_NAMES", "is_time", "parse_date", "shift_da", "shift_dt", "shift_text_date"]

_ROWS = tuple(
    tuple(names.split())
    for names in (
        "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre",
        "january february march april may june july august september october november december",
        "gen feb mar apr mag giu lug ago set ott nov dic",
        "jan feb mar apr may jun jul aug sep oct nov dec",
    )
)
MONTH_NAMES: dict[str, int] = {name: i for row in _ROWS for i, name in enumerate(row, start=1)} | {
    "genn": 1,
    "febb": 2,
    "sett": 9,
    "sept": 9,
}
_MONTH = "(?:" + "|".join(sorted(MONTH_NAMES, key=len, reverse=True)) + r")\.?"
_NUMERIC = (
    r"\d{4}(?:[-/.]\d{1,2}){2}|\d{1,2}([-/. ])\d{1,2}\1(?:\d{4}|\d\d)"
    r"|(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01])"
)
_WORDS = (
    rf"\d{{1,2}}(?:°|º|st|nd|rd|th)?[\s.-]*(?:of\s+)?{_MONTH}"
    rf"(?:[\s,.-]*(?:del(?:l'\s*)?\s*)?'?(?:\d{{4}}|\d\d)(?!\d))?"
)
_WORDS_FIRST = rf"{_MONTH}\s+(?:\d{{1,2}}(?:st|nd|rd|th)?,?\s+)?(?:del\s+)?\d{{4}}"
_MONTH_YEAR = r"(?:0?[1-9]|1[0-2])[/-](?:19|20)\d\d"
DATE_PATTERN = re.compile(rf"(?<!\w)(?<!\d\.)(?:{_NUMERIC}|{_WORDS}|{_WORDS_FIRST}|{_MONTH_YEAR})(?!\w)", re.IGNORECASE)

_DA = re.compile(r"(\d{4})(\.?)(\d\d)\2(\d\d)")
_DT = re.compile(r"(\d{4})(\d\d)?(\d\d)?((?:\d\d){0,3}(?:\.\d{1,6})?)([+-]\d{4})?")
_TM = re.compile(r"\d\d(?:\d\d(?:\d\d(?:\.\d{1,6})?)?)?|\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?")
_YMD = re.compile(r"(\d{4})([-/.]?)(\d{1,2})\2(\d{1,2})(?:[T ].*)?", re.DOTALL)
_DMY = re.compile(r"(\d{1,2})([-/. ])(\d{1,2})\2(\d{4}|\d\d)(?: .*)?", re.DOTALL)
_D_MONTH_Y = re.compile(r"(\d{1,2})([°º]?[\s.-]+)([a-z]{3,}\.?)([\s,.-]+)(\d{4})", re.IGNORECASE)
_MONTH_D_Y = re.compile(r"([a-z]{3,}\.?)(\s+)(\d{1,2})(,?\s+)(\d{4})", re.IGNORECASE)


def parse_date(text: str) -> date | None:
    """Read a whole string as one date (ISO, DICOM or day first, a time after it is ignored), else None."""
    text = text.strip()
    if match := _YMD.fullmatch(text):
        return _date(match[1], match[3], match[4])
    if match := _DMY.fullmatch(text):
        return _date(_century(match[4]), match[3], match[1])
    if match := _D_MONTH_Y.fullmatch(text):
        return _date(match[5], MONTH_NAMES.get(match[3].rstrip(".").lower(), 0), match[1])
    if match := _MONTH_D_Y.fullmatch(text):
        return _date(match[5], MONTH_NAMES.get(match[1].rstrip(".").lower(), 0), match[3])
    return None


def shift_da(text: str, days: int) -> str | None:
    """Move one DICOM date (YYYYMMDD, or YYYY.MM.DD of old files); None when it is not one."""
    match = _DA.fullmatch(text.strip(" \0"))
    moved = _moved(_date(match[1], match[3], match[4]), days) if match else None
    return moved.strftime("%Y%m%d").rjust(8, "0") if moved else None


def shift_dt(text: str, days: int) -> str | None:
    """Move the date part of one DICOM date-time, keeping its precision, time and zone; None when it is not one."""
    match = _DT.fullmatch(text.strip(" \0"))
    if not match or (match[4] and not match[3]):
        return None
    moved = _moved(_date(match[1], match[2] or "01", match[3] or "01"), days)
    if not moved:
        return None
    precision = 8 if match[3] else 6 if match[2] else 4
    return moved.strftime("%Y%m%d").rjust(8, "0")[:precision] + match[4] + (match[5] or "")


def is_time(text: str) -> bool:
    """Whether a string is one DICOM time."""
    return _TM.fullmatch(text.strip(" \0")) is not None


def shift_text_date(text: str, days: int) -> str | None:
    """Move a date found in a text and write it in the style it had; None when it is not a full, certain date.

    Example:
        >>> shift_text_date("12/03/2021", 20)
        '01/04/2021'
        >>> shift_text_date("12 marzo 2021", 20)
        '1 aprile 2021'
        >>> shift_text_date("marzo 2021", 20) is None
        True
    """
    if match := re.fullmatch(r"(\d{4})([-/.]?)(\d{1,2})\2(\d{1,2})", text):
        moved = _moved(_date(match[1], match[3], match[4]), days)
        return f"{moved.year:04d}{match[2]}{moved.month:02d}{match[2]}{moved.day:02d}" if moved else None
    if match := _DMY.fullmatch(text):
        moved = _moved(_date(_century(match[4]), match[3], match[1]), days)
        sep = match[2]
        return f"{moved.day:02d}{sep}{moved.month:02d}{sep}{f'{moved.year:04d}'[-len(match[4]) :]}" if moved else None
    if match := _D_MONTH_Y.fullmatch(text):
        month = MONTH_NAMES.get(match[3].rstrip(".").lower(), 0)
        moved = _moved(_date(match[5], month, match[1]), days)
        return f"{moved.day}{match[2]}{_month_like(match[3], moved.month)}{match[4]}{moved.year:04d}" if moved else None
    if match := _MONTH_D_Y.fullmatch(text):
        month = MONTH_NAMES.get(match[1].rstrip(".").lower(), 0)
        moved = _moved(_date(match[5], month, match[3]), days)
        return f"{_month_like(match[1], moved.month)}{match[2]}{moved.day}{match[4]}{moved.year:04d}" if moved else None
    return None


def _month_like(written: str, month: int) -> str:
    """The name of `month` in the language, length and case of `written`."""
    plain = written.rstrip(".").lower()
    row = next((row for row in _ROWS if plain in row), _ROWS[2])
    name = row[month - 1]
    if written[:1].isupper():
        name = name.upper() if written.rstrip(".").isupper() else name.capitalize()
    return name + ("." if written.endswith(".") else "")


def _century(year: str) -> str:
    return year if len(year) == 4 else ("20" if int(year) <= 40 else "19") + year


def _date(year: str, month: str | int, day: str) -> date | None:
    try:
        return date(int(year), int(month), int(day))
    except ValueError:
        return None


def _moved(value: date | None, days: int) -> date | None:
    try:
        return value + timedelta(days=days) if value else None
    except OverflowError:
        return None

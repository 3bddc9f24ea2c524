"""What a single DICOM value may be: value representations, dummies, dates, UIDs and codes, as pure functions on values.

Used by `dicom.py`, which decides by the profile what happens to which element. Not here: datasets, files, text engines.

Source: PS3.5 section 6.2 (VRs), PS3.16 chapter 8 (coding schemes).
"""

from __future__ import annotations

import re

from privacy.deid.dates import is_time, shift_da, shift_dt

__all__ = [
    "BULK",
    "BULK_GROUPS",
    "DATES",
    "DUMMY",
    "FAMILY",
    "NUMBERS",
    "SIZE",
    "TEXT",
    "age",
    "code_is_standard",
    "code_string_is_plain",
    "is_number",
    "kept_date",
    "limit",
    "padded",
    "scheme_is_known",
    "shifted",
    "zeros",
]

TEXT = frozenset({"LO", "SH", "ST", "LT", "UT", "UC", "UR"})
SINGLE_VALUED = frozenset({"ST", "LT", "UT", "UR"})
DATES = frozenset({"DA", "DT", "TM"})
NUMBERS = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "UV", "SV", "AT"})
BULK = frozenset({"OB", "OW", "OF", "OD", "OL", "OV"})
# Where bulk data are pictures, tables and curves of numbers; elsewhere they may be documents, keys or copies.
BULK_GROUPS = frozenset({0x0022, 0x0028, 0x0066, 0x5400, 0x7FE0})
# VRs that are exchanged for each other by old or careless writers without harm.
FAMILY: dict[str, str] = (
    dict.fromkeys(TEXT, "text")
    | dict.fromkeys(NUMBERS, "number")
    | dict.fromkeys(BULK, "bulk")
    | {"DS": "decimal", "IS": "decimal"}
)
DUMMY: dict[str, bytes] = (
    dict.fromkeys(TEXT | {"AE", "CS"}, b"ANON")
    | dict.fromkeys(NUMBERS, b"")
    | dict.fromkeys(BULK | {"UN"}, b"\0\0")
    | {"PN": b"ANON^ANON ", "DA": b"19000101", "DT": b"19000101000000", "TM": b"000000"}
    | {"AS": b"000D", "DS": b"0 ", "IS": b"0 ", "UR": b"urn:anon"}
)

_NUMBER = re.compile(rb"[0-9+\-.eE \\\0]*")
_CODE_STRING = re.compile(r"[A-Z0-9 _\\]*")
_AGE = re.compile(r"\d{3}[DWMY]")
_CODES = {
    "DCM": r"[0-9]{5,6}",
    "SCT": r"[0-9]{6,18}",
    "SRT": r"[A-Z][0-9A-F]?-[0-9A-F]{4,6}",
    "SNM3": r"[A-Z][0-9A-F]?-[0-9A-F]{4,6}",
    "99SDM": r"[A-Z][0-9A-F]?-[0-9A-F]{4,6}",
    "LN": r"[0-9]{1,7}-[0-9]",
    "UCUM": r"[a-zA-Z0-9%./^*\[\]'\-]{1,10}|\{(?:ratio|counts|slices|pixels|score|voxels)\}|1",
    "FMA": r"[0-9]{3,6}",
    "RADLEX": r"RID[0-9]{1,6}",
    "I10": r"[A-Z][0-9]{2}(?:\.[0-9]{1,3})?",
    "I9": r"[0-9]{3}(?:\.[0-9]{1,2})?",
    "I9C": r"[0-9]{3}(?:\.[0-9]{1,2})?",
    "NCIt": r"C[0-9]{4,6}",
    "UMLS": r"C[0-9]{7}",
    "MSH": r"D[0-9]{6,9}",
    "MDC": r"[0-9]{1,6}",
    "IBSI": r"[A-Z0-9]{4}",
    "BI": r"[0-9A-Z]{1,5}",
    "RO": r"[0-9A-Z.\-]{1,8}",
    "ISO3166_1": r"[A-Z]{2,3}",
    "RFC5646": r"[a-z]{2}(?:-[A-Z]{2})?",
}
_SCHEMES = {name: re.compile(pattern) for name, pattern in _CODES.items()}
_MAX_AGE_YEARS = 89
SIZE = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "UV": 8, "SV": 8, "AT": 4}


def limit(vr: str, multiplicity: str) -> int:
    """The most bytes a binary number of a multiplicity ("1", "1-3", "1-n") may have; 0 when there is no limit."""
    most = multiplicity.rpartition("-")[2]
    return SIZE[vr] * int(most) if vr in SIZE and most.isdigit() else 0


def padded(value: bytes, pad: bytes = b" ") -> bytes:
    """The value at even length."""
    return value + pad if len(value) % 2 else value


def zeros(vr: str, value: bytes) -> bytes:
    """A numeric value with all its numbers zero, or the VR's dummy for anything else."""
    return bytes(len(value)) if vr in NUMBERS else DUMMY.get(vr, b"")


def is_number(value: bytes) -> bool:
    """Whether a DS or IS value holds numbers and nothing else."""
    return _NUMBER.fullmatch(value) is not None


def code_string_is_plain(text: str) -> bool:
    """Whether a CS value looks like a defined term: its alphabet, no long number, no opaque token."""
    if _CODE_STRING.fullmatch(text) is None:
        return False
    for chunk in re.split(r"[ _\\]", text):
        digits = sum(c.isdigit() for c in chunk)
        if digits >= 6 or (digits >= 3 and len(chunk) >= 8):
            return False
    return True


def age(text: str) -> str:
    """An AS value top-coded above 89 years; empty when it is not one."""
    if _AGE.fullmatch(text) is None:
        return ""
    return f"{_MAX_AGE_YEARS + 1:03d}Y" if text.endswith("Y") and int(text[:3]) > _MAX_AGE_YEARS else text


def scheme_is_known(designator: str) -> bool:
    """Whether a coding scheme is one whose codes have a known form."""
    return designator in _SCHEMES


def code_is_standard(designator: str, code: str) -> bool:
    """Whether a code has the form of its (known) coding scheme."""
    pattern = _SCHEMES.get(designator)
    return pattern is not None and pattern.fullmatch(code) is not None


def shifted(vr: str, text: str, days: int) -> str | None:
    """One DA, DT or TM value with its date moved (times are kept); None when it does not parse."""
    if vr == "TM":
        return text if is_time(text) else None
    return shift_da(text, days) if vr == "DA" else shift_dt(text, days)


def kept_date(vr: str, text: str) -> str | None:
    """The value itself when it is a well-formed DA, DT or TM, else None."""
    return text if shifted(vr, text, 0) is not None else None

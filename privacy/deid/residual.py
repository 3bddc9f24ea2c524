"""The second look: the original values, searched in the output. Shares no rule code with the engines it checks.

    before = examine(original_bytes, options)
    hits = search(output_bytes, before.values) + same_path(before, output_bytes)

What identifies is decided here anew, on the original file: every person name, AE title, UID, date and private value at
any depth, and every value of an attribute that PS3.15 lists and no option keeps. A hit is a position in the values, or
a count; never a value. Left out are values shorter than four characters (their place is still compared), numbers with
a decimal point, words of the standard, and, but for names and patient ids, what public descriptive text of the same
file says too. Uncompressed pixels are not searched: they are not text. Not here: repair; a hit withholds the file.

Source: PS3.15 annex E; PS3.5 section 6.2.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privacy.deid.part10 import quiet

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Before", "examine", "left_in_file", "originals_of_row", "same_path", "search", "search_cells"]

MIN_LENGTH = 4
MAX_PRIVATE_BYTES = 256
_FOLDER = Path(__file__).parent
_TEXT = frozenset({"LO", "SH", "ST", "LT", "UT", "UC", "UR"})
_MOVED, _FULL = "retain-longitudinal-modified-dates", "retain-longitudinal-full-dates"
_DUMMIES = frozenset({"", "ANON", "ANON^ANON", "19000101", "19000101000000", "000000", "000D", "0", "urn:anon"})
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)")
_DECIMAL = re.compile(r"[+-]?\d*\.\d*(?:[eE][+-]?\d+)?|[+-]?\d{1,6}")
_WORD = re.compile(r"[^\W_]+")
_EDGE_BEFORE, _EDGE_AFTER = rb"(?<![0-9a-z\x80-\xff])", rb"(?![0-9a-z\x80-\xff])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What the original held.

    Attributes:
        values: strings to look for, sorted.
        places: path -> value of each identifying element, for the comparison place by place.
    """

    values: tuple[str, ...]
    places: dict[tuple[int, ...], str]


@dataclass(frozen=True, slots=True)
class _Found:
    path: tuple[int, ...]
    vr: str
    value: str
    listed: str  # "" or the way the table treats it: "go", "clean", "keep"


def examine(data: bytes, options: frozenset[str] = frozenset()) -> Before:
    """Collect what identifies from the bytes of an original file.

    Raises:
        Exception: whatever the parser raises; the caller treats the file as unreadable.
    """
    found = list(_elements(data, options))
    public = "\n".join(_fold(f.value) for f in found if not f.listed and not f.path[-1] & 0x10000 and f.vr != "PN")
    values: set[str] = set()
    places: dict[tuple[int, ...], str] = {}
    for one in found:
        if not _identifies(one, options):
            continue
        places[one.path] = one.value
        values.update(_searched(one, public))
    return Before(values=tuple(sorted(values)), places=places)


def search(output: bytes, values: Sequence[str]) -> list[int]:
    """Positions in `values` of those that are found in the bytes of an output file, in any of four encodings."""
    head, frames, dates = _views(output)
    hits = []
    for position, value in enumerate(values):
        forms = _forms(value)
        count = _count(head, forms)
        if count and _DATE.fullmatch(value):
            count -= dates.count(value)  # another date of this file that was moved onto this day
        if count > 0 or (frames and len(value) >= 6 and _count(frames, forms)):
            hits.append(position)
    return hits


def same_path(before: Before, output: bytes) -> int:
    """How many identifying elements have in the output, at the same place, the value they had."""
    after = {one.path: one.value for one in _elements(output, frozenset())}
    return sum(1 for path, value in before.places.items() if value not in _DUMMIES and after.get(path) == value)


def left_in_file(data: bytes, output: bytes, options: frozenset[str] = frozenset()) -> bool:
    """Whether anything of an original file is left in its output; true as well when the look itself fails."""
    try:
        before = examine(data, options)
        return bool(search(output, before.values)) or same_path(before, output) > 0
    except Exception:  # a hostile original may break its reader in any way: then the output is not trusted
        return True


def originals_of_row(values: Iterable[str]) -> tuple[str, ...]:
    """What to look for of one table row: whole identifying values, and the parts of those that are names."""
    found: set[str] = set()
    for value in values:
        folded = _fold(value)
        parts = _WORD.findall(folded)
        found.add(" ".join(parts))
        if not any(char.isdigit() for char in folded) and len(parts) <= 4:
            found.update(part for part in parts if part not in _standard_words())
    return tuple(sorted(value for value in found if len(value) >= MIN_LENGTH))


def search_cells(cells: Iterable[Any], values: Sequence[str]) -> list[int]:
    """Positions in `values` of those found in cells: as whole words in text, as the whole of a long number."""
    texts = []
    for cell in cells:
        if isinstance(cell, str):
            texts.append(" " + " ".join(_WORD.findall(_fold(cell))) + " ")
        elif isinstance(cell, (int, float)) and not isinstance(cell, bool) and abs(cell) >= 1e5:
            texts.append(f" {cell:.0f} ")
    joined = "\n".join(texts)
    return [position for position, value in enumerate(values) if f" {value} " in joined]


def _identifies(one: _Found, options: frozenset[str]) -> bool:
    if one.path[-1] & 0x10000:
        return True
    if one.vr in ("DA", "DT"):
        return _FULL not in options or one.listed == "go"
    if one.vr == "TM":
        return one.listed == "go" and not {_MOVED, _FULL} & options
    if one.vr == "UI":
        return one.listed != "keep" and not one.value.startswith("1.2.840.10008.")
    if one.vr in ("PN", "AE"):
        return one.listed != "keep"
    return one.listed == "go"


def _searched(one: _Found, public: str) -> Iterator[str]:
    """The values to search for one element."""
    strict = one.vr in ("PN", "UI", "DA", "DT") or one.path[-1] >> 16 == 0x0010
    for value in one.value.split("\\"):
        value = value.strip()
        if one.vr in ("DA", "DT"):
            yield from _date_forms(value)
        elif one.vr == "PN":
            yield from (p for p in re.split(r"[\^= ,]+", value) if len(p) >= MIN_LENGTH and not _common(p))
        elif one.vr != "TM" and len(value) >= MIN_LENGTH and not _DECIMAL.fullmatch(value):
            if (strict or not _in_public(value, public)) and not _common(value):
                yield value
        elif strict and len(value) >= MIN_LENGTH and value.isdigit():
            yield value


def _date_forms(value: str) -> Iterator[str]:
    match = _DATE.match(value)
    if match and value not in _DUMMIES:
        year, month, day = match.groups()
        yield from (f"{year}{month}{day}", f"{day}/{month}/{year}", f"{year}-{month}-{day}", f"{day}.{month}.{year}")


def _common(value: str) -> bool:
    """Whether a value says nothing but words of the standard ("Patient", "Head and Neck")."""
    return value in _DUMMIES or all(word in _standard_words() for word in _WORD.findall(_fold(value)))


def _in_public(value: str, public: str) -> bool:
    folded = re.escape(_fold(value))
    return re.search(rf"(?<![^\W_]){folded}(?![^\W_])", public) is not None


# -- reading


def _elements(data: bytes, options: frozenset[str]) -> Iterator[_Found]:
    """Every element of a file with its path (tag, item, tag, item, ... tag)."""
    from pydicom import dcmread

    with quiet():
        yield from list(_below(dcmread(io.BytesIO(data), force=True), (), _listed(options)))


def _below(dataset: Dataset, path: tuple[int, ...], listed: dict[int, str]) -> Iterator[_Found]:
    for tag in sorted(dataset.keys()):
        element = _decoded(dataset, tag)
        here = (*path, int(tag))
        if element is not None and element.VR == "SQ":
            for number, item in enumerate(element.value):
                yield from _below(item, (*here, number), listed)
            continue
        raw = dataset.get_item(tag).value if element is None else element.value
        vr = "UN" if element is None else element.VR
        value = _string(raw)
        if value:
            yield _Found(here, vr, value, listed.get(int(tag), ""))


def _decoded(dataset: Dataset, tag: int) -> Any:
    try:
        return dataset[tag]
    except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError, UnicodeError, OverflowError):
        return None


def _string(value: Any) -> str:
    """A value as text; of bytes only what is short and printable."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        text = value.strip(b" \0").decode("latin-1") if len(value) <= MAX_PRIVATE_BYTES else ""
        return text if text.isprintable() else ""
    if isinstance(value, (str, int, float)) or not hasattr(value, "__iter__") or hasattr(value, "components"):
        return str(value).strip(" \0")
    return "\\".join(str(part).strip(" \0") for part in value)


@lru_cache(maxsize=16)
def _listed(options: frozenset[str]) -> dict[int, str]:
    """Tag -> what the table, read here anew, says that must happen: `go`, `clean` (C) or `keep` (K)."""
    rows = json.loads((_FOLDER / "profiles" / "basic.json").read_text("utf-8"))["rows"]
    treated = {}
    for tag, _name, _action, columns, _source in rows:
        words = {columns[option] for option in options if option in columns}
        treated[int(tag, 16)] = "keep" if "K" in words else "clean" if "C" in words else "go"
    return treated


def _views(output: bytes) -> tuple[bytes, bytes, list[str]]:
    """Of an output, in lower case: its bytes without pixels (inflated), its compressed frames; and its dates."""
    from pydicom import dcmread
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    with quiet():
        dataset = dcmread(io.BytesIO(output), force=True)
        dates = [day for f in _below(dataset, (), {}) if f.vr in ("DA", "DT") for day in _days(f.value)]
        head, frames = output, b""
        if dataset.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian:
            start = 144 + int(dataset.file_meta.FileMetaInformationGroupLength)
            head = output[:start] + zlib.decompress(output[start:], -zlib.MAX_WBITS)
        pixels = dataset.get("PixelData", None)
        if isinstance(pixels, bytes) and len(pixels) > 64:
            head = head.replace(pixels, b"", 1)
            frames = pixels if dataset.file_meta.TransferSyntaxUID.is_compressed else b""
    return head.lower(), frames.lower(), dates


def _days(value: str) -> list[str]:
    return [part[:8] for part in value.split("\\")]


def _forms(value: str) -> tuple[set[bytes], set[bytes]]:
    """The value, lower case, in encodings of one byte a letter and of two."""
    lower = value.lower()
    single = {lower.encode("utf-8"), lower.encode("latin-1", "ignore")} - {b""}
    return single, {lower.encode("utf-16-le"), lower.encode("utf-16-be")}


def _count(data: bytes, forms: tuple[set[bytes], set[bytes]]) -> int:
    """How often a value occurs: as a whole word in one byte a letter, anywhere in two."""
    single, double = forms
    count = sum(data.count(form) for form in double)
    for form in single:
        if form in data:
            count += len(re.findall(_EDGE_BEFORE + re.escape(form) + _EDGE_AFTER, data))
    return count


@lru_cache(maxsize=1)
def _standard_words() -> frozenset[str]:
    lines = (_FOLDER / "lexicon" / "dicom.txt").read_text("utf-8").splitlines()
    return frozenset(_fold(word) for line in lines if not line.startswith("#") for word in line.split())


def _fold(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text)
    return "".join(c for c in plain if not unicodedata.combining(c)).casefold()

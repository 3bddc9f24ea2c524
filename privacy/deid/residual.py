"""The second look: the original values, searched in the output. Shares no rule code with the engines it checks.

    look = inspect(original_bytes, output_bytes, options)
    look.hits            # {"name": 1}: kinds and numbers, never a value
    look.exclusions      # {"short": 3}: what was compared at its own place only, and why

What identifies is decided here anew, on the original file: every person name, AE title, UID, date and private value at
any depth, and every value of an attribute that PS3.15 lists and no option keeps. It is looked for as whole words
anywhere in the output, in all its variants. At its own place only: values under four characters, coded values, words
of the standard, numbers in binary. Uncompressed pixels are not searched: they are not text. Not here: repair.

Source: PS3.15 annex E; PS3.5 section 6.2.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from privacy.deid.searches import originals_of_row, search, search_cells
from privacy.deid.secondreader import BINARY, Element, read, text_of
from privacy.deid.variants import DUMMIES, QUANTITIES, Wanted, normal, variants

__all__ = ["Before", "Look", "examine", "inspect", "left_in_file", "originals_of_row", "search", "search_cells"]

_PROFILES = Path(__file__).parent / "profiles"
_SAFE_OPTION = "retain-safe-private"
_SINGLE = frozenset({"ST", "LT", "UT", "UR"})
_NUMERIC = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "UV", "SV", "AT"})
_MOVED, _FULL = "retain-longitudinal-modified-dates", "retain-longitudinal-full-dates"
_STANDARD_UID = re.compile(r"1\.2\.840\.10008\.[0-9.]+")
_WRITER = ((0x00020012,), "2.25.74326417920948506075518149389364041828")  # what every Corsia writes there
_SCHEME_UID = "2.16.840.1.113883."  # HL7's registry of coding schemes
_CODES = frozenset({0x00080100, 0x00080102, 0x00080103, 0x00080104, 0x00080105, 0x0008010F, 0x00080119, 0x00080120})
_SCHEMES = frozenset({0x0008010C, 0x00080117, 0x0008010D})
_QUANTITY = re.compile(r"[+-]?\d+\.\d*(?:[eE][+-]?\d+)?|[+-]?\d*\.\d+(?:[eE][+-]?\d+)?")
# Never explained: names, ids, dates.
_EXPLAINABLE = frozenset({"number", "text", "private", "uid"})
_PIXELS = 0x7FE00010
_SHAPE = (0x00280010, 0x00280011, 0x00280100)  # rows, columns, bits allocated
_MAX_TEXT = 1 << 20  # binary elements up to this size are read as text
_MAX_CACHED = 256  # bytes of a value that may come again in the next file
_MIN_BLOB, _FRAME_FORM = 16, 6
# For compressed frames: letters and digits stay, all else is a space.
_PLAIN = bytes(c if chr(c).isascii() and chr(c).isalnum() else 32 for c in range(256)).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the second look saw.

    Attributes:
        hits: kind -> number of values left: name, date, uid, id, text, number, private, binary; place for a value
            that stands where it stood; unreadable when the look itself failed.
        exclusions: reason -> number of values compared at their own place only (short, code, vocabulary, binary) or
            found and explained (moved-date, kept-place: the profile keeps what the original said there too).
        searched: number of values looked for everywhere.
    """

    hits: dict[str, int]
    exclusions: dict[str, int]
    searched: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What the original held.

    Attributes:
        values: strings to look for, sorted.
        wanted: value -> (kind, what to look for).
        places: path -> bytes of each identifying element, for the comparison place by place.
        blobs: identifying values that are no text.
        kept: path -> normalised value of everything else.
        dates: path -> value of each date.
        exclusions: as in `Look`.
    """

    values: tuple[str, ...]
    wanted: dict[str, tuple[str, Wanted]]
    places: dict[tuple[int, ...], bytes]
    blobs: tuple[bytes, ...]
    kept: dict[tuple[int, ...], bytes]
    dates: dict[tuple[int, ...], bytes]
    exclusions: Counter[str]


def inspect(data: bytes, output: bytes, options: frozenset[str] = frozenset()) -> Look:
    """Look for everything that identifies in the original in the output; a look that fails is a hit."""
    try:
        before, after = examine(data, options), read(output)
        hits, exclusions = _Search(before, after, _MOVED in options).run(output)
    except Exception:  # a hostile file may break its reader in any way: then the output is not trusted
        return Look(hits={"unreadable": 1}, exclusions={}, searched=0)
    return Look(hits=dict(hits), exclusions=dict(before.exclusions + exclusions), searched=len(before.values))


def left_in_file(data: bytes, output: bytes, options: frozenset[str] = frozenset()) -> bool:
    """Whether anything of an original file is left in its output; true as well when the look itself fails."""
    return bool(inspect(data, output, options).hits)


def examine(data: bytes, options: frozenset[str] = frozenset()) -> Before:
    """Collect what identifies from the bytes of an original file.

    Raises:
        ValueError: the bytes are not exactly a DICOM file.
    """
    wanted: dict[str, tuple[str, Wanted]] = {}
    places: dict[tuple[int, ...], bytes] = {}
    kept: dict[tuple[int, ...], bytes] = {}
    dates: dict[tuple[int, ...], bytes] = {}
    blobs: list[bytes] = []
    exclusions: Counter[str] = Counter()
    elements = read(data)
    safe = _safe_places(elements) if _SAFE_OPTION in options else frozenset()
    for one in elements:
        if one.path[-1] == _PIXELS:
            continue
        raw = one.raw.strip(b" \0")
        if one.vr in ("DA", "DT"):
            dates[one.path] = raw
        kind = "" if one.path in safe else _identifies(one, options)
        if not kind:
            kept[one.path] = raw
            continue
        if not raw:
            continue
        places[one.path] = raw
        for value, what in _wanted(one, raw, blobs, exclusions):
            exclusions.update(what.excluded)
            if what.forms:
                # Under several kinds the strictest holds: a place that may keep a number may not keep a name.
                own = "number" if _QUANTITY.fullmatch(value) else kind
                if value not in wanted or wanted[value][0] in _EXPLAINABLE:
                    wanted[value] = (own, what)
    return Before(
        values=tuple(sorted(wanted)), wanted=wanted, places=places, blobs=tuple(blobs), kept=kept, dates=dates,
        exclusions=exclusions,
    )  # fmt: skip


# -- what identifies


def _identifies(one: Element, options: frozenset[str]) -> str:
    """The kind of identifying value an element holds; "" for none."""
    kind = _kind(one.path[::2], one.vr, options)
    return "" if kind == "uid" and _is_standard(one) else kind


@lru_cache(maxsize=65_536)
def _kind(tags: tuple[int, ...], vr: str, options: frozenset[str]) -> str:
    """As above, by where it stands: the tags of the sequences around it and its own."""
    tag = tags[-1]
    if tag & 0xFFFF == 0 or 0x00020000 <= tag <= 0x00020002:
        return ""
    if any(t >> 16 & 1 for t in tags):
        return "private"
    return _by_kind(tag, vr, _treated(tags, options), options)


def _by_kind(tag: int, vr: str, listed: str, options: frozenset[str]) -> str:
    if vr in ("DA", "DT"):
        return "date" if _FULL not in options or listed == "go" else ""
    if vr == "TM":
        return "number" if listed == "go" and not {_MOVED, _FULL} & options else ""
    if vr == "UI":
        return "" if listed == "keep" else "uid"
    if vr in ("PN", "AE"):
        return "" if listed == "keep" else "name" if vr == "PN" else "id"
    if listed != "go":
        return ""
    if vr in _NUMERIC or vr in QUANTITIES:
        return "number"
    if vr in BINARY:
        return "binary"
    return "id" if vr == "SH" or tag >> 16 == 0x0010 else "text"


def _is_standard(one: Element) -> bool:
    values = one.raw.decode("latin-1").split("\\")
    if one.path == _WRITER[0] and values[0].strip(" \0") == _WRITER[1]:
        return True  # a file of another Corsia
    schemes = one.path[-1] in _SCHEMES
    return all(
        _STANDARD_UID.fullmatch(v.strip(" \0")) or (schemes and v.startswith(_SCHEME_UID)) or not v.strip(" \0")
        for v in values
    )


def _treated(tags: tuple[int, ...], options: frozenset[str]) -> str:
    """What the table says must happen to an element, or to a sequence around it that has to go whole."""
    listed = _listed(options)
    own = listed.get(tags[-1], "")
    if own:
        return own.removesuffix("-whole")
    return "go" if any(listed.get(tag) == "go-whole" for tag in tags[:-1]) else ""


@lru_cache(maxsize=16)
def _listed(options: frozenset[str]) -> dict[int, str]:
    """Tag -> what the table, read here anew, says must happen: `go` (X with all it holds: `go-whole`), C or K."""
    treated = {}
    for row in json.loads((_PROFILES / "basic.json").read_text("utf-8"))["rows"]:
        columns = row[3]
        words = {columns[option] for option in options if option in columns}
        go = "go-whole" if row[2] == "X" else "go"
        treated[int(row[0], 16)] = "keep" if "K" in words else "clean" if "C" in words else go
    return treated


def _safe_places(elements: list[Element]) -> frozenset[tuple[int, ...]]:
    """Private places that the option keeps: named by the creator of their block, never by their number."""
    rows = json.loads((_PROFILES / "safe_private.json").read_text("utf-8"))["rows"]
    allowed = {(row[0], int(row[1], 16), int(row[2], 16)) for row in rows}
    blocks = {one.path: one.raw.decode("latin-1").strip(" \0") for one in elements if one.path[-1] >> 16 & 1}
    safe: set[tuple[int, ...]] = set()
    for path in blocks:
        group, element = path[-1] >> 16, path[-1] & 0xFFFF
        creator = (*path[:-1], group << 16 | element >> 8)
        if (blocks.get(creator, ""), group, element & 0xFF) in allowed:
            safe |= {path, creator}
    return frozenset(safe)


def _wanted(one: Element, raw: bytes, blobs: list[bytes], exclusions: Counter[str]) -> Iterator[tuple[str, Wanted]]:
    """The values of one identifying element, each with what to look for."""
    vr = one.vr
    if vr == "CS" or one.path[-1] in _CODES:
        exclusions["code"] += 1
        return
    if vr in _NUMERIC:
        exclusions["binary"] += 1
        return
    if vr in BINARY:
        text = raw.decode("latin-1")
        if len(raw) > _MAX_TEXT or not text.isprintable():
            if len(raw) >= _MIN_BLOB:
                blobs.append(raw)
            else:
                exclusions["binary"] += 1
            return
        vr = "LO"
        yield text, variants(vr, text)
        return
    yield from (_in_text if len(raw) <= _MAX_CACHED else _in_text.__wrapped__)(raw, vr, one.charset)


@lru_cache(maxsize=16_384)
def _in_text(raw: bytes, vr: str, charset: tuple[str, ...]) -> list[tuple[str, Wanted]]:
    text = text_of(raw, charset)
    parts = [text] if vr in _SINGLE else re.split(r"[\n\\]", text)
    return [(value, variants(vr, value)) for part in parts if (value := part.strip())]


# -- the search


class _Search:
    """One output file, ready to be asked for values."""

    def __init__(self, before: Before, after: list[Element], moved: bool) -> None:
        self._before, self._after, self._moved = before, after, moved
        self._found: Counter[str] = Counter()
        self._explained: Counter[str] = Counter()
        self._elements: list[tuple[Element, str]] = []
        self._frames = b""
        self._bulk: list[bytes] = []
        shape = [
            int.from_bytes(e.raw, "little" if e.little else "big") for t in _SHAPE for e in after if e.path == (t,)
        ]
        for one in after:
            if one.path == (_PIXELS,):
                self._pixels(one, shape)
            elif one.vr not in _NUMERIC:
                self._elements.append((one, self._normal(one)))
        self._text = "\n".join(text for _, text in self._elements)
        self._words = set(self._text.split())
        self._solid = self._text.replace(" ", "").replace(".", "")

    def run(self, output: bytes) -> tuple[Counter[str], Counter[str]]:
        """Hits and explained finds, by kind and by reason."""
        self._preamble(output)
        for kind, what in self._before.wanted.values():
            if self._is_left(kind, what):
                self._found[kind] += 1
        self._found["binary"] += sum(1 for blob in self._before.blobs if any(blob in bulk for bulk in self._bulk))
        for one in self._after:
            raw = self._before.places.get(one.path)
            if raw is not None and raw == one.raw.strip(b" \0") and raw.decode("latin-1") not in DUMMIES:
                self._found["place"] += 1
        return +self._found, self._explained

    def _is_left(self, kind: str, what: Wanted) -> bool:
        for form in () if what.firsts.isdisjoint(self._words) else what.forms:
            if form in self._text:
                if self._counts(kind, [one for one, text in self._elements if form in text]):
                    return True
        if what.solid and what.solid in self._solid and self._with_separators(kind, what.solid):
            return True
        return bool(self._frames) and kind != "number" and any(self._in_frames(form) for form in what.forms)

    def _counts(self, kind: str, places: list[Element]) -> bool:
        """Whether a find is a leak: not another date that was moved there, nor what the profile keeps at its place."""
        if kind == "date" and self._moved:
            rest = [one for one in places if not self._was_moved(one)]
            reason = "moved-date"
        elif kind in _EXPLAINABLE:
            rest = [one for one in places if self._before.kept.get(one.path) != one.raw.strip(b" \0")]
            reason = "kept-place"
        else:
            return True
        if not rest:
            self._explained[reason] += 1
        return bool(rest)

    def _was_moved(self, one: Element) -> bool:
        before = self._before.dates.get(one.path)
        return one.vr in ("DA", "DT") and before is not None and before != one.raw.strip(b" \0")

    def _with_separators(self, kind: str, solid: str) -> bool:
        pattern = re.compile(r"(?<![^\W_])" + "[ .]?".join(map(re.escape, solid)) + r"(?![^\W_])")
        places = [one for one, text in self._elements if pattern.search(text)]
        return bool(places) and self._counts(kind, places)

    def _in_frames(self, form: str) -> bool:
        if len(form) < _FRAME_FORM + 2 or not form.isascii():
            return False
        return form.replace(".", " ").encode() in self._frames

    def _normal(self, one: Element) -> str:
        if one.vr in BINARY:
            self._bulk.append(one.raw)
            if len(one.raw) > _MAX_TEXT:
                return ""
        return (_readable if len(one.raw) <= _MAX_CACHED else _readable.__wrapped__)(one.raw, one.vr, one.charset)

    def _pixels(self, one: Element, shape: list[int]) -> None:
        """Compressed frames may hold comments; uncompressed ones may be longer than their picture."""
        raw = one.raw
        if one.vr != "OB" or raw[:4] != b"\xfe\xff\x00\xe0":
            size = shape[0] * shape[1] * shape[2] // 8 if len(shape) == len(_SHAPE) else 0
            extra = len(raw) % size if size else 0
            if extra <= 1:
                return
            raw = raw[-extra:]
        self._frames = b" " + b" ".join(bytes(raw).translate(_PLAIN).split()) + b" "

    def _preamble(self, output: bytes) -> None:
        if output[128:132] != b"DICM" or any(output[:128]):
            self._found["place"] += 1


@lru_cache(maxsize=16_384)
def _readable(raw: bytes, vr: str, charset: tuple[str, ...]) -> str:
    """Normal words of an element of the output, each value on a line of its own."""
    text = raw.strip(b" \0").decode("latin-1") if vr in BINARY else text_of(raw, charset)
    if "\0" in text:
        text = f"{text}\n{text.replace(chr(0), '')}"  # as two bytes a letter
    parts = text.split("\n") if vr in _SINGLE else re.split(r"[\n\\]", text)
    return "\n".join(normal(part, moments=vr != "UI") for part in parts)

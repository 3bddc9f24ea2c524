"""Looks once more for what had to go: source identifiers in results, in bytes, cells, DICOM elements and FHIR.

Used by the egress gate on lanes 2 and 3, after the lane has done its work and independently of how. It knows the
values that name persons and says only whether one is there; which one is never told, logged or kept.

How sure it is: values of eight and more bytes are looked for in all raw bytes (UTF-8, Latin-1, UTF-16, three ways of
capitals) and inside every decoded text; values of four to seven characters as whole words of decoded text, and in
UTF-16 bytes, since random pixels would contain them by chance. Shorter ones only as a whole cell of text. What is
burned into pixels, or misspelt, is not found.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from privacy.deid.inflated import check_inflated

if TYPE_CHECKING:
    import pandas as pd
    from pydicom import Dataset

__all__ = ["MIN_CHARACTERS", "Residual", "decode_dicom", "texts_of"]

MIN_CHARACTERS = 4
_CERTAIN_DIGITS = 12
_RAW = 8  # bytes of the window that is looked up in raw data
_CHUNK = 1 << 20
_BREAK = re.compile(r"((?<=\d)\.(?=\d))|[\W_]+")
_BULK = {"OB", "OD", "OF", "OL", "OV", "OW"}
_SMALL = 1 << 16  # binary elements up to this size are read as text too
_NAME_WORDS = 4
_LONG_NUMBER = 10**6  # a short number may equal an id by chance
_PERSONS = ("Patient", "RelatedPerson", "Person")
# In FHIR: words of the standard; and where a short value would be a person's.
_FIXED = frozenset("resourceType system url code type profile status unit lastUpdated".split())
_NAMING = frozenset("id value family given".split())
_MOMENT = re.compile(r"\d{4}(-\d{2}(-\d{2}(T[0-9:.+Z-]*)?)?)?\Z")
# Words that archives write in place of a name; they name nobody.
_EMPTY = frozenset("anonymous anonymized anonymised unknown none null nan missing test phantom patient".split())


class Residual:
    """The values of one source that must not occur in what leaves.

    Values are added before and while results are checked (files name their patients one by one).
    """

    def __init__(self) -> None:
        self._short: set[str] = set()  # normalised, below MIN_CHARACTERS: whole cells only
        self._words: dict[str, set[str]] = {}  # first word -> normalised values that begin with it
        self._plain: set[str] = set()  # normalised without spaces, eight and more characters
        self._encoded: dict[bytes, set[bytes]] = {}  # first eight bytes -> encoded values
        self._windows: np.ndarray[Any, np.dtype[np.uint64]] | None = None
        self._lengths: tuple[int, ...] = ()

    def add(self, values: Iterable[object]) -> None:
        """Add values (of any type, by their text). Missing ones and empty words are passed over."""
        for value in values:
            text = _text(value)
            known = _normal(text)
            if not known or known in _EMPTY:
                continue
            if len(known.replace(" ", "")) < MIN_CHARACTERS:
                self._short.add(known)
                continue
            words = known.split(" ")
            # A name may be written with the family first or last.
            for at in range(len(words) if len(words) <= _NAME_WORDS else 1):
                self._words.setdefault(words[at], set()).add(" ".join([*words[at:], *words[:at]]))
            self._add_raw(text, known)

    def add_table(self, table: pd.DataFrame | None, roles: dict[str, str]) -> None:
        """Add all patient ids and all cells of columns with the role identifier."""
        if table is None:
            return
        for name, role in roles.items():
            if role in ("patient", "identifier") and name in table.columns:
                self.add(table[name].dropna().unique().tolist())

    def add_dicom(self, data: bytes) -> None:
        """Add the patient's id and name of a source file; one that does not parse names nobody here."""
        from pydicom import dcmread

        try:
            head = dcmread(
                BytesIO(data), force=True, stop_before_pixels=True, specific_tags=["PatientID", "PatientName"]
            )
            self.add([str(head.get("PatientID") or ""), str(head.get("PatientName") or "")])
        except Exception:  # a hostile file may raise anything from inside the parser; the lane sets it aside
            return

    def add_fhir(self, data: bytes) -> None:
        """Add names, identifiers, contacts and addresses of the patients in a source file, and of their relatives."""
        for value, _ in _cells(data):
            if isinstance(value, dict) and value.get("resourceType") in _PERSONS:
                self.add(_said(value))

    def in_text(self, text: str, *, short: bool = True) -> bool:
        """Whether a value occurs in a text, as whole words, or inside it when it is eight or more characters.

        Args:
            short: whether values below four characters count, where they are the whole text.
        """
        known = _normal(text)
        if short and known in self._short:
            return True
        words = known.split(" ")
        for at, word in enumerate(words):
            for value in self._words.get(word, ()):
                size = value.count(" ") + 1
                if words[at : at + size] == value.split(" "):
                    return True
        return self._inside(known.replace(" ", ""))

    def in_bytes(self, data: bytes) -> bool:
        """Whether a value of eight or more encoded bytes occurs anywhere in raw bytes."""
        if not self._encoded:
            return False
        if self._windows is None:
            self._windows = np.sort(np.frombuffer(b"".join(self._encoded), dtype="<u8"))
        for start in range(0, len(data), _CHUNK):
            part = data[start : start + _CHUNK + _RAW]
            for offset in range(_RAW):
                count = (len(part) - offset) // _RAW
                if count > 0 and self._hit(data, start + offset, np.frombuffer(part, "<u8", count, offset)):
                    return True
        return False

    def in_dicom(self, dataset: Dataset, data: bytes) -> bool:
        """Whether a value occurs in a DICOM object's elements, at any depth, or in its bytes."""
        if self.in_bytes(data) or self.in_text(data[:128].decode("latin-1").strip("\0 ")):
            return True
        return any(self.in_text(text) for text in texts_of(dataset))

    def in_fhir(self, data: bytes) -> bool:
        """Whether a value occurs in what de-identified FHIR says, or data does not parse.

        Codes and addresses of the standard and days are full of numbers that equal ids by chance: in them, only what is
        no such number is looked for.
        """
        try:
            return any(self._in_cell(value, key) for value, key in _cells(data, strict=True))
        except ValueError:
            return True

    def _in_cell(self, value: object, key: str) -> bool:
        if isinstance(value, dict):
            return any(self.in_text(name, short=False) for name in value)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _LONG_NUMBER:
            return self.in_text(str(value))
        if not isinstance(value, str):
            return False
        if key in _FIXED or _MOMENT.match(value):
            return self._inside(_normal(value).replace(" ", ""))
        return self.in_text(value, short=key in _NAMING) or (key == "data" and self._in_attachment(value))

    def _in_attachment(self, value: str) -> bool:
        raw = base64.b64decode(value, validate=False)
        return self.in_bytes(raw) or self.in_text(raw.decode("utf-8", "replace"))

    def _add_raw(self, text: str, known: str) -> None:
        plain = known.replace(" ", "")
        if len(plain) >= _RAW and not _common(plain):
            self._plain.add(plain)
            self._lengths = tuple(sorted({*self._lengths, len(plain)}))
        for form in {text, text.upper(), text.lower()}:
            for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"):
                raw = form.encode(encoding, "ignore")
                if len(raw) >= _RAW:
                    self._encoded.setdefault(raw[:_RAW], set()).add(raw)
                    self._windows = None

    def _inside(self, text: str) -> bool:
        """Plain containment by hashing windows of each known length: linear in the text, whatever the number."""
        return any(
            text[at : at + size] in self._plain
            for size in self._lengths
            if size <= len(text)
            for at in range(len(text) - size + 1)
        )

    def _hit(self, data: bytes, base: int, windows: np.ndarray[Any, np.dtype[np.uint64]]) -> bool:
        known = self._windows
        if known is None:
            return False
        found = known[np.minimum(np.searchsorted(known, windows), len(known) - 1)] == windows
        for index in np.flatnonzero(found):
            at = base + int(index) * _RAW
            for raw in self._encoded.get(data[at : at + _RAW], ()):
                if data.startswith(raw, at) and not (_common(raw) and _within_number(data, at, len(raw))):
                    return True
        return False


def _cells(data: bytes, *, strict: bool = False) -> Iterator[tuple[Any, str]]:
    """Every value of a JSON text, or of its lines, with the key under which it stands.

    Raises:
        ValueError: with `strict`, when the text or a line does not parse; else it is passed over.
    """
    todo: list[tuple[Any, str]] = []
    whole = _parsed(data)
    for one in [whole] if whole is not None else [_parsed(line) for line in data.splitlines() if line.strip()]:
        if one is None and strict:
            raise ValueError("not JSON")
        todo.append((one, ""))
    while todo:
        value, key = todo.pop()
        yield value, key
        if isinstance(value, dict):
            todo += [(item, name) for name, item in value.items()]
        elif isinstance(value, list):
            todo += [(item, key) for item in value]


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _said(person: dict[str, Any]) -> Iterator[str]:
    """Whole names, numbers, contacts and addresses of a person's resource."""
    for name in _dicts(person.get("name")):
        given = _strings(name.get("given"))
        family = str(name.get("family") or "")
        yield str(name.get("text") or "")
        yield from (f"{' '.join(given)} {family}", f"{family} {' '.join(given)}", f"{' '.join(given[:1])} {family}")
    for key in ("identifier", "telecom"):
        yield from (str(one.get("value") or "") for one in _dicts(person.get(key)))
    for address in _dicts(person.get("address")):
        yield from _strings(address.get("line"))


def _strings(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def decode_dicom(data: bytes) -> Dataset:
    """Parse a DICOM object whole.

    Raises:
        ValueError: it does not parse.
    """
    from pydicom import dcmread

    try:
        check_inflated(data)
        dataset = dcmread(BytesIO(data), force=False)
        for _ in texts_of(dataset):  # values are decoded on access: what fails must fail now
            pass
    except Exception:  # pydicom raises many types on a broken object
        raise ValueError("not a DICOM object") from None
    return dataset


def texts_of(dataset: Dataset) -> Iterator[str]:
    """The text of every element, private ones and file meta included, at any depth; bulk binary above 64 KiB not."""
    for part in (getattr(dataset, "file_meta", None), dataset):
        if part is None:
            continue
        for element in part:
            if element.VR == "SQ":
                for item in element.value or ():
                    yield from texts_of(item)
            else:
                yield from _values(element)


def _values(element: Any) -> Iterator[str]:
    value = element.value
    if value is None:
        return
    if isinstance(value, bytes | bytearray):
        if len(value) <= _SMALL or element.VR not in _BULK:
            yield bytes(value).decode("latin-1").strip("\0 ")
            yield bytes(value).decode("utf-16-le", "ignore").strip("\0 ")
        return
    several = value if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue" else (value,)
    for one in several:
        yield str(one)


def _common(value: str | bytes) -> bool:
    """Digits that longer numbers (UIDs, decimals) contain by chance: looked for as whole numbers only."""
    return len(value) < _CERTAIN_DIGITS and value.isdigit()


def _within_number(data: bytes, at: int, size: int) -> bool:
    around = data[max(0, at - 1) : at] + data[at + size : at + size + 1]
    return any(byte in b"0123456789." for byte in around)


def _text(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _normal(text: str) -> str:
    """Case folded, with single spaces between words; a point between digits stays, so that numbers stay whole."""
    return _BREAK.sub(lambda m: m[1] or " ", text.casefold()).strip()

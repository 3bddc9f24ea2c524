"""Looks once more for what had to go: source identifiers in results, in bytes, cells and decoded DICOM elements.

Used by the egress gate on lanes 2 and 3, after the lane has done its work and independently of how. It knows the
values that name persons and says only whether one is there; which one is never told, logged or kept.

How sure it is: values of eight and more bytes are looked for in all raw bytes (UTF-8, Latin-1, UTF-16, three ways of
capitals) and inside every decoded text; values of four to seven characters as whole words of decoded text, and in
UTF-16 bytes, since random pixels would contain them by chance. Shorter ones only as a whole cell of text. What is
burned into pixels, or misspelt, is not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

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
            self._words.setdefault(known.split(" ", 1)[0], set()).add(known)
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

    def in_text(self, text: str) -> bool:
        """Whether a value occurs in a text, as whole words, or inside it when it is eight or more characters."""
        known = _normal(text)
        if known in self._short:
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


def decode_dicom(data: bytes) -> Dataset:
    """Parse a DICOM object whole.

    Raises:
        ValueError: it does not parse.
    """
    from pydicom import dcmread

    try:
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

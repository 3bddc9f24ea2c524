"""The second look's own reader of DICOM bytes: every element with its path, and nothing skipped without saying so.

    elements = read(data)               # strict: every byte of the file belongs to something that was read

Shares no code with the engine's parser, so that one misreading does not blind both. Not here: what identifies.

Source: PS3.5 sections 7 and A (encoding), PS3.10 section 7 (file format).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from functools import lru_cache
from struct import Struct
from typing import NamedTuple, cast

__all__ = ["BINARY", "Element", "inflated", "read", "text_of"]

BINARY = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_SHORT = frozenset("AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS = 0x7FE00010
_SYNTAX, _CHARSET = 0x00020010, 0x00080005
_IMPLICIT, _BIG, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
# As two bytes: VR, and whether its length has four.
_VRS = {vr.encode(): (vr, vr in _LONG) for vr in _SHORT | _LONG}
_MAX_DEPTH = 64
_MAX_INFLATED = 1 << 30
# A tag; a tag, its VR and a short length; a long length.
_LITTLE = (Struct("<HH"), Struct("<HH2sH"), Struct("<I"))
_BIG_ENDIAN = (Struct(">HH"), Struct(">HH2sH"), Struct(">I"))


class Element(NamedTuple):
    """One element that is no sequence.

    Attributes:
        path: tag, item, tag, item, ... tag.
        vr: as the file says, or the dictionary where it does not.
        raw: the value's bytes (of uncompressed pixels a view); of compressed pixels, all fragments with their heads.
        charset: terms of the Specific Character Set in force.
        little: byte order.
    """

    path: tuple[int, ...]
    vr: str
    raw: bytes
    charset: tuple[str, ...]
    little: bool


def read(data: bytes) -> list[Element]:
    """All elements of a file, file meta first.

    Raises:
        ValueError: the bytes are not exactly a DICOM file. (Also from its subclasses for text and structures.)
    """
    start = 132 if data[128:132] == b"DICM" else 0
    found: list[Element] = []
    meta = _Reader(data, explicit=True, little=True)
    position = meta.group_two(start, found) if data[start : start + 2] == b"\2\0" else start
    syntax = next((e.raw.strip(b" \0").decode("ascii") for e in found if e.path == (_SYNTAX,)), "")
    if not syntax:
        syntax = _guessed(data[position : position + 8])
    if syntax == _DEFLATED:
        data, position = _inflate(data[position:]), 0
    reader = _Reader(data, explicit=syntax != _IMPLICIT, little=syntax != _BIG)
    meta_elements = len(found)
    reader.dataset(position, len(data), (), (), found, 0)
    if len(found) == meta_elements:
        raise ValueError("the file ends before its end")
    return found


def inflated(data: bytes) -> bytes:
    """The bytes of a file, its dataset unpacked where it is deflated."""
    found: list[Element] = []
    try:
        position = _Reader(data, explicit=True, little=True).group_two(132, found)
    except (ValueError, IndexError):
        return data
    if any(e.path == (_SYNTAX,) and e.raw.strip(b" \0") == _DEFLATED.encode() for e in found):
        return data[:position] + _inflate(data[position:])
    return data


def text_of(raw: bytes, charset: tuple[str, ...] = ()) -> str:
    """A value as text: in its character set and, where that is not ASCII, in others that may have been meant."""
    raw = raw.strip(b" \0")
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode("ascii")
    texts = [raw.decode("latin-1")]
    try:
        texts.append(raw.decode("utf-8"))
    except UnicodeDecodeError:
        pass
    declared = _declared(raw, charset)
    return "\n".join(dict.fromkeys([*declared, *texts]))


def _guessed(head: bytes) -> str:
    """The encoding of a dataset that comes without file meta, from its first element."""
    if head[4:6].decode("latin-1") not in _SHORT | _LONG:
        return _IMPLICIT
    return _BIG if head[0] == 0 and head[1] else "1.2.840.10008.1.2.1"


def _declared(raw: bytes, charset: tuple[str, ...]) -> list[str]:
    from pydicom.charset import decode_bytes, python_encoding
    from pydicom.valuerep import TEXT_VR_DELIMS

    codecs = [python_encoding[term] for term in charset if term in python_encoding]
    if not codecs:
        return []
    try:
        return [str(decode_bytes(raw, codecs, TEXT_VR_DELIMS))]
    except (LookupError, UnicodeError):
        return []


def _inflate(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = unpacker.decompress(packed, _MAX_INFLATED)
    except zlib.error:
        raise ValueError("does not inflate") from None
    # Some writers leave the stream without its end; what is missing then shows when its elements are read.
    rest = unpacker.unused_data
    trailer = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")  # as gzip has
    if unpacker.unconsumed_tail or (rest.strip(b"\0") and rest != trailer):
        raise ValueError("more than a deflated dataset")
    return data


class _Reader:
    """Walks one encoding. Positions are offsets into `data`; every method returns where it ended."""

    def __init__(self, data: bytes, *, explicit: bool, little: bool) -> None:
        self._data, self._explicit, self._little = data, explicit, little
        self._tag, self._whole, self._four = _LITTLE if little else _BIG_ENDIAN

    def group_two(self, position: int, found: list[Element]) -> int:
        while self._data[position : position + 2] == b"\2\0":
            tag, vr, length, start = self._head(position, len(self._data))
            if length == _UNDEFINED or start + length > len(self._data):
                raise ValueError("file meta")
            found.append(Element((tag,), vr, self._data[start : start + length], (), True))
            position = start + length
        return position

    def dataset(
        self, position: int, end: int, path: tuple[int, ...], charset: tuple[str, ...], found: list[Element], depth: int
    ) -> int:
        """Read elements up to `end`, or up to the item's delimiter."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        data = self._data
        while position < end:
            tag, vr, length, start = self._head(position, end)
            if tag == _ITEM_END and path:
                return start
            if tag == 0 and not length and not path and not data[position:].strip(b"\0"):
                return end
            if tag >> 16 == 0xFFFE:
                raise ValueError("a delimiter out of place")
            here = (*path, tag)
            if length == _UNDEFINED:
                position = self._undefined(start, end, here, vr, charset, found, depth)
                continue
            position = start + length
            if position > end:
                raise ValueError("an element is longer than what holds it")
            if vr == "SQ":
                self._items(start, position, here, charset, found, depth)
                continue
            # Pixels are only measured and compared: no copy.
            raw = data[start:position] if path or tag != _PIXELS else cast(bytes, memoryview(data)[start:position])
            if tag == _CHARSET:
                charset = tuple(term.strip(" \0") for term in raw.decode("ascii", "replace").split("\\"))
            found.append(Element(here, vr, raw, charset, self._little))
        return position

    def _undefined(
        self, start: int, end: int, path: tuple[int, ...], vr: str, charset: tuple[str, ...], found: list[Element],
        depth: int,
    ) -> int:  # fmt: skip
        if vr in ("OB", "OW") and path[-1] == _PIXELS:
            stop = self._fragments(start, end)
            found.append(Element(path, "OB", self._data[start:stop], charset, self._little))
            return stop
        if vr == "UN" and self._explicit:
            return _Reader(self._data, explicit=False, little=True)._items(
                start, end, path, charset, found, depth, True
            )
        return self._items(start, end, path, charset, found, depth, True)

    def _items(
        self, position: int, end: int, path: tuple[int, ...], charset: tuple[str, ...], found: list[Element],
        depth: int, open_ended: bool = False,
    ) -> int:  # fmt: skip
        for number in self._counting():
            if position >= end:
                if open_ended:
                    raise ValueError("a sequence without end")
                return position
            tag, length, position = self._delimiter(position, end)
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM or (length != _UNDEFINED and position + length > end):
                raise ValueError("not an item")
            stop = end if length == _UNDEFINED else position + length
            position = self.dataset(position, stop, (*path, number), charset, found, depth + 1)
        raise ValueError("unreachable")

    @staticmethod
    def _counting() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    def _fragments(self, position: int, end: int) -> int:
        while True:
            tag, length, position = self._delimiter(position, end)
            if tag == _SEQUENCE_END:
                return position
            if tag != _ITEM or length == _UNDEFINED or position + length > end:
                raise ValueError("not a fragment")
            position += length

    def _delimiter(self, position: int, end: int) -> tuple[int, int, int]:
        if position + 8 > end:
            raise ValueError("the file ends before its end")
        group, number = self._tag.unpack_from(self._data, position)
        return group << 16 | number, self._four.unpack_from(self._data, position + 4)[0], position + 8

    def _head(self, position: int, end: int) -> tuple[int, str, int, int]:
        """Tag, VR, length and where the value begins."""
        data = self._data
        if position + 8 > end:
            raise ValueError("the file ends before its end")
        group, number, code, length = self._whole.unpack_from(data, position)
        tag = group << 16 | number
        if not self._explicit or group == 0xFFFE:
            return tag, _looked_up(tag), self._four.unpack_from(data, position + 4)[0], position + 8
        vr, long = _VRS.get(code, ("", False))
        if not vr and any(data[position : position + 8]):  # zeros are padding
            raise ValueError("no such value representation")
        if not long:
            return tag, vr, length, position + 8
        if position + 12 > end:
            raise ValueError("the file ends before its end")
        return tag, vr, self._four.unpack_from(data, position + 8)[0], position + 12


@lru_cache(maxsize=8192)
def _looked_up(tag: int) -> str:
    from pydicom.datadict import DicomDictionary

    if tag >> 16 & 1:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    if tag & 0xFFFF == 0:
        return "UL"
    entry = DicomDictionary.get(tag)
    return entry[0].split(" or ")[0] if entry else "UN"

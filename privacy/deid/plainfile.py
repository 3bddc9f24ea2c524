"""Files that are encoded plainly, read and written without a look at each byte twice; all others are left to pydicom.

    dataset = read(data)                # None: not plain, let pydicom decide
    data = write(dataset, meta)         # None: not as it was read, let pydicom encode

Plain is: a head as PS3.10 has it, little endian, every tag above the one before, every length within what holds it, not
a byte left over. What is read is the same raw elements that pydicom would give, what is written the same bytes that
it would write (test). Not here: what happens to elements; the second look's reader, which shares nothing with this.

Source: PS3.5 sections 7 and A, PS3.10 section 7; pydicom 3 for what a dataset is made of.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, cast

from pydicom.charset import default_encoding, python_encoding
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

__all__ = ["expand", "read", "write"]

_LONG = frozenset("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT = frozenset("AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_VRS: dict[bytes, tuple[str, bool]] = {vr.encode(): (vr, vr in _LONG) for vr in _LONG | _SHORT}
_CODES = {vr: (vr.encode(), vr in _LONG) for vr in _LONG | _SHORT}
# What an empty value is read as.
_NOTHING = dict.fromkeys("AE AS CS DA DT LO LT PN SH SQ ST TM UC UI UR UT".split(), b"")
_ROOT = "1.2.840.10008.1.2"
_IMPLICIT = _ROOT
_NATIVE = frozenset({_IMPLICIT, f"{_ROOT}.1"})
_COMPRESSED = frozenset([f"{_ROOT}.5", *(f"{_ROOT}.4.{n}" for n in (50, 51, 57, 70, 80, 81, 90, 91, 201, 202, 203))])
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_CHARSET, _PIXELS = 0x00080005, 0x7FE00010
_ITEM_BYTES = b"\xfe\xff\x00\xe0"
_END_BYTES, _ITEM_END_BYTES = b"\xfe\xff\xdd\xe0" + bytes(4), b"\xfe\xff\x0d\xe0" + bytes(4)
_MAX_DEPTH = 32
_EXPLICIT_HEAD, _IMPLICIT_HEAD, _FOUR = Struct("<HH2sH"), Struct("<HHL"), Struct("<L")
_LONG_HEAD = Struct("<HH2s2xL")
_HEAD_BYTES = 8

_tags: dict[int, BaseTag] = {}


class _Odd(Exception):
    """Not plain."""


def read(data: bytes) -> FileDataset | None:
    """The dataset of a plain file; its file meta holds the transfer syntax alone."""
    try:
        position, syntax = _head(data)
        elements, stop = _elements(data, position, len(data), syntax == _IMPLICIT, default_encoding, 0)
        if stop != len(data) or not elements:
            return None
        charset = _charset(elements, default_encoding)
    except (_Odd, IndexError, UnicodeError):
        return None
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset(_NO_FILE, cast(Any, elements), None, meta, syntax == _IMPLICIT, True)
    dataset.set_original_encoding(syntax == _IMPLICIT, True, charset)
    return dataset


def expand(dataset: Dataset, tag: int) -> None:
    """Read the items of a raw sequence in place, if they are plain; otherwise leave it to pydicom."""
    raw: Any = dataset._dict[cast(BaseTag, tag)]
    if not raw.is_raw or raw.VR not in (None, "SQ") or not raw.is_little_endian or not raw.value:
        return
    try:
        items, stop = _items(raw.value, 0, len(raw.value), raw.is_implicit_VR, dataset._read_charset, 0, ended=False)
    except (_Odd, IndexError, UnicodeError):
        return
    if stop == len(raw.value):
        dataset._dict[raw.tag] = _sequence(raw.tag, items, undefined=False)


# -- reading

_NO_FILE = DicomBytesIO()


def _head(data: bytes) -> tuple[int, str]:
    """Where the dataset begins, and its transfer syntax."""
    if data[128:140] != b"DICM\2\0\0\0UL\4\0":
        raise _Odd
    end = 144 + int.from_bytes(data[140:144], "little")
    elements, stop = _elements(data, 144, end, False, default_encoding, 0, least=0x00020001)
    if end > len(data) or stop != end or any(tag >> 16 != 2 for tag in elements):
        raise _Odd
    syntax = elements.get(cast(BaseTag, 0x00020010))
    if syntax is None or data[end : end + 2] == b"\2\0":
        raise _Odd
    name = cast(bytes, syntax.value or b"").rstrip(b"\0 ").decode("ascii")
    if name not in _NATIVE and name not in _COMPRESSED:
        raise _Odd
    return end, name


def _elements(
    data: bytes, position: int, end: int, implicit: bool, charset: Any, depth: int, *, least: int = 0x00080000,
    open_ended: bool = False,
) -> tuple[dict[BaseTag, Any], int]:  # fmt: skip
    """Elements up to `end`, or up to the delimiter of an item without length."""
    found: dict[BaseTag, Any] = {}
    last, tags, next_head = least - 1, _tags, _implicit_head if implicit else _explicit_head
    while position < end:
        if position + _HEAD_BYTES > end:
            raise _Odd
        tag, vr, length, position = next_head(data, position)
        if tag == _ITEM_END and open_ended and not length:
            return found, position
        if tag <= last or tag >= _ITEM:
            raise _Odd
        last, key = tag, tags.get(tag) or _tag(tag)
        if length == _UNDEFINED:
            found[key], position = _undefined(data, position, end, key, vr, implicit, charset, depth)
            continue
        start, position = position, position + length
        if position > end:
            raise _Odd
        value = data[start:position] if length else _NOTHING.get(vr or "")
        found[key] = RawDataElement(key, vr, length, value, start, implicit, True)
        if tag == _CHARSET:
            charset = _charset(found, charset)
    if open_ended:
        raise _Odd
    return found, position


def _implicit_head(data: bytes, position: int) -> tuple[int, str | None, int, int]:
    """Tag, VR, length and where the value begins."""
    group, number, length = _IMPLICIT_HEAD.unpack_from(data, position)
    return group << 16 | number, None, length, position + 8


def _explicit_head(data: bytes, position: int) -> tuple[int, str | None, int, int]:
    group, number, code, length = _EXPLICIT_HEAD.unpack_from(data, position)
    if group == 0xFFFE:
        return _implicit_head(data, position)
    known = _VRS.get(code)
    if known is None or (known[1] and position + 12 > len(data)):
        raise _Odd
    if known[1]:
        return group << 16 | number, known[0], _FOUR.unpack_from(data, position + 8)[0], position + 12
    return group << 16 | number, known[0], length, position + 8


def _tag(tag: int) -> BaseTag:
    key = BaseTag(tag)
    if tag in DicomDictionary:  # the others could be millions
        _tags[tag] = key
    return key


def _undefined(
    data: bytes, position: int, end: int, tag: BaseTag, vr: str | None, implicit: bool, charset: Any, depth: int
) -> tuple[Any, int]:
    if tag == _PIXELS and vr in ("OB", "OW"):
        stop = _fragments(data, position, end)
        value = data[position : stop - 8]
        return RawDataElement(tag, vr, _UNDEFINED, value, position, implicit, True), stop
    if vr is None:
        entry = DicomDictionary.get(tag)
        vr = entry[0] if entry else None
    if vr != "SQ":
        raise _Odd
    items, stop = _items(data, position, end, implicit, charset, depth, ended=True)
    return _sequence(tag, items, undefined=True), stop


def _items(
    data: bytes, position: int, end: int, implicit: bool, charset: Any, depth: int, *, ended: bool
) -> tuple[list[Dataset], int]:
    """Items up to `end`, or, where the sequence is `ended` by a delimiter, past that."""
    if depth > _MAX_DEPTH:
        raise _Odd
    items: list[Dataset] = []
    while position < end or ended:
        if position + 8 > end:
            raise _Odd
        group, number, length = _IMPLICIT_HEAD.unpack_from(data, position)
        tag, position = group << 16 | number, position + 8
        if tag == _END and ended and not length:
            return items, position
        if tag != _ITEM:
            raise _Odd
        undefined = length == _UNDEFINED
        stop = end if undefined else position + length
        if stop > end:
            raise _Odd
        elements, position = _elements(
            data, position, stop, implicit, charset, depth + 1, open_ended=undefined
        )  # fmt: skip
        item = Dataset(cast(Any, elements), parent_encoding=charset)
        item.set_original_encoding(implicit, True, _charset(elements, charset))
        if undefined:
            item.is_undefined_length_sequence_item = True
        items.append(item)
    return items, position


def _sequence(tag: BaseTag, items: list[Dataset], *, undefined: bool) -> DataElement:
    sequence = Sequence(items)
    sequence.is_undefined_length = undefined
    return DataElement(tag, "SQ", sequence, None, undefined, True)


def _fragments(data: bytes, position: int, end: int) -> int:
    while True:
        if position + 8 > end:
            raise _Odd
        group, number, length = _IMPLICIT_HEAD.unpack_from(data, position)
        position += 8
        if group << 16 | number == _END and not length:
            return position
        if group << 16 | number != _ITEM or length == _UNDEFINED:
            raise _Odd
        position += length


def _charset(elements: dict[BaseTag, Any], outer: Any) -> Any:
    """As pydicom notes it. Only single known terms are plain."""
    element = elements.get(cast(BaseTag, _CHARSET))
    if element is None:
        return outer
    term = (element.value or b"").rstrip(b" \0").decode("ascii")
    if not term or term not in python_encoding or term.startswith("ISO 2022"):
        raise _Odd
    return [python_encoding[term]]


# -- writing


def write(dataset: FileDataset, meta: list[tuple[int, str, bytes]]) -> bytes | None:
    """The file, with a zero preamble.

    Args:
        dataset: as it was read but for elements replaced by raw ones or taken out.
        meta: tag, VR and even-length value of the file meta elements after its length, in order.
    """
    implicit, little = dataset.original_encoding
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if not little or (syntax == _IMPLICIT) != implicit or syntax not in _NATIVE | _COMPRESSED:
        return None
    if not _pixels_fit(dataset, syntax in _COMPRESSED):
        return None
    head: list[bytes] = []
    for tag, vr, value in meta:
        _put(head, tag, vr, value, False)
    parts = [bytes(128), b"DICM\2\0\0\0UL\4\0", _FOUR.pack(sum(map(len, head))), *head]
    try:
        _write(dataset, bool(implicit), default_encoding, parts, 0)
    except _Odd:
        return None
    return b"".join(parts)


def _pixels_fit(dataset: FileDataset, compressed: bool) -> bool:
    element: Any = dataset._dict.get(cast(BaseTag, _PIXELS))
    if element is None:
        return True
    if not element.is_raw:
        return not compressed
    value = element.value or b""
    if (element.length == _UNDEFINED) != compressed:
        return False
    return value[:4] == _ITEM_BYTES if compressed else len(value) % 2 == 0  # pydicom evens it out


def _put(parts: list[bytes], tag: int, vr: str | None, value: bytes, implicit: bool) -> int:
    """Add an element of known length; return the bytes it takes."""
    size = len(value)
    if implicit:
        head = _IMPLICIT_HEAD.pack(tag >> 16, tag & 0xFFFF, size)
    else:
        known = _CODES.get(vr or "")
        if known is None:
            raise _Odd
        code, is_long = known
        if is_long:
            head = _LONG_HEAD.pack(tag >> 16, tag & 0xFFFF, code, size)
        elif size > 0xFFFF:
            raise _Odd
        else:
            head = _EXPLICIT_HEAD.pack(tag >> 16, tag & 0xFFFF, code, size)
    parts.append(head)
    parts.append(value)
    return len(head) + size


def _write(dataset: Dataset, implicit: bool, outer: Any, parts: list[bytes], depth: int) -> int:
    """Add all elements of a dataset; return the bytes they take."""
    elements: dict[Any, Any] = cast(Any, dataset._dict)
    charset = dataset._read_charset
    own = elements.get(_CHARSET)
    unchanged = charset == outer if own is None else own.is_raw
    if not unchanged or dataset.original_encoding != (implicit, True) or depth > _MAX_DEPTH:
        raise _Odd
    size = 0
    for tag in sorted(elements):
        element = elements[tag]
        if tag & 0xFFFF == 0 and tag >> 16 > 6:
            continue
        if not element.is_raw:
            if element.VR == "SQ":
                size += _write_items(element, implicit, charset, parts, depth)
            else:
                size += _write_decoded(element, implicit, charset, parts)
        elif element.length == _UNDEFINED:
            if tag != _PIXELS or implicit:
                raise _Odd
            head = _LONG_HEAD.pack(tag >> 16, tag & 0xFFFF, _CODES[element.VR][0], _UNDEFINED)
            parts += [head, element.value, _END_BYTES]
            size += len(head) + len(element.value) + len(_END_BYTES)
        elif element.value is None and element.VR == "UN":  # pydicom looks its representation up
            raise _Odd
        else:
            size += _put(parts, tag, element.VR, element.value or b"", implicit)
    return size


def _write_items(element: Any, implicit: bool, charset: Any, parts: list[bytes], depth: int) -> int:
    body: list[bytes] = []
    size = 0
    for item in element.value:
        inner: list[bytes] = []
        length = _write(item, implicit, charset, inner, depth + 1)
        undefined = item.is_undefined_length_sequence_item
        body += [_ITEM_BYTES, _FOUR.pack(_UNDEFINED if undefined else length), *inner]
        size += 8 + length
        if undefined:
            body.append(_ITEM_END_BYTES)
            size += 8
    tag, undefined = element.tag, element.is_undefined_length
    if undefined:
        body.append(_END_BYTES)
        size += 8
    stated = _UNDEFINED if undefined else size
    if implicit:
        head = _IMPLICIT_HEAD.pack(tag >> 16, tag & 0xFFFF, stated)
    else:
        head = _LONG_HEAD.pack(tag >> 16, tag & 0xFFFF, b"SQ", stated)
    parts.append(head)
    parts += body
    return len(head) + size


def _write_decoded(element: Any, implicit: bool, charset: Any, parts: list[bytes]) -> int:
    """An element that somebody looked at."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, True
    write_data_element(buffer, element, charset)
    data = buffer.getvalue()
    parts.append(data)
    return len(data)

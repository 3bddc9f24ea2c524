"""An image object without its image: no pixels, none in them, or fewer than the header says.

Such shells come of transfers that broke off and of archives that keep headers alone. Taken for images they are a
success that is none. Nothing is decoded here: lengths are compared.

Source: PS3.5 section 8.1.1 (native pixels), A.4 (encapsulated); PS3.3 C.7.6.3.1.2 (YBR_FULL_422).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["is_shell"]

_ROWS, _URL = 0x00280010, 0x00287FE0
_BITS = {0x7FE00010: 0, 0x7FE00008: 32, 0x7FE00009: 64}  # 0: as Bits Allocated says
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_UNDEFINED = 0xFFFFFFFF
_ITEM_BYTES = 8  # an offset table, which may be empty, before the first fragment


def is_shell(dataset: Dataset) -> bool:
    """Whether this is an image that lacks its pixels; an object that is no image is none."""
    elements: Any = dataset._dict
    if _ROWS not in elements:
        return False
    tag = next((tag for tag in _BITS if tag in elements), None)
    if tag is None:
        return _URL not in elements
    size, held = _size(elements[tag])
    syntax = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", "") or _NATIVE[0])
    if syntax not in _NATIVE or size == _UNDEFINED:
        return held is not None and held <= 2 * _ITEM_BYTES
    return size < _least(dataset, _BITS[tag])


def _size(element: Any) -> tuple[int, int | None]:
    """The length that the element states, and the bytes that are here; None where they were not read."""
    value = element.value
    held = len(value) if isinstance(value, bytes | bytearray | memoryview) else None
    length = getattr(element, "length", None) if getattr(element, "is_raw", False) else None
    if length is None or (held is not None and held < length):  # the file ends before what it states
        return held or 0, held
    return int(length), held


def _least(dataset: Dataset, bits: int) -> int:
    """Bytes that native pixels have at least; one where the header does not say enough."""

    def number(name: str, default: int) -> int:
        return int(dataset.get(name, default) or default)

    values = number("Rows", 1) * number("Columns", 1) * number("NumberOfFrames", 1) * number("SamplesPerPixel", 1)
    if str(dataset.get("PhotometricInterpretation", "")).endswith("422"):
        values = values * 2 // 3
    return max(1, -(-values * (bits or number("BitsAllocated", 1)) // 8))

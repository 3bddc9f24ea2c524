"""Overlays under Clean Graphics: a bitmap stays only if the pixel cleaner, shown it as a picture, finds nothing.

Only rows, columns, frames, type, origin and the bits of such a plane are kept; its labels, comments and everything of
curves (50xx) go. Without a pixel cleaner no overlay stays. Not here: finding text.

Source: PS3.15 section E.3.3; PS3.3 section C.9.2 (overlay plane).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["KEPT", "PixelCleaner", "PixelVerdict", "safe_overlays"]

KEPT = frozenset({0x0010, 0x0011, 0x0015, 0x0040, 0x0050, 0x0100, 0x0102, 0x3000})
_SHORTS = (0x0010, 0x0011, 0x0100, 0x0102)
_CT = "1.2.840.10008.5.1.4.1.1.2"
_EXPLICIT = "1.2.840.10008.1.2.1"
_MAX_PIXELS = 1 << 26


class PixelVerdict(Protocol):
    """What a pixel cleaner says of one object."""

    @property
    def ok(self) -> bool:
        """Whether nothing is left to be seen."""

    @property
    def reason(self) -> str:
        """Why not, in fixed words without values."""

    @property
    def changed(self) -> bool:
        """Whether pixels were changed."""

    @property
    def looked(self) -> bool:
        """Whether text was looked for and the last look found none."""


class PixelCleaner(Protocol):
    """Blanks burned-in text."""

    def clean(self, dataset: Dataset) -> PixelVerdict:
        """Clean the dataset's pixels in place."""


def safe_overlays(dataset: Dataset, cleaner: PixelCleaner | None) -> frozenset[int]:
    """Groups (60xx) of the overlays that may stay."""
    if cleaner is None or not dataset.original_encoding[1]:
        return frozenset()
    groups = {tag >> 16 for tag in dataset.keys() if tag >> 24 == 0x60 and not tag & 0x10000}
    return frozenset(group for group in groups if _is_clear(dataset, group, cleaner))


def _is_clear(dataset: Dataset, group: int, cleaner: PixelCleaner) -> bool:
    values = {element: _bytes(dataset, group << 16 | element) for element in KEPT}
    if any(len(values[element]) != 2 for element in _SHORTS) or len(values[0x0050]) != 4:
        return False
    rows, columns, allocated, position = (int.from_bytes(values[e], "little") for e in _SHORTS)
    frames = values[0x0015].strip(b" \0") or b"1"
    if allocated != 1 or position != 0 or not frames.isdigit() or values[0x0040].strip() not in (b"G", b"R"):
        return False
    pixels = rows * columns * int(frames)
    size = (pixels + 7) // 8
    if not 0 < pixels <= _MAX_PIXELS or len(values[0x3000]) != size + size % 2:
        return False
    verdict = cleaner.clean(_picture(values[0x3000], rows, columns, int(frames)))
    return verdict.ok and verdict.looked and not verdict.changed


def _bytes(dataset: Dataset, tag: int) -> bytes:
    element = dataset.get_item(tag) if tag in dataset else None
    if element is None or not element.is_raw or not isinstance(element.value, bytes):
        return b""
    return element.value


def _picture(bits: bytes, rows: int, columns: int, frames: int) -> Dataset:
    """The bitmap as an object of its own, eight bits a pixel."""
    import numpy as np
    from pydicom.dataset import Dataset, FileMetaDataset

    flat = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[: rows * columns * frames] * 255
    picture = Dataset()
    picture.file_meta = FileMetaDataset()
    picture.file_meta.TransferSyntaxUID = _EXPLICIT
    picture.SOPClassUID, picture.SOPInstanceUID, picture.Modality = _CT, "2.25.1", "CT"
    picture.Rows, picture.Columns, picture.NumberOfFrames = rows, columns, frames
    picture.SamplesPerPixel, picture.PhotometricInterpretation = 1, "MONOCHROME2"
    picture.BitsAllocated = picture.BitsStored = 8
    picture.HighBit, picture.PixelRepresentation = 7, 0
    data = flat.astype(np.uint8).tobytes()
    picture.add_new(0x7FE00010, "OB", data + b"\0" * (len(data) % 2))
    return picture

"""DICOM files as bytes: read without trust, judged for what shows in their pixels, written with a new file head.

Nothing of the preamble or of group 0002 passes except the transfer syntax. Not here: what happens to elements.

Source: PS3.10 section 7 (file format), PS3.15 section E.3.1 (pixel data).
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

from privacy.deid.inflated import check_inflated
from privacy.deid.shells import is_shell
from protocol.errors import CorsiaError, InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset

__all__ = [
    "IMPLEMENTATION_UID",
    "VERSION_NAME",
    "check_risk",
    "code_items",
    "guarded",
    "has_embedded_overlay",
    "has_pixels",
    "parse",
    "quiet",
    "serialise",
    "uid_at",
]

IMPLEMENTATION_UID = "2.25.74326417920948506075518149389364041828"
VERSION_NAME = "CORSIA_1"
_HEAD_BYTES = 8
_PREFIX = b"DICM"
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009, 0x00287FE0)
_ROOT = "1.2.840.10008."
_STORAGE = re.compile(r"1\.2\.840\.10008\.(5\.1\.4|1\.3|5\.1\.1)\.[0-9.]{1,30}")
_DIRECTORY = "1.2.840.10008.1.3.10"
# Secondary capture, encapsulated documents, visible-light video: pictures of screens, papers and faces.
_RISKY_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.104",
    "1.2.840.10008.5.1.4.1.1.77.1.1.1",
    "1.2.840.10008.5.1.4.1.1.77.1.2.1",
    "1.2.840.10008.5.1.4.1.1.77.1.4.1",
)
_RISKY_TYPES = frozenset({"SCREEN SAVE", "SCREENSHOT", "SCREEN SHOT", "SCREENSAVE", "PATIENT PROTOCOL"})


class _Source(io.BytesIO):
    """Bytes that notice when an element's head is cut: the parser takes that for the end. Zeros are padding."""

    cut = False

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size == _HEAD_BYTES and 0 < len(data) < size and any(data):
            self.cut = True
        return data


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the parser's warnings and log lines, which may quote values, out of everything."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with catch_warnings():
            simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


@contextmanager
def guarded() -> Iterator[None]:
    """Turn whatever a hostile file makes the parser raise into one error, and keep its warnings quiet.

    Raises:
        InputError: `input.dicom`, with the name of the exception only: its text may quote the file.
    """
    try:
        with quiet():
            yield
    except CorsiaError:
        raise
    except Exception as error:  # the parser raises anything on hostile bytes; each ends the same way
        raise InputError("input.dicom", f"the file does not parse ({type(error).__name__})") from None


def parse(data: bytes) -> FileDataset:
    """Read a file, with or without preamble and group 0002.

    Raises:
        InputError: `input.dicom` unless it is a DICOM object with a storage class and an instance UID.
    """
    from privacy.deid import plainfile

    with guarded():
        dataset = plainfile.read(data) or _parsed(data)
        if is_shell(dataset):
            raise InputError("input.dicom", "an image without its pixels")
        sop_class, instance = uid_at(dataset, _SOP_CLASS), uid_at(dataset, _SOP_INSTANCE)
        if _STORAGE.fullmatch(sop_class) is None or not instance:
            raise InputError("input.dicom", "not a DICOM object of a public storage class")
        if sop_class.startswith(_DIRECTORY):
            raise InputError("input.dicom", "a DICOMDIR names patients and files; it is never passed")
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", "") or "")
        if not syntax:
            implicit, little = dataset.original_encoding
            syntax = _ROOT + ("1.2" if implicit else "1.2.1" if little else "1.2.2")
            dataset.file_meta.TransferSyntaxUID = syntax
        if not syntax.startswith(_ROOT):
            raise InputError("input.dicom", "private transfer syntax")
    return dataset


def _parsed(data: bytes) -> FileDataset:
    """What pydicom makes of it, with as much patience as it has."""
    from pydicom import dcmread

    if data[128:132] == _PREFIX:
        check_inflated(data)
    source = _Source(data)
    dataset = dcmread(source, force=True)
    if source.cut:
        raise InputError("input.dicom", "the file ends before its end")
    for tag in [tag for tag in dataset.keys() if tag >> 16 in (0, 2)]:  # where group 0002 stands inside the dataset
        del dataset[tag]
    return dataset


def uid_at(dataset: Dataset, tag: int) -> str:
    """A UID, without decoding the element where it is raw."""
    element: Any = dataset._dict.get(tag)
    if element is None:
        return ""
    if element.is_raw:
        return (element.value or b"").decode("latin-1").rstrip(" \0")
    return str(element.value or "")


def check_risk(dataset: Dataset, *, cleaned: bool = False, emptied: bool = False) -> None:
    """Refuse objects whose pixels or attachments are likely to show who it is.

    Args:
        cleaned: their pixels go through a cleaner, which judges class, marks and embedded overlays itself.
        emptied: the document inside is going to be replaced.

    Raises:
        InputError: `input.pixels`.
    """
    if not (cleaned or emptied):
        _check_marks(dataset)
    if cleaned:
        return
    if has_embedded_overlay(dataset):
        raise InputError("input.pixels", "an overlay is kept inside the pixel data")


def has_embedded_overlay(dataset: Dataset) -> bool:
    """Whether a 60xx group describes graphics kept in unused bits of the pixels."""
    tags: Any = dataset._dict
    groups = {tag >> 16 for tag in tags if 0x6000 <= tag >> 16 <= 0x60FE and not tag & 0x10000}
    return any(group << 16 | 0x0010 in tags and group << 16 | 0x3000 not in tags for group in groups)


def _check_marks(dataset: Dataset) -> None:
    sop_class = str(dataset.get("SOPClassUID", ""))
    if any(sop_class == risky or sop_class.startswith(risky + ".") for risky in _RISKY_CLASSES):
        raise InputError("input.pixels", "a class of screenshots, papers or photographs")
    if str(dataset.get("BurnedInAnnotation", "") or "").strip().upper() not in ("", "NO"):
        raise InputError("input.pixels", "the file says that annotation is burned in")
    image_type = dataset.get("ImageType", None) or ()
    words = {str(word).strip().upper() for word in ([image_type] if isinstance(image_type, str) else image_type)}
    if words & _RISKY_TYPES:
        raise InputError("input.pixels", "a screenshot by its image type")


def has_pixels(dataset: Dataset) -> bool:
    """Whether there is something a pixel cleaner could look at."""
    return any(tag in dataset._dict for tag in _PIXELS)


def serialise(dataset: FileDataset) -> bytes:
    """Write with a zero preamble and a group 0002 made from scratch, in the transfer syntax it came in."""
    from privacy.deid import plainfile

    syntax, sop_class = str(dataset.file_meta.TransferSyntaxUID), uid_at(dataset, _SOP_CLASS)
    uids = (sop_class, uid_at(dataset, _SOP_INSTANCE), syntax, IMPLEMENTATION_UID)
    meta: list[tuple[int, str, bytes]] = [(0x00020001, "OB", b"\0\1")]
    for tag, uid in zip((0x00020002, 0x00020003, 0x00020010, 0x00020012), uids, strict=True):
        meta.append((tag, "UI", uid.encode("ascii") + b"\0" * (len(uid) % 2)))
    meta.append((0x00020013, "SH", VERSION_NAME.encode("ascii")))
    return plainfile.write(dataset, meta) or _written(dataset)


@lru_cache(maxsize=64)
def code_items(codes: tuple[tuple[str, str], ...], scheme: str, implicit: bool | None, little: bool | None) -> bytes:
    """The items of a code sequence (value, meaning), encoded."""
    from pydicom.dataset import Dataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_sequence_item

    target = DicomBytesIO()
    target.is_implicit_VR, target.is_little_endian = bool(implicit), little is not False
    for value, meaning in codes:
        item = Dataset()
        item.add_new(0x00080100, "SH", value)
        item.add_new(0x00080102, "SH", scheme)
        item.add_new(0x00080104, "LO", meaning)
        write_sequence_item(target, item, ["iso8859"])
    return bytes(target.getvalue())


def _written(dataset: FileDataset) -> bytes:
    """As pydicom writes it."""
    from pydicom import dcmwrite
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = VERSION_NAME
    dataset.file_meta, dataset.preamble = meta, bytes(128)
    target = io.BytesIO()
    dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()

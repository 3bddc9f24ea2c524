"""A bound on what a deflated DICOM object unpacks to: pydicom unpacks it whole, whatever is asked of it.

Whoever opens a file of unknown origin with pydicom asks here first. Knows of the format no more than where a dataset
begins, so that rules of de-identification and the search for what they left may both use it.

Source: DICOM PS3.5 A.5 (Deflated Explicit VR Little Endian), PS3.10 section 7.1.
"""

from __future__ import annotations

import zlib

from protocol.errors import InputError

__all__ = ["HEAD_BYTES", "MAX_INFLATED_BYTES", "check_inflated", "is_deflated"]

MAX_INFLATED_BYTES = 1 << 30
HEAD_BYTES = 1 << 16  # within which the transfer syntax stands
_STEP_BYTES = 1 << 20
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV")


def is_deflated(head: bytes) -> bool:
    """Whether a file, of which these are the first `HEAD_BYTES`, may be deflated."""
    return _DEFLATED in head[:HEAD_BYTES]


def check_inflated(data: bytes) -> None:
    """Refuse a deflated dataset that unpacks to more than `MAX_INFLATED_BYTES`, before it is unpacked.

    Args:
        data: a file with or without preamble; one that is not deflated passes.

    Raises:
        InputError: `input.dicom`.
    """
    if not is_deflated(data):
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    rest, size = data[_dataset_at(data) :], 0
    try:
        while rest:
            size += len(inflater.decompress(rest, _STEP_BYTES))
            rest = inflater.unconsumed_tail
            if size > MAX_INFLATED_BYTES:
                raise InputError("input.dicom", "the deflated dataset is larger than allowed")
    except zlib.error:
        raise InputError("input.dicom", "the deflated dataset is damaged") from None


def _dataset_at(data: bytes) -> int:
    """Where the dataset begins: behind the elements of group 0002, whatever their group length says."""
    at = 132 if data[128:132] == b"DICM" else 0
    while data[at : at + 2] == b"\x02\0":
        if data[at + 4 : at + 6] in _LONG:
            at += 12 + int.from_bytes(data[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    if at > len(data):
        raise InputError("input.dicom", "the head of the file is longer than the file")
    return at

"""Text files that come plain, gzipped or zstandard-compressed, into lines; bounded, and whole or not at all."""

from __future__ import annotations

import zlib

from pipelines.features.files import MAX_INFLATED, Content, content
from protocol.errors import InputError

__all__ = ["decode", "inflate", "rows"]


def inflate(data: bytes, code: str) -> bytes:
    """Unpack gzip (also many members, as bgzip writes) or pass on what is not packed.

    Raises:
        InputError: `code`, when the data are damaged, truncated or unpack to more than `MAX_INFLATED`.
    """
    if data[:4] == b"\x28\xb5\x2f\xfd":
        raise InputError(code, "zstandard-compressed text: unpack it first")
    if data[:2] != b"\x1f\x8b":
        return data
    parts: list[bytes] = []
    size = 0
    while data:
        member = zlib.decompressobj(wbits=31)
        try:
            part = member.decompress(data, MAX_INFLATED - size + 1)
        except zlib.error:
            raise InputError(code, "the compressed file is damaged") from None
        size += len(part)
        if size > MAX_INFLATED:
            raise InputError(code, "the compressed file unpacks to too much")
        if not member.eof:
            raise InputError(code, "the compressed file is truncated")
        parts.append(part)
        data = member.unused_data.lstrip(b"\0")
    return b"".join(parts)


def decode(data: Content, code: str) -> str:
    """The text of a file.

    Raises:
        InputError: `code`, when it is no UTF-8 text, or damaged.
    """
    try:
        return inflate(content(data), code).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(code, "the file is not UTF-8 text") from None


def rows(text: str, separator: str | None = None) -> list[list[str]]:
    """Fields of each line that is not blank."""
    return [line.split(separator) for line in text.splitlines() if line.strip()]

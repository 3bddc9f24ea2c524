"""A `Chunk` of an upload as bytes, written and read with no copy of its data beside the one that the wire needs.

Chunks carry nearly all that crosses the wall, and what a protobuf runtime does with a mebibyte (into its own memory,
out again, into a string) costs more than sealing it. The bytes are those of the message; whatever is not as `encode`
writes it is read by the runtime.

Source: https://protobuf.dev/programming-guides/encoding/ (varints, length-delimited records).
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.v1 import fleet_pb2 as pb

__all__ = ["Chunk", "decode", "encode"]

_ID, _OFFSET, _DATA = 0x0A, 0x10, 0x1A  # fields 1, 2, 3 with their wire types
_LONGEST = 10  # bytes of a varint


@dataclass(frozen=True, slots=True)
class Chunk:
    """`data` at byte `offset` of a parcel; the id stands in the first chunk of an upload."""

    parcel_id: str
    offset: int
    data: bytes | memoryview


def encode(chunk: Chunk) -> bytes:
    """The message's bytes, fields in their order, those that are empty left out."""
    name = chunk.parcel_id.encode()
    parts: list[bytes | memoryview] = []
    if name:
        parts += [bytes((_ID,)), _varint(len(name)), name]
    if chunk.offset:
        parts += [bytes((_OFFSET,)), _varint(chunk.offset)]
    if chunk.data:
        parts += [bytes((_DATA,)), _varint(len(chunk.data)), chunk.data]
    return b"".join(parts)


def decode(raw: bytes) -> Chunk:
    """Read a message's bytes; the data are a view of them.

    Raises:
        Exception: whatever the protobuf runtime raises for bytes that are no message.
    """
    try:
        made = _plain(raw)
    except IndexError:
        made = None
    if made is not None:
        return made
    message = pb.Chunk.FromString(raw)
    return Chunk(message.parcel_id, message.offset, message.data)


def _plain(raw: bytes) -> Chunk | None:
    """A message as `encode` writes one with data; None for any other. IndexError when it ends too early."""
    at, name, offset = 0, b"", 0
    if raw[at] == _ID:
        size, at = _read(raw, at + 1)
        name, at = raw[at : at + size], at + size
    if raw[at] == _OFFSET:
        offset, at = _read(raw, at + 1)
    if raw[at] != _DATA:
        return None
    size, at = _read(raw, at + 1)
    if size != len(raw) - at or offset >= 1 << 63 or not name.isascii():
        return None
    return Chunk(name.decode("ascii"), offset, memoryview(raw)[at:])


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def _read(raw: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends; IndexError for none."""
    value = 0
    for place in range(_LONGEST):
        byte = raw[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise IndexError("a varint is too long")

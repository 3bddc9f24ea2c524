"""Chunks as bytes: the same as the protobuf runtime's, whoever writes and whoever reads."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocol.chunk import Chunk, decode, encode
from protocol.v1 import fleet_pb2 as pb

NAMES = st.text(max_size=40)
OFFSETS = st.integers(0, (1 << 64) - 1)


@settings(deadline=None)
@given(NAMES, OFFSETS, st.binary(max_size=300))
@example("", 0, b"")
@example("a" * 32, 1 << 20, bytes(1 << 20))
def test_chunks_are_the_messages_of_the_protocol(name: str, offset: int, data: bytes) -> None:
    raw = pb.Chunk(parcel_id=name, offset=offset, data=data).SerializeToString()
    assert encode(Chunk(name, offset, memoryview(data))) == raw
    read = decode(raw)
    assert (read.parcel_id, read.offset, bytes(read.data)) == (name, offset, data)


@settings(deadline=None)
@given(st.binary(max_size=60))
@example(b"\x0a\x05ab")
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
@example(b"\x10\x05\x1a\x01x\x10\x06")  # a field twice: the last one holds
@example(b"\x1a\x01x\x1a\x01y")
@example(b"\x0a\x01\xff\x1a\x01y")  # not UTF-8
@example(b"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x1a\x01y")  # a varint of more than 64 bits
def test_any_bytes_are_read_as_the_runtime_reads_them(raw: bytes) -> None:
    try:
        expected = pb.Chunk.FromString(raw)
    except DecodeError:
        with pytest.raises(DecodeError):
            decode(raw)
        return
    read = decode(raw)
    assert (read.parcel_id, read.offset, bytes(read.data)) == (expected.parcel_id, expected.offset, expected.data)

"""Writes `tests/vectors/message/`: messages with one deviation each, built from the specification alone.

`Forge` follows docs/spec/message.md with protobuf and struct, without `pipelines.frames`, so that the two check one
another; tests use it for hostile messages too.

    python tests/vectors/make_message.py
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.proto.message_pb2 import Message
from flwr.proto.recorddict_pb2 import Array, ArrayRecord, MetricRecord, MetricRecordValue, RecordDict

HERE = Path(__file__).parent / "message"
PLAIN = (("w", "float32", (2,), np.array([3, 4], "<f4").tobytes()),)
TYPES = (
    ("a", "float32", (), np.array(1.5, "<f4").tobytes()),
    ("b", "float64", (2, 1), np.array([[1], [-2]], "<f8").tobytes()),
    ("c", "int32", (3,), np.array([1, -2, 3], "<i4").tobytes()),
    ("d", "int64", (0, 5), b""),
    ("e", "int64", (1,), np.array([1 << 40], "<i8").tobytes()),
)
Given = tuple[tuple[str, str, tuple[int, ...], bytes], ...]


@dataclass(frozen=True, kw_only=True)
class Forge:
    """A message in the making; `replace` a field to deviate at one place."""

    arrays: Given = PLAIN
    kind: str = "train"
    magic: bytes = b"CORMSG"
    version: int = 1
    zero: int = 0
    padding: bytes = b"\0"
    end: bytes = b""
    size_edit: Callable[[int], int] = field(default=lambda size: size)
    header_edit: Callable[[Any], Any] = field(default=lambda proto: None)
    raw_edit: Callable[[bytes], bytes] = field(default=lambda raw: raw)

    def proto(self) -> Any:
        made = Message()
        asked = made.metadata
        asked.run_id, asked.src_node_id, asked.dst_node_id, asked.ttl, asked.created_at = 9, 5, 1, 60.0, 1.0
        asked.reply_to_message_id, asked.group_id, asked.message_type = "abc", "3", self.kind
        record = ArrayRecord()
        for name, dtype, shape, _ in self.arrays:
            item = record.items.add(key=name)
            item.value.CopyFrom(Array(dtype=dtype, shape=shape, stype="numpy.ndarray"))
        metrics = MetricRecord()
        metrics.items.add(key="num-examples", value=MetricRecordValue(sint64=7))
        content = RecordDict()
        content.items.add(key="arrays", array_record=record)
        content.items.add(key="metrics", metric_record=metrics)
        made.content.CopyFrom(content)
        self.header_edit(made)
        return made

    def build(self) -> bytes:
        header = self.raw_edit(self.proto().SerializeToString(deterministic=True))
        made = struct.pack(">6sBBQ", self.magic, self.version, self.zero, self.size_edit(len(header))) + header
        for _, _, _, data in self.arrays:
            made += self.padding * (-len(made) % 8) + data
        return made + self.end


def arrays_of(proto: Any) -> Any:
    return proto.content.items[0].array_record.items


def edited(change: Callable[[Any], Any]) -> bytes:
    return Forge(header_edit=change).build()


def declared(**fields: Any) -> bytes:
    """The one array declared otherwise than it is."""

    def change(proto: Any) -> None:
        array = arrays_of(proto)[0].value
        for name, value in fields.items():
            if name == "shape":
                del array.shape[:]
                array.shape.extend(value)
            else:
                setattr(array, name, value)

    return edited(change)


def _twice(proto: Any) -> None:
    arrays_of(proto).add().CopyFrom(arrays_of(proto)[0])


def _error_too(proto: Any) -> None:
    proto.error.code, proto.error.reason = 2, "input.rows"


def _overlong(raw: bytes) -> bytes:
    """Field 1 of the metadata with a varint that is a byte longer than it must be."""
    at = raw.index(b"\x08\x09")
    return raw[:1] + bytes([raw[1] + 1]) + raw[2:at] + b"\x08\x89\x00" + raw[at + 2 :]


def _unknown(raw: bytes) -> bytes:
    return raw + b"\xfa\x7f\x03hid"


def vectors() -> dict[str, tuple[str, str, bytes]]:
    """Name -> what is expected, why, the bytes."""
    plain, no = Forge(), "input.message"
    whole = plain.build()
    three = replace(plain, arrays=(("v", "float32", (1,), b"\0" * 4), *PLAIN))
    return {
        "ok-train": ("success", "one float32 array", whole),
        "ok-types": ("success", "all types, a scalar, an empty array, padding", Forge(arrays=TYPES).build()),
        "ok-no-arrays": ("success", "an empty array record", Forge(arrays=()).build()),
        "ok-error": ("success", "an error instead of content",
                     Forge(arrays=(), header_edit=lambda p: (p.ClearField("content"), _error_too(p))).build()),
        "empty": (no, "no bytes", b""),
        "bad-magic": (no, "another magic", replace(plain, magic=b"CORSIA").build()),
        "bad-version": (no, "version 2", replace(plain, version=2).build()),
        "reserved-set": (no, "the eighth byte is 1", replace(plain, zero=1).build()),
        "header-zero": (no, "a header of no bytes", replace(plain, size_edit=lambda _: 0).build()),
        "header-2-63": (no, "a header of 2^63 bytes", replace(plain, size_edit=lambda _: 1 << 63).build()),
        "header-beyond-end": (no, "a header past the end", replace(plain, size_edit=lambda n: n + 99).build()),
        "header-short": (no, "a length 1 less", replace(plain, size_edit=lambda n: n - 1).build()),
        "header-unknown-field": (no, "an unknown field", replace(plain, raw_edit=_unknown).build()),
        "header-overlong": (no, "a varint longer than it must be", replace(plain, raw_edit=_overlong).build()),
        "header-data": (no, "NPY bytes inside the header", declared(data=b"hidden")),
        "no-content": (no, "neither content nor error", edited(lambda p: p.ClearField("content"))),
        "both": (no, "content and error", edited(_error_too)),
        "name-twice": (no, "two arrays of one name", edited(_twice)),
        "dtype-object": (no, "dtype object", declared(dtype="object")),
        "dtype-big-endian": (no, "dtype >f4", declared(dtype=">f4")),
        "dtype-float16": (no, "a type that does not travel", declared(dtype="float16")),
        "dtype-wider": (no, "dtype float64 of float32 bytes", declared(dtype="float64")),
        "stype-pickle": (no, "another serialisation", declared(stype="pickle")),
        "shape-larger": (no, "one more element than there is", declared(shape=(3,))),
        "shape-smaller": (no, "one element less than there is", declared(shape=(1,))),
        "shape-negative": (no, "a negative size", declared(shape=(-2,))),
        "shape-2-62": (no, "2^62 elements", declared(shape=(1 << 30, 1 << 30, 4))),
        "shape-65-dims": (no, "more dimensions than NumPy has", declared(shape=(1,) * 64 + (2,))),
        "truncated": (no, "the last byte is missing", whole[:-1]),
        "trailing": (no, "one byte more", replace(plain, end=b"\0").build()),
        "padding-set": (no, "a padding byte that is not 0", replace(three, padding=b"\x01").build()),
        "not-padded": (no, "no padding", replace(three, padding=b"").build()),
    }  # fmt: skip


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for old in HERE.iterdir():
        old.unlink()
    for name, (expect, why, data) in sorted(vectors().items()):
        (HERE / f"{name}.bin").write_bytes(data)
        (HERE / f"{name}.json").write_text(json.dumps({"expect": expect, "why": why}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The only door between `pipelines` and flwr: names used, messages as bytes, and what a message holds.

Everything below `central` that touches Flower imports it from here, so that a new release is met in one place
(`tests/contract/test_flower_contract.py`). Nothing here opens a socket, starts a thread or unpickles. A message's bytes
are `docs/spec/message.md`: Flower's own protobuf without the arrays, then the arrays as they lie in memory
(`pipelines.frames`); what is not exactly that is refused.
"""

from __future__ import annotations

import copy
import io
import json
import logging
import math
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import DecodeError
from numpy.lib import format as npy

for _name in ("FLWR_TELEMETRY_ENABLED", "FLWR_ENABLE_EVENT_LOG"):
    os.environ[_name] = "0"
for _name in ("FLWR_DISABLE_UPDATE_CHECK", "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"):
    os.environ[_name] = "1"

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.common.constant import ErrorCode  # noqa: E402
from flwr.common.serde import message_from_proto, message_to_proto  # noqa: E402
from flwr.proto.message_pb2 import Message as PbMessage  # noqa: E402

from pipelines import frames  # noqa: E402
from protocol.errors import InputError  # noqa: E402

logging.getLogger("flwr").handlers.clear()  # flwr installs a console handler of its own; ours decide
logging.getLogger("flwr").setLevel(logging.WARNING)

__all__ = [
    "ARRAYS",
    "CONFIG",
    "EXAMPLES",
    "LOSS",
    "MALFORMED",
    "METRICS",
    "Array",
    "ArrayRecord",
    "Arrays",
    "ClientApp",
    "Context",
    "Held",
    "Message",
    "PbMessage",
    "RecordDict",
    "Shapes",
    "array_record",
    "arrays_of",
    "config_record",
    "error_reply",
    "measured",
    "message_from_bytes",
    "message_from_proto",
    "message_head",
    "message_parts",
    "message_to_bytes",
    "message_to_proto",
    "metric_record",
    "norm_of",
    "record_of",
    "reply",
    "shapes_of",
    "views_of",
]

Arrays = dict[str, np.ndarray[Any, Any]]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"  # keys of a message's records
LOSS = "train-loss"  # of the received model on the site's rows, where a strategy asks for it
EXAMPLES = "num-examples"  # the weight of a reply, by Flower's convention
MAX_ARRAYS = 100_000
_NUMPY = "numpy.ndarray"  # Flower's name for NPY bytes
_KINDS = {METRICS: MetricRecord, CONFIG: ConfigRecord}
MALFORMED = (DecodeError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, MemoryError)


class Held(Array):  # type: ignore[misc]
    """A Flower Array that holds its numbers as they are; the NPY bytes are made for who asks for them.

    Args:
        array: of plain numbers; held, not copied, so that it must not change afterwards.
        once: `numpy()` gives the array itself, and this object lets go of it: for a large one that has one reader.
    """

    def __init__(self, array: np.ndarray[Any, Any], *, once: bool = False) -> None:
        held = array.view()
        held.flags.writeable = False
        self.__dict__.update(dtype=str(array.dtype), shape=tuple(array.shape), stype=_NUMPY, _held=held, _once=once)

    @property
    def data(self) -> bytes:
        """NPY bytes, as Flower's own Array holds them."""
        target = io.BytesIO()
        np.save(target, self.view(), allow_pickle=False)
        return target.getvalue()

    def view(self) -> np.ndarray[Any, Any]:
        """The numbers, read-only."""
        if self.__dict__["_held"] is None:
            raise InputError("input.message", "an array that has been given away")
        return self.__dict__["_held"]  # type: ignore[no-any-return]

    def numpy(self) -> np.ndarray[Any, Any]:
        """A fresh array, as Flower's own Array gives."""
        given = self.view()
        if not self.__dict__["_once"]:
            return given.copy()
        self.__dict__["_held"] = None
        return given


def message_to_bytes(message: Message, *, run_id: int | None = None, message_id: str | None = None) -> bytes:
    """A message as bytes; `run_id` and `message_id` are set as a transport would. Raises as `message_parts`."""
    return b"".join(message_parts(message, run_id=run_id, message_id=message_id))


def message_parts(
    message: Message, *, run_id: int | None = None, message_id: str | None = None
) -> list[bytes | memoryview]:
    """As `message_to_bytes`, in pieces: those of arrays are views of them, so that nothing large is copied.

    Raises:
        InputError: `input.message` for what does not travel: other arrays than plain numbers, too many of them.
    """
    try:
        arrays = [_numbers(a) for record in _array_records(message) for a in record.values()]
        proto = message_to_proto(_hollow(message))
        if run_id is not None:
            proto.metadata.run_id = run_id
        if message_id is not None:
            proto.metadata.message_id = message_id
        return frames.framed(proto.SerializeToString(deterministic=True), arrays)
    except MALFORMED:
        raise InputError("input.message", "a message that does not travel") from None


def message_from_bytes(raw: bytes | memoryview) -> Message:
    """Read a message; its arrays are views of `raw`.

    Raises:
        InputError: `input.message` for bytes that are not exactly one message in its one encoding (unknown fields
            and gaps, in which anything could be hidden, are refused).
    """
    try:
        whole = memoryview(raw).toreadonly()
        message = _headed(whole)
        records = list(_array_records(message))
        names = [(record, name) for record in records for name in record]
        places = [(record[name].dtype, tuple(record[name].shape)) for record, name in names]
        for (record, name), array in zip(names, frames.views(whole, places), strict=True):
            record[name] = Held(array)
        return message
    except MALFORMED:
        raise InputError("input.message", "not a message") from None


def message_head(source: BinaryIO) -> Message:
    """The message at the head of a file without its array records: who asks whom for what.

    Raises:
        InputError: `input.message`.
    """
    try:
        prefix = source.read(frames.PREFIX_BYTES)
        message = _headed(memoryview(prefix + source.read(frames.header_size(prefix))))
    except MALFORMED:
        raise InputError("input.message", "not a message") from None
    if message.has_content():
        for name in [name for name, record in message.content.items() if isinstance(record, ArrayRecord)]:
            del message.content[name]
    return message


def _headed(raw: memoryview) -> Message:
    """The message that the header alone says, with empty arrays."""
    end = frames.PREFIX_BYTES + frames.header_size(raw)
    header = bytes(raw[frames.PREFIX_BYTES : end])
    message = message_from_proto(PbMessage.FromString(header))
    if message.has_content() == message.has_error():
        raise ValueError("content")
    arrays = [array for record in _array_records(message) for array in record.values()]
    if len(arrays) > MAX_ARRAYS or any(array.data or array.stype != _NUMPY for array in arrays):
        raise ValueError("arrays")
    if message_to_proto(message).SerializeToString(deterministic=True) != header:
        raise ValueError("not canonical")
    return message


def record_of(message: Message, key: str) -> Any:
    """The record under a key, of the kind that belongs there.

    Flower's `content.array_records` and its like hold the whole message in a cycle until garbage is collected: for a
    large model that is too late.

    Raises:
        KeyError: there is none, or one of another kind.
    """
    found = message.content[key]
    if not isinstance(found, _KINDS.get(key, ArrayRecord)):
        raise KeyError(key)
    return found


def _array_records(message: Message) -> list[ArrayRecord]:
    records = message.content.values() if message.has_content() else ()
    return [record for record in records if isinstance(record, ArrayRecord)]


def _hollow(message: Message) -> Message:
    """The same message with arrays of no bytes."""
    if not message.has_content():
        return message
    made, content = copy.copy(message), RecordDict()
    for key, record in message.content.items():
        content[key] = record
        if isinstance(record, ArrayRecord):
            content[key] = ArrayRecord({k: Array(a.dtype, tuple(a.shape), _NUMPY, b"") for k, a in record.items()})
    made.content = content
    return made


def reply(to: Message, content: RecordDict) -> Message:
    """A reply whose bytes depend on the instruction and the content alone: a retry sends the same bytes."""
    made = Message(content, reply_to=to)
    made.metadata.__dict__["_created_at"] = to.metadata.created_at
    made.metadata.ttl = to.metadata.ttl
    return made


def error_reply(to: Message, code: str) -> Message:
    """An error reply; its reason is an error code, never a text that could quote data."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, code), reply_to=to)


def array_record(arrays: Mapping[str, np.ndarray[Any, Any]], *, once: bool = False) -> ArrayRecord:
    """Named arrays as an ArrayRecord (C order) that holds them; they must not change afterwards.

    Args:
        once: the record has one reader (`Held`).
    """
    record = ArrayRecord()  # its constructor would copy
    for name, value in arrays.items():
        record[name] = Held(np.asarray(value, order="C"), once=once)
    return record


def metric_record(values: Mapping[str, int | float]) -> MetricRecord:
    """Named numbers as a MetricRecord."""
    return MetricRecord(dict(values))


def config_record(
    round_: int, declared: Shapes, metrics: tuple[str, ...] = (), **extra: int | str | bytes
) -> ConfigRecord:
    """The instruction's configuration: round, and what the reply may hold."""
    names = [EXAMPLES, *(m for m in metrics if m != EXAMPLES)]
    declaration = {"arrays": {k: [d, list(s)] for k, (d, s) in declared.items()}, "metrics": names}
    return ConfigRecord({"server-round": round_, "reply": json.dumps(declaration, sort_keys=True), **extra})


def arrays_of(record: ArrayRecord) -> Arrays:
    """An ArrayRecord's arrays, writable copies. Raises as `views_of`."""
    return {name: value.copy() for name, value in views_of(record).items()}


def views_of(record: ArrayRecord) -> Arrays:
    """An ArrayRecord's arrays, read-only and not copied.

    Raises:
        InputError: `input.message` when an array is none of plain numbers.
    """
    return {str(name): _numbers(array) for name, array in record.items()}


def norm_of(arrays: Mapping[str, np.ndarray[Any, Any]]) -> float:
    """L2 norm over all float arrays together; infinite or NaN where they are not finite."""
    return measured(arrays)[0]


def measured(arrays: Mapping[str, np.ndarray[Any, Any]]) -> tuple[float, bool]:
    """The norm as `norm_of`, and whether all numbers are finite."""
    found = [frames.squares(array) for array in arrays.values()]
    total = sum(part for part, _ in found)
    return (math.sqrt(total) if total >= 0 else math.nan), all(finite for _, finite in found)


def shapes_of(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Shapes:
    """Name -> (dtype, shape)."""
    return {name: (str(value.dtype), tuple(value.shape)) for name, value in arrays.items()}


def _numbers(array: Array) -> np.ndarray[Any, Any]:
    """The numbers of one Array: held as they are, or from NPY bytes; read-only, in C order."""
    if isinstance(array, Held):
        return array.view()
    try:
        if array.stype != _NUMPY:
            raise ValueError("stype")
        size, shape = frames.array_bytes(array.dtype, array.shape), tuple(array.shape)
        head = io.BytesIO()
        npy.write_array_header_1_0(head, {"descr": np.dtype(array.dtype).str, "fortran_order": False, "shape": shape})
        data, start = memoryview(array.data), head.tell()
        if data[:start] != head.getvalue() or size != len(data) - start:
            raise ValueError("not the claimed array")
        return np.frombuffer(data[start:], dtype=array.dtype).reshape(shape) if size else np.empty(shape, array.dtype)
    except MALFORMED:
        raise InputError("input.message", "an array is malformed") from None

"""The only door between `pipelines` and flwr: names used, messages as bytes, and what a message holds.

Everything below `central` that touches Flower imports it from here, so that a new release is met in one place
(`tests/contract/test_flower_contract.py`). Nothing here opens a socket, starts a thread or unpickles: arrays are
read from NPY headers by hand, and a message that is not exactly what Flower would write is refused.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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

from protocol.errors import InputError  # noqa: E402

logging.getLogger("flwr").handlers.clear()  # flwr installs a console handler of its own; ours decide
logging.getLogger("flwr").setLevel(logging.WARNING)

__all__ = [
    "ARRAYS",
    "CONFIG",
    "EXAMPLES",
    "LOSS",
    "METRICS",
    "Arrays",
    "ClientApp",
    "Context",
    "Message",
    "MessageShape",
    "RecordDict",
    "ReplyShape",
    "Shapes",
    "array_record",
    "arrays_of",
    "config_record",
    "describe_message",
    "describe_reply",
    "error_reply",
    "message_from_bytes",
    "message_to_bytes",
    "metric_record",
    "reply",
    "shapes_of",
]

Arrays = dict[str, np.ndarray[Any, Any]]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"  # keys of a message's records
LOSS = "train-loss"  # of the received model on the site's rows, where a strategy asks for it
EXAMPLES = "num-examples"  # the weight of a reply, by Flower's convention
MAX_MESSAGE_BYTES = (1 << 31) - 1  # protobuf's own bound
MAX_ARRAYS = 100_000
_DTYPES = frozenset({"float32", "float64", "int32", "int64"})
_MALFORMED = (DecodeError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, MemoryError)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageShape:
    """What an instruction is and what it lets a site answer.

    Attributes:
        kind: Flower's message type: `query.prepare`, `train` or `evaluate`.
        message_id: the id that the reply must name.
        round: the server's round, 0 for the preparation.
        arrays: name -> (dtype, shape) of the one ArrayRecord a reply must hold, exactly.
        metrics: names that the one MetricRecord may hold; `num-examples` is always among them.
    """

    kind: str
    message_id: str
    round: int
    arrays: Shapes
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyShape:
    """What a reply holds; what the egress gate and the federation both judge.

    Attributes:
        kind: Flower's message type.
        reply_to: the id of the instruction it answers.
        arrays: name -> (dtype, shape), read from the arrays' own bytes.
        metrics: name -> value.
        norm: L2 norm over all float arrays together; NaN or infinity where they are not finite.
        finite: whether every array element and metric is finite.
        error: the reason of an error reply (a code of `protocol/errors.py`), else None.
    """

    kind: str
    reply_to: str
    arrays: Shapes = field(default_factory=dict)
    metrics: Mapping[str, int | float] = field(default_factory=dict)
    norm: float = 0.0
    finite: bool = True
    error: str | None = None


def message_to_bytes(message: Message, *, run_id: int | None = None, message_id: str | None = None) -> bytes:
    """A Flower message as protobuf bytes; `run_id` and `message_id` are set as a transport would set them."""
    proto = message_to_proto(message)
    if run_id is not None:
        proto.metadata.run_id = run_id
    if message_id is not None:
        proto.metadata.message_id = message_id
    return bytes(proto.SerializeToString(deterministic=True))


def message_from_bytes(raw: bytes) -> Message:
    """Read a Flower message.

    Raises:
        InputError: `input.message` for bytes that are not exactly one message in Flower's own encoding (unknown
            fields, in which anything could be hidden, are refused).
    """
    try:
        if len(raw) > MAX_MESSAGE_BYTES:
            raise ValueError("too large")
        message = message_from_proto(PbMessage.FromString(raw))
        if message.has_content() == message.has_error() or message_to_bytes(message) != raw:
            raise ValueError("not canonical")
        return message
    except _MALFORMED:
        raise InputError("input.message", "not a Flower message") from None


def reply(to: Message, content: RecordDict) -> Message:
    """A reply whose bytes depend on the instruction and the content alone: a retry sends the same bytes."""
    made = Message(content, reply_to=to)
    made.metadata.__dict__["_created_at"] = to.metadata.created_at
    made.metadata.ttl = to.metadata.ttl
    return made


def error_reply(to: Message, code: str) -> Message:
    """An error reply; its reason is an error code, never a text that could quote data."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, code), reply_to=to)


def array_record(arrays: Mapping[str, np.ndarray[Any, Any]]) -> ArrayRecord:
    """Named arrays as an ArrayRecord (C order)."""
    return ArrayRecord({name: Array(np.asarray(value, order="C")) for name, value in arrays.items()})


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
    """An ArrayRecord's arrays, writable copies.

    Raises:
        InputError: `input.message` when an array's bytes are not a plain numeric NPY of the size they claim.
    """
    return {str(name): _read_npy(array) for name, array in record.items()}


def shapes_of(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Shapes:
    """Name -> (dtype, shape)."""
    return {name: (str(value.dtype), tuple(value.shape)) for name, value in arrays.items()}


def describe_message(raw: bytes) -> MessageShape:
    """What an instruction declares.

    Raises:
        InputError: `input.message`.
    """
    message = message_from_bytes(raw)
    try:
        config = message.content.config_records[CONFIG]
        declared = json.loads(str(config["reply"]))
        shapes = {str(k): (_dtype(d), tuple(_size(n) for n in s)) for k, (d, s) in declared["arrays"].items()}
        return MessageShape(
            kind=str(message.metadata.message_type),
            message_id=str(message.metadata.message_id),
            round=_size(config["server-round"]),
            arrays=shapes,
            metrics=tuple(str(m) for m in declared["metrics"]),
        )
    except _MALFORMED:
        raise InputError("input.message", "the instruction does not declare its reply") from None


def describe_reply(raw: bytes, instruction: bytes | None = None) -> ReplyShape:
    """What a reply holds, read defensively: the bytes may come from any code.

    Args:
        raw: the reply.
        instruction: where given, the reply's metadata must be the ones that follow from it, so that nothing can be
            said in them.

    Raises:
        InputError: `input.message` unless the reply is an error, or exactly one ArrayRecord and one MetricRecord of
            plain numbers under the keys that this product uses.
    """
    message = message_from_bytes(raw)
    if instruction is not None:
        _check_metadata(message, message_from_bytes(instruction))
    return describe(message)


def describe(message: Message) -> ReplyShape:
    """As `describe_reply`, of a message that has been read."""
    kind, reply_to = str(message.metadata.message_type), str(message.metadata.reply_to_message_id)
    if message.has_error():
        return ReplyShape(kind=kind, reply_to=reply_to, error=str(message.error.reason)[:64])
    try:
        content = message.content
        if set(content) != {ARRAYS, METRICS} or len(content[ARRAYS]) > MAX_ARRAYS:
            raise ValueError("records")
        metrics = {str(k): _number(v) for k, v in content.metric_records[METRICS].items()}
        arrays = arrays_of(content.array_records[ARRAYS])
    except _MALFORMED:
        raise InputError("input.message", "the reply holds something else than arrays and numbers") from None
    with np.errstate(over="ignore", invalid="ignore"):
        squares = sum(float(np.sum(np.square(a, dtype=np.float64))) for a in arrays.values() if a.dtype.kind == "f")
    finite = all(bool(np.isfinite(a).all()) for a in arrays.values()) and all(map(math.isfinite, metrics.values()))
    norm = math.sqrt(squares) if squares >= 0 else math.nan
    return ReplyShape(kind=kind, reply_to=reply_to, arrays=shapes_of(arrays), metrics=metrics, norm=norm, finite=finite)


def _check_metadata(message: Message, instruction: Message) -> None:
    made, asked = message.metadata, instruction.metadata
    pairs = (
        (made.run_id, asked.run_id),
        (made.message_id, ""),
        (made.src_node_id, asked.dst_node_id),
        (made.dst_node_id, asked.src_node_id),
        (made.reply_to_message_id, asked.message_id),
        (made.group_id, asked.group_id),
        (made.message_type, asked.message_type),
        (made.src_task_id or 0, asked.dst_task_id or 0),
        (made.dst_task_id or 0, asked.src_task_id or 0),
        (made.created_at, asked.created_at),
        (made.ttl, asked.ttl),
    )
    if any(a != b for a, b in pairs):
        raise InputError("input.message", "the reply's metadata do not follow from the instruction")


def _read_npy(array: Array) -> np.ndarray[Any, Any]:
    """The numbers of one Array, if its bytes are what NumPy writes for the claimed dtype and shape; parses nothing."""
    try:
        dtype, shape = np.dtype(_dtype(array.dtype)), tuple(_size(n) for n in array.shape)
        head = io.BytesIO()
        npy.write_array_header_1_0(head, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        data, start = bytes(array.data), head.tell()
        right = array.stype == "numpy.ndarray" and data[:start] == head.getvalue()
        if not right or math.prod(shape) * dtype.itemsize != len(data) - start:
            raise ValueError("not the claimed array")
        return np.frombuffer(data, dtype=dtype, offset=start).reshape(shape).copy()
    except _MALFORMED:
        raise InputError("input.message", "an array is malformed") from None


def _dtype(value: Any) -> str:
    if value not in _DTYPES:
        raise ValueError("dtype")
    return str(value)


def _size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("size")
    return value


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("number")
    return value

"""What an instruction declares and what a reply holds: what the egress gate and the federation both judge.

Read defensively: the bytes may come from any code. Pure; Flower is behind `pipelines.flower`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines import frames
from pipelines.flower import (
    ARRAYS,
    CONFIG,
    MALFORMED,
    MAX_ARRAYS,
    METRICS,
    Message,
    Shapes,
    measured,
    message_from_bytes,
    record_of,
    shapes_of,
    views_of,
)
from protocol.errors import InputError

__all__ = ["SHOWN_DIGITS", "MessageShape", "ReplyShape", "declared", "describe", "describe_message", "describe_reply"]

SHOWN_DIGITS = 3  # after the point, of a metric that leaves for one site


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


def describe_message(raw: bytes | memoryview) -> MessageShape:
    """What an instruction declares.

    Raises:
        InputError: `input.message`.
    """
    return declared(message_from_bytes(raw))


def declared(message: Message) -> MessageShape:
    """As `describe_message`, of a message that has been read."""
    try:
        config = record_of(message, CONFIG)
        said = json.loads(str(config["reply"]))
        shapes = {str(k): (_dtype(d), tuple(_size(n) for n in s)) for k, (d, s) in said["arrays"].items()}
        return MessageShape(
            kind=str(message.metadata.message_type),
            message_id=str(message.metadata.message_id),
            round=_size(config["server-round"]),
            arrays=shapes,
            metrics=tuple(str(m) for m in said["metrics"]),
        )
    except MALFORMED:
        raise InputError("input.message", "the instruction does not declare its reply") from None


def describe_reply(raw: bytes | memoryview, instruction: bytes | memoryview | Message | None = None) -> ReplyShape:
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
        asked = instruction if isinstance(instruction, Message) else message_from_bytes(instruction)
        _check_metadata(message, asked)
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
        metrics = {str(k): _number(v) for k, v in record_of(message, METRICS).items()}
        arrays = views_of(record_of(message, ARRAYS))
    except MALFORMED:
        raise InputError("input.message", "the reply holds something else than arrays and numbers") from None
    norm, finite = measured(arrays)
    finite = finite and all(map(math.isfinite, metrics.values()))
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


def _dtype(value: Any) -> str:
    if value not in frames.DTYPES:
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

"""Messages as bytes, and the defensive reading of replies that the egress gate and the federation rely on."""

from __future__ import annotations

import io
import math
from contextlib import suppress
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from central.federation.flower import identify
from pipelines import flower, replies
from pipelines.flower import ARRAYS, CONFIG, METRICS, RecordDict
from protocol.errors import InputError

identify(1)
DECLARED = {"w": ("float32", (2,))}


@cache
def instruction() -> bytes:
    record = RecordDict({CONFIG: flower.config_record(3, DECLARED, ("c-index",), attempt=0)})
    return flower.message_to_bytes(flower.Message(record, 5, "train", group_id="3"), run_id=9, message_id="abc")


def answer(arrays=None, metrics=None, extra=None) -> bytes:
    arrays = {"w": np.array([3.0, 4.0], np.float32)} if arrays is None else arrays
    content = {ARRAYS: flower.array_record(arrays), METRICS: flower.metric_record(metrics or {"num-examples": 7})}
    made = flower.reply(flower.message_from_bytes(instruction()), RecordDict({**content, **(extra or {})}))
    return flower.message_to_bytes(made)


def test_an_instruction_declares_what_may_come_back() -> None:
    shape = replies.describe_message(instruction())
    assert (shape.kind, shape.message_id, shape.round) == ("train", "abc", 3)
    assert shape.arrays == DECLARED
    assert shape.metrics == ("num-examples", "c-index")


def test_a_reply_is_described() -> None:
    shape = replies.describe_reply(answer(), instruction())
    assert shape.arrays == DECLARED
    assert shape.metrics == {"num-examples": 7}
    assert (shape.norm, shape.finite, shape.error, shape.reply_to) == (5.0, True, None, "abc")


def test_a_reply_depends_on_nothing_but_instruction_and_content() -> None:
    assert answer() == answer()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_told(value: float) -> None:
    assert not replies.describe_reply(answer({"w": np.array([value, 1], np.float32)})).finite
    assert not replies.describe_reply(answer(metrics={"num-examples": 1, "c-index": value})).finite


def test_the_norm_of_huge_values_does_not_overflow_silently() -> None:
    shape = replies.describe_reply(answer({"w": np.array([1e300, 1e300])}))
    assert shape.norm == math.inf


def test_an_error_reply_is_described_by_its_code() -> None:
    made = flower.error_reply(flower.message_from_bytes(instruction()), "input.rows")
    assert replies.describe_reply(flower.message_to_bytes(made)).error == "input.rows"


def test_other_records_are_refused() -> None:
    for extra in ({"more": flower.array_record({"x": np.zeros(1)})}, {"config": flower.config_record(1, {})}):
        with pytest.raises(InputError):
            replies.describe_reply(answer(extra=extra))


def _npy(array: np.ndarray, **kwargs) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, **kwargs)
    return sink.getvalue()


GOOD = _npy(np.array([1, 2], np.float32))


@pytest.mark.parametrize(
    ("data", "dtype", "shape", "stype"),
    [
        (GOOD, "float32", (3,), "numpy.ndarray"),
        (GOOD, "float64", (2,), "numpy.ndarray"),
        (GOOD, "float32", (2,), "raw"),
        (GOOD + b"hidden", "float32", (2,), "numpy.ndarray"),
        (GOOD[:-1], "float32", (2,), "numpy.ndarray"),
        (b"", "float32", (2,), "numpy.ndarray"),
        (b"\x93NUMPY\x01\x00", "float32", (2,), "numpy.ndarray"),
        (GOOD.replace(b"(2,)", b"( 2)", 1), "float32", (2,), "numpy.ndarray"),
        (GOOD.replace(b"(2,), }    ", b"(2,), } #hi", 1), "float32", (2,), "numpy.ndarray"),
        (GOOD.replace(b"(2,), }         ", b"(2000000000,), }", 1), "float32", (2000000000,), "numpy.ndarray"),
        (_npy(np.array([{}, {}], object), allow_pickle=True), "object", (2,), "numpy.ndarray"),
        (_npy(np.array(["ab", "cd"])), "<U2", (2,), "numpy.ndarray"),
        (_npy(np.asfortranarray(np.zeros((2, 2), np.float32))), "float32", (2, 2), "numpy.ndarray"),
    ],
)
def test_flower_arrays_that_are_not_plain_numbers_of_their_claimed_size_do_not_travel(
    data, dtype, shape, stype
) -> None:
    record = flower.ArrayRecord({"w": flower.Array(dtype, shape, stype, data)})
    for use in (
        flower.arrays_of,
        lambda r: flower.message_to_bytes(flower.Message(RecordDict({ARRAYS: r}), 5, "train")),
    ):
        with pytest.raises(InputError) as error:
            use(record)
        assert error.value.code == "input.message"


@pytest.mark.parametrize("field", ["group_id", "message_id", "message_type", "reply_to_message_id", "run_id", "ttl"])
def test_nothing_can_be_said_in_the_metadata(field: str) -> None:
    message = flower.message_from_bytes(answer())
    message.metadata.__dict__[f"_{field}"] = {"run_id": 10, "ttl": 12.5, "message_type": "evaluate"}.get(
        field, "secret"
    )
    replies.describe_reply(flower.message_to_bytes(message))
    with pytest.raises(InputError, match="metadata"):
        replies.describe_reply(flower.message_to_bytes(message), instruction())


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(InputError):
        replies.describe_reply(answer() + b"\xfa\x7f\x06secret")


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for read in (replies.describe_reply, replies.describe_message):
        with pytest.raises(InputError):
            read(raw)


@given(st.integers(0, len(answer()) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(at: int, value: int) -> None:
    raw = bytearray(answer())
    raw[at] = value
    with suppress(InputError):
        replies.describe_reply(bytes(raw), instruction())

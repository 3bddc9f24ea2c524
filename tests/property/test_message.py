"""Messages as bytes: the vectors of `docs/spec/message.md`, there and back, and any bytes in their place."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from central.federation.flower import identify
from pipelines import flower, frames, replies
from pipelines.flower import ARRAYS, CONFIG, METRICS, RecordDict
from protocol.errors import InputError
from tests.fuzzkit import COUNT, TRIPS
from tests.vectors.make_message import HERE, TYPES, Forge, declared, vectors

identify(1)
VECTORS = sorted(path.stem for path in HERE.glob("*.bin"))


def test_the_vectors_are_those_of_the_specification() -> None:
    assert {name: (HERE / f"{name}.bin").read_bytes() for name in VECTORS} == {k: v[2] for k, v in vectors().items()}


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name: str) -> None:
    raw, expect = (HERE / f"{name}.bin").read_bytes(), json.loads((HERE / f"{name}.json").read_text())["expect"]
    if expect == "success":
        assert flower.message_to_bytes(flower.message_from_bytes(raw)) == raw
        return
    for read in (flower.message_from_bytes, replies.describe_reply, replies.describe_message):
        with pytest.raises(InputError) as error:
            read(raw)
        assert error.value.code == expect


def test_the_worked_example() -> None:
    shape = replies.describe_reply((HERE / "ok-train.bin").read_bytes())
    assert (shape.arrays, shape.metrics, shape.norm) == ({"w": ("float32", (2,))}, {"num-examples": 7}, 5.0)


def test_every_type_is_read_as_it_was_written() -> None:
    read = flower.arrays_of(flower.message_from_bytes(Forge(arrays=TYPES).build()).content[ARRAYS])
    assert [(n, str(a.dtype), a.shape, a.tobytes()) for n, a in read.items()] == [*TYPES]


ARRAY = st.sampled_from(sorted(frames.DTYPES)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
RECORD = st.dictionaries(st.text(max_size=12), ARRAY, max_size=5)


@settings(max_examples=TRIPS, deadline=None)
@given(RECORD, RECORD, st.dictionaries(st.text(max_size=8), st.integers(-(2**63), 2**63 - 1) | st.floats(), max_size=3))
def test_there_and_back(first: dict, second: dict, metrics: dict) -> None:
    content = {ARRAYS: flower.array_record(first), "more": flower.array_record(second)}
    record = RecordDict({**content, METRICS: flower.metric_record(metrics), CONFIG: flower.config_record(3, {})})
    raw = flower.message_to_bytes(flower.Message(record, 5, "train", group_id="3"), run_id=9, message_id="m")
    read = flower.message_from_bytes(raw)
    for key, given_ in ((ARRAYS, first), ("more", second)):
        found = flower.arrays_of(read.content[key])
        assert [*found] == [*given_]
        for name, array in found.items():
            assert (array.dtype, array.shape, array.tobytes()) == (
                given_[name].dtype, given_[name].shape, given_[name].tobytes()
            )  # fmt: skip
            assert array.flags.writeable
    assert flower.message_to_bytes(read) == raw
    assert flower.message_head(io.BytesIO(raw)).metadata.message_id == "m"


@settings(max_examples=COUNT, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for made in (raw, Forge(arrays=(), raw_edit=lambda _: raw).build()):
        with suppress(InputError):
            assert flower.message_to_bytes(flower.message_from_bytes(made)) == made
        with suppress(InputError):
            flower.message_head(io.BytesIO(made))


GOOD = Forge(arrays=TYPES).build()


@settings(max_examples=COUNT, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.booleans())
def test_a_changed_or_missing_byte_changes_the_value_or_is_refused(at: int, value: int, cut: bool) -> None:
    raw = bytearray(GOOD)
    if cut:
        del raw[at]
    else:
        raw[at] = value
    with suppress(InputError):
        assert flower.message_to_bytes(flower.message_from_bytes(bytes(raw))) == bytes(raw)


@settings(max_examples=COUNT, deadline=None)
@given(
    st.lists(st.integers(-3, 2**31 - 1), max_size=6), st.sampled_from([*sorted(frames.DTYPES), "object", "<f4", "O"])
)
def test_a_shape_that_is_only_claimed_is_refused_without_memory(shape: list[int], dtype: str) -> None:
    raw = declared(shape=shape, dtype=dtype)
    with suppress(InputError):
        read = flower.views_of(flower.message_from_bytes(raw).content[ARRAYS])["w"]
        assert read.nbytes == 8


def test_a_header_above_the_limit_is_refused_on_both_sides() -> None:
    text = "x" * frames.MAX_HEADER_BYTES
    record = RecordDict({CONFIG: flower.config_record(3, {}, text=text)})
    with pytest.raises(InputError):
        flower.message_to_bytes(flower.Message(record, 5, "train", group_id="3"))
    with pytest.raises(InputError):
        flower.message_from_bytes(replace(Forge(), raw_edit=lambda raw: raw + b"\0" * frames.MAX_HEADER_BYTES).build())


def test_arrays_are_views_of_the_message_and_cannot_be_written() -> None:
    raw = Forge().build()
    view = flower.views_of(flower.message_from_bytes(raw).content[ARRAYS])["w"]
    assert np.shares_memory(view, np.frombuffer(raw, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_a_message_that_starts_anywhere_in_memory_is_read() -> None:
    raw = Forge(arrays=TYPES).build()
    for shift in range(1, 8):
        read = flower.message_from_bytes(memoryview(b"x" * shift + raw)[shift:])
        assert flower.message_to_bytes(read) == raw


def test_what_does_not_travel_is_refused_when_it_is_written() -> None:
    for array in (np.zeros(2, np.float16), np.zeros(2, ">f4"), np.array([{}], object), np.array(["a"])):
        record = RecordDict({ARRAYS: flower.array_record({"w": array})})
        with pytest.raises(InputError) as error:
            flower.message_to_bytes(flower.Message(record, 5, "train", group_id="3"))
        assert error.value.code == "input.message"


def test_arrays_in_another_order_of_memory_travel_in_c_order() -> None:
    fortran, sliced = np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(12.0)[::2]
    record = RecordDict({ARRAYS: flower.array_record({"f": fortran, "s": sliced})})
    raw = flower.message_to_bytes(flower.Message(record, 5, "train", group_id="3"))
    read = flower.arrays_of(flower.message_from_bytes(raw).content[ARRAYS])
    assert np.array_equal(read["f"], fortran)
    assert np.array_equal(read["s"], sliced)


def test_flowers_own_arrays_travel_too() -> None:
    own = flower.ArrayRecord({"w": flower.Array(np.array([3, 4], np.float32))})
    held = flower.array_record({"w": np.array([3, 4], np.float32)})
    assert held["w"].data == own["w"].data
    made = [flower.Message(RecordDict({ARRAYS: r}), 5, "train", group_id="3", ttl=9.0) for r in (own, held)]
    for message in made:
        message.metadata.__dict__["_created_at"] = 1.0
    assert flower.message_to_bytes(made[0]) == flower.message_to_bytes(made[1])


def test_no_size_is_bounded_by_two_gib() -> None:
    offsets, end = frames.buffers(16, [("float32", (1 << 30,)), ("float64", (1 << 30, 3)), ("int32", (1,))])
    assert offsets == [16, 16 + (4 << 30), 16 + (28 << 30)]
    assert end == 20 + (28 << 30)

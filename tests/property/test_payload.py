"""What lies inside a parcel: packing and unpacking a batch, and any bytes in its place."""

from __future__ import annotations

import json
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import IntegrityError
from protocol.parcel import Batch, Item, ItemKind, canonical_json, pack_batch, unpack_batch

FULL = 20 if os.environ.get("CORSIA_FULL") else 1

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,30}", fullmatch=True)
META = st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=9), max_size=3)
ITEMS = st.builds(
    Item,
    kind=st.sampled_from(ItemKind),
    name=NAMES,
    data=st.binary(max_size=200),
    persons=st.integers(0, 10**9),
    rows=st.integers(0, 10**9),
    meta=META,
)
BATCHES = st.builds(
    Batch,
    batch_id=st.text("0123456789abcdef", min_size=32, max_size=32),
    study_digest=st.text("0123456789abcdef", min_size=64, max_size=64),
    site=NAMES,
    part=st.integers(0, 10**6),
    last=st.booleans(),
    items=st.lists(ITEMS, max_size=4).map(tuple),
    withheld=st.dictionaries(NAMES, st.integers(0, 10**6), max_size=3),
)
EXAMPLE = b"".join(
    pack_batch(
        Batch(
            batch_id="a" * 32,
            study_digest="b" * 64,
            site="site-a",
            part=0,
            last=True,
            items=(Item(kind=ItemKind.TABLE, name="records.parquet", data=b"PAR1...", persons=3, rows=4),),
            withheld={"consent": 2},
        )
    )
)


def framed(value: object) -> bytes:
    raw = json.dumps(value).encode()
    return struct.pack(">Q", len(raw)) + raw


def refused_or_read(payload: bytes) -> Batch | None:
    try:
        return unpack_batch(payload)
    except IntegrityError as error:
        assert error.code == "parcel.payload"  # noqa: PT017
        return None


@settings(max_examples=200 * FULL, deadline=None)
@given(BATCHES)
def test_round_trip(batch: Batch) -> None:
    payload = b"".join(pack_batch(batch))
    assert unpack_batch(payload) == batch
    for wrong in (payload + b"\0", payload[:-1]):
        with pytest.raises(IntegrityError):
            unpack_batch(wrong)


@settings(max_examples=500 * FULL, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(payload: bytes) -> None:
    assert refused_or_read(payload) is None


@settings(max_examples=500 * FULL, deadline=None)
@given(st.integers(0, len(EXAMPLE) - 1), st.binary(max_size=9), st.integers(0, 20))
def test_changed_bytes(at: int, put: bytes, drop: int) -> None:
    refused_or_read(EXAMPLE[:at] + put + EXAMPLE[at + drop :])


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 2**20 + 1, 2**31])
def test_claimed_sizes(size: int) -> None:
    assert refused_or_read(struct.pack(">Q", size) + b"{}") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
HEAD = {"batch": "a", "study": "b", "site": "s", "part": 0, "last": True, "withheld": {}, "items": 1}
ITEM = {"kind": "table", "name": "a", "size": 0, "persons": 0, "rows": 0, "meta": {}}


@settings(max_examples=500 * FULL, deadline=None)
@given(st.sampled_from(sorted(HEAD)), st.sampled_from(sorted(ITEM)), JSON, st.booleans())
def test_any_value_of_any_member(of_head: str, of_item: str, value: object, in_head: bool) -> None:
    head = {**HEAD, of_head: value} if in_head else HEAD
    item = ITEM if in_head else {**ITEM, of_item: value}
    refused_or_read(framed(head) + framed(item))


@pytest.mark.parametrize("value", ["1e999", "-1e999", "NaN", "1e300", "[" * 50_000, '{"a":' * 50_000, "1" * 5000])
@pytest.mark.parametrize("name", ["persons", "rows", "size"])
def test_numbers_that_strain_a_parser(name: str, value: str) -> None:
    raw = json.dumps({**ITEM, name: "?"}).replace('"?"', value).encode()
    refused_or_read(framed(HEAD) + struct.pack(">Q", len(raw)) + raw)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\n", ".hidden", "-x", "a\0", "x" * 201, "é", 5, None, ["a"]])
def test_names_that_are_no_plain_file_names(name: object) -> None:
    with pytest.raises(IntegrityError):
        unpack_batch(framed(HEAD) + framed({**ITEM, "name": name}))


@settings(max_examples=200 * FULL, deadline=None)
@given(JSON.filter(lambda value: "nan" not in repr(value) and "inf" not in repr(value)))
def test_canonical_json_is_one_text_for_one_value(value: object) -> None:
    raw = canonical_json(value)
    assert canonical_json(json.loads(raw)) == raw
    assert raw.isascii()

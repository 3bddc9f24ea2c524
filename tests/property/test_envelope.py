"""Whatever happens to the bytes of a parcel: an IntegrityError and no plaintext, never anything else."""

from __future__ import annotations

import io
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.envelope import ParcelInfo, SecretKey, inspect, read_header, seal, unseal, verify
from privacy.envelope.header import parse_header
from protocol.errors import IntegrityError
from protocol.parcel import canonical_json

FULL = 20 if os.environ.get("CORSIA_FULL") else 1

SENDER, VAULT = SecretKey.from_bytes(b"\x21" * 32), SecretKey.from_bytes(b"\x22" * 32)
PAYLOAD = b"Rossi Mario RSSMRA80A01H501U " * 40
CHUNK = 1 << 20


def _parcel(payload: bytes, recipients: int = 1) -> bytes:
    target = io.BytesIO()
    info = ParcelInfo(parcel_id="a" * 32, study="b" * 64, site="site-a", content_type="records")
    others = [SecretKey.from_bytes(bytes((i,)) * 32).public for i in range(1, recipients)]
    seal([payload], target, info=info, recipients=[VAULT.public, *others], signer=SENDER)
    return target.getvalue()


SMALL = _parcel(PAYLOAD)
LARGE = _parcel(PAYLOAD * 2000)  # three chunks
HEAD = 12 + int.from_bytes(SMALL[8:12], "big")
BODY = len(SMALL) - 3413
REGIONS = {
    "magic": (0, 6),
    "version": (6, 8),
    "length": (8, 12),
    "header": (12, HEAD),
    "payload": (HEAD, BODY),
    "marker": (BODY, BODY + 8),
    "digest": (BODY + 8, BODY + 40),
    "ed25519": (BODY + 40, BODY + 104),
    "ml-dsa": (BODY + 104, len(SMALL)),
}


def refused(data: bytes) -> None:
    released: list[bytes] = []
    with pytest.raises(IntegrityError) as caught:
        released.extend(unseal(io.BytesIO(data), key=VAULT, sender=SENDER.public))
    assert not released
    assert caught.value.code.startswith("parcel.")
    for attempt in (
        lambda: verify(io.BytesIO(data), sender=SENDER.public),
        lambda: inspect(io.BytesIO(data)),
        lambda: read_header(io.BytesIO(data)),
    ):
        try:
            attempt()
        except IntegrityError as error:
            assert error.code.startswith("parcel.")  # noqa: PT017


@pytest.mark.parametrize("region", REGIONS)
@settings(max_examples=60 * FULL, deadline=None)
@given(data=st.data())
def test_a_changed_byte_in_every_region(region: str, data: st.DataObject) -> None:
    low, high = REGIONS[region]
    at = data.draw(st.integers(low, high - 1))
    value = data.draw(st.integers(0, 255).filter(lambda v: v != SMALL[at]))
    refused(SMALL[:at] + bytes((value,)) + SMALL[at + 1 :])


@pytest.mark.parametrize("region", REGIONS)
@settings(max_examples=40 * FULL, deadline=None)
@given(data=st.data())
def test_cut_filled_and_repeated_in_every_region(region: str, data: st.DataObject) -> None:
    low, high = REGIONS[region]
    start = data.draw(st.integers(low, high - 1))
    end = data.draw(st.integers(start + 1, len(SMALL)))
    filling = data.draw(st.binary(max_size=40) | st.just(SMALL[start:end] * 2))
    if filling != SMALL[start:end]:
        refused(SMALL[:start] + filling + SMALL[end:])


@settings(max_examples=150 * FULL, deadline=None)
@given(st.integers(0, len(SMALL) - 1))
def test_truncated_anywhere(size: int) -> None:
    refused(SMALL[:size])


@settings(max_examples=60 * FULL, deadline=None)
@given(st.integers(0, len(LARGE) - 1), st.integers(1, 255))
def test_several_chunks(at: int, change: int) -> None:
    refused(LARGE[:at])
    refused(LARGE[:at] + bytes((LARGE[at] ^ change,)) + LARGE[at + 1 :])


@settings(max_examples=500 * FULL, deadline=None)
@given(st.binary(max_size=9000), st.sampled_from([b"", b"CORSIA", b"CORSIA\x01\x01", SMALL[:12], SMALL[:HEAD]]))
def test_any_bytes_after_a_valid_start(tail: bytes, start: bytes) -> None:
    refused(start + tail)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["a" * 64, "b" * 32]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
GOOD = json.loads(SMALL[12:HEAD])


@settings(max_examples=500 * FULL, deadline=None)
@given(st.data())
def test_any_value_of_any_member(data: st.DataObject) -> None:
    changed = json.loads(json.dumps(GOOD))
    at = data.draw(st.sampled_from([changed, changed["recipients"][0]]))
    name = data.draw(st.sampled_from(sorted(at)) | st.text(max_size=8))
    at[name] = data.draw(JSON)
    raw = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()
    try:
        header = parse_header(raw)
    except IntegrityError as error:
        assert error.code == "parcel.format"  # noqa: PT017
    else:
        assert canonical_json(changed) == raw
        assert (header.info.study, header.info.site) == (changed["study"], changed["site"])


@settings(max_examples=500 * FULL, deadline=None)
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_header_bytes(raw: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_header(raw)
    assert caught.value.code == "parcel.format"


@pytest.mark.parametrize("raw", [b"[" * 60_000, b'{"a":' * 10_000, b"1" * 60_000, b"\xff\xfe{\0}\0", b"1e999", b"NaN"])
def test_headers_that_strain_a_json_parser(raw: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse_header(raw)
    assert caught.value.code == "parcel.format"


@settings(max_examples=40 * FULL, deadline=None)
@given(st.lists(st.binary(max_size=300_000), max_size=12), st.integers(0, 3))
def test_round_trip_of_any_pieces(pieces: list[bytes], stretch: int) -> None:
    pieces = [piece * (1 + stretch) for piece in pieces]
    target = io.BytesIO()
    info = ParcelInfo(parcel_id="c" * 32, study="s", site="s", content_type="update")
    seal(pieces, target, info=info, recipients=[VAULT.public], signer=SENDER)
    target.seek(0)
    got = list(unseal(target, key=VAULT, sender=SENDER.public, expect=info))
    assert b"".join(got) == b"".join(pieces)
    assert all(len(piece) == CHUNK for piece in got[:-1])


@settings(max_examples=60 * FULL, deadline=None)
@given(st.binary(max_size=64), st.binary(min_size=1, max_size=40), st.integers(0, 3372), st.integers(1, 255))
def test_signatures(message: bytes, context: bytes, at: int, change: int) -> None:
    signature = bytearray(SENDER.sign(context, message))
    SENDER.public.verify(context, message, bytes(signature))
    signature[at] ^= change
    with pytest.raises(IntegrityError):
        SENDER.public.verify(context, message, bytes(signature))


@settings(max_examples=60 * FULL, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64), st.integers(0, 1167), st.integers(1, 255))
def test_wrapping(key: bytes, info: bytes, at: int, change: int) -> None:
    sealed = bytearray(VAULT.public.wrap(key, info))
    assert VAULT.unwrap(bytes(sealed), info) == key
    sealed[at] ^= change
    with pytest.raises(IntegrityError):
        VAULT.unwrap(bytes(sealed), info)

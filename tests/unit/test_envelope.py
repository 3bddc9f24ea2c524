"""Sealing, verifying, opening: vectors, every multi-chunk fault, bounded memory."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from privacy.envelope import (
    ParcelInfo,
    SecretKey,
    inspect,
    new_parcel_id,
    read_header,
    seal,
    unseal,
    unseal_into,
    verify,
)
from privacy.envelope.header import encode_header
from protocol.errors import InputError, IntegrityError

VECTORS = Path(__file__).parents[1] / "vectors"
CHUNK = 1 << 20


def _generator() -> Any:
    spec = importlib.util.spec_from_file_location("make_envelope", VECTORS / "make_envelope.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_envelope"] = module
    spec.loader.exec_module(module)
    return module


make = _generator()
SENDER, VAULT, OTHER = make.KEYS["sender"], make.KEYS["vault"], make.KEYS["other"]
NAMES = sorted(path.stem for path in (VECTORS / "envelope").glob("*.parcel"))


def info(**changes: str) -> ParcelInfo:
    values = {"parcel_id": new_parcel_id(), "study": "ab" * 32, "site": "site-a", "content_type": "records"}
    return ParcelInfo(**{**values, **changes})


def sealed(payload: bytes, about: ParcelInfo | None = None, **changes: Any) -> bytes:
    target = io.BytesIO()
    given: dict[str, Any] = {"info": about or info(), "recipients": [VAULT.public], "signer": SENDER, **changes}
    digest = seal([payload], target, **given)
    assert digest == hashlib.sha256(target.getvalue()).hexdigest()
    return target.getvalue()


def opened(parcel: bytes, key: SecretKey = VAULT, expect: ParcelInfo | None = None) -> bytes:
    return b"".join(unseal(io.BytesIO(parcel), key=key, sender=SENDER.public, expect=expect))


def refused(code: str, parcel: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        opened(parcel)
    assert caught.value.code == code


# -- committed vectors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str) -> None:
    about = json.loads((VECTORS / "envelope" / f"{name}.json").read_text())
    parcel = (VECTORS / "envelope" / f"{name}.parcel").read_bytes()
    if about["expect"] == "success":
        assert opened(parcel) == base64.b64decode(about["payload_base64"])
    else:
        refused(about["expect"], parcel)


def test_vectors_are_all_there_and_small() -> None:
    assert len(NAMES) >= 35
    expected = {json.loads(path.read_text())["expect"] for path in (VECTORS / "envelope").glob("*.json")}
    codes = ("format", "version", "truncated", "signature", "key", "chunk")
    assert expected == {"success", *(f"parcel.{code}" for code in codes)}
    assert sum(path.stat().st_size for path in (VECTORS / "envelope").iterdir()) < 200 * 1024


def test_worked_example_of_the_specification() -> None:
    parcel = (VECTORS / "envelope" / "ok-text.parcel").read_bytes()
    size = int.from_bytes(parcel[8:12], "big")
    assert parcel[:8] == b"CORSIA\x01\x01"
    assert len(parcel) == 12 + size + 37 + 3413
    assert parcel[12 + size + 37 :].startswith(b"\r\nCOREND")
    assert json.loads(parcel[12 : 12 + size])["study"] == "vector-study"


# -- round trips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_round_trip_and_structure(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    about = info()
    parcel = sealed(payload, about)
    assert opened(parcel, expect=about) == payload
    found = inspect(io.BytesIO(parcel))
    assert (found.plaintext_bytes, found.size_bytes) == (size, len(parcel))
    assert found.chunks == max(1, -(-size // CHUNK))
    assert found.sha256 == hashlib.sha256(parcel).hexdigest()


@pytest.mark.parametrize("cut", [1000, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK])
def test_the_cut_of_the_pieces_does_not_matter(cut: int) -> None:
    payload = hashlib.shake_256(b"pieces").digest(2 * CHUNK + 77)
    target = io.BytesIO()
    pieces = [b"", *(payload[at : at + cut] for at in range(0, len(payload), cut)), b""]
    seal(pieces, target, info=info(), recipients=[VAULT.public], signer=SENDER)
    assert opened(target.getvalue()) == payload


def test_product_opens_what_the_specification_builds_in_many_chunks() -> None:
    payload = hashlib.shake_256(b"many").digest(2 * CHUNK + 5)
    assert opened(make.Forge(payload=payload).build()) == payload


def test_every_recipient_opens_and_nobody_else() -> None:
    parcel = sealed(b"two", recipients=[VAULT.public, OTHER.public])
    assert opened(parcel, VAULT) == opened(parcel, OTHER) == b"two"
    with pytest.raises(IntegrityError) as caught:
        opened(parcel, SecretKey.generate())
    assert caught.value.code == "parcel.key"


def test_parcel_from_the_middle_of_a_file() -> None:
    source = io.BytesIO(b"before" + sealed(b"inside"))
    source.seek(6)
    assert b"".join(unseal(source, key=VAULT, sender=SENDER.public)) == b"inside"


def test_header_tells_only_what_it_must() -> None:
    payload = b"Mario Rossi, nato a Bari"
    parcel = sealed(payload)
    size = int.from_bytes(parcel[8:12], "big")
    members = json.loads(parcel[12 : 12 + size])
    assert set(members) == {"commitment", "content_type", "parcel", "recipients", "sender", "site", "study"}
    assert b"Mario" not in parcel
    for digest in (hashlib.sha256(payload).hexdigest().encode(), hashlib.sha256(payload).digest()):
        assert digest not in parcel
    assert sealed(payload) != sealed(payload)


def test_two_sealings_share_no_key() -> None:
    one, two = (read_header(io.BytesIO(sealed(b"same"))) for _ in range(2))
    assert one.commitment != two.commitment
    assert one.info.parcel_id != two.info.parcel_id


# -- faults over many chunks -------------------------------------------------------------------------------------------


def _multi() -> tuple[bytes, list[bytes], bytes]:
    prefix, header, payload, trailer = make.Forge(payload=hashlib.shake_256(b"m").digest(3 * CHUNK + 9)).parts()
    step = CHUNK + 16
    return prefix + header, [payload[at : at + step] for at in range(0, len(payload), step)], trailer


REARRANGED = {
    "swapped": [1, 0, 2, 3],
    "removed": [0, 2, 3],
    "removed-last": [0, 1, 2],
    "repeated": [0, 0, 1, 2, 3],
    "first-only": [0],
}


@pytest.mark.parametrize("name", REARRANGED)
def test_rearranged_after_signing(name: str) -> None:
    head, chunks, trailer = _multi()
    refused("parcel.chunk", head + b"".join(chunks[i] for i in REARRANGED[name]) + trailer)


@pytest.mark.parametrize("name", REARRANGED)
def test_rearranged_by_the_signer(name: str) -> None:
    forge = make.Forge(
        payload=b"p" * (3 * CHUNK + 9), chunk_edit=lambda chunks, _: [chunks[i] for i in REARRANGED[name]]
    )
    refused("parcel.chunk", forge.build())


def test_chunk_spliced_from_another_parcel_by_the_signer() -> None:
    foreign: list[bytes] = []
    other = make.Forge(payload=b"q" * (2 * CHUNK), parcel="1" * 32)
    replace(other, chunk_edit=lambda chunks, _: foreign.extend(chunks) or chunks).build()
    forge = make.Forge(payload=b"p" * (2 * CHUNK), chunk_edit=lambda chunks, _: [foreign[0], chunks[1]])
    refused("parcel.chunk", forge.build())


def test_short_chunk_in_the_middle_and_empty_last_chunk() -> None:
    def edit(tail: bytes) -> Any:
        return lambda chunks, cipher: [
            cipher.encrypt(make.nonce(0, False), b"p" * CHUNK, None),
            cipher.encrypt(make.nonce(1, True), tail, None),
        ]

    assert opened(make.Forge(chunk_edit=edit(b"t")).build()) == b"p" * CHUNK + b"t"
    refused("parcel.format", make.Forge(chunk_edit=edit(b"")).build())


@pytest.mark.parametrize("extra", [1, 15])
def test_less_than_a_tag_after_a_full_chunk(extra: int) -> None:
    forge = make.Forge(payload=b"p" * CHUNK, chunk_edit=lambda chunks, _: [*chunks, b"\0" * extra])
    refused("parcel.truncated", forge.build())


def test_nothing_is_released_before_the_signature() -> None:
    parcel = bytearray(sealed(b"p" * (2 * CHUNK)))
    parcel[-1] ^= 1
    with pytest.raises(IntegrityError) as caught:
        unseal(io.BytesIO(parcel), key=VAULT, sender=SENDER.public)  # the call itself, not the iteration
    assert caught.value.code == "parcel.signature"


class _Changing(io.BytesIO):
    """A file that another process replaces between the first and the second pass."""

    def __init__(self, first: bytes, second: bytes) -> None:
        super().__init__(first)
        self.second: bytes | None = second

    def seek(self, at: int, whence: int = 0) -> int:
        if self.second is not None:
            changed, self.second = self.second, None
            super().seek(0)
            self.truncate()
            self.write(changed)
        return super().seek(at, whence)


def test_what_is_opened_is_what_was_verified() -> None:
    signed = make.Forge(payload=b"honest" * 5)
    forged = replace(signed, payload=b"forged" * 5)  # by a fellow recipient, who knows the file key
    prefix, header, payload, trailer = signed.parts()
    fixed = lambda _raw: header  # noqa: E731
    _, _, other, _ = replace(forged, raw_edit=fixed).parts()
    assert opened(prefix + header + payload + trailer) == b"honest" * 5
    source = _Changing(prefix + header + payload + trailer, prefix + header + other + trailer)
    pieces = unseal(source, key=VAULT, sender=SENDER.public)
    with pytest.raises(IntegrityError) as caught:
        next(pieces)
    assert caught.value.code == "parcel.chunk"


def test_a_file_that_shrinks_meanwhile() -> None:
    parcel = sealed(b"p" * 100)
    pieces = unseal(_Changing(parcel, parcel[:-3450]), key=VAULT, sender=SENDER.public)
    with pytest.raises(IntegrityError):
        next(pieces)


# -- context, arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["parcel_id", "study", "site", "content_type"])
def test_expectation(name: str) -> None:
    about = info()
    parcel = sealed(b"x", about)
    assert verify(io.BytesIO(parcel), sender=SENDER.public, expect=about).header.info == about
    wrong = replace(about, **{name: "0" * 32})
    for check in (
        lambda: verify(io.BytesIO(parcel), sender=SENDER.public, expect=wrong),
        lambda: opened(parcel, expect=wrong),
    ):
        with pytest.raises(IntegrityError) as caught:
            check()
        assert caught.value.code == "parcel.context"


def test_another_sender() -> None:
    parcel = sealed(b"x", signer=OTHER)
    refused("parcel.signature", parcel)


@pytest.mark.parametrize(
    "changes",
    [
        {"parcel_id": "xyz"},
        {"study": "De mo"},
        {"study": "a" * 65},
        {"site": ""},
        {"site": "a\n"},
        {"content_type": "R"},
    ],
)
def test_values_that_no_header_carries(changes: dict[str, str]) -> None:
    target = io.BytesIO()
    with pytest.raises(InputError):
        seal([b"x"], target, info=info(**changes), recipients=[VAULT.public], signer=SENDER)
    assert target.getvalue() == b""


def test_recipients_are_bounded_and_different() -> None:
    key = (VAULT.public.fingerprint, b"\0" * 1168)
    for recipients in ([], [key, key], [(f"{i:064x}", b"\0" * 1168) for i in range(33)]):
        with pytest.raises(InputError):
            encode_header(info(), sender="0" * 64, recipients=recipients, commitment="0" * 64)
    most = [(f"{i:064x}", b"\0" * 1168) for i in range(32)]
    raw = encode_header(info(), sender="0" * 64, recipients=most, commitment="0" * 64)
    assert len(read_header(io.BytesIO(raw)).recipients) == 32


# -- streams -----------------------------------------------------------------------------------------------------------


class _Raw(io.RawIOBase):
    """A raw file that gives and takes a few bytes at a time, and cannot seek."""

    def __init__(self, data: bytes = b"", step: int = 70_000) -> None:
        self.data, self.at, self.step = bytearray(data), 0, step

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.step, len(self.data) - self.at)
        buffer[:count] = self.data[self.at : self.at + count]
        self.at += count
        return count

    def write(self, data: Any) -> int:
        self.data += bytes(data[: self.step])
        return min(len(data), self.step)


def test_short_reads_and_writes() -> None:
    target: Any = _Raw()
    seal([b"p" * (CHUNK + 3)], target, info=info(), recipients=[VAULT.public], signer=SENDER)
    source: Any = _Raw(bytes(target.data))
    verify(source, sender=SENDER.public)
    assert opened(bytes(target.data)) == b"p" * (CHUNK + 3)


def test_a_failing_target_is_not_swallowed() -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            if self.tell() > CHUNK:
                raise OSError(28, "No space left on device")
            return super().write(data)

    with pytest.raises(OSError, match="No space"):
        seal([b"p" * (3 * CHUNK)], Full(), info=info(), recipients=[VAULT.public], signer=SENDER)


@pytest.mark.parametrize("mebibytes", [96, pytest.param(5 * 1024, marks=pytest.mark.full)])
def test_memory_does_not_grow_with_the_parcel(mebibytes: int, tmp_path: Path) -> None:
    piece = b"p" * CHUNK

    def pieces() -> Iterator[bytes]:
        for _ in range(mebibytes):
            yield piece

    path = tmp_path / "big.parcel"
    tracemalloc.start()
    try:
        with path.open("wb", buffering=0) as target:
            seal(pieces(), target, info=info(), recipients=[VAULT.public], signer=SENDER)
        with path.open("rb", buffering=0) as source, open("/dev/null", "wb", buffering=0) as sink:
            size = unseal_into(source, sink, key=VAULT, sender=SENDER.public)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        path.unlink(missing_ok=True)
    assert size == mebibytes * CHUNK
    assert peak < 8 * CHUNK


def test_a_hostile_length_allocates_nothing() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            read_header(io.BytesIO(b"CORSIA\x01\x01\xff\xff\xff\xff" + b"{" * 1000))
        assert tracemalloc.get_traced_memory()[1] < CHUNK
    finally:
        tracemalloc.stop()

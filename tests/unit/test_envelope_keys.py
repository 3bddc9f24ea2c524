"""Keys: derivation, hybrid signatures, wrapping, key files."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import pickle
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from privacy.envelope import PublicKey, SecretKey, read_key, read_public, write_key, write_public
from privacy.envelope.keys import derive
from protocol.errors import ConfigurationError, ConflictError, InputError, IntegrityError
from protocol.trust import Purpose

KEY = SecretKey.from_bytes(b"\x07" * 32)


def _hkdf(seed: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869 with the standard library alone."""
    prk = hmac.digest(b"\0" * 32, seed, "sha256")
    out, block, count = b"", b"", 1
    while len(out) < size:
        block = hmac.digest(prk, block + info + bytes((count,)), "sha256")
        out, count = out + block, count + 1
    return out[:size]


def test_halves_are_derived_as_the_specification_says() -> None:
    seed = KEY.to_bytes()
    ed = Ed25519PrivateKey.from_private_bytes(_hkdf(seed, b"corsia/v1/key/ed25519", 32))
    mldsa = MLDSA65PrivateKey.from_seed_bytes(_hkdf(seed, b"corsia/v1/key/ml-dsa-65", 32))
    x = X25519PrivateKey.from_private_bytes(_hkdf(seed, b"corsia/v1/key/x25519", 32))
    kem = MLKEM768PrivateKey.from_seed_bytes(_hkdf(seed, b"corsia/v1/key/ml-kem-768", 64))
    raw = b"\x01" + b"".join(half.public_key().public_bytes_raw() for half in (ed, mldsa, x, kem))
    assert KEY.public.to_bytes() == raw
    assert KEY.public.fingerprint == hashlib.sha256(raw).hexdigest()


def test_derive_is_rfc_5869() -> None:
    okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert derive(b"\x0b" * 22, "", 42).hex() == okm  # test case 3 of appendix A


def test_round_trips() -> None:
    assert SecretKey.from_bytes(KEY.to_bytes()).public == KEY.public
    assert PublicKey.from_bytes(KEY.public.to_bytes()) == KEY.public
    assert PublicKey.from_base64(KEY.public.to_base64()) == KEY.public
    assert len({KEY.public, PublicKey.from_base64(KEY.public.to_base64())}) == 1
    assert SecretKey.generate().public != KEY.public


def test_signature_is_for_one_purpose_message_and_key() -> None:
    signature = KEY.sign(Purpose.STUDY, b"study")
    assert len(signature) == 3373
    KEY.public.verify(Purpose.STUDY, b"study", signature)
    for public, purpose, message in (
        (KEY.public, Purpose.ROUND, b"study"),
        (KEY.public, Purpose.STUDY, b"studY"),
        (SecretKey.generate().public, Purpose.STUDY, b"study"),
    ):
        with pytest.raises(IntegrityError) as caught:
            public.verify(purpose, message, signature)
        assert caught.value.code == "parcel.signature"


def test_both_halves_must_verify() -> None:
    other = SecretKey.generate()
    mine, foreign = KEY.sign(Purpose.TRUST, b"m"), other.sign(Purpose.TRUST, b"m")
    for mixed in (mine[:64] + foreign[64:], foreign[:64] + mine[64:], mine[:64], mine[64:], b"", mine + b"\0"):
        with pytest.raises(IntegrityError):
            KEY.public.verify(Purpose.TRUST, b"m", mixed)


def test_context_and_message_do_not_run_together() -> None:
    signature = KEY.sign(b"corsia/v1/a", b"bc")
    with pytest.raises(IntegrityError):
        KEY.public.verify(b"corsia/v1/ab", b"c", signature)


def test_wrap_binds_info_and_recipient() -> None:
    sealed = KEY.public.wrap(b"k" * 32, b"info")
    assert len(sealed) == 1168
    assert KEY.unwrap(sealed, b"info") == b"k" * 32
    for key, data, info in (
        (KEY, sealed, b"inf0"),
        (SecretKey.generate(), sealed, b"info"),
        (KEY, sealed[:-1], b"info"),
        (KEY, b"", b"info"),
        (KEY, sealed[:-1] + bytes((sealed[-1] ^ 1,)), b"info"),
    ):
        with pytest.raises(IntegrityError) as caught:
            key.unwrap(data, info)
        assert caught.value.code == "parcel.key"


def test_degenerate_point_is_refused() -> None:
    raw = bytearray(KEY.public.to_bytes())
    raw[1 + 32 + 1952 : 1 + 32 + 1952 + 32] = b"\0" * 32
    with pytest.raises(InputError):
        PublicKey.from_bytes(bytes(raw)).wrap(b"k" * 32, b"info")


@pytest.mark.parametrize("raw", [b"", b"\x01", b"\x02" + b"\0" * 3200, b"\0" * 3201, b"\x01" + b"\xff" * 3200])
def test_not_a_public_key(raw: bytes) -> None:
    with pytest.raises(InputError):
        PublicKey.from_bytes(raw)
    with pytest.raises(InputError):
        PublicKey.from_base64(base64.b64encode(raw).decode())


@pytest.mark.parametrize("text", ["", "é", "****", "AQ", "\ud800"])
def test_not_base64(text: str) -> None:
    with pytest.raises(InputError):
        PublicKey.from_base64(text)


def test_secrets_do_not_show() -> None:
    seed = KEY.to_bytes()
    for text in (repr(KEY), str(KEY), f"{KEY}"):
        assert seed.hex() not in text
        assert repr(seed) not in text
    with pytest.raises(TypeError):
        pickle.dumps(KEY)


def test_key_file(tmp_path: Path) -> None:
    path = tmp_path / "k"
    write_key(path, KEY)
    assert path.stat().st_mode & 0o7777 == 0o600
    assert path.read_bytes() == KEY.to_bytes()
    assert read_key(path).public == KEY.public
    with pytest.raises(ConflictError):
        write_key(path, SecretKey.generate())
    assert read_key(path).public == KEY.public
    assert [p.name for p in tmp_path.iterdir()] == ["k"]
    path.chmod(0o400)
    assert read_key(path).public == KEY.public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666, 0o700, 0o601])
def test_open_key_file_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"k" * 32)
    path.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        read_key(path)
    assert caught.value.code == "config.key-mode"


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_key_file_of_another_size(size: int, tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"k" * size)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError) as caught:
        read_key(path)
    assert caught.value.code == "config.key-mode"


def test_key_file_that_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, code in ((tmp_path / "pipe", "config.key-mode"), (tmp_path / "none", "config.missing")):
        with pytest.raises(ConfigurationError) as caught:
            read_key(path)
        assert caught.value.code == code


def test_public_file(tmp_path: Path) -> None:
    path = tmp_path / "k.pub"
    write_public(path, KEY.public)
    text = path.read_text()
    assert text.startswith("corsia-public-1 ")
    assert text.count("\n") == 1
    assert read_public(path) == KEY.public
    with pytest.raises(ConflictError):
        write_public(path, KEY.public)
    for wrong in (b"", b"k" * 32, text.encode()[:-9], text.encode() + b"more", b"\xff\xfe", b"x" * 10**6):
        path.write_bytes(wrong)
        with pytest.raises(InputError) as caught:
            read_public(path)
        assert caught.value.code == "input.usage"
    with pytest.raises(ConfigurationError):
        read_public(tmp_path / "none")

"""Objects at rest and the destruction of keys."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from privacy.envelope import SecretKey, destroy_key, write_key
from privacy.envelope.rest import OBJECT_MAGIC, keep, read
from protocol.errors import ConfigurationError, IntegrityError

KEY, CHUNK = bytes(range(32)), 1 << 20


def kept(data: bytes, place: str = "study/batch/a.dcm") -> bytes:
    target = io.BytesIO()
    keep([data[:100], data[100:]], target, key=KEY, place=place)
    return target.getvalue()


def opened(raw: bytes, place: str = "study/batch/a.dcm", key: bytes = KEY) -> bytes:
    return b"".join(read(io.BytesIO(raw), key=key, place=place))


@pytest.mark.parametrize("size", [0, 1, 99, 100, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_an_object_of_any_size_comes_back(size: int) -> None:
    data = os.urandom(size)
    raw = kept(data)
    assert opened(raw) == data
    assert len(raw) == len(OBJECT_MAGIC) + 32 + size + 16 * max(1, -(-size // CHUNK))


def test_the_same_bytes_look_different_each_time() -> None:
    assert kept(b"twice")[len(OBJECT_MAGIC) :] != kept(b"twice")[len(OBJECT_MAGIC) :]


def test_another_key_or_place_does_not_open() -> None:
    raw = kept(b"pixels")
    for wrong in ({"place": "study/batch/b.dcm"}, {"key": bytes(32)}):
        with pytest.raises(IntegrityError) as caught:
            opened(raw, **wrong)  # type: ignore[arg-type]
        assert caught.value.code == "lake.damaged"


def test_every_damage_is_found() -> None:
    raw = kept(os.urandom(CHUNK + 50))
    middle = len(OBJECT_MAGIC) + 32 + CHUNK + 16
    damaged = [raw[:n] for n in (0, 5, 39, 40, 41, 60, middle - 1, middle, middle + 3, len(raw) - 1)]
    damaged += [raw + b"\0", raw[:middle] + raw[middle:] * 2]
    damaged += [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in (0, 7, 8, 39, 40, middle, len(raw) - 1)]
    for one in damaged:
        with pytest.raises(IntegrityError):
            opened(one)


def test_chunks_in_another_order_do_not_open() -> None:
    raw, start, size = kept(os.urandom(3 * CHUNK)), len(OBJECT_MAGIC) + 32, CHUNK + 16
    first, second, third = (raw[start + n * size : start + (n + 1) * size] for n in range(3))
    for order in ((second, first, third), (first, third), (first, second), (first, second, second, third)):
        with pytest.raises(IntegrityError):
            opened(raw[:start] + b"".join(order))


def test_a_destroyed_key_was_overwritten_before_it_went(tmp_path: Path) -> None:
    path, link = tmp_path / "study.key", tmp_path / "another-name"
    key = SecretKey.generate()
    write_key(path, key)
    os.link(path, link)  # so that what became of the bytes can be seen
    assert destroy_key(path)
    assert not path.exists()
    assert len(link.read_bytes()) == 32
    assert link.read_bytes() != key.to_bytes()
    assert not destroy_key(path), "again is no error"


def test_a_link_in_a_keys_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"x" * 32)
    (tmp_path / "study.key").symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigurationError):
        destroy_key(tmp_path / "study.key")
    assert (tmp_path / "precious").read_bytes() == b"x" * 32

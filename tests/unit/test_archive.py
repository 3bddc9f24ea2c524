"""What a backup's file may say: one whole archive with paths that stay within, or `backup.format`."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.archive import FORMAT, Head, opened, sealed
from privacy.envelope import ParcelInfo, SecretKey, new_parcel_id, seal
from protocol.errors import ConflictError, IntegrityError

KEY, SIGNER = SecretKey.generate(), SecretKey.generate()
HEAD = {"format": FORMAT, "kind": "edge", "name": "site-a", "at": 1.5, "version": "1"}


def frame(value: Any) -> bytes:
    raw = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return struct.pack(">Q", len(raw)) + raw


def member(name: Any, data: bytes = b"data", **changes: Any) -> bytes:
    return frame({"file": name, "size": len(data)} | changes) + data + hashlib.sha256(data).digest()


def archive(place: Path, *parts: bytes) -> Path:
    info = ParcelInfo(parcel_id=new_parcel_id(), study="backup-edge", site="site-a", content_type="backup")
    with place.open("wb") as target:
        seal(parts, target, info=info, recipients=[KEY.public], signer=SIGNER)
    return place


def read(place: Path, into: Path, kind: str = "edge") -> Any:
    return opened(place, kind=kind, key=KEY, sender=SIGNER.public, keep=lambda name: into / name)


def test_what_was_packed_comes_out(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "empty").touch()
    (folder / "a" / "large").write_bytes(bytes(range(256)) * 10_000)
    (folder / "ünï").write_bytes(b"x")
    head = Head(kind="edge", name="site-a", at=1.5, version="1")
    digest, count = sealed(folder, tmp_path / "out", head, recipient=KEY.public, signer=SIGNER)
    assert (digest, count) == (hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest(), 3)
    found, members = read(tmp_path / "out", tmp_path / "in")
    assert found == head
    for one in members:
        data = (tmp_path / "in" / one.name).read_bytes()
        assert (one.size, one.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert data == (folder / one.name).read_bytes()
    with pytest.raises(ConflictError):
        sealed(folder, tmp_path / "out", head, recipient=KEY.public, signer=SIGNER)


END = frame({"end": 1})
BAD = {
    "parent": (frame(HEAD), member("../x"), END),
    "inner parent": (frame(HEAD), member("a/../../x"), END),
    "absolute": (frame(HEAD), member("/tmp/x"), END),
    "dot": (frame(HEAD), member("./x"), END),
    "empty": (frame(HEAD), member(""), END),
    "twice a slash": (frame(HEAD), member("a//x"), END),
    "nul": (frame(HEAD), member("a\0x"), END),
    "no text": (frame(HEAD), member(7), END),
    "too long": (frame(HEAD), member("x" * 300), END),
    "surrogate": (frame(HEAD), member("\ud800"), END),
    "twice": (frame(HEAD), member("x"), member("x"), frame({"end": 2})),
    "fewer": (frame(HEAD), member("x"), frame({"end": 2})),
    "no end": (frame(HEAD), member("x")),
    "more": (frame(HEAD), member("x"), END, b"more"),
    "size": (frame(HEAD), member("x", size=-1), END),
    "size of another type": (frame(HEAD), member("x", size=True), END),
    "size beyond": (frame(HEAD), member("x", size=1 << 60), END),
    "digest": (frame(HEAD), member("x")[:-1] + b"?", END),
    "not canonical": (frame(HEAD), frame(b'{"file": "x","size":0}'), hashlib.sha256().digest(), END),
    "no object": (frame(HEAD), frame([1]), END),
    "deep": (frame(HEAD), frame(b"[" * 100_000), END),
    "huge frame": (struct.pack(">Q", 1 << 62), END),
    "no format": (frame({"kind": "edge"}), END),
    "other format": (frame(HEAD | {"format": "corsia-backup-2"}), frame({"end": 0})),
    "other kind": (frame(HEAD | {"kind": "central"}), frame({"end": 0})),
    "nothing": (b"",),
}


@pytest.mark.parametrize("name", BAD)
def test_anything_else_is_refused(name: str, tmp_path: Path) -> None:
    place, into = archive(tmp_path / "a", *BAD[name]), tmp_path / "deep" / "in"
    with pytest.raises(IntegrityError) as caught:
        read(place, into)
    assert caught.value.code == "backup.format"
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and into not in path.parents]
    assert outside == [place]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), change=st.binary(min_size=1, max_size=12))
def test_no_change_within_the_seal_crashes(tmp_path: Path, at: int, change: bytes) -> None:
    whole = frame(HEAD) + member("a") + member("b/c", b"") + frame({"end": 2})
    payload = whole[: at % len(whole)] + change + whole[at % len(whole) + len(change) :]
    code, kind = "", ""
    try:
        head, members = opened(archive(tmp_path / "a", payload), kind="edge", key=KEY, sender=SIGNER.public)
        kind = head.kind if len(members) == 2 else "lost a file"
    except IntegrityError as error:
        code = error.code
    assert (kind, code) in (("edge", ""), ("", "backup.format"))

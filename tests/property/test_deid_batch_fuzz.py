"""Broken and hostile files at the batch's entry: never a crash, never a hang, never passed through."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom import dcmread

from privacy.deid import onefile
from tests.unit.test_deid_dicom import SHIPPED

COUNT = 10_000 if os.environ.get("CORSIA_FULL") else 500
NAMES = (
    "MR_small.dcm", "MR_small_bigendian.dcm", "test-SR.dcm", "rtplan.dcm", "reportsi.dcm", "image_dfl.dcm",
    "liver_1frame.dcm", "waveform_ecg.dcm",
)  # fmt: skip
SECONDS, BYTES = 20, 600 << 20
# Of the originals: names, ids and places that no output may hold. Compressed data may hold anything.
SECRETS = re.compile(rb"CompressedSamples|4MR1|TOSHIBA|Homer|rtplan00|Lastname|Anonymized\\^Liver")


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def element(tag: tuple[int, int], vr: bytes, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    if vr in (b"SQ", b"UN", b"OB", b"OW", b"UT"):
        return struct.pack("<HH2sxxI", *tag, vr, size & 0xFFFFFFFF) + value
    return struct.pack("<HH2sH", *tag, vr, size & 0xFFFF) + value


def nested(data: bytes, depth: int, chance: random.Random) -> bytes:
    """A file with a sequence in a sequence in a sequence at its end, with a name at the bottom."""
    inner = element((0x0010, 0x0010), b"PN", b"CompressedSamples^Deep ")
    for _ in range(depth):
        tag = chance.choice(((0x0040, 0xA730), (0x0008, 0x2218), (0x0009, 0x1010)))
        inner = element(tag, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + inner, 0xFFFFFFFF)
        inner += struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return data + inner


def hostile(chance: random.Random, originals: list[bytes]) -> bytes:
    data = bytearray(chance.choice(originals))
    kind = chance.randrange(7)
    if kind == 0:
        return bytes(data[: chance.randrange(1, len(data) - 1)])
    if kind == 1:
        for _ in range(chance.randrange(1, 12)):
            data[chance.randrange(min(len(data), 4000))] ^= 1 << chance.randrange(8)
    elif kind == 2:
        other = chance.choice(originals)
        data[chance.randrange(132, len(data)) :] = other[chance.randrange(132, len(other)) :]
    elif kind == 3:
        return bytes(data[: chance.choice((0, 132, 300, 400))]) + chance.randbytes(chance.randrange(1, 5000))
    elif kind == 4:
        return nested(bytes(data), chance.choice((1, 20, 70, 500)), chance)
    elif kind == 5:
        at = chance.randrange(140, min(len(data) - 8, 3000))
        data[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\xf0\xff\xff\x7f", b"\xff\xff\0\0", b"\0\0\0\0"))
    else:
        at = chance.randrange(132, len(data))
        data[at:at] = data[chance.randrange(132, at + 1) : at + chance.randrange(1, 200)]
    return bytes(data)


def test_never_a_crash_a_hang_or_a_passage(tmp_path: Path) -> None:
    chance = random.Random(3)  # noqa: S311 - a repeatable sequence, no secret
    originals = [(SHIPPED / name).read_bytes() for name in NAMES if (SHIPPED / name).exists()]
    target = tmp_path / "out"
    target.mkdir()
    worker = onefile.Worker(onefile.Settings(key=b"k" * 32, target=target))
    place, passed = tmp_path / "file", 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(COUNT):
        data = hostile(chance, originals)
        place.write_bytes(data)
        with limited():
            outcome = worker.process(str(place), number)
        assert bool(outcome.reason) != bool(outcome.partial), number
        if outcome.partial:
            passed += 1
            result = target / outcome.partial
            assert result.read_bytes() != data
            assert dcmread(result).PatientIdentityRemoved == "YES"
            assert SECRETS.search(result.read_bytes()) is None, number
            result.unlink()
    assert list(target.iterdir()) == []
    assert 0 < passed < COUNT
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES


@pytest.mark.parametrize("length", [0x7FFFFFFE, 0xFFFFFFFE])
def test_a_length_beyond_the_file_costs_no_memory(tmp_path: Path, length: int) -> None:
    data = (SHIPPED / "CT_small.dcm").read_bytes() + element((0x7FE1, 0x1010), b"OB", b"short", length)
    (tmp_path / "file").write_bytes(data)
    worker = onefile.Worker(onefile.Settings(key=b"k" * 32, target=tmp_path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert worker.process(str(tmp_path / "file"), 1).reason
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES

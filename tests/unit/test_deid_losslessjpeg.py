"""JPEG lossless: every predictor, precision and restart decodes to what was encoded; broken streams are refused."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.encaps import encapsulate

from privacy.deid import losslessjpeg, pixelframes
from tests.unit.test_deid_dicom import SHIPPED
from tests.unit.test_deid_pixels import MAX, dataset, grey

SYNTAX = "1.2.840.10008.1.2.4.70"


def guess(values: Any, x: int, y: int, top: int, predictor: int, first: int) -> int:
    """What T.81 H.1.2.1 predicts; `top` is the first row after a restart."""
    left, up = (int(values[y, x - 1]) if x else 0), (int(values[y - 1, x]) if y > top else 0)
    if y == top:
        return left if x else first
    if not x:
        return up
    corner = int(values[y - 1, x - 1])
    halves = left + ((up - corner) >> 1), up + ((left - corner) >> 1), (left + up) >> 1
    return (left, up, corner, left + up - corner, *halves)[predictor - 1]


def encode(values: NDArray[Any], predictor: int = 1, precision: int = 16, rows_each: int = 0) -> bytes:
    """values: rows x columns x components. A plain encoder: all seventeen categories have codes of five bits."""
    rows, columns, width = values.shape
    out = b"\xff\xd8\xff\xc4" + (2 + 17 + 17).to_bytes(2, "big") + bytes([0]) + bytes([0] * 4 + [17] + [0] * 11)
    out += bytes(range(17)) + b"\xff\xc3" + (8 + 3 * width).to_bytes(2, "big") + bytes([precision])
    out += rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + bytes([width])
    out += b"".join(bytes([number + 1, 0x11, 0]) for number in range(width))
    if rows_each:
        out += b"\xff\xdd\0\4" + (rows_each * columns).to_bytes(2, "big")
    out += b"\xff\xda" + (6 + 2 * width).to_bytes(2, "big") + bytes([width])
    out += b"".join(bytes([number + 1, 0]) for number in range(width)) + bytes([predictor, 0, 0])
    for number, top in enumerate(range(0, rows, rows_each or rows)):
        if number:
            out += bytes([0xFF, 0xD0 + (number - 1) % 8])
        bits = ""
        for y in range(top, min(top + (rows_each or rows), rows)):
            for x in range(columns):
                for part in range(width):
                    plane = values[:, :, part]
                    bits += code(int(plane[y, x]) - guess(plane, x, y, top, predictor, 1 << (precision - 1)))
        bits += "1" * (-len(bits) % 8)
        out += int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return out + b"\xff\xd9"


def code(difference: int) -> str:
    difference = (difference + 32768) % 65536 - 32768
    if difference == -32768:
        return f"{16:05b}"
    category = abs(difference).bit_length()
    if not category:
        return f"{0:05b}"
    low = difference if difference > 0 else difference + (1 << category) - 1
    return f"{category:05b}{low:0{category}b}"


def picture(width: int = 1, bits: int = 16) -> NDArray[np.uint16]:
    return np.random.default_rng(4).integers(0, 1 << bits, (12, 9, width)).astype(np.uint16)


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("rows_each", [0, 5])
@pytest.mark.parametrize(("width", "bits"), [(1, 16), (3, 8), (1, 12)])
def test_what_was_encoded_comes_back(predictor: int, rows_each: int, width: int, bits: int) -> None:
    values = picture(width, bits)
    stream = encode(values, predictor, bits, rows_each)
    assert losslessjpeg.size(stream) == (12, 9, width, bits)
    assert np.array_equal(losslessjpeg.decode(stream), values)


def test_a_file_of_another_encoder() -> None:
    """The frame is that of the same object uncompressed."""
    one = dcmread(SHIPPED / "SC_rgb_jpeg_gdcm.dcm")
    values = pixelframes.decode(one, max_bytes=MAX).values[0]
    assert values.shape == (100, 100, 3)
    assert [tuple(values[row, 50]) for row in (5, 15, 25)] == [(255, 0, 0), (255, 128, 128), (0, 255, 0)]


@pytest.mark.parametrize("kind", ["<u2", "<i2"])
def test_stored_values_keep_their_sign_and_go_back_uncompressed(kind: str) -> None:
    values = (picture(1, 12).astype(np.int32) - (2048 if kind == "<i2" else 0)).astype(kind)
    one = dataset(grey(values[:, :, 0]), BitsStored=12, HighBit=11)
    one.PixelData = encapsulate([encode((values.astype(np.int32) & 0xFFF).astype(np.uint16), 1, 12)])
    one.file_meta.TransferSyntaxUID = SYNTAX
    frames = pixelframes.decode(one, max_bytes=MAX)
    assert np.array_equal(frames.values[0], values)
    pixelframes.store(one, frames)
    assert np.array_equal(one.pixel_array, values[:, :, 0])


def test_broken_streams_are_refused() -> None:
    stream, chance = encode(picture()), random.Random(5)  # noqa: S311 - a repeatable sequence, no secret
    for cut in (0, 1, 3, 20, 60, len(stream) // 2):
        with pytest.raises(ValueError):  # noqa: PT011 - any
            losslessjpeg.decode(stream[:cut])
    for _ in range(300):
        broken = bytearray(stream)
        broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            if losslessjpeg.size(bytes(broken))[:2] == (12, 9):
                losslessjpeg.decode(bytes(broken))
        except ValueError:
            continue
    target = io.BytesIO()
    pytest.importorskip("PIL.Image").new("L", (8, 8)).save(target, "JPEG")
    with pytest.raises(ValueError, match="not lossless"):
        losslessjpeg.decode(target.getvalue())

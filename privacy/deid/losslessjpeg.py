"""JPEG lossless (process 14), which scanners and archives use and none of the installed decoders reads.

    values = decode(codestream)         # rows x columns x components, unsigned, as they were encoded

One scan, components that are not subsampled, Huffman coding. Hostile bytes end in a ValueError; the size is what the
frame header says, which the caller compares with the dataset first (`size`). Not here: what the values mean.

Source: ITU-T T.81, annexes B (markers), C (Huffman tables), H (lossless mode).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["decode", "size"]

_SOF3, _DHT, _SOS, _DRI, _EOI = 0xC3, 0xC4, 0xDA, 0xDD, 0xD9
_OTHER_FRAMES = frozenset(range(0xC0, 0xD0)) - {_SOF3, _DHT, 0xC8, 0xCC}
_MAX_LENGTH = 16


@dataclass(slots=True)
class _Stream:
    """What the headers say."""

    precision: int = 0
    rows: int = 0
    columns: int = 0
    components: list[int] = field(default_factory=list)
    tables: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    restart: int = 0
    chosen: list[int] = field(default_factory=list)
    predictor: int = 0
    transform: int = 0
    start: int = 0


def size(data: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, components and bits of a sample.

    Raises:
        ValueError: not a stream of this kind.
    """
    stream = _headers(data)
    return stream.rows, stream.columns, len(stream.components), stream.precision


def decode(data: bytes) -> NDArray[np.uint16]:
    """The samples.

    Raises:
        ValueError: not a stream of this kind, or one that ends before its end.
    """
    stream = _headers(data)
    width, count = len(stream.components), stream.rows * stream.columns
    if not count or stream.restart % stream.columns:
        raise ValueError("restart")
    rows_each = stream.restart // stream.columns or stream.rows
    values = np.zeros((stream.rows, stream.columns, width), np.int64)
    row = 0
    for segment in _segments(data, stream.start):
        if row >= stream.rows:
            break
        height = min(rows_each, stream.rows - row)
        differences = np.array(_differences(segment, stream, height * stream.columns * width), np.int64)
        block = differences.reshape(height, stream.columns, width)
        values[row : row + height] = _predicted(block, stream.predictor, 1 << (stream.precision - stream.transform - 1))
        row += height
    if row < stream.rows:
        raise ValueError("the stream ends before its end")
    return ((values & 0xFFFF) << stream.transform).astype(np.uint16)


# -- headers


def _headers(data: bytes) -> _Stream:
    if data[:2] != b"\xff\xd8":
        raise ValueError("no JPEG")
    stream, position = _Stream(), 2
    while True:
        while data[position : position + 2] == b"\xff\xff":
            position += 1
        if data[position : position + 1] != b"\xff" or position + 4 > len(data):
            raise ValueError("no marker")
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        body, position = data[position + 4 : position + 2 + length], position + 2 + length
        if length < 2 or len(body) != length - 2 or marker in _OTHER_FRAMES or marker == _EOI:
            raise ValueError("not lossless, or cut")
        if marker == _DHT:
            _tables(body, stream)
        elif marker == _DRI:
            stream.restart = int.from_bytes(body[:2], "big")
        elif marker == _SOF3:
            _frame(body, stream)
        elif marker == _SOS:
            _scan(body, stream)
            stream.start = position
            return stream


def _frame(body: bytes, stream: _Stream) -> None:
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise ValueError("frame header")
    stream.precision, stream.rows = body[0], int.from_bytes(body[1:3], "big")
    stream.columns = int.from_bytes(body[3:5], "big")
    parts = [body[i : i + 3] for i in range(6, len(body), 3)]
    if not 2 <= stream.precision <= 16 or len(parts) not in (1, 3) or any(part[1] != 0x11 for part in parts):
        raise ValueError("frame header")
    stream.components = [part[0] for part in parts]


def _scan(body: bytes, stream: _Stream) -> None:
    if not body or not stream.components or len(body) != 4 + 2 * body[0] or body[0] != len(stream.components):
        raise ValueError("scan header")
    pairs = [(body[i], body[i + 1] >> 4) for i in range(1, 1 + 2 * body[0], 2)]
    if [number for number, _ in pairs] != stream.components or any(table not in stream.tables for _, table in pairs):
        raise ValueError("scan header")
    stream.chosen = [table for _, table in pairs]
    stream.predictor, stream.transform = body[-3], body[-1] & 15
    if not 1 <= stream.predictor <= 7 or stream.transform >= stream.precision:
        raise ValueError("scan header")


def _tables(body: bytes, stream: _Stream) -> None:
    """Huffman tables as a look-up by the next sixteen bits: (category, bits of the code)."""
    position = 0
    while position + 17 <= len(body):
        number, counts = body[position] & 15, body[position + 1 : position + 17]
        symbols, position = body[position + 17 : position + 17 + sum(counts)], position + 17 + sum(counts)
        looked: list[tuple[int, int]] = []
        taken = iter(symbols)
        for length, count in enumerate(counts, 1):
            for symbol in (next(taken, 17) for _ in range(count)):
                if symbol > _MAX_LENGTH:
                    raise ValueError("Huffman table")
                looked += [(symbol, length)] * (1 << (_MAX_LENGTH - length))
        if len(looked) > 1 << _MAX_LENGTH:
            raise ValueError("Huffman table")
        stream.tables[number] = looked


# -- samples


def _segments(data: bytes, position: int) -> Iterator[bytes]:
    """Entropy-coded bytes between restart markers, without stuffing."""
    start = position
    while (at := data.find(b"\xff", position)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        position = at + 2
        if marker == 0 or marker == 0xFF:
            position -= marker == 0xFF
            continue
        yield data[start:at].replace(b"\xff\0", b"\xff")
        if not 0xD0 <= marker <= 0xD7:
            return
        start = position
    yield data[start:].replace(b"\xff\0", b"\xff")


def _differences(segment: bytes, stream: _Stream, count: int) -> list[int]:
    tables = [stream.tables[number] for number in stream.chosen]
    width, found, position, held, bits = len(tables), [0] * count, 0, 0, 0
    data, end = segment + bytes(8), len(segment)
    for index in range(count):
        table = tables[index % width]
        while bits < 32:
            if position > end + 4:
                raise ValueError("the stream ends before its end")
            held = (held << 8) | data[position]
            position, bits = position + 1, bits + 8
        at = (held >> (bits - 16)) & 0xFFFF
        if at >= len(table):
            raise ValueError("no such code")
        category, length = table[at]
        bits -= length
        if category == _MAX_LENGTH:
            found[index] = 32768
        elif category:
            bits -= category
            value = (held >> bits) & ((1 << category) - 1)
            found[index] = value if value >> (category - 1) else value - (1 << category) + 1
        held &= (1 << bits) - 1
    return found


def _predicted(block: NDArray[np.int64], predictor: int, first: int) -> NDArray[np.int64]:
    """Values from differences; each block begins anew, as after a restart."""
    block[0, 0] += first
    if predictor == 1:
        block[:, 0] = np.cumsum(block[:, 0], axis=0)
        return np.cumsum(block, axis=1)
    block[0] = np.cumsum(block[0], axis=0)
    if predictor == 2:
        return np.cumsum(block, axis=0)
    block[0] &= 0xFFFF
    for row in range(1, len(block)):
        _row(block[row], block[row - 1], predictor)
    return block


def _row(row: Any, above: Any, predictor: int) -> None:
    for component in range(row.shape[1]):
        own, up = row[:, component].tolist(), above[:, component].tolist()
        own[0] = (own[0] + up[0]) & 0xFFFF
        for x in range(1, len(own)):
            own[x] = (own[x] + _guess(predictor, own[x - 1], up[x] & 0xFFFF, up[x - 1] & 0xFFFF)) & 0xFFFF
        row[:, component] = own


def _guess(predictor: int, left: int, up: int, corner: int) -> int:
    """Table H.1."""
    if predictor == 3:
        return corner
    if predictor == 4:
        return left + up - corner
    if predictor == 5:
        return left + ((up - corner) >> 1)
    return up + ((left - corner) >> 1) if predictor == 6 else (left + up) >> 1

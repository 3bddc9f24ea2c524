"""Look for planted identities in files: raw bytes in several encodings, and every decoded cell, element and text.

Besides, whether writing burned into a picture is gone. Shares no code with what removes them.
"""

from __future__ import annotations

import base64
import gzip
import json
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from protocol.errors import CorsiaError

__all__ = ["Leak", "find_leaks", "leaks_in", "written_left"]

_SHORTEST = 8
_UNPACKED_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Leak:
    """A planted value (by its number in the list, never itself) found in a file, and how it was read."""

    path: Path
    value: int
    reading: str


def find_leaks(roots: Iterable[Path], planted: Iterable[str]) -> list[Leak]:
    """Search every file below `roots` for every planted value.

    Raises:
        ValueError: a planted value is too short to search for.
    """
    values = list(dict.fromkeys(planted))
    if any(len(v) < _SHORTEST for v in values):
        raise ValueError(f"planted values have at least {_SHORTEST} characters")
    found = []
    for root in roots:
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file() and not path.is_symlink():
                found += [Leak(path, number, how) for number, how in leaks_in(path.read_bytes(), values)]
    return found


def leaks_in(data: bytes, values: list[str]) -> list[tuple[int, str]]:
    """The numbers of the planted values that occur in one file's bytes or in what it decodes to."""
    by_prefix: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        by_prefix.setdefault(value[:_SHORTEST].lower(), []).append(number)
    found: dict[int, str] = {}
    for reading, text in _readings(data):
        low = text.lower()
        pieces = {low[i : i + _SHORTEST] for i in range(len(low) - _SHORTEST + 1)}
        for prefix in pieces & by_prefix.keys():
            for number in by_prefix[prefix]:
                if values[number].lower() in low:
                    found.setdefault(number, reading)
    return sorted(found.items())


def _readings(data: bytes) -> Iterator[tuple[str, str]]:
    yield "bytes", data.decode("latin-1")
    for order in ("utf-16-le", "utf-16-be"):
        yield order, data.decode(order, "ignore")
        yield f"{order} from byte 1", data[1:].decode(order, "ignore")
    if packed := b"\n".join(_unpacked(data)):
        yield "unpacked", packed.decode("latin-1")
    if data[:4] == b"PAR1":
        yield "cells", "\n".join(_cells(data))
    elif data[128:132] == b"DICM":
        yield "elements", "\n".join(_elements(data))
    elif data[:1] in (b"{", b"["):
        yield "JSON", "\n".join(_strings(data))


def _unpacked(data: bytes) -> Iterator[bytes]:
    """What gzip and zip hold, one level deep, up to `_UNPACKED_BYTES`; damaged ones nothing."""
    with suppress(OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, ValueError):
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=BytesIO(data)) as one:
                yield one.read(_UNPACKED_BYTES)
        elif data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(BytesIO(data)) as archive:
                for entry in archive.infolist():
                    yield entry.filename.encode()
                    with archive.open(entry) as member:
                        yield member.read(_UNPACKED_BYTES)


def _cells(data: bytes) -> Iterator[str]:
    import pyarrow.parquet as pq

    table = pq.read_table(BytesIO(data))
    yield from table.column_names
    yield str(table.schema.metadata)
    for column in table.columns:
        yield from (str(value) for value in column.to_pylist())


def _strings(data: bytes) -> Iterator[str]:
    """Every name and string of JSON or NDJSON, and what they hold as base64; nothing when it is neither."""
    try:
        todo: list[Any] = [json.loads(line) for line in ([data] if b"\n{" not in data else data.splitlines()) if line]
    except ValueError:
        return
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += [*value, *value.values()]
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, str):
            yield value
            with suppress(ValueError):
                yield base64.b64decode(value, validate=True).decode("utf-8", "replace")


def written_left(path: Path, box: tuple[int, int, int, int]) -> str:
    """For an ultrasound frame "blank" or "left": whether all pixels in a box are alike; "" for any other file.

    Args:
        path: DICOM.
        box: x0, y0, x1, y1; the last two are outside.
    """
    from pydicom import dcmread

    head = dcmread(path, stop_before_pixels=True, specific_tags=["Modality"])
    if head.get("Modality") != "US":
        return ""
    x0, y0, x1, y1 = box
    values = dcmread(path).pixel_array[..., y0:y1, x0:x1]
    return "blank" if values.size and values.min() == values.max() else "left"


def _elements(data: bytes) -> Iterator[str]:
    from pydicom import dcmread

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = dcmread(BytesIO(data))
            for element in [*dataset.file_meta, *dataset.iterall()]:
                if element.VR != "SQ" and element.keyword not in ("PixelData", "WaveformData"):
                    yield str(element.value)
        except (ValueError, AttributeError, CorsiaError) as error:
            raise ValueError(f"a file at the centre does not decode: {type(error).__name__}") from None

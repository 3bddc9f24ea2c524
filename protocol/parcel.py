"""What a parcel carries inside its seal, and the receipt that the centre gives for it.

The payload is a *batch*: a first line of canonical JSON (batch id, study digest, part and last flag, counts), then
items, each an 8-byte big-endian header length, a header of canonical JSON and `size` raw bytes. Sealing knows
nothing of it (`privacy/envelope`), and the batch nothing of sealing.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from protocol.errors import IntegrityError

__all__ = [
    "MAX_ITEM_BYTES",
    "Batch",
    "ContentType",
    "Item",
    "ItemKind",
    "Receipt",
    "canonical_json",
    "pack_batch",
    "unpack_batch",
    "unpack_update",
]

MAX_ITEM_BYTES = 1 << 40  # what is announced must be there as well
MAX_JSON_BYTES = 1 << 20
MAX_ITEMS = 1_000_000
_LENGTH = struct.Struct(">Q")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")


class ContentType(StrEnum):
    """What a parcel is, as its (readable) header says; fixed by the lane, but for a withdrawal, which any may have."""

    RECORDS = "records"
    DEIDENTIFIED = "deidentified"
    FEATURES = "features"
    UPDATE = "update"
    WITHDRAWAL = "withdrawal"


class ItemKind(StrEnum):
    """What one item of a batch is, and so who reads it."""

    TABLE = "table"  # Parquet
    DICOM = "dicom"  # DICOM Part 10
    DOCUMENT = "document"  # FHIR R4: a resource or bundle as JSON, several as NDJSON
    REPORT = "report"  # canonical JSON: the lane's report (counts, rules; no values)
    MESSAGE = "message"  # a Flower message's bytes
    SUBJECTS = "subjects"  # canonical JSON: about whom raw rows and files are, by the study's pseudonyms
    WITHDRAWAL = "withdrawal"  # canonical JSON: who withdrew, by the study's pseudonyms


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One result of a lane.

    `name` is a plain file name (no path); `persons` counts the persons it is about, `rows` its rows or files.
    """

    kind: ItemKind
    name: str
    data: bytes
    persons: int = 0
    rows: int = 0
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The items of one parcel with the ids by which the centre deduplicates them.

    `batch_id` is derived from study, site, assignment and `part`, so that a retried part has the same one.
    `withheld` counts records that stayed at the site (no consent, set aside), for the whole study, on the last part.
    """

    batch_id: str
    study_digest: str
    site: str
    part: int
    last: bool
    items: tuple[Item, ...]
    withheld: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The centre's word that a parcel has landed: ids, its digest, and its place in the log.

    `proof` is the RFC 6962 audit path (hex) of leaf `index` in the tree of `checkpoint`, a signed checkpoint as
    `privacy.transparency` writes it.
    """

    parcel_id: str
    digest: str
    index: int
    proof: tuple[str, ...]
    checkpoint: str

    @staticmethod
    def leaf(parcel_id: str, digest: str) -> bytes:
        """The log leaf of a parcel: a random id and a digest of ciphertext, nothing else."""
        return canonical_json({"kind": "parcel", "id": parcel_id, "sha256": digest})


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, ASCII only, no NaN: one value, one text (as RFC 8785 for our value range)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def pack_batch(batch: Batch) -> Iterator[bytes]:
    """The payload's bytes, piece by piece."""
    head = {
        "batch": batch.batch_id,
        "study": batch.study_digest,
        "site": batch.site,
        "part": batch.part,
        "last": batch.last,
        "withheld": batch.withheld,
        "items": len(batch.items),
    }
    yield from _framed(head)
    for item in batch.items:
        yield from _framed(
            {
                "kind": item.kind.value,
                "name": item.name,
                "size": len(item.data),
                "persons": item.persons,
                "rows": item.rows,
                "meta": item.meta,
            }
        )
        yield item.data


def unpack_batch(payload: bytes) -> Batch:
    """Read a payload back.

    Raises:
        IntegrityError: `parcel.payload` for anything but exactly one well-formed batch.
    """
    batch, places = _parsed(payload)
    items = (replace(item, data=payload[at:end]) for item, (at, end) in zip(batch.items, places, strict=True))
    return replace(batch, items=tuple(items))


def unpack_update(payload: bytes) -> tuple[Batch, memoryview]:
    """Read a payload that is one message: the batch with an item of no data, and the data, which are not copied.

    Raises:
        IntegrityError: `parcel.payload` for anything but a batch of exactly one message.
    """
    batch, places = _parsed(payload)
    if [item.kind for item in batch.items] != [ItemKind.MESSAGE]:
        raise IntegrityError("parcel.payload", "an update holds exactly one message")
    ((at, end),) = places
    return batch, memoryview(payload)[at:end]


def _parsed(payload: bytes) -> tuple[Batch, list[tuple[int, int]]]:
    """The batch with items of no data, and where in the payload their data lie."""
    try:
        head, at = _json_at(payload, 0)
        count = head["items"]
        if _count(count) > MAX_ITEMS:
            raise ValueError("items")
        items, places = [], []
        for _ in range(count):
            meta, at = _json_at(payload, at)
            size = meta["size"]
            if _count(size) > MAX_ITEM_BYTES or at + size > len(payload):
                raise ValueError("size")
            if not _NAME.fullmatch(meta["name"]):
                raise ValueError("name")
            items.append(
                Item(
                    kind=ItemKind(meta["kind"]),
                    name=meta["name"],
                    data=b"",
                    persons=_count(meta["persons"]),
                    rows=_count(meta["rows"]),
                    meta=dict(meta["meta"]),
                )
            )
            places.append((at, at + size))
            at += size
        if at != len(payload):
            raise ValueError("trailing bytes")
        batch = Batch(
            batch_id=str(head["batch"]),
            study_digest=str(head["study"]),
            site=str(head["site"]),
            part=_count(head["part"]),
            last=bool(head["last"]),
            items=tuple(items),
            withheld={str(k): _count(v) for k, v in dict(head["withheld"]).items()},
        )
        return batch, places
    except (ValueError, KeyError, TypeError, struct.error, RecursionError):
        raise IntegrityError("parcel.payload") from None


def _count(value: object) -> int:
    """A count is an integer from 0; neither a float nor a bool is one."""
    if type(value) is not int or value < 0:
        raise ValueError("count")
    return value


def _framed(value: dict[str, Any]) -> Iterator[bytes]:
    raw = canonical_json(value)
    yield _LENGTH.pack(len(raw))
    yield raw


def _json_at(payload: bytes, at: int) -> tuple[dict[str, Any], int]:
    (size,) = _LENGTH.unpack_from(payload, at)
    at += _LENGTH.size
    if size > MAX_JSON_BYTES or at + size > len(payload):
        raise ValueError("length")
    value = json.loads(payload[at : at + size])
    if not isinstance(value, dict):
        raise ValueError("object")
    return value, at + size

"""FHIR at the centre's wall: declared, well-formed, written anew."""

from __future__ import annotations

import json
from typing import Any

import pytest

from central.vault.contents import Content, check_batch
from protocol.errors import CorsiaError, DisclosureRefused, IntegrityError
from protocol.parcel import Batch, Item, ItemKind, pack_batch, unpack_batch
from protocol.study import Study
from tests.vaultkit import draft

LANE_TWO: dict[str, Any] = {"lane": "anonymize", "pipeline": {"name": "anonymize"}}


def judged(
    data: bytes, name: str = "P1.json", *, documents: bool = True, kind: ItemKind = ItemKind.DOCUMENT
) -> Content:
    columns = draft()["output"]["columns"]
    study = Study.model_validate(draft(output={"columns": columns, "documents": documents}, **LANE_TWO))
    item = Item(kind=kind, name=name, data=data, persons=1, rows=1)
    batch = Batch(batch_id="0" * 32, study_digest="1" * 64, site="site-a", part=0, last=True, items=(item,))
    return check_batch(study, unpack_batch(b"".join(pack_batch(batch))))


def test_documents_are_written_anew_and_counted() -> None:
    content = judged(b'{ "resourceType":"Patient",\n"resourceType":"Patient","a":"\\u00e8"}')
    assert content.entries[0].data == '{"resourceType": "Patient", "a": "è"}'.encode()
    assert content.report == {"curated_documents": 1}
    assert (content.files, content.persons) == (0, 1)
    two = judged(b'{"resourceType":"A"}\n\n{"resourceType":"B"}\n', "x.ndjson")
    assert [json.loads(line)["resourceType"] for line in two.entries[0].data.splitlines()] == ["A", "B"]


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"{", b'{"resourceType":1}', b'{"resourceType":"A","x":NaN}',
                                  b'{"a":' * 50_000])  # fmt: skip
def test_what_is_no_resource_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        judged(data)


@pytest.mark.parametrize(
    ("name", "documents", "kind", "error"),
    [
        ("P1.json", False, ItemKind.DOCUMENT, DisclosureRefused),
        ("report.json", True, ItemKind.DOCUMENT, IntegrityError),
        ("P1.parquet", True, ItemKind.DOCUMENT, IntegrityError),
        ("P1.ndjson", True, ItemKind.DICOM, IntegrityError),
    ],
)
def test_undeclared_and_misnamed_documents_are_refused(
    name: str, documents: bool, kind: ItemKind, error: type[CorsiaError]
) -> None:
    with pytest.raises(error):
        judged(b'{"resourceType":"A"}', name, documents=documents, kind=kind)

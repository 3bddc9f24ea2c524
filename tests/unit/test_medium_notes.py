"""Notes on a medium that anybody may have had in his hands: each is refused by itself."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from central.config import load_config
from central.medium import Carried, give_back, land
from corsia.cli.init_central import init_central
from protocol.errors import InputError
from protocol.medium import Note, SignedNote, read_document, read_receipt
from protocol.parcel import Receipt


def test_a_list_of_a_notes_names_is_no_note() -> None:
    raw = json.dumps({"note": [field.name for field in fields(Note)], "signature": ""}).encode()
    with pytest.raises(InputError) as caught:
        SignedNote.from_bytes(raw)
    assert caught.value.code == "input.medium"


@pytest.mark.parametrize("site", ["\ud800", "a\0", "a\n", "è"])
def test_words_that_no_database_takes_are_refused_before_they_are_looked_up(site: str) -> None:
    about = {
        "sequence": 1,
        "parcel_id": "a" * 32,
        "study_digest": "d",
        "assignment_id": "a",
        "content_type": "features",
    }
    note = {**about, "size_bytes": 1, "digest": "d", "site": "site-a"}
    assert SignedNote.from_bytes(json.dumps({"note": note, "signature": ""}).encode()).note.site == "site-a"
    with pytest.raises(InputError):
        SignedNote.from_bytes(json.dumps({"note": {**note, "site": site}, "signature": ""}).encode())


def test_a_note_that_cannot_be_read_stops_no_other(tmp_path: Path) -> None:
    init_central(tmp_path / "central.toml", tmp_path / "state")
    stick = tmp_path / "stick"
    stick.mkdir()
    ids = [digit * 32 for digit in "abc"]
    (stick / f"{ids[0]}.note").symlink_to("elsewhere")
    (stick / f"{ids[1]}.note").mkdir()
    (stick / f"{ids[2]}.note").write_bytes(b"{}")
    made = land(load_config(tmp_path / "central.toml"), stick)
    assert [(one.parcel_id, one.code) for one in made] == [(name, "input.medium") for name in ids]


def test_a_link_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "note").write_bytes(b"{}")
    (tmp_path / "link").symlink_to("note")
    assert read_document(tmp_path / "note") == b"{}"
    with pytest.raises(InputError, match="is a link"):
        read_document(tmp_path / "link")


def test_a_receipt_that_finds_its_place_taken_stops_no_other(tmp_path: Path) -> None:
    ids = [digit * 32 for digit in "abc"]
    made = [
        Carried(
            parcel_id=name,
            site="site-a",
            receipt=Receipt(parcel_id=name, digest="d" * 64, index=at, proof=(), checkpoint="c"),
        )
        for at, name in enumerate(ids)
    ]
    (tmp_path / f"{ids[1]}.receipt").mkdir()
    assert [one.code for one in give_back(tmp_path, made)] == ["", "storage.failed", ""]
    for name in (ids[0], ids[2]):
        assert read_receipt(read_document(tmp_path / f"{name}.receipt")).parcel_id == name

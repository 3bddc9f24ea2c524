"""Notes on a medium that anybody may have had in his hands: each is refused by itself."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from central.config import load_config
from central.medium import land
from corsia.cli.init_central import init_central
from protocol.errors import InputError
from protocol.medium import Note, SignedNote


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

"""Values of a crowd are found by their words: alone, within longer words, with other separators; others are not."""

from __future__ import annotations

import pytest

from privacy.deid.crowd import Crowd

PEOPLE = ("Quarzoli Delfina", "Dal Pozzo", "+39 333 1234567", "PT-778812", "Niccolò Łęcki", "Li")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("la sig.ra DELFINA sta bene", ["Quarzoli Delfina"]),
        ("d.quarzolidelfina@posta.example", ["Quarzoli Delfina"]),
        ("tel. 39-333.123.4567", ["+39 333 1234567"]),
        ("cartella PT 778812 e pozzo", ["Dal Pozzo", "PT-778812"]),
        ("niccolo", ["Niccolò Łęcki"]),
        ("li ha visti ieri", []),
        ("paziente stabile", []),
        ("", []),
    ],
)
def test_near(text: str, found: list[str]) -> None:
    crowd = Crowd()
    crowd.add(PEOPLE)
    crowd.add(PEOPLE)
    assert list(crowd.near(text)) == found


def test_nobody_is_near_an_empty_crowd() -> None:
    assert Crowd().near("Quarzoli") == ()

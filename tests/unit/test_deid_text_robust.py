"""Free text under hostile input: any Unicode, markup, long lines, line ends; a site's own model; no network."""

# ruff: noqa: E501 - patterns and notes are data, one a line
from __future__ import annotations

import socket
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.deid import recognizers
from privacy.deid.text import TextEngine, redact_lines
from privacy.deid.textdates import shift_written
from privacy.deid.view import View
from protocol.errors import ConfigurationError

ENGINE = TextEngine("it")


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_taken_and_keeps_its_lines(text: str) -> None:
    clean, spans = ENGINE.redact(text)
    assert clean.count("\n") == text.count("\n")
    assert len(clean.splitlines()) == len(text.splitlines())
    assert all(a.end <= b.start for a, b in pairwise(spans))
    assert ENGINE.redact(text) == (clean, spans)


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet="abAB è<>&;\u200b\u0301\u00a0’\n", max_size=80))
def test_the_view_maps_back(text: str) -> None:
    view = View(text)
    places = [view.original(i, i + 1) for i in range(len(view.text))]
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert places == sorted(places)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "piece", ["a", "1/", "De ", "Rossi, ", "via ", "a@", "A.", "12-", "<b>&egrave;", "1 ", "\n", "x.it/"]
)
def test_long_lines_end(piece: str) -> None:
    text = (piece * 8_000)[:8_000]
    assert redact_lines(ENGINE, text)[0].count("\n") == text.count("\n")


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "piece", ["a", "1/", "De ", "Aa ", "Rossi, ", "via ", "a@", "sig. ", "AB1", "12-", " ", "d'A "]
)
def test_very_long_lines_end(piece: str) -> None:
    ENGINE.redact((piece * 200_000)[:200_000])


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("sig. Nicol\u00f2 Per\u00f2", ["Nicol", "Per"]),
        (unicodedata.normalize("NFD", "sig. Nicolò Però sta bene"), ["Nicolo", "Pero"]),
        ("sig. Ro\u200bssi e nato il 12/\u200d03/1950", ["ssi", "1950"]),
        ("<p>Cognome:</p><b>Ro</b>ssi&nbsp;Mario", ["ssi", "Mario"]),
        ("sig.ra D&#39;Angelo", ["Angelo"]),
        ("CF ＲＳＳＭＲＡ８０Ａ０１Ｈ５０１Ｕ", ["８０"]),
        ("sig. D’Amico\u00a0Luca\r\nsta bene", ["Amico", "Luca"]),
        ("Paziente: Иванов Иван", ["Иван"]),
    ],
)
def test_disguised_identifiers_go(text: str, gone: list[str]) -> None:
    clean = ENGINE.redact(text)[0]
    assert [word for word in gone if word in clean] == []


def test_a_name_broken_over_lines_goes_and_the_lines_stay() -> None:
    text = "Visto il sig.\nRossi Mario.\r\n\r\nIl Rossi riferisce tosse\x0c.\n"
    clean, spans = redact_lines(ENGINE, text)
    assert clean == "Visto il sig.\n[NOME].\r\n\r\nIl [NOME] riferisce tosse\x0c.\n"
    assert [(line, span.start) for line, span in spans] == [(2, 0), (4, 3)]


@pytest.mark.parametrize(
    ("text", "moved"),
    [
        ("12/03/2021", "01/04/2021"),
        ("12.3.21", "1.4.21"),
        ("12 marzo 2021", "1 aprile 2021"),
        ("Venerdì 12 MAR. 2021", "Giovedì 1 APR. 2021"),
        ("1° marzo 2021", "21 marzo 2021"),
        ("2021-03-12", "2021-04-01"),
        ("20210312", "20210401"),
        ("March 12, 2021", "April 1, 2021"),
        ("12th of March 2021", "1st of April 2021"),
        ("March 12th, 2021", "April 1st, 2021"),
        ("12.III.2021", "1.IV.2021"),
        ("gio 12 gen 2023", "mer 1 feb 2023"),
        ("lunedi' 3 marzo 2021", "martedì 23 marzo 2021"),
        ("12-mar-2021", "1-apr-2021"),
        ("12-15/03/2021", "01-04/04/2021"),
        ("1 al 7 marzo 2022", "21 al 27 marzo 2022"),
        ("10-15 marzo 2021", None),
        ("12/3", "1/4"),
        ("12 marzo", "1 aprile"),
        ("marzo 2021", "aprile 2021"),
        ("03/2021", "04/2021"),
        ("32/13/2021", None),
    ],
)
def test_dates_are_moved_in_their_style(text: str, moved: str | None) -> None:
    assert shift_written(text, 20) == moved


@pytest.mark.parametrize(
    "text",
    [
        "dal 12 al 15 marzo 2021",
        "il 12/3",
        "12-15/03/2021",
        "dodici marzo duemilaventuno",
        "il 12 III 2021",
        "marzo '21",
        "in data 12/03",
    ],
)
def test_dates_in_all_spellings_go(text: str) -> None:
    clean = ENGINE.redact(text)[0]
    assert "12" not in clean.replace("dal 12 al", "")
    assert "marzo" not in clean


def test_a_model_of_the_site_adds_names(tmp_path: Path) -> None:
    import spacy

    nlp = spacy.blank("it")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PER", "pattern": "blorfo"}, {"label": "MISC", "pattern": "tosse"}])  # type: ignore[attr-defined]
    nlp.to_disk(tmp_path / "model")
    text = "Visto blorfo con tosse, malattia di Parkinson, sig. Rossi"
    assert TextEngine("it").redact(text)[0] == "Visto blorfo con tosse, malattia di Parkinson, sig. [NOME]"
    engine = TextEngine("it", model=tmp_path / "model")
    assert engine.redact(text)[0] == "Visto [NOME] con tosse, malattia di Parkinson, sig. [NOME]"
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigurationError):
            TextEngine("it", model=folder)


def test_nothing_asks_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("network")

    recognizers._analyzer.cache_clear()
    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    text = "a.b@host.example.co.uk, www.host.it/x, http://pazienti.regione.lombardia.it, +39 333 1234567, IT60X0542811101000000123456"
    for lang in ("it", "en"):
        clean = TextEngine(lang).redact(text)[0]  # type: ignore[arg-type]
        assert not any(word in clean for word in ("host", "regione", "333", "0542"))

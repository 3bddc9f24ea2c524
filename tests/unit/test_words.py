"""The catalogue of words: nothing that a page asks for is missing, nothing lies there unused, both languages whole."""

from __future__ import annotations

import re
import string
import tomllib
from http import HTTPStatus
from pathlib import Path

import pytest
from markupsafe import escape

from central.web.pages.render import environment
from corsia.sitedesk import Desk
from edge.gate import Check
from edge.policy import Rule
from edge.preview import Preview
from protocol.assignment import MaskStep, RoundPhase, State
from protocol.errors import CODES
from protocol.study import Lane, parse_study
from protocol.words import LANGUAGES, chosen, words
from tests.agentkit import site_config

ROOT = Path(__file__).parents[2]
FILE = ROOT / "protocol" / "words.toml"
ERRORS = ROOT / "protocol" / "errors-it.toml"
# What stays as it is in every language: commands, options, tables of a configuration, settings, files, names.
KEPT = re.compile(r"`[^`]+`|--[a-z]+|\[[\w.]+\]|\w+(?:[._/=]+\w+)+|\b[A-Z][A-Z0-9]+\b|\bchmod \d+|\bpip install \S+")
SOURCES = [
    *sorted((ROOT / "central" / "web").rglob("*.html")),
    *sorted((ROOT / "central" / "web").rglob("*.py")),
    *sorted((ROOT / "corsia").rglob("*.html")),
    *sorted((ROOT / "corsia").glob("site*.py")),
    *sorted((ROOT / "edge").glob("*.py")),
    ROOT / "protocol" / "prose.py",
]
# Sections whose names are values of the product, asked for by `named`, or by a name that is put together.
LISTS = {
    "state", "lane", "network", "dp", "basis", "word", "level", "alarm", "phase", "step", "ended", "wish", "answer",
    "leaf", "count", "manifest", "field", "hint", "prose", "nav", "time", "closed",
}  # fmt: skip


def _asked() -> set[str]:
    text = "\n".join(path.read_text() for path in SOURCES)
    return set(re.findall(r"""\b(?:t|say)\(\s*f?["']([a-z_]+\.[a-z_]+)["']\s*[,)]""", text))


def test_every_text_is_there_in_every_language_with_the_same_places() -> None:
    sections = tomllib.loads(FILE.read_text())
    for section, texts in sections.items():
        for name, text in texts.items():
            assert set(text) == set(LANGUAGES), f"{section}.{name}"
            assert all(said.strip() for said in text.values()), f"{section}.{name}"
            places = [sorted(f for _, f, _, _ in string.Formatter().parse(said) if f) for said in text.values()]
            assert places[0] == places[1], f"{section}.{name}"


def test_no_page_asks_for_a_text_that_is_missing_and_none_is_unused() -> None:
    asked, known = _asked(), words("en").keys()
    assert len(asked) > 150
    assert asked - known == set()
    unused = {key for key in known - asked if key.partition(".")[0] not in LISTS}
    assert unused == set()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_values_of_fixed_lists_have_words(language: str) -> None:
    say = words(language)
    for section, values in (("state", State), ("lane", Lane), ("phase", RoundPhase), ("step", MaskStep)):
        missing = [one.value for one in values if f"{section}.{one.value}" not in say.keys()]
        assert missing == [], section


def test_every_field_of_the_form_has_a_label() -> None:
    text = (ROOT / "central" / "web" / "templates" / "draft.html").read_text()
    named = set(re.findall(r"{{ (?:text|area|choice|tick)\(\"([a-z_]+)\"", text)) | {"images", "fhir", "omop"}
    assert {f"field.{name}" for name in named} <= words("en").keys()
    assert len(named) > 30


def test_a_readers_language() -> None:
    assert chosen("it", "en") == "it"
    assert chosen("", "it-IT,it;q=0.9,en;q=0.8") == "it"
    assert chosen("xx", "de, EN;q=0.5") == "en"
    assert chosen("", "") == "en"
    with pytest.raises(KeyError):
        words("de")
    with pytest.raises(KeyError):
        words("en")("nav.nothing")


def test_every_template_compiles() -> None:
    for name in environment().list_templates():
        assert environment().get_template(name)


def test_a_study_reads_in_words_in_both_languages() -> None:
    from protocol.prose import prose

    study = parse_study(
        b"""schema = 1
id = "s"
title = "T"
lane = "train"
purpose = "research"
legal_basis = "consent"
controller = "C"
ethics_reference = "E"
expires = 2099-01-01T00:00:00Z
sites = ["a", "b", "c"]
[dataset]
name = "lung"
columns = ["age"]
images = true
where = [{ column = "age", op = ">", value = 3 }]
[pipeline]
name = "train"
[privacy]
dp = "distributed"
epsilon = 2.0
delta = 1e-5
secure_aggregation = true
max_examples = 10
[training]
learner = "tabular"
features = ["age"]
outcome = ["died"]
publish = { model = "m" }
"""
    )
    said = {language: prose(study, words(language)) for language in LANGUAGES}
    assert [len(part) for _, part in said["en"]] == [len(part) for _, part in said["it"]]
    text = " ".join(sentence for _, part in said["en"] for sentence in part)
    for expected in (
        "C asks",
        "GDPR 6(1)(a)",
        "age > 3",
        "images (DICOM)",
        "epsilon 2 at delta 1e-05",
        "Masks:",
        "m (c",
    ):
        assert expected in text
    assert "Maschere" in " ".join(sentence for _, part in said["it"] for sentence in part)


def test_every_code_speaks_italian_and_no_other_does() -> None:
    sections = tomllib.loads(ERRORS.read_text())
    also = sections.pop("also")
    texts = {f"{section}.{name}": text for section, held in sections.items() for name, text in held.items()}
    assert texts.keys() == CODES.keys()
    assert [code for code, text in texts.items() if set(text) != {"summary", "hint"}] == []
    assert [code for code, text in texts.items() if not all(said.strip() for said in text.values())] == []
    english = {text for entry in CODES.values() for text in (entry.summary, entry.hint)}
    assert english.isdisjoint(
        said for text in texts.values() for said in text.values() if " " in said.partition("`")[0]
    )
    assert english.isdisjoint(also), "what a code says stands under the code"
    say = words("it")
    for code, text in texts.items():
        assert say.error(code) == (text["summary"], text["hint"], "it"), f"{code}: one English text, two Italian ones"


def test_what_is_typed_or_configured_is_the_same_in_italian() -> None:
    say, kept = words("it"), 0
    for code, entry in CODES.items():
        for english, italian in zip((entry.summary, entry.hint), say.error(code)[:2], strict=True):
            for name in KEPT.findall(english):
                kept += 1
                assert name in italian, (code, name)
            commands = re.findall(r"`(corsia [^`]+)`", italian)
            assert sorted(commands) == sorted(re.findall(r"`(corsia [^`]+)`", english)), code
    assert kept > 80


def test_an_error_in_a_readers_language() -> None:
    english, italian = words("en"), words("it")
    for code, entry in CODES.items():
        assert english.error(code) == (entry.summary, entry.hint, "en")
        assert english.told(entry.summary) == (entry.summary, "en")
        assert italian.told(entry.hint) == (italian.error(code)[1], "it")
    for say in (english, italian):
        assert say.error("nobody.knows") == ("", "", say.language)
        assert say.told("privacy.k: not a number") == ("privacy.k: not a number", "en")
    assert italian.told("Not Found") == ("Non trovato", "it")


@pytest.mark.parametrize("folder", ["central/web/templates", "corsia/sitepages"])
def test_no_page_says_of_a_text_that_it_is_english_before_it_is_known(folder: str) -> None:
    found = [path.name for path in (ROOT / folder).glob("*.html") if 'lang="en"' in path.read_text()]
    assert found == []


def test_what_pages_say_in_a_codes_place_is_said_somewhere() -> None:
    said = "".join(path.read_text() for path in SOURCES if path.suffix == ".py")
    phrases = {one.phrase for one in HTTPStatus}
    assert [
        text for text in tomllib.loads(ERRORS.read_text())["also"] if f'"{text}"' not in said and text not in phrases
    ] == []


def test_a_refused_preview_is_told_in_italian_but_for_the_rules_own_words(tmp_path: Path) -> None:
    hint = CODES["policy.lane"].hint
    said = "<i>lane</i> 'train' is not in the policy's lanes"
    rule = Rule(name="lane", asked="train", site="harvest", effective="", ok=False, reason=said, code="policy.lane")
    spent = Check(rule="memory", ok=False, reason=CODES["gate.differencing"].summary)
    made = Preview(
        study="s", digest="d", lane="train", allowed=False, code="policy.lane", reason=said, hint=hint,
        rules=[rule], gate=[spent],
    )  # fmt: skip
    desk = Desk(site_config(tmp_path), "mark")
    english, italian = (
        desk._page("preview.html", one, made=made, digest="d", counts=[]).text.partition("<main")[2]
        for one in LANGUAGES
    )
    words_of_rule = f'<span lang="en">{escape(said)}</span>'
    assert english.count(words_of_rule) == italian.count(words_of_rule) == 2
    assert f'<small lang="en">{escape(hint)}</small>' in english
    assert f'<small lang="it">{escape(words("it").error("policy.lane")[1])}</small>' in italian
    assert f'<span lang="it">{escape(words("it").error("gate.differencing")[0])}</span>' in italian


def test_a_judged_draft_keeps_what_is_wrong_with_it_and_escapes_it() -> None:
    shown = environment().get_template("draft-judged.html")
    for detail, expected in (
        (CODES["input.study"].summary, '<span lang="it">il file dello studio non è valido</span>'),
        ("title: <script>", '<span lang="en">title: &lt;script&gt;</span>'),
    ):
        judged = {"ok": False, "code": "input.study", "detail": detail, "words": []}
        assert expected in shown.render(t=words("it"), told=words("it").told, judged=judged, toml="")

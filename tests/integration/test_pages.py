"""The dashboard's pages as a browser without scripts meets them: there, whole, in two languages, text as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from markupsafe import escape

from protocol.errors import CODES
from protocol.words import words
from tests.pagekit import COLUMN, XSS, hostile_centre
from tests.vaultkit import draft
from tests.webkit import Running

PAGES = (
    "/", "/studies", "/studies?search=%3Cscript%3E&lane=%22%3E", "/studies/new", "/studies/trial", "/studies/fed",
    "/training", "/training/fed", "/training/masked", "/training/compare?study=fed&study=masked", "/models",
    "/models/risk", "/models/risk?version=1", "/data", "/data/trial", "/data/columns", "/audit", "/audit?before=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with hostile_centre(tmp_path_factory.mktemp("centre")) as made:
        yield made


class Page(HTMLParser):
    """A page's tags and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said += f" {data.strip()}"


def get(running: Running, path: str, language: str = "en") -> Page:
    with running.operator() as http:
        answer = http.get(path, headers={"Accept-Language": language})
    assert answer.status_code == 200, (path, answer.text[:500])
    assert "<img src=x" not in answer.text
    assert "<script>" not in answer.text
    return Page(answer.text)


@pytest.mark.parametrize("language", ["en", "it"])
def test_every_page_is_there_and_can_run_nothing_of_others(running: Running, language: str) -> None:
    for path in PAGES:
        page = get(running, path, language)
        assert ("html", {"lang": language}) in page.tags
        for tag, attributes in page.tags:
            assert not any(name.startswith("on") or name == "style" for name in attributes), (path, tag, attributes)
            if tag in ("script", "link", "img"):
                assert (attributes.get("src") or attributes.get("href") or "").startswith("/static/")
        _has_its_landmarks(path, page)


def _has_its_landmarks(path: str, page: Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert {"header", "nav", "main", "footer"} <= set(tags)
    assert tags.count("h1") == 1
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)), (path, sorted(ids))
    for tag, attributes in page.tags:
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert attributes.get(name) is None or attributes[name] in ids, (path, tag, attributes)


def test_hostile_text_is_shown_as_it_is(running: Running) -> None:
    assert XSS in get(running, "/").said
    assert XSS in get(running, "/studies/trial").said
    assert COLUMN in get(running, "/data/columns").said
    curves = [json.loads(a["data-series"] or "") for tag, a in get(running, "/").tags if tag == "figure"]
    assert [{"name": "c-index", "points": [[0, 0.5], [1, 0.6], [2, 0.7]]}] in curves, "numbers alone; no NaN, no text"


def test_a_run_shows_who_was_slow_late_or_dropped_and_keeps_what_is_withheld(running: Running) -> None:
    plain, masked = get(running, "/training/fed"), get(running, "/training/masked")
    for word in ("site-b slow", "site-b late", "withheld", "Updates are sealed, not masked"):
        assert word in " ".join(plain.said.split()), word
    names = [a["data-name"] for tag, a in plain.tags if tag == "figure"]
    assert "site-a c-index" in names
    assert not any("site-b" in (name or "") for name in names)
    for word in ("site-c dropped", "unavailable.deadline", "the federation learns sums alone", "shares released"):
        assert word in " ".join(masked.said.split()), word
    assert masked.said.count("withheld") >= 3


def test_what_a_run_spends_grows_to_what_it_may(running: Running) -> None:
    burn = running.get("/runs/masked/budget")
    assert (burn["kind"], burn["epsilon"], burn["points"][0]) == ("distributed", 3.0, [0, 0.0])
    assert 0 < burn["spent"] < 3.0
    assert running.get("/runs/fed/budget") == {
        "kind": "none", "epsilon": None, "delta": None, "spent": None, "points": [],
    }  # fmt: skip
    phases = [one["phase"] for one in running.get("/runs/masked/timeline")]
    assert phases == [f"train/{step}" for step in ("advertise", "share", "mask", "sign", "release")] * 2


def test_an_approval_has_its_reason_and_a_study_its_words(running: Running) -> None:
    page = get(running, "/studies/fed")
    assert "policy.lane" in page.said
    assert "Updates of a model" in page.said
    assert "epsilon unbounded" in page.said
    assert "Lo chiede Consortium" in get(running, "/studies/fed", "it").said


def test_a_reader_chooses_a_language_and_it_is_kept(running: Running) -> None:
    with running.operator() as http:
        assert "<h1>Panoramica</h1>" in http.get("/?lang=it").text
        assert "<h1>Studi</h1>" in http.get("/studies").text
        assert "<h1>Studies</h1>" in http.get("/studies?lang=en").text
        assert "<h1>Studies</h1>" in http.get("/studies?lang=xx").text


def test_what_cannot_be_shown_is_a_page_with_its_code(running: Running) -> None:
    with running.operator() as http:
        http.headers["accept"] = "text/html"
        for path in ("/studies/none", "/training/none", "/training/trial", "/data/none", "/models/none", "/none"):
            answer = http.get(path)
            assert answer.status_code == 404, path
            assert answer.headers["content-type"].startswith("text/html")
            assert ("input.usage" if path in ("/models/none", "/none") else "study.unknown") in answer.text
        assert "<h1>" in http.get("/studies?page=0").text
        assert http.get("/studies?page=0").status_code == 422


def test_what_went_wrong_is_told_in_the_readers_language(running: Running) -> None:
    unknown, say = CODES["study.unknown"], words("it")
    english, italian = ({"Accept": "text/html", "Accept-Language": one} for one in ("en", "it"))
    with running.operator() as http:
        page = http.get("/studies/none", headers=english).text
        assert f'<strong lang="en">{unknown.summary}</strong>' in page
        assert f'<p class="hint" lang="en">{unknown.hint}</p>' in page
        for path, detail, hint in (
            ("/studies/none", *say.error("study.unknown")[:2]),
            ("/none", "Non trovato", "vedi /api/v1/openapi.json"),
        ):
            page = http.get(path, headers=italian).text.partition("<main")[2]
            assert 'lang="en"' not in page, path
            assert f'<strong lang="it">{escape(detail)}</strong>' in page
            assert f'<p class="hint" lang="it">{escape(hint)}</p>' in page
        page = http.get("/studies?page=0", headers=italian).text
        assert '<strong lang="en">not valid: query.page</strong>' in page, "what is said of the one case stays English"
        assert f'<p class="hint" lang="it">{say.error("input.usage")[1]}</p>' in page
        summary, hint, _ = say.error("policy.lane")
        page = http.get("/studies/fed", headers=italian).text
        assert f'<span lang="it">{escape(summary)}</span> <small lang="it">{escape(hint)}</small>' in page
        document = http.get("/api/v1/studies/none", headers=italian).json()
        assert (document["detail"], document["hint"]) == (unknown.summary, unknown.hint)
    with running.client() as nobody:
        page = nobody.post(
            "/auth/enter", data={"token": "none"}, headers=italian | {"Sec-Fetch-Site": "same-origin"}
        ).text
        assert f'<strong lang="it">{escape(say.error("auth.token")[0])}</strong>' in page


def test_lists_page_and_filter_on_the_server(running: Running) -> None:
    assert XSS in get(running, "/studies").said
    assert XSS not in get(running, "/studies?lane=train").said
    assert "fed" in get(running, "/studies?lane=train&search=FED").said
    assert "Nothing fits." in get(running, "/studies?page=7").said
    assert "Nothing fits." in get(running, "/studies?search=%25").said


def _form(**changes: str | list[str]) -> dict[str, Any]:
    value: dict[str, Any] = {
        "id": "drafted", "title": XSS, "lane": "harvest", "purpose": "research", "legal_basis": "consent",
        "controller": "C", "ethics_reference": "E", "expires": "2099-01-01", "sites": ["site-a", "site-b"],
        "dataset": "lung", "columns": "age, sex", "output": "age float\nsex string", "k": "7",
    }  # fmt: skip
    return value | changes


def test_a_study_is_made_by_the_form_and_judged_as_it_is_filled_in(running: Running) -> None:
    with running.operator() as http:

        def judged(language: str = "en", **changes: Any) -> str:
            return http.post("/studies/new/check", data=_form(**changes), headers={"Accept-Language": language}).text

        assert "Not yet:" in http.post("/studies/new/check", data={"id": "x"}).text
        good = judged("it")
        assert "Questo studio si può presentare." in good
        assert "Gruppi di meno di 7 persone non escono" in good
        assert "<script>" not in good
        assert "not enrolled: nowhere" in judged(sites="nowhere")
        assert "privacy.k" in judged(k="few")
        assert "not TOML" in judged(parameters="= 3")
        made = http.post("/api/v1/studies", json=http.post("/studies/new/draft", data=_form()).json())
        assert made.status_code == 201, made.text
        trained = {"lane": "train", "learner": "tabular", "features": "age", "outcome": "sex", "publish": "m"}
        told = judged(id="t", **trained, dp="sample", epsilon="1.5", delta="1e-5", rounds="3")
        assert "This study can be submitted." in told
        assert "epsilon 1.5 at delta 1e-05" in told
        big = http.post("/studies/new/check", content=b"a=" + b"x" * 600_000)
        assert (big.status_code, "input.study" in big.text) == (422, True)
    assert running.get("/studies/drafted")["title"] == XSS


def test_a_draft_is_checked_over_the_api_too(running: Running) -> None:
    with running.operator() as http:
        good = http.post("/api/v1/studies/check?lang=it", json=draft("api-draft")).json()
        bad = http.post("/api/v1/studies/check", json=draft("api-draft", lane="nothing")).json()
    assert good["ok"] is True
    assert good["words"][0][0] == "Chi chiede, e perché"
    assert (bad["ok"], bad["code"], bad["words"], bad["field"]) == (False, "input.study", [], "lane")


def test_flow_alarms_budgets_and_the_account(running: Running) -> None:
    flow = {one["lane"]: one for one in running.get("/flow")}
    assert sum(flow["harvest"]["minutes"]) == sum(p["size_bytes"] for p in running.get("/studies/trial")["parcels"])
    assert "odd" in {one["site"] for one in running.get("/alarms") if one["kind"] == "silent"}
    spent = {one["study"]: (one["dp"], one["spent"]) for one in running.get("/budgets")}
    assert spent["trial"] == ("none", None)
    assert spent["masked"][1] > 0
    assert {one["site"]: one["unbounded"] for one in running.get("/budgets/sites")} == {"site-a": 2, "site-b": 1}
    lines = [one for one in running.get("/account") if one["study"] == "trial"]
    assert [(one["site"], one["rows"], one["withheld"]) for one in lines] == [("site-a", 6, 2), ("site-b", 6, 0)]
    with running.operator() as http:
        text = http.get("/api/v1/account/export").text
    assert text.splitlines()[0].startswith("study,title,study_digest")
    assert {one["study"] for one in running.get("/runs")} == {"fed", "masked"}
    assert running.get("/models/risk/where") == []


def test_the_log_comes_as_a_list_with_what_its_leaves_are_of(running: Running) -> None:
    everything = running.get("/log/entries")
    assert [one["index"] for one in everything] == list(range(len(everything)))[::-1]
    assert {(one["kind"], one["study"]) for one in everything if one["site"]} == {
        ("parcel", "trial"), ("parcel", "columns"),
    }  # fmt: skip


def test_histograms_hide_small_cells(running: Running) -> None:
    found = running.get("/studies/trial/distributions")
    assert found["min_group"] == 5
    assert found["columns"]["sex"]["histogram"] == {"F": 6, "M": 6}
    assert set(found["columns"]) == {"site", "age", "sex"}
    ages = found["columns"]["age"]
    assert all(count is None or count >= 5 for count in (ages.get("histogram") or {}).values())

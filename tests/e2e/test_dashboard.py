"""The dashboard over the live demo, in Chromium inside the demo's own network: a study is trained while one looks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browserkit import Seat, browser, expect
from tests.e2e.running import Demo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
_RUN = "lung-looked-at"


@pytest.fixture(scope="module")
def seat(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seat]:
    token = (demo.out / "centre" / "state" / "operator.token").read_text().strip()
    with browser(demo.url, demo.entering(), tmp_path_factory.mktemp("browser")) as seats:
        made: Seat = seats()
        made.enter(token)
        yield made
        made.context.close()
    assert made.wrong == []


def test_a_study_is_submitted_and_its_curves_move(seat: Seat) -> None:
    page = seat.page("/studies/new")
    value = page.evaluate("fetch('/api/v1/studies/lung-survival').then((answer) => answer.json())")
    trained = value["run"]["of"]
    for label, text in (
        ("Id", _RUN), ("Title", "Looked at"), ("Controller", "C"), ("Ethics reference", "E"), ("Ends on", "2099-01-01"),
        ("Dataset", "lung"), ("Columns to read", "age, sex, ph.ecog, time, status"),
    ):  # fmt: skip
        page.get_by_label(label, exact=True).fill(text)
    page.get_by_label("Lane").select_option("train")
    for name in value["sites"]:
        page.get_by_label(name, exact=True).check()
    page.get_by_label("Learner").select_option("survival")
    for label, text in (
        ("Features", "age, sex, ph.ecog"), ("Outcome", "time, status"), ("Rounds", str(trained)),
        ("Model's name", "looked-at"),
    ):  # fmt: skip
        page.get_by_label(label, exact=True).fill(text)
    expect(page.locator("#judged")).to_contain_text("This study can be submitted.")
    page.get_by_role("button", name="Submit the study").click()
    expect(page.locator("h1")).to_have_text("Looked at")
    page.get_by_role("link", name="See the run").click()
    expect(page.locator("#state")).to_contain_text("finished")
    expect(page.locator("#curves figcaption").filter(has_text="c-index")).to_be_visible()
    expect(page.locator("#curves canvas").first).to_be_visible()
    expect(page.locator("#rounds tbody tr").first).to_contain_text("3/3")
    page.goto(f"{seat.url}/models/looked-at")
    expect(page.get_by_text("candidate").first).to_be_visible()


def test_every_page_of_the_demo_is_there_and_its_log_verifies(demo: Demo, seat: Seat) -> None:
    page = seat.page("/")
    for path in ("/", "/studies", "/studies/lung-anonymize", "/training/lung-survival", "/models/lung-survival",
                 "/data/lung-features", "/data/lung-anonymize", "/data/lung-harvest"):  # fmt: skip
        page.goto(seat.url + path)
        expect(page.locator("h1")).to_be_visible()
    page.goto(f"{seat.url}/models/lung-survival")
    expect(page.locator("#where")).to_contain_text(demo.summary["inference"]["edge"]["site"])
    page.goto(f"{seat.url}/audit")
    page.get_by_role("button", name="Verify here").click()
    expect(page.locator("#verdict")).to_contain_text("Verified:")

"""The dashboard over the live demo, in Chromium inside the demo's own network: a study is trained while one looks, two
operators promote its model, and a hospital's steward lets it run there.

Every wait is for something to become so; the bounds are for what never does. CORSIA_SHOTS=1 makes the docs' pictures.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from corsia.demo import studies
from tests.browserkit import Seat, browser, expect, serious, shot
from tests.e2e.running import Demo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
_RUN, _MODEL = "lung-looked-at", "looked-at"
_PICTURE = {"width": 1100, "height": 760}
_LONG_MS = 900_000  # no measure: a run of several hospitals on a machine that is busy


@pytest.fixture(scope="module")
def seats(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(demo.url, demo.entering(), tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest.fixture
def seat(demo: Demo, seats: Any) -> Iterator[Seat]:
    with operator(seats, token_file(demo)) as made:
        yield made


def token_file(demo: Demo) -> Path:
    return demo.out / "centre" / "state" / "operator.token"


@contextmanager
def operator(seats: Any, token: Path, **settings: Any) -> Iterator[Seat]:
    """Somebody's browser; nothing may go wrong in it."""
    made: Seat = seats(**settings)
    made.enter(token.read_text().strip())
    yield made
    made.context.close()
    assert made.wrong == []


def asked(page: Any, path: str) -> Any:
    """What the API says to this browser."""
    return page.evaluate("path => fetch('/api/v1' + path).then((answer) => answer.json())", path)


def test_a_study_is_submitted_and_its_curves_move(seat: Seat) -> None:
    page = seat.page("/studies/new")
    value = asked(page, "/studies/lung-survival")
    for label, text in (
        ("Id", _RUN), ("Title", "Looked at"), ("Controller", "C"), ("Ethics reference", "E"), ("Ends on", "2099-01-01"),
        ("Dataset", "lung"), ("Columns to read", "age, sex, ph.ecog, time, status"),
    ):  # fmt: skip
        page.get_by_label(label, exact=True).fill(text)
    page.get_by_label("Lane").select_option("train")
    for name in value["sites"]:
        page.get_by_role("checkbox", name=re.compile(rf"^{name}\b")).check()
    page.get_by_label("Learner").select_option("survival")
    rounds = value["run"]["of"]
    for label, text in (
        ("Features", "age, sex, ph.ecog"), ("Outcome", "time, status"), ("Rounds", str(rounds)),
        ("Model's name", _MODEL),
    ):  # fmt: skip
        page.get_by_label(label, exact=True).fill(text)
    expect(page.locator("#judged")).to_contain_text("This study can be submitted.")
    page.get_by_role("button", name="Submit the study").click()
    expect(page.locator("h1")).to_have_text("Looked at")
    page.get_by_role("link", name="See the run").click()
    page.evaluate("window.stayed = true")
    expect(page.locator("#curves canvas").first).to_be_visible(timeout=_LONG_MS)
    expect(page.locator("#state")).to_contain_text("finished", timeout=_LONG_MS)
    expect(page.locator("#curves figcaption").filter(has_text="c-index")).to_be_visible()
    expect(page.locator("#curves tbody").first.locator("tr")).to_have_count(rounds)
    expect(page.locator("#rounds tbody tr").first).to_contain_text("3/3")
    assert page.evaluate("window.stayed"), "the page came to show it all by itself"


def test_two_operators_promote_its_model(demo: Demo, seat: Seat, seats: Any) -> None:
    page = seat.page(f"/models/{_MODEL}")
    expect(page.get_by_text("candidate").first).to_be_visible(timeout=_LONG_MS)
    page.get_by_label("Your token file").set_input_files(token_file(demo))
    page.get_by_role("button", name="Sign and propose").click()
    expect(page.get_by_text("Another operator has to approve this one.")).to_be_visible()
    reviewer = demo.out / "centre" / "reviewer.token"
    with operator(seats, reviewer) as second:
        page = second.page(f"/models/{_MODEL}")
        page.locator("form.approve").get_by_label("Your token file").set_input_files(reviewer)
        page.get_by_role("button", name="Sign and approve").click()
        expect(page.locator("main .state-champion")).to_be_visible()


@contextmanager
def by_hand(demo: Demo, site: str) -> Iterator[Path]:
    """A hospital whose steward decides each study; its daemon starts again with that, and as before afterwards."""
    path = demo.out / "sites" / site / "edge.toml"
    before = path.read_text()
    path.write_text(before.replace('approve = "auto"', 'approve = "manual"'))
    assert path.read_text() != before
    restart(demo, path)
    try:
        yield path
    finally:
        path.write_text(before)
        restart(demo, path)


def restart(demo: Demo, config: Path) -> None:
    """End a hospital's daemon; the demo starts it again."""
    for process in psutil.Process(demo.process.pid).children(recursive=True):
        if process.cmdline()[-4:] == ["edge", "run", "--config", str(config)]:
            process.send_signal(signal.SIGTERM)
            process.wait()
            return
    raise AssertionError("the hospital's daemon does not run")


@contextmanager
def desk(demo: Demo, config: Path) -> Iterator[str]:
    """`corsia edge web` of a hospital: the address that it prints."""
    command = [sys.executable, "-m", "corsia", "edge", "web", "--port", "0", "--json", "--config", str(config)]
    process = subprocess.Popen([*demo.entering(), *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["url"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        process.stdout.close()


@pytest.mark.full  # its twin that always runs: tests/integration/test_siteweb.py
def test_a_steward_approves_at_the_hospital_and_the_centre_sees_it(demo: Demo, seat: Seat, seats: Any) -> None:
    site = demo.summary["inference"]["edge"]["site"]
    plan = studies([], site)["lung-inference"] | {"id": "lung-by-hand", "title": "By hand"}
    plan["expires"] = plan["expires"].isoformat()
    page = seat.page("/")
    with by_hand(demo, site) as config:
        status = page.evaluate(
            "body => fetch('/api/v1/studies', {method: 'POST', body, headers: {'X-Corsia': '1', "
            "'Content-Type': 'application/json'}}).then((answer) => answer.status)",
            json.dumps(plan),
        )
        assert status == 201
        page.goto(f"{seat.url}/studies/lung-by-hand")
        expect(page.locator("#approvals tbody .state-pending")).to_be_visible(timeout=_LONG_MS)
        with desk(demo, config) as url:
            steward: Seat = seats(viewport=_PICTURE)
            there = steward.context.new_page()
            there.on("console", steward._said)
            there.on("request", steward._asked)
            there.goto(url)
            there.get_by_role("link", name="lung-by-hand").press("Enter")
            expect(there.locator("h1")).to_have_text("By hand")
            assert serious(there) == []
            shot(there, "site-request")
            there.get_by_role("button", name="Show what would leave").press("Enter")
            expect(there.locator("h1")).to_contain_text("lung-by-hand")
            there.get_by_role("link", name="Back to the request").press("Enter")
            there.get_by_role("button", name="Approve").press("Enter")
            expect(there.locator("main .state").first).to_have_text("approved")
            expect(page.locator("#approvals tbody .state-done")).to_be_visible(timeout=_LONG_MS)
            steward.context.close()
            assert steward.wrong == []
    page.goto(f"{seat.url}/models/lung-survival")
    expect(page.locator("#where")).to_contain_text("lung-by-hand")


def test_every_page_of_the_demo_is_there_without_a_serious_fault(demo: Demo, seats: Any) -> None:
    pages = {
        "/": "overview", "/studies": "", "/studies/lung-anonymize": "study", "/training/lung-survival": "training",
        "/models/lung-survival": "model", "/data/lung-features": "", "/data/lung-harvest": "data", "/audit": "",
    }  # fmt: skip
    with operator(seats, token_file(demo), viewport=_PICTURE) as seat:
        page = seat.page("/")
        for path, picture in pages.items():
            page.goto(seat.url + path)
            expect(page.locator("h1")).to_be_visible()
            assert serious(page) == [], path
            if picture:
                shot(page, picture)
        page.get_by_role("button", name="Verify here").click()
        expect(page.locator("#verdict")).to_contain_text("Verified:")
        shot(page, "audit")


def test_the_log_verifies_by_keyboard_in_italian(demo: Demo, seats: Any) -> None:
    with operator(seats, token_file(demo), locale="it-IT") as seat:
        page = seat.page("/audit")
        verify = page.get_by_role("button", name="Verifica qui")
        for _ in range(40):
            page.keyboard.press("Tab")
            if verify.evaluate("node => node === document.activeElement"):
                break
        page.keyboard.press("Enter")
        expect(page.locator("#verdict")).to_contain_text("Verificato:")
        expect(page.locator("html")).to_have_attribute("lang", "it")

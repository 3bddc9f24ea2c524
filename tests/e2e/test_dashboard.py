"""The dashboard over the live demo, in Chromium inside the demo's own network. People log in by a real OpenID provider
there: a researcher has a study trained while she looks, two operators promote its model, a hospital's steward lets it
run there, a data protection officer verifies the log.

Every wait is for something to become so; the bounds are for what never does. CORSIA_SHOTS=1 makes the docs' pictures.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import tomli_w

from corsia.demo import studies
from tests.browserkit import Seat, browser, by_tab, chromium, expect, serious, shot
from tests.e2e.running import Demo
from tests.oidckit import provided, settings, signed_in

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
_RUN, _MODEL = "lung-looked-at", "looked-at"
_PICTURE = {"width": 1100, "height": 760}
_RUNNING = (["central", "serve", "--config"], ["edge", "run", "--config"])
_LONG_MS = 900_000  # no measure: a run of several hospitals on a machine that is busy


@pytest.fixture(scope="module")
def seats(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Browsers. The centre is told of the provider as who runs it would: by its file, and started again with that; it
    stays so, since these are the last who look at the demo's centre.
    """
    chromium()
    folder, config = tmp_path_factory.mktemp("provider"), demo.out / "centre" / "central.toml"
    with provided(folder, demo.url, demo.entering()) as provider:
        identity = settings(provider, folder).model_dump(mode="json", exclude_unset=True)
        starts, end = ready(demo), time.monotonic() + _LONG_MS / 1000
        config.write_text(config.read_text() + tomli_w.dumps({"identity": identity}))
        restart(demo, config)
        while ready(demo) == starts:
            assert time.monotonic() < end
            time.sleep(0.1)
        with browser(demo.url, demo.entering(), tmp_path_factory.mktemp("browser")) as made:
            yield made


def ready(demo: Demo) -> int:
    """How often the centre has said that all its processes answer."""
    return (demo.out / "logs" / "centre.out").read_text().count("ready: ")


@contextmanager
def person(seats: Any, name: str, button: str = "Sign in with your institution", **more: Any) -> Iterator[Any]:
    """The page of somebody who has just logged in, in a browser of his own; nothing may go wrong in it."""
    made: Seat = seats(**more)
    page = signed_in(made, name, button)
    expect(page.locator("footer")).to_contain_text(f" {name.capitalize()}.")
    made.refused(401)  # the door itself
    yield page
    made.context.close()
    assert made.wrong == []


def asked(page: Any, path: str) -> Any:
    """What the API says to this browser."""
    return page.evaluate("path => fetch('/api/v1' + path).then((answer) => answer.json())", path)


@pytest.fixture
def researcher(seats: Any) -> Iterator[Any]:
    with person(seats, "bice") as page:
        yield page


@pytest.fixture
def operator(seats: Any) -> Iterator[Any]:
    with person(seats, "anna") as page:
        yield page


def test_a_study_is_submitted_and_its_curves_move(demo: Demo, researcher: Any) -> None:
    page = researcher
    page.goto(f"{demo.url}/studies/new")
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


def test_two_operators_promote_its_model(demo: Demo, operator: Any, seats: Any) -> None:
    """Each signs with a token file besides: a log-in has no key. Of the file the part that opens is sent, no seal."""
    mine, other = (demo.out / "centre" / f"{name}.token" for name in ("proposer", "reviewer"))
    config = ("--config", str(demo.out / "centre" / "central.toml"), "--out", str(mine))
    made = demo.inside(sys.executable, "-m", "corsia", "central", "operator", "add", "proposer", *config)
    assert made.returncode == 0, made.stderr
    page, sent = operator, list[Any]()
    page.on("request", lambda request: sent.append(request))
    page.goto(f"{demo.url}/models/{_MODEL}")
    expect(page.get_by_text("candidate").first).to_be_visible(timeout=_LONG_MS)
    page.get_by_label("Your token file").set_input_files(demo.out / "centre" / "state" / "operator.token")
    page.get_by_role("button", name="Sign and propose").click()
    expect(page.locator("#told")).to_contain_text("This token has no seal.")
    page.get_by_label("Your token file").set_input_files(mine)
    page.get_by_role("button", name="Sign and propose").click()
    expect(page.get_by_text("proposer proposes that version 1 become champion.")).to_be_visible()
    with person(seats, "fulvia") as page:
        page.on("request", lambda request: sent.append(request))
        page.goto(f"{demo.url}/models/{_MODEL}")
        page.locator("form.approve").get_by_label("Your token file").set_input_files(other)
        page.get_by_role("button", name="Sign and approve").click()
        expect(page.locator("main .state-champion")).to_be_visible()
        told = [f"{one.url} {one.headers} {one.post_data}" for one in sent]
    for name, secret, seal in (path.read_text().strip().split(".") for path in (mine, other)):
        assert sum(f"Bearer {name}.{secret}" in one for one in told) == 1
        assert not any(seal in one for one in told)


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
    """End a hospital's daemon, or the centre; the demo starts it again."""
    for process in psutil.Process(demo.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a worker may end while we look
            if process.cmdline()[-4:-1] in _RUNNING and process.cmdline()[-1] == str(config):
                process.send_signal(signal.SIGTERM)
                process.wait()
                return
    raise AssertionError(f"nothing runs by {config}")


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


def test_a_steward_approves_at_the_hospital_and_the_centre_sees_it(demo: Demo, operator: Any, seats: Any) -> None:
    site = demo.summary["inference"]["edge"]["site"]
    plan = studies([], site)["lung-inference"] | {"id": "lung-by-hand", "title": "By hand"}
    plan["expires"] = plan["expires"].isoformat()
    page = operator
    with by_hand(demo, site) as config:
        status = page.evaluate(
            "body => fetch('/api/v1/studies', {method: 'POST', body, headers: {'X-Corsia': '1', "
            "'Content-Type': 'application/json'}}).then((answer) => answer.status)",
            json.dumps(plan),
        )
        assert status == 201
        page.goto(f"{demo.url}/studies/lung-by-hand")
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
    page.goto(f"{demo.url}/models/lung-survival")
    expect(page.locator("#where")).to_contain_text("lung-by-hand")


def test_every_page_of_the_demo_is_there_without_a_serious_fault(demo: Demo, seats: Any) -> None:
    pages = {
        "/": "overview", "/studies": "", "/studies/lung-anonymize": "study", "/training/lung-survival": "training",
        "/models/lung-survival": "model", "/data/lung-features": "", "/data/lung-harvest": "data", "/audit": "",
    }  # fmt: skip
    with person(seats, "anna", viewport=_PICTURE) as page:
        for path, picture in pages.items():
            page.goto(demo.url + path)
            expect(page.locator("h1")).to_be_visible()
            assert serious(page) == [], path
            if picture:
                shot(page, picture)
        page.get_by_role("button", name="Verify here").click()
        expect(page.locator("#verdict")).to_contain_text("Verified:")
        shot(page, "audit")


def test_the_log_verifies_by_keyboard_in_italian(seats: Any) -> None:
    with person(seats, "dario", "Accedi con il tuo istituto", locale="it-IT") as page:
        for target in (
            page.get_by_role("link", name="Verifica", exact=True),
            page.get_by_role("button", name="Verifica qui"),
        ):
            by_tab(page, target)
            page.keyboard.press("Enter")
        expect(page.locator("#verdict")).to_contain_text("Verificato:")
        expect(page.locator("html")).to_have_attribute("lang", "it")

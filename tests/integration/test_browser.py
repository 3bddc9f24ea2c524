"""The dashboard in Debian's Chromium: curves move, two persons promote, the log verifies, keyboard, Italian, no leak.

The centre is real (signer, vault and web, `tests.pagekit`); what runs would tell is written into its database.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from central.store.models import LogRow, ModelRow, RunRow
from tests.browserkit import Seat, browser, chromium, expect, serious
from tests.pagekit import COLUMN, XSS, hostile_centre, plain_round
from tests.webkit import Running

PAGES = (
    "/", "/studies", "/studies/new", "/studies/fed", "/training", "/training/fed", "/training/masked",
    "/training/compare?study=fed&study=masked", "/models", "/models/risk", "/data", "/data/columns", "/audit",
    "/studies/none",
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    chromium()
    with hostile_centre(tmp_path_factory.mktemp("centre")) as made:
        yield made


@pytest.fixture(scope="module")
def seats(running: Running) -> Iterator[Any]:
    with browser(running.url) as made:
        yield made


@pytest.fixture
def seat(running: Running, seats: Any) -> Iterator[Seat]:
    """The first operator's browser; the test fails by anything that went wrong in it."""
    made: Seat = seats()
    made.enter(running.token)
    yield made
    made.context.close()
    assert made.wrong == []


def test_the_pages_have_no_serious_fault_for_people_who_see_or_hear_otherwise(seat: Seat) -> None:
    page = seat.page("/")
    for path in PAGES:
        page.goto(seat.url + path)
        if path != "/studies/none":
            expect(page.locator("h1")).to_be_visible()
        assert serious(page) == [], path
    seat.wrong[:] = [one for one in seat.wrong if "404" not in one]  # the page that is not there says so


def test_in_the_dark_and_on_a_phone(running: Running, seats: Any) -> None:
    made: Seat = seats(color_scheme="dark", viewport={"width": 360, "height": 740})
    made.enter(running.token)
    page = made.page("/")
    for path in ("/", "/training/masked", "/models/risk", "/audit", "/studies/new", "/data/columns"):
        page.goto(made.url + path)
        expect(page.locator("h1")).to_be_visible()
        assert serious(page) == [], path
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, path
    made.context.close()
    assert made.wrong == []


def test_curves_move_while_one_looks(running: Running, seat: Seat) -> None:
    page = seat.page("/training/fed")
    value = page.locator("#curves figure.chart figcaption strong")
    expect(value).to_have_text("0.7")
    expect(page.locator("#curves canvas")).to_be_visible()
    expect(page.locator("#live")).to_have_text("live")
    page.locator("#curves summary").click()  # what a reader opened stays open
    plain_round(running.world, 3)
    expect(value).to_have_text("0.8")
    expect(page.locator("#curves canvas")).to_be_visible()
    expect(page.locator("#curves details[open] tbody tr")).to_have_count(4)
    expect(page.locator("#rounds tbody tr").first.locator("th")).to_have_text("3")


def test_a_models_card_shows_how_it_was_trained(seat: Seat) -> None:
    page = seat.page("/models/risk")
    plots = page.locator("figure.chart").filter(has_text="c-index")
    expect(plots.locator("canvas")).to_be_visible()
    page.get_by_role("link", name="the run that made it").click()
    expect(page.locator("#curves canvas").first).to_be_visible()


def test_a_run_is_commanded(running: Running, seat: Seat) -> None:
    page = seat.page("/training/fed")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#told")).to_have_text("Done.")
    expect(page.locator("#state")).to_contain_text("pause is asked for")
    assert running.get("/runs/fed")["wish"] == "pause"
    page.get_by_label("Rounds in all").fill("5")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#state")).not_to_contain_text("pause is asked for")
    page.get_by_text("Stop…").click()
    expect(page.get_by_role("button", name="Stop the run")).to_be_visible()
    with running.world.store.begin() as session:
        row = session.query(RunRow).filter(RunRow.study_digest == running.world.digest("fed")).one()
        row.state = "done"
    page.evaluate("dispatchEvent(new Event('corsia:changed'))")
    expect(page.locator("#control button")).to_have_count(0)  # what is over is not commanded; the page saw it end
    with running.world.store.begin() as session:
        session.get_one(RunRow, row.id).state = "running"
    page.evaluate("dispatchEvent(new Event('corsia:changed'))")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_names_of_others_are_text(seat: Seat) -> None:
    page = seat.page("/")
    page.on("dialog", lambda dialog: seat.wrong.append(f"a dialog: {dialog.message}"))
    expect(page.get_by_role("link", name=XSS)).to_be_visible()
    page.goto(seat.url + "/data/columns")
    expect(page.get_by_role("rowheader", name=COLUMN)).to_have_text(COLUMN)
    page.goto(seat.url + "/studies/trial")
    expect(page.locator("h1")).to_have_text(XSS)


def test_by_keyboard_alone(seat: Seat) -> None:
    page = seat.page("/")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to content")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.goto(seat.url + "/")
    for _ in range(3):  # skip link, Overview, Studies
        page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Studies")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Studies")
    page.get_by_label("Search").focus()
    with _settled(page):
        page.keyboard.insert_text("masked")
    expect(page.locator("#list tbody tr")).to_have_count(1)
    expect(page.get_by_label("Search")).to_be_focused()
    with _settled(page):
        page.keyboard.press("Tab")  # who leaves a changed field has the list once more
    for _ in range(8):
        if page.locator(":focus").evaluate("node => node.matches('#list a')"):
            break
        page.keyboard.press("Tab")
    with _settled(page):  # an answer that comes late takes nobody's place in the list away
        page.evaluate("document.getElementById('filter').requestSubmit()")
    assert page.evaluate("document.activeElement.matches('#list a')")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("A trial")
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("details[open] pre").first).to_be_visible()


@contextmanager
def _settled(page: Any) -> Iterator[None]:
    """What is done has the server change a part of the page, which is there afterwards."""
    page.evaluate(
        """() => {
          window.settled = new Promise((done) => addEventListener("htmx:afterSettle", () => done(), {once: true}));
        }"""
    )
    yield
    page.evaluate("() => window.settled")


def test_in_italian(seat: Seat) -> None:
    page = seat.page("/")
    page.get_by_role("link", name="Italiano").click()
    expect(page.locator("h1")).to_have_text("Panoramica")
    expect(page.locator("html")).to_have_attribute("lang", "it")
    page.get_by_role("link", name="Verifica", exact=True).click()
    page.get_by_role("button", name="Verifica qui").click()
    expect(page.locator("#verdict")).to_contain_text("Verificato: 5 voci")
    page.get_by_role("link", name="English").click()
    expect(page.locator("h1")).to_have_text("Audit")


def test_a_study_is_made_while_its_words_appear(running: Running, seat: Seat) -> None:
    page, name = seat.page("/studies/new"), f"by-form-{secrets.token_hex(3)}"
    judged = page.locator("#judged")
    expect(judged).to_contain_text("Not yet:")
    for label, text in (
        ("Id", name), ("Title", "By form"), ("Controller", "C"), ("Ethics reference", "E"), ("Ends on", "2099-01-01"),
        ("Dataset", "lung"), ("Columns to read", "age"), ("Columns that may leave", "age float"),
    ):  # fmt: skip
        page.get_by_label(label, exact=True).fill(text)
    page.get_by_label("site-a").check()
    expect(judged).to_contain_text("This study can be submitted.")
    expect(judged).to_contain_text("these columns of the table: age")
    page.get_by_label("Lane").select_option("train")
    expect(judged).to_contain_text("Not yet:")
    expect(page.get_by_label("Learner")).to_be_visible()
    page.get_by_label("Lane").select_option("harvest")
    expect(judged).to_contain_text("This study can be submitted.")
    page.get_by_role("button", name="Submit the study").click()
    expect(page.locator("h1")).to_have_text("By form")
    assert running.get(f"/studies/{name}")["sites"] == {"site-a": "received"}


def test_the_browser_itself_verifies_the_log(running: Running, seat: Seat) -> None:
    page = seat.page("/audit")
    running.sign_checkpoint()
    fingerprint = running.log_key.public.fingerprint
    verdict, verify = page.locator("#verdict"), page.get_by_role("button", name="Verify here")
    page.get_by_label("Fingerprint of the log's key").fill(fingerprint)
    verify.click()
    expect(verdict).to_contain_text(f"under {len(running.get('/log')['checkpoints'])} signed states")
    expect(verdict).to_contain_text(fingerprint[:16])
    row = page.locator("#entries tbody tr").last
    row.get_by_role("button").click()
    expect(row.get_by_role("status")).to_have_text("✓")
    page.get_by_label("Fingerprint of the log's key").fill("0" * 16)
    verify.click()
    expect(verdict).to_have_text("NOT verified: the key is another one than you gave")
    page.get_by_label("Fingerprint of the log's key").fill("")
    with _changed_leaf(running):
        verify.click()
        expect(verdict).to_have_text("NOT verified: the leaves do not give the signed root")
        row.get_by_role("button").click()
        expect(row.get_by_role("status")).to_have_text("NOT verified: the entry is not in the signed log")
    page.evaluate(
        "localStorage.setItem('corsia-log corsia/consortium', JSON.stringify({size: 1, root: '00', print: ''}))"
    )
    verify.click()
    expect(verdict).to_contain_text("is not the one that this browser verified before")


class _changed_leaf:
    """What a lying centre would do: the last entry says something else."""

    def __init__(self, running: Running) -> None:
        self._store = running.world.store

    def __enter__(self) -> None:
        with self._store.begin() as session:
            row = session.query(LogRow).order_by(LogRow.index).first()
            assert row is not None
            self._index, self._was = row.index, row.leaf
            row.leaf = b'{"id":"","kind":"parcel","sha256":""}'

    def __exit__(self, *_: object) -> None:
        with self._store.begin() as session:
            session.get_one(LogRow, self._index).leaf = self._was


def test_two_persons_promote_a_model(running: Running, seats: Any, tmp_path: Path) -> None:
    """Last in this file: with two named operators a site must be admitted before a study names it."""
    people: dict[str, tuple[Seat, Path]] = {}
    for name in ("alice", "bob"):
        token = running.centre.operators.add(name)
        file = tmp_path / f"{name}.token"
        file.write_text(token + "\n")
        made = seats()
        made.enter(token)
        people[name] = (made, file)
    alice, file = people["alice"]
    page = alice.page("/models/risk")
    page.get_by_label("Your token file").set_input_files(people["bob"][1])
    page.get_by_role("button", name="Sign and propose").click()
    expect(page.locator("#told")).to_contain_text("another operator's")
    page.get_by_label("Your token file").set_input_files(file)
    page.get_by_role("button", name="Sign and propose").click()
    expect(page.get_by_text("Another operator has to approve this one.")).to_be_visible()
    bob, file = people["bob"]
    page = bob.page("/models/risk")
    expect(page.get_by_text("alice proposes that version 2 become champion.")).to_be_visible()
    page.locator("form.approve").get_by_label("Your token file").set_input_files(file)
    page.get_by_role("button", name="Sign and approve").click()
    expect(page.locator("main .state-champion")).to_be_visible()
    with running.world.store.read() as session:
        assert {row.version: row.alias for row in session.query(ModelRow)} == {1: "", 2: "champion"}
    for made, file in people.values():
        sent = file.read_text().strip().split(".")[2]
        assert sent
        made.context.close()
        assert made.wrong == []

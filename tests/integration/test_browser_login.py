"""Log-in by a real OpenID provider in Chromium: the door, the provider's pages, roles, closed pages, the way out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.browserkit import Seat, browser, chromium, expect, serious
from tests.oidckit import provided, settings, signed_in
from tests.webkit import Running, running_centre


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    chromium()
    with provided(tmp_path_factory.mktemp("provider")) as provider:
        config = settings(provider, tmp_path_factory.mktemp("secret"))
        port = urlsplit(provider.centre).port or 0
        with running_centre(tmp_path_factory.mktemp("centre"), config, port) as made:
            yield made


@pytest.fixture(scope="module")
def seats(running: Running) -> Iterator[Any]:
    with browser(running.url) as made:
        yield made


def test_a_researcher_signs_in_reads_what_is_hers_and_signs_out(seats: Any) -> None:
    seat: Seat = seats(locale="it-IT")
    page = signed_in(seat, "bice", "Accedi con il tuo istituto")
    expect(page.locator("h1")).to_have_text("Panoramica")
    expect(page.locator("footer")).to_contain_text("Accesso come Bice.")
    expect(page.get_by_role("link", name="Modelli")).to_be_visible()
    expect(page.get_by_role("link", name="Verifica", exact=True)).to_have_count(0)
    seat.refused(401)  # the door itself
    page.goto(f"{seat.url}/audit")
    expect(page.locator("h1")).to_have_text("Non è aperto a te")
    expect(page.get_by_text("I tuoi ruoli qui: researcher")).to_be_visible()
    assert serious(page) == []
    seat.refused(403)
    page.get_by_role("button", name="Esci").click()
    expect(page.locator("h1")).to_have_text("Accedi")
    page.goto(f"{seat.url}/studies")
    expect(page.locator("h1")).to_have_text("Accedi")
    seat.refused(401)
    seat.context.close()
    assert seat.wrong == []


def test_a_name_of_the_provider_is_text_and_who_has_no_role_stays_outside(seats: Any) -> None:
    carla: Seat = seats()
    page = signed_in(carla, "carla")
    page.on("dialog", lambda dialog: carla.wrong.append(f"a dialog: {dialog.message}"))
    expect(page.locator("footer")).to_contain_text("Signed in as <script>alert(1)</script>.")
    carla.refused(401)
    carla.context.close()
    eva: Seat = seats()
    page = signed_in(eva, "eva")
    expect(page.get_by_role("alert")).to_contain_text("permission.role")
    expect(page.get_by_role("link", name="Sign in with your institution")).to_be_visible()
    eva.refused(401)
    eva.refused(403)
    eva.context.close()
    assert carla.wrong == eva.wrong == []


def test_an_operator_comes_in_at_the_door_and_his_seal_stays_outside(running: Running, seats: Any) -> None:
    token = running.centre.operators.add("alice")
    seat: Seat = seats(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page, sent = seat.page("/"), list[str]()
    page.on("request", lambda request: sent.append(f"{request.url} {request.post_data or ''}"))
    assert serious(page) == []
    page.get_by_label("Operator token").fill("alice.wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("auth.token")
    page.get_by_label("Operator token").fill(token)
    page.keyboard.press("Enter")
    expect(page.locator("footer")).to_contain_text("Signed in as alice.")
    name, secret, seal = token.split(".")
    assert any(f"token={name}.{secret}" in one for one in sent)
    assert not any(seal in one for one in sent), "what signs stays on this machine"
    assert not any(secret in one.split()[0] for one in sent), "no secret is in an address"
    seat.refused(401)
    seat.context.close()
    assert seat.wrong == []

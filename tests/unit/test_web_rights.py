"""Every route of the application against every role: who is not known gets 401, who has not the right 403."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from central.config import WebConfig
from central.identity.rights import Role
from central.web.permits import OPEN
from protocol.words import words
from tests.identitykit import Hall, hall

OWN = "https://corsia.example.org"
OP, RE, ST, DP = Role.OPERATOR, Role.RESEARCHER, Role.STEWARD, Role.DPO
ALL = {OP, RE, ST, DP}
# Said here once more, apart from the product's table: a route that is new fails until somebody has said who may.
MAY: dict[str, set[Role]] = {
    "GET /": ALL,
    "GET /api/v1/me": ALL,
    "GET /api/v1/openapi.json": ALL,
    "GET /api/v1/sites": ALL,
    "GET /api/v1/datasets": ALL,
    "GET /api/v1/remotes": ALL,
    "GET /api/v1/remotes/{}/table": {OP, RE},
    "GET /api/v1/lanes": ALL,
    "GET /api/v1/events": ALL,
    "GET /api/v1/studies": ALL,
    "POST /api/v1/studies": {OP, RE},
    "GET /api/v1/studies/{}": ALL,
    "GET /api/v1/studies/{}/table": {OP, RE},
    "GET /api/v1/studies/{}/summary": {OP, RE},
    "POST /api/v1/studies/{}/sql": {OP, RE},
    "POST /api/v1/studies/{}/analyses": {OP, RE},
    "POST /api/v1/studies/{}/erasure": {OP},
    "GET /api/v1/studies/{}/readers": ALL,
    "PUT /api/v1/studies/{}/readers/{}": {OP, RE},
    "DELETE /api/v1/studies/{}/readers/{}": {OP, RE},
    "GET /api/v1/runs/{}": ALL,
    "POST /api/v1/runs/{}/pause": {OP, RE},
    "POST /api/v1/runs/{}/resume": {OP, RE},
    "POST /api/v1/runs/{}/stop": {OP, RE},
    "POST /api/v1/runs/{}/extend": {OP, RE},
    "GET /api/v1/log": ALL,
    "GET /api/v1/log/head": ALL,
    "GET /api/v1/log/proof/{}": ALL,
    "POST /api/v1/log/verify": ALL,
    "GET /api/v1/models": ALL,
    "GET /api/v1/models/{}": ALL,
    "GET /api/v1/models/{}/table": {OP, RE},
    "POST /api/v1/models/{}/predict": {OP, RE},
    "POST /api/v1/models/{}/invocations": {OP, RE},
    "GET /api/v1/models/{}/promotions": {OP, DP},
    "POST /api/v1/models/{}/promotions": {OP},
    "POST /api/v1/models/{}/promotions/{}/approval": {OP},
    "GET /api/v1/decisions": {OP, DP},
    "POST /api/v1/decisions": {OP},
    "POST /api/v1/decisions/{}/approval": {OP},
    "GET /api/v1/decisions/{}/parcel": {OP},
    "GET /api/v1/tokens": ALL,
    "POST /api/v1/tokens": ALL,
    "DELETE /api/v1/tokens/{}": ALL,
    "POST /auth/logout": ALL,
    "GET /api/v1/flow": ALL,
    "GET /api/v1/alarms": ALL,
    "GET /api/v1/budgets": ALL,
    "GET /api/v1/budgets/sites": ALL,
    "GET /api/v1/runs": ALL,
    "GET /api/v1/runs/{}/timeline": ALL,
    "GET /api/v1/runs/{}/budget": ALL,
    "GET /api/v1/models/{}/where": ALL,
    "POST /api/v1/studies/check": {OP, RE},
    "GET /api/v1/studies/{}/distributions": {OP, RE},
    "GET /api/v1/log/entries": ALL,
    "GET /api/v1/account": {OP, DP},
    "GET /api/v1/account/export": {OP, DP},
    "GET /studies": ALL,
    "GET /studies/{}": ALL,
    "GET /studies/new": {OP, RE},
    "POST /studies/new/check": {OP, RE},
    "POST /studies/new/draft": {OP, RE},
    "GET /training": ALL,
    "GET /training/compare": ALL,
    "GET /training/{}": ALL,
    "GET /models": ALL,
    "GET /models/{}": ALL,
    "GET /data": {OP, RE},
    "GET /data/{}": {OP, RE},
    "GET /audit": {OP, DP},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    with hall(tmp_path_factory.mktemp("hall")) as found:
        yield found


def routes(made: Hall) -> list[tuple[str, str]]:
    """Every method and path that the application answers, hidden ones too; HEAD is as GET."""
    found = {(m.upper(), path) for path, methods in made.app.openapi()["paths"].items() for m in methods}
    todo = list(made.app.routes)
    while todo:
        route = todo.pop()
        if isinstance(route, Route):
            found |= {(method, route.path) for method in route.methods or ()}
        todo += getattr(getattr(route, "original_router", None), "routes", [])
    return sorted(found)


def form(method: str, path: str) -> str:
    return f"{'GET' if method == 'HEAD' else method} {re.sub('{[^}]*}', '{}', path)}"


def is_page(answer: httpx.Response) -> bool:
    """A whole page for a reader; a problem document otherwise, and nothing else."""
    kind = answer.headers["content-type"]
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    if kind == "application/problem+json":
        assert answer.json()["status"] == answer.status_code
        return False
    assert kind == "text/html; charset=utf-8"
    assert answer.text.count("<h1>") == answer.text.count("</html>") == 1
    return True


def test_every_refusal_is_a_page_in_a_browser_and_a_document_elsewhere(made: Hall) -> None:
    reading, browser = made.headers("steward"), {"Accept": "text/html,*/*;q=0.8", "Accept-Language": "it"}
    pages = 0
    for method, path in routes(made):
        if method == "HEAD" or path == "/healthz" or path.startswith("/auth/"):
            continue
        filled, page = re.sub("{[^}]*}", "1", path), not path.startswith("/api/")
        answer = made.http.request(method, filled, headers=browser)
        assert (answer.status_code, is_page(answer)) == (401, page), (method, path)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert not page or 'action="/auth/enter"' in answer.text
        if Role.STEWARD not in MAY[form(method, path)]:
            answer = made.http.request(method, filled, headers=reading | browser)
            assert (answer.status_code, is_page(answer)) == (403, page), (method, path)
            assert not page or ("permission.role" in answer.text and "I tuoi ruoli qui: steward" in answer.text)
        pages += page
    assert pages > 12
    for path in ("/nothing", "/studies/none", "/training/none", "/models/none", "/studies?page=x"):
        answer = made.http.get(path, headers=made.headers("operator") | browser)
        assert is_page(answer), path
        assert answer.status_code in (404, 422), path
        assert not is_page(made.http.get(path, headers=made.headers("operator"))), path


def test_an_operator_comes_in_by_the_form_of_the_door(tmp_path: Path) -> None:
    with hall(tmp_path) as made:
        comes_in(made)


def comes_in(made: Hall) -> None:
    page = {"Accept": "text/html"}
    wrong: list[tuple[bytes, dict[str, str], int]] = [
        (b"", {}, 401), (b"token=wrong", {}, 401), (b"\xff\xfe", {}, 401), (b"token=" + b"x" * 20_000, {}, 401),
        (b"a=1&" * 50, {}, 401), (f"token={made.session('operator')}".encode(), {}, 401),
        (f"token={made.operator}".encode(), {"Sec-Fetch-Site": "cross-site"}, 403),
        (f"token={made.operator}".encode(), {"Sec-Fetch-Site": "same-site", "Origin": OWN}, 403),
        (f"token={made.operator}".encode(), {"Origin": "https://evil.example"}, 403),
        (f"token={made.operator}".encode(), {"Origin": "null"}, 403),
        (f"token={made.operator}".encode(), {"Origin": "https://["}, 403),
        (f"token={made.operator}".encode(), {"Origin": ""}, 403),
    ]  # fmt: skip
    for body, headers, status in wrong:
        own = {} if headers else {"Origin": OWN}
        answer = made.http.post("/auth/enter", content=body, headers=page | own | headers)
        assert (answer.status_code, is_page(answer)) == (status, True), body[:40]
        assert 'role="alert"' in answer.text
        assert "set-cookie" not in answer.headers
    silent = made.http.post("/auth/enter", content=f"token={made.operator}".encode(), headers=page)
    assert (silent.status_code, "set-cookie" in silent.headers) == (403, False), "neither Origin nor Sec-Fetch-Site"
    assert 'name="referrer" content="strict-origin"' in made.http.get("/", headers=page).text
    modern = {"Sec-Fetch-Site": "same-origin", "Origin": "null"}
    assert made.http.post("/auth/enter", content=f"token={made.operator}".encode(), headers=modern).status_code == 303
    entered = made.http.post("/auth/enter", content=f"token={made.operator}".encode(), headers={"Origin": OWN})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert {"HttpOnly", "Secure", "SameSite=strict"} <= set(cookie.split("; "))
    assert made.http.get("/", headers={"Cookie": cookie.partition(";")[0]}).status_code == 200


@pytest.mark.slow
def test_every_route_against_every_role(made: Hall) -> None:
    people = {role: made.headers(role.value) for role in Role}
    known = routes(made)
    assert len(known) > 35
    for method, path in known:
        filled = re.sub("{[^}]*}", "1", path)
        if (method if method != "HEAD" else "GET", path) in OPEN:
            continue
        for headers in ({}, {"X-Corsia": "1"}, {"Cookie": "__Host-corsia=wrong"}, {"Authorization": "Bearer cs_wrong"}):
            assert made.http.request(method, filled, headers=headers).status_code == 401, (method, path)
        may = MAY.get(form(method, path))
        assert may is not None, f"say here who may {form(method, path)}, and in central/web/permits.py"
        for role, headers in people.items():
            if path == "/auth/logout":
                headers = made.headers(role.value)
            answer = made.http.request(method, filled, headers=headers)
            if role in may:
                assert answer.status_code not in (401, 403), (method, path, role, answer.text)
            else:
                assert answer.status_code == 403, (method, path, role)
                assert method == "HEAD" or answer.json()["code"] == "permission.role"


def test_what_no_table_names_is_for_operators_alone(made: Hall) -> None:
    for path in ("/new-page", "/api/v1/new", "/api/v1/studies/", "/api/v2/sites", "/api/v1/sites/x", "//api/v1/sites"):
        for role in (Role.RESEARCHER, Role.STEWARD, Role.DPO):
            assert made.http.get(path, headers=made.headers(role.value)).status_code == 403, (path, role)
        assert made.http.get(path, headers=made.headers("operator")).status_code in (307, 404), path
    assert made.http.request("PATCH", "/api/v1/studies", headers=made.headers("researcher")).status_code == 403


def test_roles_add_up_and_groups_are_compared_without_slashes(made: Hall) -> None:
    me = made.http.get("/api/v1/me", headers=made.headers("/steward/", "dpo")).json()
    assert me["roles"] == ["steward", "dpo"]
    assert made.http.get("/api/v1/decisions?kind=admit&subject=x", headers=made.headers("steward", "dpo")).is_success
    for wrong in ("Operator", "operator/x", "x/operator", "operators"):
        me = made.http.get("/api/v1/me", headers=made.headers("dpo", wrong)).json()
        assert me["roles"] == ["dpo"], wrong


def test_a_flood_of_guesses_and_of_calls_is_held_up(tmp_path: Path) -> None:
    with hall(tmp_path, web=WebConfig(calls_per_s=1, failures_per_min=5)) as made:
        guesses = [made.http.get("/api/v1/me", headers={"Authorization": f"Bearer cs_{n}"}) for n in range(7)]
        assert [answer.status_code for answer in guesses] == [401] * 5 + [429] * 2
        assert guesses[-1].json()["code"] == "unavailable.rate"
        assert int(guesses[-1].headers["retry-after"]) >= 1
        assert made.http.get("/auth/login").status_code == 429, "a log-in costs as much as a guess"
        headers = {"Authorization": f"Bearer {made.operator}"}
        calls = [made.http.get("/api/v1/me", headers=headers).status_code for _ in range(25)]
        assert calls[:20] == [200] * 20, "who is known is not held up by who guesses"
        assert 429 in calls
        assert made.http.get("/healthz").status_code == 200


def test_without_a_provider_there_are_operators_alone(tmp_path: Path) -> None:
    with hall(tmp_path, with_provider=False) as made:
        for method, path in sorted(OPEN - {("GET", "/healthz")}):
            answer = made.http.request(method, path, headers={"Origin": OWN})
            assert answer.status_code == 401, path
        assert made.http.get("/api/v1/me", headers=made.headers("operator")).status_code == 401
        me = made.http.get("/api/v1/me", headers={"Authorization": f"Bearer {made.operator}"}).json()
        assert (me["operator"], me["account"], me["roles"]) == ("operator", "", ["operator"])
        assert made.http.get("/api/v1/tokens", headers={"Authorization": f"Bearer {made.operator}"}).status_code == 403


def test_anothers_odd_cookie_on_this_host_hides_no_session(made: Hall) -> None:
    for odd in ('seen={"a": [1]}', "user[1]=x", "_xsrf=2|ab|é"):
        for cookie in (f"{odd}; {made.headers('steward')['Cookie']}", f"{made.headers('steward')['Cookie']}; {odd}"):
            assert made.http.get("/api/v1/me", headers={"Cookie": cookie.encode()}).status_code == 200, cookie


def test_a_wrong_method_is_told_the_right_one_and_events_begin_at_a_number_that_a_database_knows(made: Hall) -> None:
    who = made.headers("operator")
    answer = made.http.request("PUT", "/api/v1/sites", headers=who)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    assert answer.json()["code"] == "input.usage"
    for since, status in ((10**18 - 1, 200), (10**18, 422), (10**30, 422)):
        assert made.http.get(f"/api/v1/events?since={since}", headers=who).status_code == status


def test_what_a_button_shows_of_a_refusal_is_in_the_readers_language(made: Hall) -> None:
    who, english = made.headers("steward"), "this takes the right decisions:write"
    for more in ({"Accept-Language": "it"}, {"Cookie": f"{who['Cookie']}; corsia_language=it"}):
        told = made.http.post("/api/v1/decisions", headers=who | more).json()
        assert told["detail"] == f"{words('it').error('permission.role')[0]} ({english})"
        assert told["hint"] == words("it").error("permission.role")[1]
        assert told["code"] == "permission.role"
    assert made.http.post("/api/v1/decisions", headers=who).json()["detail"] == english
    program = {"Accept-Language": "it", "Cookie": who["Cookie"]}
    assert made.http.get("/api/v1/decisions", headers=program).json()["detail"] == "this takes the right audit:read"


def test_a_versions_number_is_one_that_a_database_knows_in_a_body_too(made: Hall) -> None:
    for version, status in ((2**31 - 1, 404), (2**31, 422), (10**30, 422)):
        body = {"study": "none", "version": version}
        assert (
            made.http.post("/api/v1/models/m/predict", json=body, headers=made.headers("operator")).status_code
            == status
        )


@pytest.mark.parametrize(
    ("url", "public_url", "provider", "secure"),
    [
        ("http://127.0.0.1:7480", "", False, False),
        ("http://localhost:7480", "", False, False),
        ("https://127.0.0.1:7480", "", False, True),
        ("http://corsia.example.org", "", False, True),  # a proxy that tells nothing, but keeps Host
        ("http://10.0.0.5:7480", "", False, True),
        ("http://10.0.0.5:7480", "http://10.0.0.5:7480", False, False),  # said so
        ("http://127.0.0.1:7480", "https://corsia.example.org", False, True),  # a proxy that keeps not even Host
        ("http://127.0.0.1:7480", "", True, True),  # as the sessions' cookies, by identity.redirect_uri
        ("http://127.0.0.1:7480", "http://10.0.0.5:7480", True, True),
    ],
)
def test_cookies_are_for_https_alone_unless_it_is_known_otherwise(
    tmp_path: Path, url: str, public_url: str, provider: bool, secure: bool
) -> None:
    web = WebConfig(calls_per_s=1e5, failures_per_min=1e6, public_url=public_url)
    with hall(tmp_path, web=web, with_provider=provider) as made:
        own = {"Origin": url, "X-Corsia": "1"}
        word = made.http.get(f"{url}/?lang=it", headers={"Accept": "text/html"})
        link = made.http.get(f"{url}/?token={made.operator}")
        form = made.http.post(f"{url}/auth/enter", content=f"token={made.operator}".encode(), headers=own)
        out = made.http.post(f"{url}/auth/logout", headers=own | {"Authorization": f"Bearer {made.operator}"})
        assert (link.status_code, form.status_code, word.status_code, out.status_code) == (303, 303, 401, 204)
        for answer in (link, form, word):
            assert ("secure" in answer.headers["set-cookie"].lower().split("; ")) is secure, answer.request.url.path
        assert ("secure" in out.headers.get_list("set-cookie")[-1].lower().split("; ")) is secure

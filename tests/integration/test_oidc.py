"""People by a real OpenID provider: log-in in a browser, roles, sessions, API tokens, the device flow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import update
from typer.testing import CliRunner

import corsia
from central.store.models import AccessRow, AccountRow
from corsia.cli.account import app as account
from corsia.cli.study import app as studies
from corsia.login import keep, login
from protocol.errors import AuthenticationError, ConfigurationError, PermissionRefused, UnavailableError
from tests.oidckit import People, Provided, provided, settings
from tests.vaultkit import draft
from tests.webkit import Running, running_centre

SESSION = "corsia_session"


@dataclass
class World:
    provider: Provided
    centre: Running
    people: list[People] = field(default_factory=list)

    def person(self, name: str) -> People:
        self.people.append(People(name))
        return self.people[-1]

    def login(self, name: str) -> People:
        """Somebody who has logged in by a browser."""
        person = self.person(name)
        person.last = person.go(f"{self.centre.url}/auth/login")
        return person

    def api(self, person: People, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"X-Corsia": "1"} | more.pop("headers", {})
        return person.http.request(method, f"{self.centre.url}/api/v1{path}", headers=headers, **more)

    def token(self, person: People, *scopes: str) -> httpx.Client:
        made = self.api(person, "POST", "/tokens", json={"label": "test", "scopes": list(scopes), "days": 1})
        assert made.status_code == 201, made.text
        return self.centre.client(Authorization=f"Bearer {made.json()['token']}")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with provided(tmp_path_factory.mktemp("provider")) as provider:
        root = tmp_path_factory.mktemp("centre")
        port = urlsplit(provider.centre).port
        with running_centre(root, settings(provider, tmp_path_factory.mktemp("secret")), port or 0) as made:
            made.world.enrol("site-a", "site-b")
            world = World(provider, made)
            yield world
            for person in world.people:
                person.close()


def test_a_person_logs_in_and_has_the_roles_of_the_groups(world: World) -> None:
    anna, bruno = world.login("anna"), world.login("bruno")
    assert anna.last.status_code == 200
    assert 'http-equiv="refresh"' in anna.last.text
    cookie = next(c for c in anna.last.headers.get_list("set-cookie") if c.startswith(SESSION))
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    me = world.api(anna, "GET", "/me").json()
    assert (me["name"], me["roles"]) == ("Anna", ["operator", "researcher"])
    assert world.api(bruno, "GET", "/me").json()["roles"] == ["researcher"]
    assert anna.http.get(f"{world.centre.url}/").status_code == 200
    again = world.login("anna")
    assert world.api(again, "GET", "/me").json()["account"] == me["account"], "known by issuer and subject"
    assert world.api(again, "GET", "/me").json()["operator"] == f"account {me['account'][:12]}"


def test_who_is_in_no_group_is_refused_and_not_kept(world: World) -> None:
    eva = world.login("eva")
    assert eva.last.status_code == 403
    assert "permission.role" in eva.last.text
    assert world.api(eva, "GET", "/me").status_code == 401
    with world.centre.world.store.read() as session:
        assert not session.query(AccountRow).filter(AccountRow.subject == "eva").count()


def _answer(world: World, name: str) -> tuple[People, str]:
    """Somebody at the point where the provider sends the browser back."""
    person = world.person(name)
    back = person.go(f"{world.centre.url}/auth/login", until=f"{world.centre.url}/auth/callback")
    return person, str(back.headers["location"])


def test_an_answer_is_taken_once_and_in_the_browser_that_asked(world: World) -> None:
    person, back = _answer(world, "bruno")
    stranger = httpx.get(back, headers={"Accept": "text/html"}, trust_env=False)
    assert stranger.status_code == 401, "another browser has not begun this"
    assert SESSION not in stranger.headers.get("set-cookie", "")
    query = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
    path = f"{world.centre.url}/auth/callback"
    for changed in ({"state": "x"}, {"iss": "https://elsewhere.example"}, {"code": ""}, {"error": "denied"}):
        other, _ = _answer(world, "bruno")
        state = parse_qs(urlsplit(_).query)["state"][0]
        wrong = other.http.get(path, params=query | {"state": state} | changed)
        assert wrong.status_code == 401, changed
        assert other.http.get(f"{world.centre.url}/api/v1/me").status_code == 401
    way = person.http.cookies["corsia_login"]
    assert person.http.get(back).status_code == 200
    person.http.cookies.set("corsia_login", way, domain="127.0.0.1", path="/")
    assert person.http.get(back).status_code == 401, "the code has been used"


def test_a_session_changes_nothing_from_another_site(world: World) -> None:
    bruno = world.login("bruno")
    body = {"label": "x", "scopes": ["log:read"], "days": 1}
    url = f"{world.centre.url}/api/v1/tokens"
    host = urlsplit(world.centre.url).netloc
    refused = [
        {},
        {"X-Corsia": "1", "Origin": "https://evil.example"},
        {"X-Corsia": "1", "Origin": "null"},
        {"X-Corsia": "1", "Sec-Fetch-Site": "cross-site"},
        {"X-Corsia": "1", "Sec-Fetch-Site": "same-site"},
    ]
    for headers in refused:
        answer = bruno.http.post(url, json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "permission.role"), headers
    good = {"X-Corsia": "1", "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert bruno.http.post(url, json=body, headers=good).status_code == 201


def test_a_session_ends_by_logging_out_and_by_rest(world: World) -> None:
    first, second = world.login("bruno"), world.login("bruno")
    kept = first.http.cookies.get(SESSION)
    assert first.http.post(f"{world.centre.url}/auth/logout", headers={"X-Corsia": "1"}).status_code == 204
    with world.centre.client(Cookie=f"{SESSION}={kept}") as http:
        assert http.get("/api/v1/me").status_code == 401, "the cookie that somebody kept opens nothing"
    assert world.api(second, "GET", "/me").status_code == 200
    with world.centre.world.store.begin() as session:
        session.execute(update(AccessRow).where(AccessRow.kind == "browser").values(used_at=time.time() - 3700))
    assert world.api(second, "GET", "/me").status_code == 401


def test_a_token_holds_what_was_asked_and_never_more(world: World) -> None:
    bruno = world.login("bruno")
    with world.token(bruno, "log:read", "studies:read") as http:
        assert http.get("/api/v1/log/head").status_code == 200
        assert http.get("/api/v1/studies").status_code == 200
        assert http.post("/api/v1/studies", json=draft("by-token")).status_code == 403
        assert http.get("/api/v1/tokens").status_code == 403, "a token makes no tokens"
        secret = http.headers["authorization"].removeprefix("Bearer ")
    for scopes in (["centre:operate"], ["tokens:write"], ["nothing"], []):
        asked = world.api(bruno, "POST", "/tokens", json={"label": "x", "scopes": scopes})
        assert asked.status_code in (403, 422), scopes
    assert (
        world.api(bruno, "POST", "/tokens", json={"label": "x", "scopes": ["log:read"], "days": 91}).status_code == 422
    )
    files = [path for path in world.centre.world.root.rglob("*") if path.is_file()]
    assert not [path for path in files if secret.encode() in path.read_bytes()], "the secret is kept nowhere"
    listed = world.api(bruno, "GET", "/tokens").json()
    assert {"id", "label", "scopes", "created_at", "expires_at", "used_at"} == set(listed[0])
    (mine,) = [row for row in listed if row["scopes"] == ["log:read", "studies:read"]]
    bice = world.login("bice")
    assert world.api(bice, "DELETE", f"/tokens/{mine['id']}").status_code == 404, "of others nobody has tokens to end"
    assert world.api(bruno, "DELETE", f"/tokens/{mine['id']}").status_code == 204
    with world.centre.client(Authorization=f"Bearer {secret}") as http:
        assert http.get("/api/v1/log/head").status_code == 401


def test_a_token_ends_by_itself_and_when_its_owner_stays_away(world: World) -> None:
    dario = world.login("dario")
    with world.token(dario, "log:read") as http:
        assert http.get("/api/v1/log/head").status_code == 200
        store = world.centre.world.store
        with store.begin() as session:
            session.execute(
                update(AccountRow).where(AccountRow.subject == "dario").values(login_at=time.time() - 31 * 86400)
            )
        assert http.get("/api/v1/log/head").status_code == 401
        world.login("dario")
        assert http.get("/api/v1/log/head").status_code == 200
        with store.begin() as session:
            session.execute(update(AccessRow).where(AccessRow.kind == "token").values(expires_at=time.time() - 1))
        assert http.get("/api/v1/log/head").status_code == 401


def test_rows_and_runs_of_a_study_are_its_submitters(world: World) -> None:
    bruno, bice, anna = world.login("bruno"), world.login("bice"), world.login("anna")
    assert world.api(bruno, "POST", "/studies", json=draft("brunos")).status_code == 201
    assert world.api(bice, "POST", "/studies", json=draft("brunos")).status_code == 201, "the same draft: no news"
    paths = [("GET", "/studies/brunos/table", None), ("GET", "/studies/brunos/summary", None)]
    paths += [("POST", "/studies/brunos/sql", {"query": "SELECT 1"}), ("POST", "/runs/brunos/stop", None)]
    paths += [("POST", "/models/none/predict", {"study": "brunos"})]
    for method, path, body in paths:
        codes = {name.name: world.api(name, method, path, json=body).status_code for name in (bruno, bice, anna)}
        assert codes["bice"] == 403, path
        assert 403 not in (codes["bruno"], codes["anna"]), path
    account = world.api(bice, "GET", "/me").json()["account"]
    assert world.api(bice, "PUT", f"/studies/brunos/readers/{account}").status_code == 403
    assert world.api(bruno, "PUT", f"/studies/brunos/readers/{account}").status_code == 204
    assert world.api(bice, "GET", "/studies/brunos/table").status_code == 200
    assert {row["name"] for row in world.api(bice, "GET", "/studies/brunos/readers").json()} == {"Bruno", "Bice"}
    assert world.api(bruno, "DELETE", f"/studies/brunos/readers/{account}").status_code == 204
    assert world.api(bice, "GET", "/studies/brunos/table").status_code == 403
    assert world.api(bruno, "PUT", "/studies/brunos/readers/nobody").status_code == 404


def _device(world: World, name: str) -> dict[str, Any]:
    """The device flow by hand: what the provider gives after the person has said yes."""
    with world.centre.client() as http:
        told = http.get("/auth/provider").json()
    assert told["issuer"] == world.provider.issuer
    with httpx.Client(base_url=told["issuer"], trust_env=False) as http:
        begun = http.post(
            "/device/auth", data={"client_id": told["client_id"], "scope": " ".join(told["scopes"])}
        ).json()
        world.person(name).go(begun["verification_uri_complete"])
        form = {"grant_type": "urn:ietf:params:oauth:grant-type:device_code", "client_id": told["client_id"]}
        return dict(http.post("/token", data=form | {"device_code": begun["device_code"]}).json())


def test_the_device_flow_ends_in_an_api_token(world: World) -> None:
    got = _device(world, "bruno")
    with world.centre.client() as http:
        asked = {"id_token": got["id_token"], "access_token": got["access_token"], "scopes": ["log:read"], "days": 1}
        made = http.post("/auth/device", json=asked)
        assert made.status_code == 201, made.text
        assert (made.json()["name"], made.json()["scopes"]) == ("Bruno", ["log:read"])
        headers = {"Authorization": f"Bearer {made.json()['token']}"}
        assert http.get("/api/v1/log/head", headers=headers).status_code == 200
        for wrong in (
            {},
            {"id_token": "x"},
            {"id_token": got["access_token"]},
            {"id_token": got["id_token"][:-4] + "AAAA"},
        ):
            assert http.post("/auth/device", json=wrong).status_code == 401


def test_the_providers_access_tokens_are_taken_for_their_audience(world: World) -> None:
    got = _device(world, "anna")
    with world.centre.client(Authorization=f"Bearer {got['access_token']}") as http:
        me = http.get("/api/v1/me").json()
        assert "operator" in me["roles"]
        assert http.get("/api/v1/sites").status_code == 200
    with world.centre.client(Authorization=f"Bearer {got['id_token']}") as http:
        assert http.get("/api/v1/me").status_code == 401, "an ID token is none"
    with httpx.Client(base_url=world.provider.issuer, trust_env=False, auth=("node-a", "node-secret")) as http:
        machine = http.post("/token", data={"grant_type": "client_credentials", "scope": "fl.submit"}).json()
    with world.centre.client(Authorization=f"Bearer {machine['access_token']}") as http:
        assert http.get("/api/v1/me").status_code in (401, 403), "a client in no group"


def test_a_notebook_logs_in_by_the_device_flow_and_finds_its_token_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    url, told = world.centre.url, list[str]()

    def agree(address: str, code: str) -> None:
        told.append(code)
        world.person("bruno").go(address)

    made = login(url, scopes=["studies:read", "log:read"], days=2, label="notebook", say=agree)
    assert made["scopes"] == ["log:read", "studies:read"]
    assert len(told) == 1
    path = keep(url, made["token"])
    assert path.stat().st_mode & 0o777 == 0o600
    with corsia.connect(url, interactive=False) as hub:
        assert (hub.me["name"], hub.me["roles"]) == ("Bruno", ["researcher"])
        assert "Bruno" in hub._repr_html_()
        with pytest.raises(PermissionRefused):
            hub.studies.submit(draft("by-notebook"))
    run = CliRunner()
    shown = run.invoke(account, ["show", url, "--json"])
    assert json.loads(shown.stdout)["scopes"] == ["log:read", "studies:read"]
    assert made["token"] not in shown.output
    listed = run.invoke(studies, ["ls", "--url", url, "--json"])
    assert listed.exit_code == 0, listed.output
    path.chmod(0o644)
    with pytest.raises(ConfigurationError):
        corsia.connect(url, interactive=False)
    path.chmod(0o600)
    assert run.invoke(account, ["logout", url]).exit_code == 0
    assert not path.exists()
    with pytest.raises(AuthenticationError):
        corsia.connect(url, token=made["token"])
    with pytest.raises(AuthenticationError):
        corsia.connect(url, interactive=False)


def test_who_says_no_gets_no_token(world: World) -> None:
    def refuse(address: str, _code: str) -> None:
        eva = world.person("eva")
        eva.go(address)

    with pytest.raises(PermissionRefused):
        login(world.centre.url, say=refuse)
    with pytest.raises(UnavailableError):
        login("http://127.0.0.1:1", say=refuse)


def test_the_command_line_logs_in_and_writes_a_file_for_a_program(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corsia.login._say", lambda address, _code: world.person("anna").go(address))
    out = tmp_path / "program.token"
    done = CliRunner().invoke(account, ["login", world.centre.url, "--out", str(out), "--scope", "log:read", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["scopes"] == ["log:read"]
    assert out.read_text().strip() not in done.output
    with corsia.connect(world.centre.url, token_file=out) as hub:
        assert hub.log.verify is not None
        assert hub.me["name"] == "Anna"

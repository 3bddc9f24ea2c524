"""The web process as a browser and a program meet it: access, errors, escaping, live events, the log."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from starlette.routing import Route
from typer.testing import CliRunner

from central.store.models import EventRow
from central.web.app import create_app
from central.web.auth import COOKIE
from central.web.permits import OPEN
from corsia.cli.study import app as study_commands
from privacy.envelope import PublicKey
from privacy.transparency import open_checkpoint, verify_inclusion, verify_log
from protocol.errors import CODES, UnavailableError
from tests.pagekit import XSS, hostile_centre
from tests.vaultkit import draft
from tests.webkit import Running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with hostile_centre(tmp_path_factory.mktemp("centre")) as made:
        yield made


def _routes(running: Running) -> list[tuple[str, str]]:
    """Every route of the application, those of included routers and pages too, with a method and a filled-in path."""
    app = create_app(running.centre)
    found = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    todo: list[Any] = list(app.routes)
    while todo:
        route = todo.pop()
        if isinstance(route, Route):
            found |= {(method, route.path) for method in route.methods or ()}
        todo += getattr(getattr(route, "original_router", None), "routes", [])
    return sorted((method, re.sub(r"{[^}]*}", "1", path)) for method, path in found)


def opens(method: str, path: str) -> bool:
    """Whether it leads to a provider, which this centre has not."""
    return (method, path) in OPEN and path != "/auth/enter"


def test_every_route_but_health_asks_for_the_token(running: Running) -> None:
    routes = _routes(running)
    assert len(routes) > 15
    named = {path for _, path in routes}
    assert {"/healthz", "/", "/api/v1/studies", "/api/v1/openapi.json", "/api/v1/flow"} <= named
    assert {"/studies/new", "/studies/1", "/training/compare", "/models/1", "/data/1", "/audit"} <= named
    wrong = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {running.token}"},
        {"Authorization": "Bearer"},
        {"Cookie": f"{COOKIE}=wrong"},
        {"Cookie": f"{COOKIE}="},
        {"X-Corsia": "1"},
    ]
    with running.client(Origin=running.url) as http:  # the door's form is taken from its own page alone
        for method, path in [*routes, ("GET", "/nothing"), ("GET", "/docs"), ("GET", "/api/v1/../v1/sites")]:
            for headers in wrong:
                answer = http.request(method, path, headers=headers)
                assert answer.status_code == (200 if path == "/healthz" else 401), (method, path, headers)
                if answer.status_code == 401 and method != "HEAD":
                    assert answer.json()["code"] == ("auth.provider" if opens(method, path) else "auth.token")
                    assert running.token not in answer.text


def test_every_answer_carries_the_security_headers(running: Running) -> None:
    with running.operator() as http:
        for path in (
            "/",
            "/healthz",
            "/api/v1/sites",
            "/api/v1/nothing",
            "/static/live.js",
            "/audit",
            "/api/v1/studies/none",
        ):
            headers = http.get(path).headers
            policy = headers["content-security-policy"]
            assert policy.startswith("default-src 'self'")
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == ("no-cache" if path.startswith("/static/") else "no-store")
            assert "server" not in headers


def test_a_browser_logs_in_by_link_and_changes_nothing_without_the_header(running: Running) -> None:
    with running.client(Accept="text/html") as http:
        page = http.get("/")
        assert page.status_code == 401
        assert "<form" in page.text
        assert http.get("/", params={"token": "wrong"}).status_code == 401
        assert http.get("/?" + "a=1&" * 50 + f"token={running.token}").status_code == 401
        assert http.get("/api/v1/sites", params={"token": running.token}).status_code == 401
        entered = http.get("/", params={"token": running.token})
        assert (entered.status_code, entered.headers["location"]) == (303, "/")
        cookie = entered.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert http.get("/").status_code == 200
        refused = http.post("/api/v1/studies", json=draft("csrf"))
        assert (refused.status_code, refused.json()["code"]) == (403, "permission.role")
        tried = http.post("/api/v1/studies", json={"id": 1}, headers={"X-Corsia": "1"})
        assert (tried.status_code, tried.json()["code"]) == (422, "input.study")


def test_studies_and_their_state(running: Running) -> None:
    rows = {row["id"]: row for row in running.get("/studies")}
    assert rows["trial"]["state"] == "done"
    assert rows["trial"]["title"] == XSS
    assert rows["trial"]["totals"] | {"bytes": 0} == {
        "records": 12, "rows": 12, "columns": 2, "files": 0, "documents": 0, "withheld": 2, "parcels": 2, "bytes": 0,
        "rejected": 0,
    }  # fmt: skip
    one = running.get("/studies/trial")
    assert {a["site"]: (a["kind"], a["state"]) for a in one["assignments"]} == {
        "site-a": ("study", "done"),
        "site-b": ("study", "done"),
    }
    assert one["curated"]["site-a"]["withheld"] == {"consent": 2}
    assert [p["state"] for p in one["parcels"]] == ["opened", "opened"]
    assert one["run"] is None
    lanes = {row["lane"]: row for row in running.get("/lanes")}
    assert (lanes["harvest"]["records"], lanes["harvest"]["withheld"], lanes["train"]["studies"]) == (12, 2, 2)
    assert next(s for s in running.get("/sites") if s["name"] == "odd")["alive"] is False


def test_studies_come_in_pages(running: Running) -> None:
    with running.operator() as http:
        first = http.get("/api/v1/studies", params={"limit": 1})
        second = http.get(first.links["next"]["url"])
    assert len(first.json()) == len(second.json()) == 1
    assert first.json() != second.json()
    assert "link" not in second.headers or second.links["next"]["url"] != first.links["next"]["url"]


def test_a_study_is_submitted_by_toml_or_json(running: Running) -> None:
    import tomli_w

    with running.operator() as http:
        made = http.post("/api/v1/studies", json=draft("by-json") | {"training": None})
        assert made.status_code == 201, made.text
        assert made.headers["location"] == "/api/v1/studies/by-json"
        again = http.post("/api/v1/studies", content=tomli_w.dumps(draft("by-json")))
        assert again.json() == made.json(), "the same draft again changes nothing"
        other = http.post("/api/v1/studies", json=draft("by-json", title="Another"))
        assert (other.status_code, other.json()["code"]) == (409, "study.exists")
    assert running.get("/studies/by-json")["sites"] == {"site-a": "received", "site-b": "received"}


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"not = [toml", "application/toml", 422, "input.study"),
        (b"[]", "application/json", 422, "input.study"),
        (b"{", "application/json", 422, "input.study"),
        (b"\xff\xfe", "application/toml", 422, "input.study"),
        (b"[" * 100_000, "application/json", 422, "input.study"),
        (b"x" * 300_000, "application/toml", 422, "input.study"),
        (json.dumps(draft("x", sites=["nowhere"])).encode(), "application/json", 403, "permission.site"),
        (json.dumps(draft("x", expires="2001-01-01T00:00:00Z")).encode(), "application/json", 409, "study.expired"),
        (json.dumps(draft("x", extra=1)).encode(), "application/json", 422, "input.study"),
    ],
)
def test_a_bad_study_is_one_clear_problem(running: Running, body: bytes, kind: str, status: int, code: str) -> None:
    with running.operator() as http:
        answer = http.post("/api/v1/studies", content=body, headers={"Content-Type": kind})
    _is_problem(answer, status, code)


def _is_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    value = answer.json()
    assert set(value) == {"type", "title", "status", "detail", "code", "hint"}
    assert (value["status"], value["code"]) == (status, code)
    assert value["code"] in CODES


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/studies/none", 404, "study.unknown"),
        ("GET", "/api/v1/studies/none/table", 404, "study.unknown"),
        ("GET", "/api/v1/studies/none/summary", 404, "study.unknown"),
        ("GET", "/api/v1/runs/none", 404, "study.unknown"),
        ("GET", "/api/v1/runs/trial", 404, "input.usage"),
        ("GET", "/api/v1/models/none", 404, "input.usage"),
        ("GET", "/api/v1/log/proof/999999", 404, "input.usage"),
        ("GET", "/api/v1/log/proof/-1", 404, "input.usage"),
        ("GET", "/api/v1/log/proof/x", 422, "input.usage"),
        ("GET", "/api/v1/studies?limit=0", 422, "input.usage"),
        ("GET", "/api/v1/nothing", 404, "input.usage"),
        ("DELETE", "/api/v1/studies", 405, "input.usage"),
        ("POST", "/api/v1/models/none/predict", 422, "input.usage"),
    ],
)
def test_errors_are_problem_documents(running: Running, method: str, path: str, status: int, code: str) -> None:
    with running.operator() as http:
        _is_problem(http.request(method, path), status, code)


def test_an_unknown_model_is_not_used(running: Running) -> None:
    with running.operator() as http:
        answer = http.post("/api/v1/models/none/predict", json={"study": "trial"})
    _is_problem(answer, 422, "input.usage")


def test_the_table_comes_as_parquet(running: Running) -> None:
    with running.operator() as http:
        answer = http.get("/api/v1/studies/trial/table")
    assert answer.headers["content-type"] == "application/vnd.apache.parquet"
    assert pq.read_table(io.BytesIO(answer.content)).num_rows == 12
    assert running.get("/studies/trial/summary")["rows"] == 12


def test_runs_and_models(running: Running) -> None:
    run = running.get("/studies/fed")["run"]
    assert (run["round"], run["of"], len(run["rounds"])) == (2, 5, 3)
    model = running.get("/models/risk")
    assert (model["manifest"]["name"], model["model"]["study"]) == ("risk", "fed")
    assert running.get("/models")[0]["uri"] == "models:/risk/2"


def test_the_log_verifies_from_its_export(running: Running) -> None:
    running.sign_checkpoint()
    export = running.get("/log")
    result = verify_log(export)
    assert result["entries"] == len(export["leaves"]) >= 2
    leaf = base64.b64decode(export["leaves"][1])
    proof = running.get("/log/proof/1")
    key = PublicKey.from_base64(proof["log_key"])
    state = open_checkpoint(proof["checkpoint"], key, proof["origin"])
    verify_inclusion(leaf, 1, state.size, [bytes.fromhex(step) for step in proof["proof"]], state.root)
    with running.operator() as http:
        assert http.post("/api/v1/log/verify").json()["verified"] is True
    assert running.get("/log/head")["size"] == len(export["leaves"])


def _emit(running: Running, kind: str) -> None:
    with running.world.store.begin() as session:
        running.world.store.emit(session, kind, study="trial", rows=1)


def _read(
    running: Running, count: int, params: dict[str, Any], *, begun: threading.Event | None = None, **headers: str
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    with (
        running.operator() as http,
        http.stream("GET", "/api/v1/events", params=params, headers=headers) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if begun is not None and line.startswith(": from "):  # the stream knows its place
                begun.set()
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
            if len(found) == count:
                break
    return found


def test_events_come_live_and_none_is_missed(running: Running) -> None:
    begun = threading.Event()

    def later() -> None:
        assert begun.wait(60)
        _emit(running, "test.one")
        _emit(running, "test.two")

    thread = threading.Thread(target=later)
    thread.start()
    live = _read(running, 2, {}, begun=begun)
    thread.join()
    assert [event["kind"] for event in live] == ["test.one", "test.two"]
    again = _read(running, 1, {}, **{"Last-Event-ID": str(live[0]["seq"])})
    assert again == live[1:]
    with running.world.store.read() as session:
        total = session.query(EventRow).count()
    assert len(_read(running, total, {"since": 0})) == total


def test_the_api_describes_itself_and_loads_nothing_from_elsewhere(running: Running) -> None:
    described = running.get("/openapi.json")
    assert "/api/v1/studies/{study_id}/table" in described["paths"]
    with running.operator() as http:
        assert http.get("/docs").status_code == 404
        for name in ("live.js", "charts.js", "actions.js", "keys.js", "verify.js", "promote.js", "corsia.css"):
            text = http.get(f"/static/{name}").text.replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in text.replace("https://", "http://")
        assert http.get("/static/../app.py").status_code in (401, 404)
        assert http.get("/static/%2e%2e/app.py").status_code == 404


def test_a_study_is_erased_by_the_api_and_the_command(running: Running) -> None:
    """Last in this file: what it erases the others read."""
    world = running.world
    world.submit("gone")
    world.land(world.batch(study_id="gone"), study_id="gone")
    world.drain()
    with running.operator() as http:
        assert http.post("/api/v1/studies/nothing/erasure").json()["code"] == "study.unknown"
        assert http.post("/api/v1/studies/fed/erasure").status_code == 409, "its run goes on"
        asked = http.post("/api/v1/studies/gone/erasure", json={"withdraw_models": True})
    assert (asked.status_code, asked.json()["state"]) == (202, "asked")
    world.drain()
    shown = running.get("/studies/gone")
    assert (shown["state"], shown["erasure"]["state"], shown["withdrawals"]) == ("erased", "done", [])
    with running.operator() as http:
        assert http.get("/api/v1/studies/gone/table").json()["code"] == "study.erased"
    runner = CliRunner()
    where = ["--url", running.url, "--token-file", str(running.token_file), "--json"]
    done = runner.invoke(study_commands, ["erase", "gone", *where])
    assert (done.exit_code, json.loads(done.stdout)["state"]) == (0, "done")
    config = running.token_file.parent / "central.toml"
    config.write_text(f'name = "consortium"\nstate_dir = "{world.root}"\n')
    local = runner.invoke(study_commands, ["erase", "gone", "--config", str(config), "--json"])
    assert json.loads(local.stdout)["reason"] == "asked"
    world.submit("late")  # no vault looks for it until it is drained
    args = ["erase", "late", "--config", str(config), "--json"]
    not_yet = runner.invoke(study_commands, [*args, "--wait", "0.3"])
    assert isinstance(not_yet.exception, UnavailableError)
    assert not_yet.exception.code == "unavailable.process"
    asked_only = runner.invoke(study_commands, [*args, "--wait", "0"])
    assert (asked_only.exit_code, json.loads(asked_only.stdout)["state"]) == (0, "asked")
    assert json.loads(runner.invoke(study_commands, ["show", "gone", "--config", str(config), "--json"]).stdout)[
        "erasure"
    ]

"""Whatever JSON answers in a centre's place: every command and every object of `connect` ends in an error of the tree.

A server that has a good answer to everything gives a bad one to one path at a time. What is done is tried first with
good answers alone, so that it is known how far it gets, and which paths it asks.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import certifi
import pandas as pd
import pytest
import tomli_w
import typer
from pydantic import BaseModel
from typing_extensions import is_typeddict

import corsia
from central.decisions import Export, Proposal
from central.web import shapes
from corsia import replies
from corsia.answers import ANSWERS
from corsia.cli import app
from corsia.login import keep
from privacy.envelope import SecretKey, write_public
from protocol.errors import CorsiaError, UnavailableError
from protocol.parcel import canonical_json
from protocol.trust import Purpose

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
EACH = 1 if os.environ.get("CORSIA_FULL") else 4  # of the bad answers; three stand for each place
_TOKEN, _FINGERPRINT = "alice.access.seal", "ab" * 32
_KEY = SecretKey.from_bytes(bytes(32))
_ROUND = {"round": 1, "metrics": {"auc": 0.7}, "sites": ["site-a"], "started_at": 1.0, "finished_at": 2.0}
_RUN = {
    "id": "r", "study": "lung", "state": "running", "phase": "", "attempt": 1, "round": 1, "of": 2, "max_rounds": 3,
    "rounds": [_ROUND], "wish": "run", "discard": False, "ended": "", "code": "",
}  # fmt: skip
_STUDY = {
    "schema": 1, "id": "lung", "title": "Lung", "lane": "harvest", "purpose": "research", "legal_basis": "consent",
    "controller": "c", "ethics_reference": "e", "sites": ["site-a"], "dataset": {"name": "d", "columns": ["age"]},
    "pipeline": {"name": "harvest"}, "output": {"columns": [{"name": "age", "dtype": "int"}]},
}  # fmt: skip
_DOCUMENT = "expires = 2099-01-01T00:00:00Z\n" + tomli_w.dumps(_STUDY)
_MANIFEST = {"name": "risk", "version": 1, "features": ["age"], "weights": {"sha256": "00"}, "log": {"index": 0}}
_TOLD = {"n": 5, "missing": 0, "mean": 1.0, "sd": 1.0, "median": 1.0}
_BRIEF = {
    "id": "lung", "digest": "d" * 64, "lane": "extract", "title": "Lung", "state": "done", "created_at": 1.0,
    "sites": {"site-a": "done"}, "totals": {"records": 1},
}  # fmt: skip


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _asked(kind: Any, **fields: Any) -> dict[str, Any]:
    asked = kind.new(operator="bob", **fields)
    return {
        "id": asked.id,
        "state": "open",
        "proposed_by": "bob",
        "approved_by": "",
        "statement": _text(asked.to_bytes()),
    }


def _good(url: str) -> dict[tuple[str, str], Any]:
    promotion = _asked(Proposal, name="risk", version=1, weights="00", alias="champion", rollback=False, replaces=0)
    decisions = _asked(Export, study="lung", digest="d" * 64, at=1)
    return {
        ("GET", "/me"): {"operator": "alice", "name": "Alice", "account": "", "roles": ["operator"], "scopes": ["a"]},
        ("GET", "/sites"): [{"name": "site-a", "fingerprint": _FINGERPRINT, "revoked": False}],
        ("GET", "/datasets"): [{"dataset": "d", "site": "site-a", "rows": None}],
        ("GET", "/remotes"): [{"name": "weather"}],
        ("GET", "/lanes"): [{"lane": "harvest"}],
        ("GET", "/studies"): [_BRIEF],
        ("POST", "/studies"): {"id": "lung", "digest": "d"},
        ("GET", "/studies/{id}"): _BRIEF
        | {
            "document": _DOCUMENT, "rounds": [_ROUND], "run": _RUN,
            "assignments": [{"site": "site-a", "state": "done", "code": "", "counts": {"rows": 1}}],
            "withdrawals": [{"site": "site-a", "rows": 1, "files": 0, "models": [{"name": "risk", "version": 1}]}],
            "erasure": {"state": "done", "reason": "asked", "models": []},
        },
        ("GET", "/studies/{id}/summary"): {
            "study": "lung", "rows": 9, "min_group": 3, "sites": {"site-a": 9},
            "columns": [{"name": "age", "type": "double", "missing": 0, "mean": 1.0}],
        },
        ("POST", "/studies/{id}/analyses"): {
            "kind": "table1", "study": "lung",
            "rows": [{"column": "age", "type": "number", "p": 0.1, "groups": {"all": _TOLD}}],
        },
        ("POST", "/studies/{id}/erasure"): {
            "state": "done", "reason": "asked", "models": [{"name": "risk", "version": 1, "decision": "kept"}],
        },
        ("GET", "/runs/{id}"): _RUN,
        ("POST", "/runs/{id}/{command}"): {"study": "lung", "wish": "pause", "rounds": 2, "discard": False},
        ("GET", "/models"): [
            {"name": "risk", "version": 1, "alias": "", "serial": 1, "promotion": "", "study": "lung", "uri": "u"}
        ],
        ("GET", "/models/{name}"): {
            "model": {"name": "risk", "version": 1, "alias": ""},
            "manifest": _MANIFEST,
            "signature": _text(_KEY.sign(Purpose.MANIFEST, canonical_json(_MANIFEST))),
        },
        ("POST", "/models/{name}/predict"): {"version": 1, "rows": 3},
        ("POST", "/models/{name}/invocations"): {"version": 1, "predictions": [{"risk": 0.5}]},
        ("GET", "/models/{name}/promotions"): [
            promotion | {"version": 1, "alias": "champion", "rollback": False, "serial": 0}
        ],
        ("POST", "/models/{name}/promotions"): {"id": "p", "state": "open"},
        ("POST", "/models/{name}/promotions/{id}/approval"): {"id": "p", "name": "risk", "version": 1, "serial": 2},
        ("GET", "/decisions"): [decisions],
        ("POST", "/decisions"): {"id": "d", "state": "open"},
        ("POST", "/decisions/{id}/approval"): {"id": "d"},
        ("GET", "/log"): {"origin": "o", "log_key": _KEY.public.to_base64(), "leaves": [], "checkpoints": []},
        ("GET", "/log/proof/{index}"): {
            "origin": "o", "log_key": _KEY.public.to_base64(), "checkpoint": "o\n", "leaf": "", "proof": ["ab"],
        },
        ("GET", "/auth/provider"): {"issuer": f"{url}/issuer", "client_id": "corsia", "scopes": ["openid"]},
        ("POST", "/auth/device"): {"token": "ct_x", "name": "Alice", "scopes": ["a"], "expires_at": 4e9},
        ("GET", "/issuer/.well-known/openid-configuration"): {
            "issuer": f"{url}/issuer", "device_authorization_endpoint": f"{url}/begin", "token_endpoint": f"{url}/ask",
        },
        ("POST", "/begin"): {
            "verification_uri": "v", "user_code": "u", "expires_in": 600, "interval": 0.1, "device_code": "d",
        },
        ("POST", "/ask"): {"id_token": "i", "access_token": "a"},
    }  # fmt: skip


class Centre(ThreadingHTTPServer):
    """A centre that gives a good answer to all but `bad`, and notes what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.good = _good(self.url)
        self.bad: dict[tuple[str, str], bytes] = {}
        self.asked: set[tuple[str, str]] = set()
        self.elsewhere, self.next, self.bearers = "", "", 0

    def reply(self, method: str, path: str) -> bytes:
        plain = path.partition("?")[0].removeprefix("/api/v1")
        named = [
            key for key in self.good if key[0] == method and re.fullmatch(re.sub(r"{\w+}", "[^/]+", key[1]), plain)
        ]
        key = named[0] if named else (method, "other")
        self.asked.add(key)
        return self.bad.get(key, json.dumps(self.good.get(key)).encode())


class Handler(BaseHTTPRequestHandler):
    """Status 200, whatever is asked."""

    server: Centre

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = self.server.reply(self.command, self.path)
        self.server.bearers += "Authorization" in self.headers
        self.send_response(302 if self.server.elsewhere else 200)
        self.send_header("Location", self.server.elsewhere)
        self.send_header("Link", self.server.next)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def centre(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Centre]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    end = "-----END CERTIFICATE-----\n"  # each client of a thousand reads all that certifi has, and none speaks https
    (tmp_path / "ca.pem").write_text(Path(certifi.where()).read_text(encoding="utf-8").partition(end)[0] + end)
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "ca.pem"))
    with Centre() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


# Of no path's form.
_HOSTILE = [
    b"null", b'"centre"', b"7", b"true", b"NaN", b"1e999", b"[1]", b"[[]]", b"[null]", b"[{}]", b"", b"\xff\xfe",
    b"[" * 100_000, b'{"a":' * 500 + b"1" + b"}" * 500, b'{"id": "\\ud800"}', b'{"id": ' + b"9" * 40 + b"}", b"[1e999]",
]  # fmt: skip
_ODD: list[Any] = [None, "\x00odd", -1, 10**19, 1e308, True, [], {}, [None], {"": None}]
_NO_FORM = {("POST", "/decisions"), ("POST", "/decisions/{id}/approval")}  # any object does


def _changed(value: Any) -> Iterator[Any]:
    """The answer with one member missing, or odd."""
    for at, place in enumerate(_places(value)):
        for odd in (..., _ODD[at % len(_ODD)], _ODD[(at + 3) % len(_ODD)]):
            made = copy.deepcopy(value)
            inside = made
            for step in place[:-1]:
                inside = inside[step]
            if odd is ...:
                del inside[place[-1]]
            else:
                inside[place[-1]] = odd
            yield made


def _places(value: Any) -> Iterator[list[Any]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, one in steps:
        yield [step]
        yield from ([step, *more] for more in _places(one))


_COMMANDS = {
    "study submit": "study submit {study} {at} --json",
    "study ls": "study ls {at}",
    "study ls json": "study ls {at} --json",
    "study show": "study show lung {at}",
    "study pause": "study pause lung {at}",
    "study resume": "study resume lung {at}",
    "study stop": "study stop lung {at}",
    "study extend": "study extend lung --rounds 3 {at}",
    "study erase": "study erase lung --wait 0 {at}",
    "study export": "study export lung --out {out} {at}",
    "study export approve": "study export lung --approve {at}",
    "model ls": "model ls {at}",
    "model show": "model show risk {at}",
    "model verify": "model verify risk --key {key} {at}",
    "model predict study": "model predict risk --study lung {at}",
    "model predict rows": "model predict risk --input {rows} --out {out} {at}",
    "model promote": "model promote risk {at}",
    "model approve": "model approve risk {at}",
    "model promotions": "model promotions risk {at}",
    "model manifest": "model manifest risk --out {out} {at}",
    "central admit": "central admit site-a --fingerprint " + _FINGERPRINT + " {at}",
    "account login": "account login {url} --out {out}",
    "account show": "account show {url}",
    "account logout": "account logout {url}",
    "log verify": "log verify --url {url} --token {token}",
    "log prove": "log prove --url {url} --token {token} 0",
    "log tail": "log tail --url {url} --token {token}",
}
Hub = corsia.Hub
_OBJECTS: dict[str, Callable[[Hub], Any]] = {
    "sites": lambda hub: (repr(hub.sites), hub.sites._repr_html_()),
    "datasets": lambda hub: hub.datasets._repr_html_(),
    "remotes": lambda hub: hub.remotes._repr_html_(),
    "hub": lambda hub: hub._repr_html_(),
    "studies": lambda hub: (repr(hub.studies.list()), list(hub.studies), hub.studies._repr_html_()),
    "submit": lambda hub: hub.studies.submit(_DOCUMENT),
    "status": lambda hub: (repr(hub.studies["lung"].status()), hub.studies["lung"]._repr_html_()),
    "news": lambda hub: hub.studies["lung"].status().news(),
    "table": lambda hub: hub.table("lung").to_pandas(),
    "remote": lambda hub: hub.remote("weather"),
    "sql": lambda hub: hub.features("lung").sql("SELECT 1"),
    "summary": lambda hub: hub.table("lung").summary(),
    "table1": lambda hub: hub.features("lung").table1(["age"])._repr_html_(),
    "run": lambda hub: (hub.studies["lung"].run.status(), hub.studies["lung"].run._repr_html_()),
    "stop": lambda hub: hub.studies["lung"].run.stop(),
    "models": lambda hub: (list(hub.models), hub.models._repr_html_()),
    "predict": lambda hub: hub.models["risk"].predict(pd.DataFrame({"age": [1.0]})),
    "model table": lambda hub: hub.models["risk"].table(),
    "log": lambda hub: hub.log.verify(),
    "proof": lambda hub: hub.log.proof(0),
}


def _do(what: Callable[[], Any]) -> CorsiaError | None:
    """The error that something ends with. Anything else that is raised, and so would be a traceback, passes."""
    try:
        what()
    except (CorsiaError, KeyError) as error:
        if isinstance(error, KeyError) and error.args != ("risk",):  # what `hub.models[...]` says of an unknown one
            raise
        return error if isinstance(error, CorsiaError) else None
    return None


def _all(centre: Centre, what: Callable[[], Any]) -> None:
    _do(what)
    asked = sorted(centre.asked - {("GET", "other"), ("POST", "other")})
    asked = [("GET", "/me")] if asked == [("GET", "/me")] else [key for key in asked if key != ("GET", "/me")]
    assert asked
    for key in asked:
        for raw in _HOSTILE[::EACH]:
            centre.bad = {key: raw}
            centre.asked.clear()
            error = _do(what)
            if key in centre.asked and key not in _NO_FORM:
                assert error is not None, (key, raw[:60])
                assert error.exit_status >= 10
                assert error.hint
                if key in ANSWERS and key != ("GET", "/log"):
                    assert isinstance(error, UnavailableError), (key, raw[:60])
        for value in islice(_changed(centre.good[key]), None, None, EACH):
            centre.bad = {key: json.dumps(value).encode()}
            _do(what)
    centre.bad = {}


@pytest.mark.parametrize("name", _COMMANDS)
def test_a_command_ends_in_an_error_whatever_json_answers(
    name: str, centre: Centre, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"token": _TOKEN, "study": _DOCUMENT, "key": "", "rows": "age\n1\n"}
    place = {name: tmp_path / name for name in (*files, "out")}
    for each, content in files.items():
        place[each].write_text(content)
    place["token"].chmod(0o600)
    place["key"].unlink()
    write_public(place["key"], _KEY.public)
    at = f"--url {centre.url} --token-file {place['token']}"
    command = typer.main.get_command(app)

    def what() -> None:
        place["out"].unlink(missing_ok=True)
        if name.startswith("account") and "login" not in name:
            keep(centre.url, _TOKEN)
        command(
            _COMMANDS[name].format(url=centre.url, at=at, **place).split(), prog_name="corsia", standalone_mode=False
        )
        capsys.readouterr()

    _all(centre, what)


@pytest.mark.parametrize("name", _OBJECTS)
def test_an_object_of_connect_raises_an_error_whatever_json_answers(name: str, centre: Centre) -> None:
    def what() -> None:
        with corsia.connect(centre.url, token=_TOKEN) as hub:
            _OBJECTS[name](hub)

    _all(centre, what)


def _list_by_command(url: str, token: Path) -> int:
    command = typer.main.get_command(app)
    words = ["study", "ls", "--url", url, "--token-file", str(token)]
    return getattr(_do(lambda: command(words, prog_name="corsia", standalone_mode=False)), "exit_status", 0)


def _list_by_object(url: str, token: Path) -> int:
    return getattr(_do(lambda: corsia.connect(url, token_file=token).studies.list()), "exit_status", 0)


_LISTS = pytest.mark.parametrize("status", [_list_by_command, _list_by_object])


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(_TOKEN)
    path.chmod(0o600)
    return path


@_LISTS
def test_the_token_goes_nowhere_else(status: Callable[[str, Path], int], centre: Centre, token: Path) -> None:
    with Centre() as other:
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            centre.elsewhere = other.url + "/api/v1/studies"
            assert status(centre.url, token) == UnavailableError.exit_status
        finally:
            other.shutdown()
            thread.join()
        assert (centre.bearers, other.bearers) == (1, 0)


@_LISTS
def test_a_list_ends(
    status: Callable[[str, Path], int], centre: Centre, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corsia.replies.MAX_PAGES", 5)
    assert status(centre.url, token) == 0
    for odd in ("</api/v1/me>", "<http://127.0.0.1:1/api/v1/studies>", "</api/v1/>", "nothing"):
        centre.next = odd + '; rel="next"'
        assert status(centre.url, token) == 0
    centre.next = '</api/v1/studies?cursor=1>; rel="next"'
    assert status(centre.url, token) == UnavailableError.exit_status


def test_every_answer_that_is_told_of_is_read_somewhere(centre: Centre) -> None:
    assert {*ANSWERS} - {("GET", "/events")} <= {*centre.good}


def _agrees(told: Any, read: Any) -> bool:
    """Whether whatever is of the form that the API's description tells passes the form that the client reads."""
    if get_origin(read) is Annotated:
        return _agrees(told, get_args(read)[0])
    if get_origin(told) in (Union, UnionType):
        return all(_agrees(one, read) for one in get_args(told))
    if get_origin(read) in (Union, UnionType):
        return any(_agrees(told, one) for one in get_args(read))
    if is_typeddict(read):
        if not isinstance(told, type) or not issubclass(told, BaseModel):
            return bool(told == dict[str, Any])  # not described further
        fields, wanted = told.model_fields, get_type_hints(read, include_extras=True)
        return all(name not in fields or _agrees(fields[name].annotation, one) for name, one in wanted.items())
    if get_origin(read) is Literal:
        return told is str
    if get_origin(read) in (list, dict):
        return get_origin(told) is get_origin(read) and all(map(_agrees, get_args(told), get_args(read)))
    return read is Any or told is read or (told, read) == (int, float)


def test_what_the_api_describes_is_what_the_client_reads() -> None:
    compared = 0
    for (method, path), told in shapes.ANSWERS.items():
        below = path.removeprefix("/api/v1").replace("{", "").replace("}", "")
        for form, pattern, read in replies._PATHS:
            if form == method.upper() and pattern.fullmatch(below):
                assert _agrees(told, read), path
                compared += 1
    assert compared >= 20
    assert not _agrees(str | None, str)
    assert not _agrees(list[shapes.Study], list[dict[str, int]])

"""What takes two operators besides models: which sites may take part, and when a study's rows leave the vault."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import event
from typer.testing import CliRunner

import corsia
from central import ipc
from central.config import load_config
from central.decisions import Admission, Approval, Export, read, sign
from central.operators import Operators, bearer, signing_key
from central.signer.admissions import Admissions, Admitted
from central.signer.decisions import Decisions
from central.store.models import DecisionRow, LogRow, SiteRow, StudyRow
from corsia.cli.central import _state
from corsia.cli.central import app as central_app
from corsia.cli.study import app as study_app
from corsia.decisions import admit, approve_export, export, open_export
from privacy.envelope import PublicKey, SecretKey
from protocol.errors import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    CorsiaError,
    InputError,
    IntegrityError,
    PermissionRefused,
    StudyRefused,
)
from protocol.withdrawal import Withdrawal
from tests.gatewaykit import Centre, draft
from tests.gatewaykit import running as running_gateway
from tests.vaultkit import table
from tests.webkit import Running, running_centre


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with running_gateway(tmp_path / "centre") as made:
        yield made


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with running_centre(tmp_path / "state") as made:
        world = made.world
        world.submit("trial")
        world.land(world.batch(table()))
        world.drain()
        yield made


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(exist_ok=True)


def refused(code: str) -> Any:
    return pytest.raises(CorsiaError, check=lambda error: error.code == code)


class Person:
    """An operator at the signer's socket, without web process."""

    def __init__(self, centre: Centre, name: str) -> None:
        self.name, self.centre = name, centre
        self.token = Operators(centre.config).add(name)
        self.key = signing_key(self.token)

    def propose(self, site: str, fingerprint: str, **changes: Any) -> Admission:
        asked = Admission.new(**({"operator": self.name, "site": site, "fingerprint": fingerprint} | changes))
        self.call("propose", statement=ipc.text(asked.to_bytes()), signature=ipc.text(sign(asked, self.key)))
        return asked

    def approve(self, asked: Admission, key: SecretKey | None = None) -> dict[str, Any]:
        approval = sign(Approval.of(asked.to_bytes(), self.name), key or self.key)
        return self.call("approve", proposal=asked.id, signature=ipc.text(approval))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return ipc.call(self.centre.config.socket("signer"), method, 60.0, token=bearer(self.token), **params)


# --- sites


def test_one_operator_alone_admits_by_the_invite(centre: Centre) -> None:
    centre.enrol("site-a")
    centre.submit()
    alice = Person(centre, "alice")  # from now on there are two; who was in before stays in
    centre.submit(draft(id="second"))
    centre.enrol("site-b")
    with refused("permission.admission"):
        centre.submit(draft(id="third", sites=["site-a", "site-b"]))
    assert alice.call("admitted")["two_persons"] is True


def test_a_site_gets_no_study_before_two_operators_admit_it(centre: Centre) -> None:
    alice, bob = Person(centre, "alice"), Person(centre, "bob")
    code = centre.invite("site-a")
    site = centre.enrol("site-a", code)
    fingerprint = site.key.public.fingerprint
    with refused("permission.admission"):
        centre.submit()
    with refused("auth.fingerprint"):
        alice.propose("site-a", "0" * 64)
    with refused("input.usage"):
        alice.propose("site-x", fingerprint)
    asked = alice.propose("site-a", fingerprint)
    with refused("permission.admission"):
        centre.submit()
    with refused("permission.second-person"):
        alice.approve(asked)
    with refused("auth.operator"):
        bob.approve(asked, alice.key)
    assert bob.approve(asked)["site"] == "site-a"
    assert bob.approve(asked)["fingerprint"] == fingerprint  # again changes nothing
    with refused("conflict.state"):
        alice.propose("site-a", fingerprint)
    centre.submit()
    with centre.store.read() as session:
        leaves = [json.loads(row.leaf) for row in session.query(LogRow)]
    assert [leaf["id"] for leaf in leaves if leaf["kind"] == "admission"] == [asked.id]


def test_an_admission_of_which_the_transaction_failed_is_done_again(centre: Centre) -> None:
    alice, bob = Person(centre, "alice"), Person(centre, "bob")
    fingerprint = centre.enrol("site-a").key.public.fingerprint
    asked = alice.propose("site-a", fingerprint)
    admitted = Admitted(centre.config.state_dir / "signer" / "admitted.db", lambda: True)
    deciding = Decisions(centre.store, Operators(centre.config), {"admit": Admissions(centre.store, admitted)})
    who, approval = deciding._operators.get("bob"), sign(Approval.of(asked.to_bytes(), "bob"), bob.key)
    assert who is not None

    def full(_connection: Any) -> None:
        raise OSError(28, "full")

    event.listen(centre.store.engine, "commit", full)
    try:
        with pytest.raises(OSError, match="full"):
            deciding.approve(who, asked.id, approval)
    finally:
        event.remove(centre.store.engine, "commit", full)
    assert bob.approve(asked)["fingerprint"] == fingerprint
    with centre.store.read() as session:
        leaves = [json.loads(row.leaf) for row in session.query(LogRow)]
    assert [leaf["id"] for leaf in leaves if leaf["kind"] == "admission"] == [asked.id]


def test_the_status_calls_admitted_the_key_not_the_name(centre: Centre) -> None:
    alice, bob = Person(centre, "alice"), Person(centre, "bob")
    bob.approve(alice.propose("site-a", centre.enrol("site-a").key.public.fingerprint))
    up = {"gateway": False, "signer": True}
    assert [site["admitted"] for site in _state(centre.config, up)["sites"]] == [True]
    with centre.store.begin() as session:  # by who can write the database
        session.get_one(SiteRow, "site-a").identity = SecretKey.generate().public.to_base64()
    assert [site["admitted"] for site in _state(centre.config, up)["sites"]] == [False]


def test_another_key_or_a_revocation_ends_an_admission(centre: Centre) -> None:
    alice, bob = Person(centre, "alice"), Person(centre, "bob")
    first = centre.enrol("site-a")
    bob.approve(alice.propose("site-a", first.key.public.fingerprint))
    centre.submit()
    late = alice.propose  # an admission of the old key is worth nothing for the new one
    other = centre.enrol("site-a")
    with refused("permission.admission"):
        centre.submit(draft(id="second"))
    with refused("auth.fingerprint"):
        late("site-a", first.key.public.fingerprint)
    bob.approve(alice.propose("site-a", other.key.public.fingerprint))
    centre.submit(draft(id="second"))
    centre.ask("revoke", site="site-a")
    with refused("permission.site"):
        centre.submit(draft(id="third"))


def test_a_key_that_changes_between_the_two_words_is_not_admitted(centre: Centre) -> None:
    alice, bob = Person(centre, "alice"), Person(centre, "bob")
    asked = alice.propose("site-a", centre.enrol("site-a").key.public.fingerprint)
    centre.enrol("site-a")
    with refused("auth.fingerprint"):
        bob.approve(asked)


def test_what_writes_the_database_admits_nobody(centre: Centre) -> None:
    alice = Person(centre, "alice")
    fingerprint = centre.enrol("site-a").key.public.fingerprint
    asked = alice.propose("site-a", fingerprint)
    with centre.store.begin() as session:
        row = session.get_one(DecisionRow, asked.id)
        row.state, row.approved_by, row.outcome = "approved", "operator", {"site": "site-a"}
    with refused("permission.admission"):
        centre.submit()


def test_the_configuration_names_what_takes_two(tmp_path: Path) -> None:
    path = tmp_path / "central.toml"
    path.write_text('name = "c"\ntwo_person = ["models", "exports"]\n')
    assert "sites" not in load_config(path).two_person
    path.write_text('name = "c"\n')
    assert load_config(path).two_person == ("models", "exports", "sites")
    path.write_text('name = "c"\ntwo_person = ["sites"]\n')
    with pytest.raises(ConfigurationError, match="always take two persons"):
        load_config(path)


@pytest.mark.parametrize(
    "statement",
    [
        b"{}",
        b"[1]",
        b"\xff",
        b"[" * 5000,
        b'{"action":"admit"}',
        b'{"action":"other","id":"1","operator":"a"}',
        b'{"action":"approve","operator":"a","proposal":"b"}',
        b'{"action":"export","at":1,"digest":"d","id":"1","operator":"a","study":1}',
        b'{"action":"export","at":1,"digest":"d","id":"1","operator":"a","site":"s","study":"s"}',
        b'{"action": "export", "at":1,"digest":"d","id":"1","operator":"a","study":"s"}',
        b'{"action":"export","digest":"d","id":"1","operator":"a","study":"s"}',
        b'{"action":"export","at":"1","digest":"d","id":"1","operator":"a","study":"s"}',
    ],
)
def test_statements_that_are_none(statement: bytes) -> None:
    with pytest.raises(InputError):
        read(statement)
    assert read(Export.new(operator="a", study="s", digest="d", at=1).to_bytes()).operator == "a"


# --- rows


def people(running: Running) -> tuple[corsia.Hub, corsia.Hub]:
    made = [corsia.connect(running.url, running.centre.operators.add(name)) for name in ("alice", "bob")]
    return made[0], made[1]


def test_rows_leave_the_vault_by_two_operators_sealed_to_the_first(running: Running) -> None:
    alice, bob = people(running)
    asked = export(alice, "trial")
    assert asked["state"] == "open"
    assert export(alice, "trial") == asked  # asked once
    with pytest.raises(ConflictError):
        open_export(alice, asked["id"], "trial")
    with pytest.raises(PermissionRefused, match=r"permission\.second-person"):
        approve_export(alice, "trial")
    assert not (running.world.root / "vault" / "exports").exists()
    assert approve_export(bob, "trial")["state"] == "approved"
    assert export(alice, "trial")["state"] == "approved"
    rows = pq.read_table(io.BytesIO(open_export(alice, asked["id"], "trial")))
    assert rows.equals(alice.table("trial").to_arrow())
    with pytest.raises(IntegrityError):  # the second person, and whoever carries it, sees ciphertext
        open_export(bob, asked["id"], "trial")
    sealed = alice.download(f"/decisions/{asked['id']}/parcel")
    assert b"PAR1" not in sealed
    assert bob.download(f"/decisions/{asked['id']}/parcel") == sealed  # written once
    with running.world.store.read() as session:
        leaves = [json.loads(row.leaf) for row in session.query(LogRow).order_by(LogRow.index)]
    kinds = [leaf["kind"] for leaf in leaves if leaf.get("id") == asked["id"]]
    assert kinds == ["export", "exported"]
    assert not any("F" in str(leaf.get("sex")) for leaf in leaves)
    again = export(alice, "trial", anew=True)
    assert (again["state"], again["id"] != asked["id"]) == ("open", True)
    alice.close()
    bob.close()


def test_no_export_gives_rows_that_were_withdrawn_or_erased(running: Running) -> None:
    alice, bob = people(running)
    world = running.world
    world.land(world.batch(table(), site="site-b"), site="site-b")
    world.drain()
    asked = export(alice, "trial")
    approve_export(bob, "trial")
    before = pq.read_table(io.BytesIO(open_export(alice, asked["id"], "trial")))
    old = alice.download(f"/decisions/{asked['id']}/parcel")
    word = world.batch(Withdrawal(subjects=frozenset(["P" + "A" * 16])).item(), batch_id="f" * 32)
    world.land(word, content_type="withdrawal")  # its rows name nobody: all go
    world.drain()
    assert alice.download(f"/decisions/{asked['id']}/parcel") != old
    after = pq.read_table(io.BytesIO(open_export(alice, asked["id"], "trial")))
    assert after.num_rows < before.num_rows
    assert after.equals(alice.table("trial").to_arrow())
    with world.store.begin() as session:
        session.get_one(StudyRow, "trial").state = "erased"  # its files are still there
    with pytest.raises(StudyRefused):
        open_export(alice, asked["id"], "trial")
    alice.close()
    bob.close()


def test_the_vault_believes_signatures_alone(running: Running) -> None:
    alice, bob = people(running)
    asked = export(alice, "trial")
    store, approval = running.world.store, Approval

    def forge(**values: Any) -> None:
        with store.begin() as session:
            row = session.get_one(DecisionRow, asked["id"])
            for name, value in values.items():
                setattr(row, name, value)

    forge(state="approved", approved_by="bob", approval=b"x" * 3373)
    with pytest.raises(AuthenticationError):
        open_export(alice, asked["id"], "trial")
    with store.read() as session:
        statement = session.get_one(DecisionRow, asked["id"]).statement
    _name, key = alice.operator()
    forge(approved_by="alice", approval=sign(approval.of(statement, "alice"), key))
    with pytest.raises(PermissionRefused):
        open_export(alice, asked["id"], "trial")
    _name, second = bob.operator()
    said = read(statement)
    assert isinstance(said, Export)
    for at, match in ((1, "too long ago"), (said.at + 86_400, "dated ahead")):  # both signed, the row's dates are new
        old = replace(said, at=at)
        word = sign(approval.of(old.to_bytes(), "bob"), second)
        forge(statement=old.to_bytes(), signature=sign(old, key), approved_by="bob", approval=word)
        with pytest.raises(ConflictError, match=match):
            open_export(alice, asked["id"], "trial")
        new = replace(old, id="0" * 32)
        body = {"statement": ipc.text(new.to_bytes()), "signature": ipc.text(sign(new, key))}
        with pytest.raises(ConflictError, match=match):  # nor does the signer take it
            alice.request("POST", "/decisions", json=body)
    forge(statement=statement, signature=sign(said, key), approval=sign(approval.of(statement, "bob"), second))
    running.centre.operators.remove("bob")
    with pytest.raises(AuthenticationError):
        open_export(alice, asked["id"], "trial")
    assert not (running.world.root / "vault" / "exports").exists()
    alice.close()
    bob.close()


def test_what_cannot_be_exported(running: Running) -> None:
    alice, bob = people(running)
    world = running.world
    world.submit("empty")
    training = {"learner": "survival", "features": ["age"], "outcome": ["t"], "publish": {"model": "m"}}
    world.submit("fed", lane="train", pipeline={"name": "train"}, output={}, training=training)
    with pytest.raises(InputError):
        export(alice, "fed")
    with pytest.raises(StudyRefused):
        export(alice, "nothing")
    asked = export(alice, "empty")
    approve_export(bob, "empty")
    with pytest.raises(InputError, match="no rows"):
        open_export(alice, asked["id"], "empty")
    for name in ("0" * 32, "../../x", "x"):
        with pytest.raises(CorsiaError):
            open_export(alice, name, "empty")
    with pytest.raises(InputError):
        approve_export(bob, "trial")
    alice.close()
    bob.close()


def test_the_commands(running: Running, tmp_path: Path) -> None:
    for name in ("alice", "bob"):
        (tmp_path / name).write_text(running.centre.operators.add(name))
        (tmp_path / name).chmod(0o600)

    def run(app: Any, *args: str, of: str) -> dict[str, Any]:
        where = ["--url", running.url, "--token-file", str(tmp_path / of), "--json"]
        done = CliRunner().invoke(app, [*args, *where])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return dict(json.loads(done.stdout))

    with pytest.raises(AuthenticationError):
        run(central_app, "admit", "site-a", "--fingerprint", "0" * 64, of="alice")
    with pytest.raises(InputError, match="as the site told it"):
        run(central_app, "admit", "site-a", of="alice")
    fingerprint = PublicKey.from_base64(running.world.store.site("site-a").identity).fingerprint
    shown = run(central_app, "admit", "site-a", "--fingerprint", fingerprint, of="alice")
    assert (shown["state"], shown["proposed_by"]) == ("open", "alice")
    assert run(central_app, "admit", "site-a", of="alice")["state"] == "open"
    made = run(central_app, "admit", "site-a", "--fingerprint", shown["fingerprint"], of="bob")
    assert made["state"] == "approved"
    out = tmp_path / "rows.parquet"
    assert run(study_app, "export", "trial", "--out", str(out), of="alice")["state"] == "open"
    assert not out.exists()
    with pytest.raises(InputError):
        run(study_app, "export", "trial", of="alice")
    run(study_app, "export", "trial", "--approve", of="bob")
    assert run(study_app, "export", "trial", "--out", str(out), of="alice")["bytes"] == out.stat().st_size
    assert out.stat().st_mode & 0o777 == 0o600
    assert pq.read_table(out).num_rows == 6
    with pytest.raises(ConflictError):
        run(study_app, "export", "trial", "--out", str(out), of="alice")
    assert base64.b64encode(out.read_bytes()[:4]) == base64.b64encode(b"PAR1")
    with corsia.connect(running.url, (tmp_path / "bob").read_text()) as bob, pytest.raises(ConflictError):
        admit(bob, "site-a", fingerprint)
    (tmp_path / "bob").chmod(0o640)  # it holds a key
    for command in (["export", "trial", "--approve"], ["ls"]):
        with pytest.raises(ConfigurationError, match=r"config\.key-mode"):
            run(study_app, *command, of="bob")


def test_the_seal_of_a_token_never_leaves_its_machine(running: Running, tmp_path: Path) -> None:
    """Every command sends the part for the web process alone."""
    token = running.centre.operators.add("alice")
    (tmp_path / "alice").write_text(token)
    (tmp_path / "alice").chmod(0o600)
    seen: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(str(self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()
            me = {"operator": "alice", "name": "alice", "account": "", "roles": [], "scopes": []}
            self.wfile.write(json.dumps(me if self.path.endswith("/me") else []).encode())

        def log_message(self, *_args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Listener)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    url = f"http://127.0.0.1:{server.server_port}"
    done = CliRunner().invoke(study_app, ["ls", "--url", url, "--token-file", str(tmp_path / "alice"), "--json"])
    with corsia.connect(url, token_file=tmp_path / "alice") as hub:
        hub.request("GET", "/log/head")
    server.shutdown()
    serving.join()
    server.server_close()
    assert done.exit_code == 0
    assert set(seen) == {f"Bearer {bearer(token)}"}
    assert len(seen) == 3

"""Two persons promote a model: who may, what the signer signs, roll-back, and what a hostile web process cannot do."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import corsia
from central import ipc
from central.decisions import Approval, Proposal, sign
from central.operators import Operators, bearer, signing_key
from central.store.models import LogRow, ModelRow, PromotionRow
from corsia.decisions import admit
from pipelines.infer import Manifest, log_leaf, verify
from privacy.envelope import SecretKey, read_key
from protocol.errors import (
    AuthenticationError,
    ConflictError,
    CorsiaError,
    InputError,
    IntegrityError,
    PermissionRefused,
    UnavailableError,
)
from protocol.parcel import canonical_json
from tests.vaultkit import FEATURES, draft, publish
from tests.webkit import Running, running_centre

TRAINING = {"learner": "survival", "features": list(FEATURES), "outcome": ["t", "s"], "publish": {"model": "risk"}}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with running_centre(tmp_path) as made:
        made.world.submit("fed", lane="train", pipeline={"name": "train"}, training=TRAINING, output={})
        for version in (1, 2):
            publish(made.world, key(made), serial=version, alias="candidate" if version == 2 else "")
        yield made


def key(running: Running) -> SecretKey:
    return read_key(running.world.root / "signer" / "publication.key")


def token(running: Running, name: str) -> str:
    return running.centre.operators.add(name)


def hub(running: Running, of: str) -> corsia.Hub:
    return corsia.connect(running.url, of)


def serials(running: Running) -> dict[int, tuple[str, int]]:
    with running.world.store.read() as session:
        return {row.version: (row.alias, row.serial) for row in session.query(ModelRow)}


def promote(running: Running, a: str, b: str, version: int, **more: Any) -> dict[str, Any]:
    with hub(running, a) as alice, hub(running, b) as bob:
        alice.models[f"risk/{version}"].promote(**more)
        return bob.models.approve("risk")


def test_two_persons_promote_and_the_manifest_is_signed_logged_and_newest(running: Running) -> None:
    alice, bob = token(running, "alice"), token(running, "bob")
    made = promote(running, alice, bob, 1)
    assert made | {"id": ""} == {"id": "", "name": "risk", "version": 1, "serial": 3}
    assert serials(running) == {1: ("champion", 3), 2: ("candidate", 2)}
    store = running.world.store
    with store.read() as session:
        row = session.get_one(ModelRow, ("risk", 1))
        manifest = verify(store.get_blob(row.manifest), store.get_blob(row.weights), key(running).public)
        leaf = session.get_one(LogRow, manifest.value["log"]["index"]).leaf
    assert leaf == canonical_json(log_leaf(manifest.value))
    assert manifest.value["promotion"] == {
        "proposed_by": "alice", "approved_by": "bob", "rollback": False, "replaces": 0,
    }  # fmt: skip
    assert (manifest.value["alias"], manifest.serial, manifest.value["metrics"]) == ("champion", 3, {"c-index": 0.6})
    with hub(running, bob) as again:  # the answer was lost: nothing new
        (shown,) = again.models.promotions("risk")
        assert again.models.approve("risk", shown["id"])["serial"] == 3
        assert (shown["state"], shown["proposed_by"], shown["approved_by"]) == ("approved", "alice", "bob")
        assert [m["promotion"] for m in again.models.list()] == ["", "alice, bob"]
        assert again.models["risk@champion"].version == again.models["risk"].version == 1
    assert serials(running)[1] == ("champion", 3)


def test_an_alias_that_two_persons_gave_is_taken_by_no_study(running: Running) -> None:
    alice, bob = token(running, "alice"), token(running, "bob")
    promote(running, alice, bob, 1, alias="stable")

    def asked(alias: str) -> dict[str, Any]:
        publish = {"model": "risk", "alias": alias}
        return draft(
            "late", lane="train", pipeline={"name": "train"}, training=TRAINING | {"publish": publish}, output={}
        )

    with hub(running, alice) as one, hub(running, bob) as two:
        for site in ("site-a", "site-b"):  # two operators: a site needs both
            fingerprint = next(row["fingerprint"] for row in one.sites if row["name"] == site)
            assert admit(one, site, fingerprint)["state"] == "open"
            assert admit(two, site)["state"] == "approved"
        with pytest.raises(InputError, match="two operators give 'stable'"):  # not after all its rounds
            one.studies.submit(asked("stable"))
        with pytest.raises(UnavailableError):  # no federation runs here, which is asked for the run key
            one.studies.submit(asked("candidate"))


def test_the_first_operator_is_one_person_and_needs_a_second(running: Running) -> None:
    with hub(running, running.token) as first:
        first.models["risk/2"].promote()
        with pytest.raises(PermissionRefused, match=r"permission\.second-person"):
            first.models.approve("risk")
    assert serials(running)[2] == ("candidate", 2)
    with hub(running, token(running, "bob")) as bob:
        assert bob.models.approve("risk")["version"] == 2
    assert serials(running)[2] == ("champion", 3)


def test_a_second_name_for_the_same_token_is_the_same_person(running: Running) -> None:
    alice = token(running, "alice")
    register = running.world.root / "operators.json"
    (row,) = json.loads(register.read_text())
    register.write_text(json.dumps([row, row | {"name": "bob"}]))
    with hub(running, alice) as one:
        one.models["risk/2"].promote()
    (open_,) = running.get("/models/risk/promotions")
    statement = base64.b64decode(open_["statement"])
    operators = Operators(running.centre.operators._config)
    bob = operators.get("bob")
    assert bob is not None
    from central.signer.authority import Authority
    from central.signer.decisions import Decisions
    from central.signer.promotions import Promotions

    store = running.world.store
    kinds = {"propose": Promotions(store, Authority(running.world.root / "signer", "c"))}
    promotions = Decisions(store, operators, kinds)
    with pytest.raises(PermissionRefused, match=r"permission\.second-person"):
        promotions.approve(bob, open_["id"], sign(Approval.of(statement, "bob"), signing_key(alice)))


def test_back_to_a_lower_version_only_as_a_roll_back_by_two(running: Running) -> None:
    alice, bob = token(running, "alice"), token(running, "bob")
    promote(running, alice, bob, 2)
    with hub(running, alice) as one:
        with pytest.raises(IntegrityError, match=r"model\.rollback"):
            one.models["risk/1"].promote()
        with pytest.raises(ConflictError, match=r"conflict\.state"):
            one.models["risk/2"].promote()
    made = promote(running, bob, alice, 1, rollback=True)
    assert made["serial"] == 4
    assert serials(running) == {1: ("champion", 4), 2: ("", 3)}
    value = running.get("/models/risk?alias=champion")["manifest"]
    assert (value["version"], value["promotion"]["rollback"], value["promotion"]["replaces"]) == (1, True, 3)
    with hub(running, alice) as one, pytest.raises(InputError):  # 2 is higher now: that is no roll-back
        one.models["risk/2"].promote(rollback=True)


def test_what_was_signed_once_cannot_be_used_again(running: Running) -> None:
    """A hostile web process puts old rows back: the alias has moved, so both old signatures are worth nothing."""
    alice, bob = token(running, "alice"), token(running, "bob")
    promote(running, alice, bob, 2)
    promote(running, alice, bob, 1, rollback=True)
    with running.world.store.begin() as session:
        row = session.query(PromotionRow).filter_by(version=2).one()
        row.state, row.approved_by = "open", ""
        old, statement = row.id, row.statement
    with pytest.raises(ConflictError, match=r"conflict\.state"):
        ask(running, "approve", bob, proposal=old, signature=sign(Approval.of(statement, "bob"), signing_key(bob)))
    assert serials(running) == {1: ("champion", 4), 2: ("", 3)}


def ask(running: Running, method: str, of: str, **params: Any) -> dict[str, Any]:
    raw = {k: ipc.text(v) if isinstance(v, bytes) else v for k, v in params.items()}
    return ipc.call(running.centre.signer, method, token=bearer(of), **raw)


def proposal(running: Running, operator: str, **changes: Any) -> Proposal:
    weights = running.get("/models/risk?version=2")["manifest"]["weights"]["sha256"]
    fields: dict[str, Any] = {"name": "risk", "version": 2, "weights": weights, "alias": "champion",
                              "rollback": False, "replaces": 0}  # fmt: skip
    return Proposal.new(operator=operator, **(fields | changes))


def test_the_web_process_cannot_forge_a_second_person(running: Running) -> None:
    """It knows everybody's bearer token and may write the database; what it lacks are the seals."""
    alice, bob = token(running, "alice"), token(running, "bob")
    mine = SecretKey.generate()
    made = proposal(running, "alice")
    with pytest.raises(AuthenticationError, match=r"auth\.operator"):
        ask(running, "propose", bearer(alice), statement=made.to_bytes(), signature=sign(made, mine))
    guess = signing_key(bearer(alice))  # from the part that it sees
    with pytest.raises(AuthenticationError, match=r"auth\.operator"):
        ask(running, "propose", bearer(alice), statement=made.to_bytes(), signature=sign(made, guess))
    with running.world.store.begin() as session:  # a proposal of its own straight into the database
        session.add(
            PromotionRow(
                id=made.id, name="risk", version=2, alias="champion", rollback=False, statement=made.to_bytes(),
                signature=sign(made, mine), proposed_by="alice", proposed_at=1.0,
            )
        )  # fmt: skip
    honest = sign(Approval.of(made.to_bytes(), "bob"), signing_key(bob))
    with pytest.raises(AuthenticationError, match=r"auth\.operator"):
        ask(running, "approve", bob, proposal=made.id, signature=honest)
    with hub(running, alice) as one:
        one.models["risk/2"].promote()
    (open_,) = [p for p in running.get("/models/risk/promotions") if p["proposed_by"] == "alice" and p["id"] != made.id]
    with pytest.raises(AuthenticationError, match=r"auth\.operator"):  # bob's approval of something else
        ask(running, "approve", bearer(bob), proposal=open_["id"], signature=honest)
    with running.operator() as http:  # and alice's proposal under another content
        answer = http.post(f"/api/v1/models/risk/promotions/{open_['id']}/approval", json={"signature": "AAAA"})
    assert (answer.status_code, answer.json()["code"]) == (401, "auth.operator")
    assert serials(running)[2] == ("candidate", 2)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 9}, "input.usage"),
        ({"name": "other"}, "input.usage"),
        ({"alias": "candidate"}, "input.usage"),
        ({"weights": "0" * 64}, "model.manifest"),
        ({"replaces": 7}, "conflict.state"),
        ({"rollback": True}, "input.usage"),
        ({"operator": "bob"}, "auth.operator"),
        ({"version": "2"}, "input.message"),
        ({"id": 5}, "input.message"),
    ],
)
def test_proposals_that_cannot_be(running: Running, changes: dict[str, Any], code: str) -> None:
    alice = token(running, "alice")
    made = replace(proposal(running, "alice"), **changes)
    with pytest.raises(CorsiaError) as error:
        ask(running, "propose", alice, statement=made.to_bytes(), signature=sign(made, signing_key(alice)))
    assert error.value.code == code
    assert running.get("/models/risk/promotions") == []


@pytest.mark.parametrize("statement", [b"", b"[]", b"{" * 9000, b'{"action":"approve"}', b"\xff"])
def test_statements_that_are_none(running: Running, statement: bytes) -> None:
    with pytest.raises(InputError, match=r"input\.message"):
        ask(running, "propose", running.token, statement=statement, signature=b"x")


def test_a_removed_person_neither_asks_nor_stands_for_a_proposal(running: Running) -> None:
    alice, bob = token(running, "alice"), token(running, "bob")
    with hub(running, alice) as one:
        one.models["risk/2"].promote()
        running.centre.operators.remove("alice")
        with pytest.raises(AuthenticationError, match=r"auth\.token"):
            one.models.list()
    with hub(running, bob) as two, pytest.raises(AuthenticationError, match=r"auth\.operator"):
        two.models.approve("risk")


def test_a_new_proposal_replaces_the_open_one(running: Running) -> None:
    alice, bob = token(running, "alice"), token(running, "bob")
    with hub(running, alice) as one, hub(running, bob) as two:
        first = one.models["risk/1"].promote()
        one.models["risk/2"].promote()
        with pytest.raises(ConflictError, match=r"conflict\.state"):
            two.models.approve("risk", first["id"])
        assert two.models.approve("risk")["version"] == 2
        with pytest.raises(InputError, match="waits for approval"):
            two.models.approve("risk")


def test_of_several_open_proposals_none_is_approved_unnamed(running: Running) -> None:
    """Bob must not sign what he did not mean because it came last."""
    alice, bob = token(running, "alice"), token(running, "bob")
    with hub(running, alice) as one, hub(running, bob) as two:
        first = one.models["risk/1"].promote("champion")
        one.models["risk/2"].promote("challenger")
        with pytest.raises(InputError, match="2 proposals for risk wait"):
            two.models.approve("risk")
        assert two.models.approve("risk", first["id"])["version"] == 1


def test_the_command_line_adds_persons_promotes_and_approves(running: Running, tmp_path: Path) -> None:
    config = running.world.root.parent / "central.toml"
    config.write_text(f'name = "consortium"\nstate_dir = "{running.world.root.name}"\n')

    def run(*args: str, code: int = 0) -> Any:
        done = subprocess.run([sys.executable, "-m", "corsia", *args, "--json"], capture_output=True, text=True,
                              cwd=tmp_path)  # fmt: skip
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    for name in ("alice", "bob"):
        assert run("central", "operator", "add", name, "--config", str(config)) == {
            "operator": name, "token_file": f"{name}.token",
        }  # fmt: skip
        assert (tmp_path / f"{name}.token").stat().st_mode & 0o777 == 0o600
        secret = (tmp_path / f"{name}.token").read_text().strip()
        kept = (running.world.root / "operators.json").read_text()
        assert not any(part in kept for part in secret.split(".")[1:])
    run("central", "operator", "add", "alice", "--config", str(config), code=24)
    listed = run("central", "operator", "ls", "--config", str(config))["operators"]
    assert [row["operator"] for row in listed] == ["operator", "alice", "bob"]
    where = ("--url", running.url, "--token-file")
    run("model", "promote", "risk", "--version", "2", "--alias", "champion", *where, "alice.token")
    refused = run("model", "approve", "risk", *where, "alice.token", code=13)
    assert refused["error"]["code"] == "permission.second-person"
    assert run("model", "approve", "risk", *where, "bob.token")["serial"] == 3
    assert run("model", "promotions", "risk", *where, "bob.token")["promotions"][0]["state"] == "approved"
    run("central", "operator", "remove", "bob", "--config", str(config))
    assert run("model", "ls", *where, "bob.token", code=12)["error"]["code"] == "auth.token"
    written = run("model", "manifest", "risk", "--out", "m.json", *where, "alice.token")
    assert written == {"model": "risk", "version": 2, "written": "m.json"}
    assert Manifest.from_bytes((tmp_path / "m.json").read_bytes()).serial == 3

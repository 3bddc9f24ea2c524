"""Inference at a site: what it accepts of a published model, and what a hostile centre cannot make it accept."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from edge.config import EdgeConfig
from edge.identity import Identity
from edge.journal import Journal
from edge.logview import LogView
from edge.models import roll_back
from edge.state import SiteState
from pipelines.infer import log_leaf
from privacy.envelope import SecretKey
from privacy.inclusion import LogProof
from privacy.transparency import Tree
from protocol.assignment import Assignment, Blob, State
from protocol.errors import CorsiaError, IntegrityError, UnavailableError
from protocol.parcel import canonical_json
from protocol.study import Study
from protocol.trust import Purpose
from tests.agentkit import Office, Wire, enrolled, running, site_config, study


@pytest.fixture
def config(tmp_path: Path) -> EdgeConfig:
    return site_config(tmp_path)


@pytest.fixture
def office(config: EdgeConfig) -> Office:
    return enrolled(config)


def weights_of_a_model() -> bytes:
    from safetensors.numpy import save

    from pipelines import learners

    learner = learners.named("survival", ("age", "score"), {})
    frame = pd.DataFrame({"age": [40, 50] * 10, "score": range(20), "time": range(100, 300, 10), "status": [0, 1] * 10})
    sums = learner.sums(learner.rows(frame), 1)
    preprocessing = learner.agree(sums)
    initial = learner.initial(sums, preprocessing)
    arrays = {f"model/{k}": v for k, v in initial.items()} | {f"preprocessing/{k}": v for k, v in preprocessing.items()}
    return save(arrays)


@dataclass
class Shelf:
    """Publishes models of the office, logged and signed unless told otherwise."""

    office: Office
    weights: bytes = field(default_factory=weights_of_a_model)

    def document(
        self, serial: int, *, version: int | None = None, signer: SecretKey | None = None, logged: bool = True,
        **changes: Any,
    ) -> bytes:  # fmt: skip
        value: dict[str, Any] = {
            "name": "risk",
            "version": version or serial,
            "alias": "champion",
            "serial": serial,
            "run": f"{serial:032x}",
            "learner": {"name": "survival", "settings": {}},
            "features": ["age", "score"],
            "weights": {"sha256": hashlib.sha256(self.weights).hexdigest(), "size": len(self.weights)},
        } | changes
        if logged:
            value["log"] = {"index": self.office.tree.append(canonical_json(log_leaf(value)))}
        signature = (signer or self.office.keys.other_key).sign(Purpose.MANIFEST, canonical_json(value))
        return json.dumps({"manifest": value, "signature": base64.b64encode(signature).decode()}).encode()

    def blobs(self, document: bytes, weights: bytes | None = None) -> tuple[Blob, ...]:
        made = []
        for name, data in (("manifest.json", document), ("model.safetensors", weights or self.weights)):
            digest = hashlib.sha256(data).hexdigest()
            self.office.blobs[digest] = data
            made.append(Blob(name=name, digest=digest, size_bytes=len(data)))
        return tuple(made)

    def use(self, name: str, document: bytes, weights: bytes | None = None) -> tuple[State | None, str]:
        said = self.office.wait(self.ask(name, self.blobs(document, weights)))
        return said.state, said.code

    def ask(self, name: str, blobs: tuple[Blob, ...]) -> Assignment:
        return self.office.submit(infer_study(name), blobs=blobs)


@pytest.fixture
def shelf(office: Office) -> Shelf:
    return Shelf(office)


def infer_study(study_id: str) -> Study:
    return study(
        study_id,
        lane="infer",
        dataset={"name": "cohort", "columns": ["age", "score"]},
        pipeline={"name": "infer"},
        output={},
        model={"name": "risk"},
    )


def back(**more: Any) -> dict[str, Any]:
    return {"promotion": {"rollback": True, "proposed_by": "a", "approved_by": "b", **more}}


DONE = (State.DONE, "")


def refused(code: str) -> tuple[State, str]:
    return (State.FAILED, code)


def test_inference_keeps_its_results_and_refuses_older_and_foreign_models(
    config: EdgeConfig, office: Office, shelf: Shelf
) -> None:
    old, changed = shelf.document(1), json.loads(shelf.document(5))
    changed["manifest"]["version"] = 9
    with running(config, office):
        assert shelf.use("good", shelf.document(2)) == DONE
        assert shelf.use("older", old) == refused("model.rollback")
        assert shelf.use("foreign", shelf.document(3, signer=SecretKey.generate())) == refused("model.manifest")
        assert shelf.use("alias", shelf.document(3, alias="challenger")) == refused("model.manifest")
        assert shelf.use("changed", json.dumps(changed).encode()) == refused("model.manifest")
        assert shelf.use("poisoned", shelf.document(3), b"x" * len(shelf.weights)) == refused("model.manifest")
        assert shelf.use("nowhere", shelf.document(3, logged=False)) == refused("model.manifest")
        none = office.wait(office.submit(infer_study("none")))
        assert (none.state, none.code) == refused("model.manifest")
        good = next(r for r in office.reports if r.counts.get("rows"))
        assert good.counts["rows"] == 21
    assert office.parcels == {}
    (result,) = (config.state_dir / "results").iterdir()
    assert result.name == "good.parquet"
    assert result.stat().st_mode & 0o777 == 0o600
    table = pd.read_parquet(result)
    assert len(table) == 21
    assert list(table.columns[:2]) == ["row", "pseudonym"]
    assert not {"patient_id", "name", "age", "score"} & set(table.columns)
    events = [json.loads(line)["event"] for line in (config.state_dir / "journal.jsonl").read_text().splitlines()]
    assert events.count("model.accepted") == 1
    assert events.count("model.refused") == 2  # the older one, and the one without a place


def test_a_lower_version_comes_back_only_as_a_signed_roll_back(
    config: EdgeConfig, office: Office, shelf: Shelf
) -> None:
    first, second = shelf.document(1, version=1), shelf.document(2, version=2)
    with running(config, office):
        assert shelf.use("first", first) == DONE
        assert shelf.use("second", second) == DONE
        assert shelf.use("plain", shelf.document(3, version=1)) == refused("model.rollback")
        assert shelf.use("back", shelf.document(4, version=1, **back())) == DONE
        assert shelf.use("replay", second) == refused("model.rollback")
        assert shelf.use("twin", shelf.document(4, version=1, **back(by="x"))) == refused("model.manifest")
    done = subprocess.run(
        [sys.executable, "-m", "corsia", "edge", "models", "--json", "--config",
         str(config.state_dir.parent / "edge.toml")], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["models"]
    assert [(r["version"], r["serial"], r["rollback"], r["in_force"]) for r in rows] == [
        (1, 1, False, False), (2, 2, False, False), (1, 4, True, True),
    ]  # fmt: skip


def fork(office: Office, document: bytes, size: int) -> Tree:
    """Another log under the same key, as long, in which only the model's leaf is the same."""
    value = json.loads(document)["manifest"]
    tree = Tree()
    for at in range(size):
        tree.append(canonical_json(log_leaf(value)) if at == value["log"]["index"] else b"forged %d" % at)
    return tree


def proof_of(office: Office, tree: Tree, index: int, size: int) -> LogProof:
    return LogProof(
        checkpoint=office.signed(tree),
        inclusion=tuple(h.hex() for h in tree.inclusion(index)),
        consistency=tuple(h.hex() for h in tree.consistency(min(size, tree.size))),
    )


@pytest.mark.parametrize("case", ["fork", "shorter"])
def test_a_model_must_be_in_the_log_that_the_site_knows(
    config: EdgeConfig, office: Office, shelf: Shelf, case: str
) -> None:
    honest = shelf.document(1)
    for at in range(5):
        office.tree.append(b"leaf %d" % at)
    with running(config, office):
        assert shelf.use("honest", honest) == DONE  # from here on the site has seen 6 leaves
        document = shelf.document(2)
        forged, short = fork(office, document, 9), _prefix(office.tree, 3)
        office.lie = {
            "fork": lambda index, size, to: proof_of(office, forged, index, size),
            "shorter": lambda index, size, to: proof_of(office, short, 0, size),
        }[case]
        assert shelf.use("hostile", document) == refused("log.proof")
        office.lie = None
        assert shelf.use("again", document) == DONE  # nothing of the lie was kept
    assert SiteState(config.state_dir / "state.db").fact("log_linked").startswith("7 ")


def _prefix(tree: Tree, size: int) -> Tree:
    made = Tree()
    made._levels = [bytearray(level[: 32 * (size >> at)]) for at, level in enumerate(tree._levels)]
    assert made.root() == tree.root(size)
    return made


def test_receipts_and_models_of_one_log_go_together(config: EdgeConfig, office: Office, shelf: Shelf) -> None:
    with running(config, office):
        assert office.wait(office.submit(study("harvest"))).state is State.DONE
        assert shelf.use("first", shelf.document(1)) == DONE
        assert office.wait(office.submit(study("more"))).state is State.DONE
        assert shelf.use("second", shelf.document(2)) == DONE
    with running(config, office):  # a restart remembers both
        assert shelf.use("third", shelf.document(3)) == DONE


def test_without_the_centre_nothing_is_refused_for_good(config: EdgeConfig, office: Office, shelf: Shelf) -> None:
    left = [3]

    def away() -> None:
        if left[0]:
            left[0] -= 1
            raise UnavailableError("unavailable.centre")

    office.fail["prove"] = away
    with running(config, office):
        assert shelf.use("patient", shelf.document(1)) == DONE
    assert left == [0]


@pytest.fixture
def desk(config: EdgeConfig, office: Office) -> Any:
    """The steward's command beside a stopped daemon."""
    state, journal = SiteState(config.state_dir / "state.db"), Journal(config.state_dir / "journal.jsonl")
    identity = Identity.load(config.state_dir)

    def take(raw: bytes) -> Any:
        return roll_back(raw, link=Wire(office), identity=identity, state=state, journal=journal)

    yield take
    state.close()


def test_a_steward_rolls_back_by_a_signed_roll_back_alone(
    config: EdgeConfig, office: Office, shelf: Shelf, desk: Any
) -> None:
    newer = shelf.document(2, version=2)
    with running(config, office):
        assert shelf.use("newer", newer) == DONE
    for document, code in (
        (shelf.document(3, version=1), "model.rollback"),  # an ordinary promotion
        (shelf.document(1, version=1, **back()), "model.rollback"),  # an old one
        (shelf.document(4, version=1, signer=SecretKey.generate(), **back()), "model.manifest"),
        (shelf.document(4, version=1, logged=False, **back()), "model.manifest"),
        (b"{}", "model.manifest"),
    ):
        with pytest.raises(CorsiaError) as error:
            desk(document)
        assert error.value.code == code
    assert desk(shelf.document(5, version=1, **back())).version == 1
    with running(config, office):
        assert shelf.use("replay", newer) == refused("model.rollback")


def test_a_damaged_view_of_the_log_stops_the_daemon(config: EdgeConfig, office: Office) -> None:
    state = SiteState(config.state_dir / "state.db")
    state.set_fact("log_linked", "7 zz")
    with pytest.raises(IntegrityError, match=r"log\.proof"):
        LogView(state)
    state.close()
    with pytest.raises(IntegrityError, match=r"log\.proof"), running(config, office):
        pass

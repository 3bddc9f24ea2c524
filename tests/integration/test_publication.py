"""A run's publication as people find it in a real MLflow: kinds, example, card, plots; then promoted by two."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from central.config import CentralConfig
from central.decisions import Approval, Proposal, sign
from central.federation.checkpoint import StoreCheckpoints
from central.federation.mirror import Mirror
from central.federation.publish import Publisher
from central.operators import Operators, signing_key
from central.registry import Registry
from central.signer.authority import Authority
from central.signer.decisions import Decisions
from central.signer.promotions import Promotions
from central.store.models import ModelRow, PromotionRow, RunRow, StudyRow
from pipelines import infer
from privacy.envelope import write_key
from protocol.errors import IntegrityError, UnavailableError
from protocol.trust import Purpose
from tests.federation_hospital import Consortium, Hospitals, frame, study
from tests.federation_process import PUBLICATION_KEY, federation

NAME = "lung-survival"


@dataclass
class Published:
    consortium: Consortium
    uri: str
    folder: Path

    @property
    def client(self) -> Any:
        import mlflow

        return mlflow.MlflowClient(tracking_uri=self.uri)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # a SQLite store puts artifacts under ./mlruns
        consortium, uri = Consortium(folder / "state", study(rounds=2)), f"sqlite:///{folder / 'mlflow.db'}"
        with Hospitals(consortium):
            federation(consortium.root, uri, threading.Event()).attend("tiny")
        yield Published(consortium, uri, folder)


def _artifact(published: Published, name: str) -> Path:
    (found,) = (published.folder / "mlruns").rglob(name)
    return found


def test_a_version_is_candidate_and_says_what_it_takes(published: Published) -> None:
    import mlflow

    version = published.client.get_model_version_by_alias(NAME, "candidate")
    assert version.version in (1, "1")
    assert version.tags["corsia.strategy"] == "fedavg"
    assert len(version.description) <= 5000
    mlflow.set_tracking_uri(published.uri)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@candidate")
    signature = model.metadata.signature
    assert {c.name: c.type.name for c in signature.inputs.inputs} == {"x0": "double", "x1": "double"}
    assert [c.name for c in signature.outputs.inputs] == ["risk", "survival", "horizon"]
    example = model.input_example
    assert list(example.columns) == ["x0", "x1"]
    rows = pd.concat([frame(site) for site in ("site-a", "site-b", "site-c")])
    for row in example.itertuples(index=False):
        assert not ((rows["x0"] == row.x0) & (rows["x1"] == row.x1)).any(), "a patient's row"
    assert abs(example["x0"][0] - rows["x0"].mean()) < 0.1
    assert model.predict(example)["risk"].notna().all()


def test_the_card_shows_rounds_sites_weights_and_what_voids_it(published: Published) -> None:
    card = _artifact(published, "MODEL_CARD.md").read_text()
    for words in ("2 rounds, ended as planned; 2 planned", "site-a, site-b, site-c", "strategy `fedavg`",
                  "## What voids it", "## What is and is not guaranteed", "two operators promote it",
                  "| 2 |"):  # fmt: skip
        assert words in card, words
    for name in ("metrics.png", "sites.png", "weights.png"):
        picture = _artifact(published, name)
        assert f"](plots/{name})" in card
        assert picture.read_bytes().startswith(b"\x89PNG\r\n")
        assert 5_000 < picture.stat().st_size < 500_000
        _is_drawn(picture)


def _is_drawn(path: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(path)
    assert 0.001 < (pixels[..., :3].mean(axis=2) < 0.9).mean() < 0.9, "blank"


def test_two_operators_promote_and_mlflows_alias_follows(published: Published) -> None:
    root, store = published.consortium.root, published.consortium.store
    (root / "signer").mkdir(exist_ok=True)
    write_key(root / "signer" / "publication.key", PUBLICATION_KEY)
    config = CentralConfig(name="tiny", state_dir=root)
    config.token_path.write_text("x" * 43)
    config.token_path.chmod(0o600)
    operators = Operators(config)
    alice, bob = operators.add("alice"), operators.add("bob")
    kinds = {"propose": Promotions(store, Authority(root / "signer", "tiny"))}
    promotions = Decisions(store, operators, kinds)
    with store.read() as session:
        row = session.query(ModelRow).one()
    made = Proposal.new(operator="alice", name=NAME, version=1, weights=row.weights, alias="champion", rollback=False,
                        replaces=0)  # fmt: skip
    promotions.propose(operators.identify(alice), made.to_bytes(), sign(made, signing_key(alice)))
    approval = sign(Approval.of(made.to_bytes(), "bob"), signing_key(bob))
    assert promotions.approve(operators.identify(bob), made.id, approval)["serial"] == 2

    away = Mirror(store, Registry("http://127.0.0.1:9"), threading.Event())
    with pytest.raises(UnavailableError):
        away.step()
    mirror = Mirror(store, Registry(published.uri), threading.Event())
    assert (mirror.step(), mirror.step()) == (1, 0)
    aliases = published.client.get_registered_model(NAME).aliases
    assert {k: str(v) for k, v in aliases.items()} == {"champion": "1"}
    tags = published.client.get_model_version(NAME, "1").tags
    assert (tags["corsia.serial"], tags["corsia.promoted_by"]) == ("2", "alice, bob")
    with store.read() as session:
        row = session.query(ModelRow).one()
        assert (row.alias, row.serial) == ("champion", 2)
        assert session.query(PromotionRow).one().shown is True
        manifest = infer.verify(store.get_blob(row.manifest), store.get_blob(row.weights), PUBLICATION_KEY.public)
    assert (
        manifest.value["metrics"]
        == json.loads(_artifact(published, "manifest.json").read_text())["manifest"]["metrics"]
    )


def test_a_promotion_that_takes_the_serial_meanwhile_only_delays_a_publication(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(published.folder)
    store, refusals = published.consortium.store, [2]

    def sign_later(_digest: str, manifest: str) -> bytes:
        if refusals[0]:
            refusals[0] -= 1
            raise IntegrityError("model.rollback")
        return PUBLICATION_KEY.sign(Purpose.MANIFEST, manifest.encode())

    publisher = Publisher(store=store, registry=Registry(published.uri), sign=sign_later)
    with store.read() as session:
        run, digest = session.query(RunRow).one().id, session.query(StudyRow).one().digest
    reached = StoreCheckpoints(store, run, "tiny").latest()
    assert reached is not None
    assert publisher.publish(study(rounds=2), digest, run, reached) == 1
    assert refusals == [0]
    refusals[0] = 99
    with pytest.raises(IntegrityError, match=r"model\.rollback"):
        publisher.publish(study(rounds=2), digest, run, reached)

"""A published model from the client's and the command line's seat: signature, log, MLflow, scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import update

import corsia
from central.registry import Registry, Release
from central.store.models import ModelRow
from privacy.envelope import SecretKey, read_key, write_public
from protocol.errors import IntegrityError
from tests.vaultkit import FEATURES, publish, rows, table
from tests.webkit import Running, running_centre

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::ResourceWarning")  # MLflow's own


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("centre")
    with running_centre(root) as made:
        world = made.world
        training = {
            "learner": "survival",
            "features": list(FEATURES),
            "outcome": ["t", "s"],
            "publish": {"model": "risk"},
        }
        world.submit("fed", lane="train", pipeline={"name": "train"}, training=training, output={})
        world.submit("trial")
        world.land(world.batch(table(rows(6).assign(count=1))))
        world.drain()
        publication = read_key(root / "signer" / "publication.key")
        manifest, weights = publish(world, publication)
        made.sign_checkpoint()
        uri = f"sqlite:///{root / 'mlflow.db'}"
        release = Release(
            run="1" * 32, name="risk", alias="champion", experiment="fed", manifest=manifest, weights=weights,
            card="A card.", features=FEATURES,
        )  # fmt: skip
        before = os.getcwd()
        os.chdir(root)  # local artifacts lie in the working folder
        try:
            Registry(uri).publish(release)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MLFLOW_TRACKING_URI", uri)
                yield made
        finally:
            os.chdir(before)


@pytest.fixture
def hub(running: Running) -> Iterator[corsia.Hub]:
    with corsia.connect(running.url, token_file=running.token_file) as made:
        yield made


def _key(running: Running) -> SecretKey:
    return read_key(running.world.root / "signer" / "publication.key")


def test_a_model_predicts_here_and_at_the_centre(hub: corsia.Hub) -> None:
    import mlflow

    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    assert list(hub.models) == ["risk"]
    model = hub.models["risk"]
    assert (model.version, model.alias, model.uri) == (1, "champion", "models:/risk@champion")
    frame = pd.DataFrame({"age": [40.0, 80.0, None], "count": [1.0, 1.0, 1.0], "other": ["a", "b", "c"]})
    here = model.predict_here(frame)
    assert list(here.columns) == ["risk", "survival", "horizon"]
    there = model.predict(frame.set_index(pd.Index(["x", "y", "z"])))
    assert list(there.index) == ["x", "y", "z"]
    pd.testing.assert_frame_equal(there.reset_index(drop=True), here.astype(float), check_dtype=False)
    assert model.score("trial")["rows"] == 6


def test_weights_other_than_the_signed_ones_are_not_used(running: Running, hub: corsia.Hub) -> None:
    publish(running.world, _key(running), serial=2)  # the same weights, then a manifest that names others
    model = hub.models["risk"]
    assert model.version == 2
    forged = replace(hub.models["risk/1"], manifest={**model.manifest, "weights": {"sha256": "0" * 64, "size": 1}})
    with pytest.raises(IntegrityError):
        forged.predict_here(pd.DataFrame({"age": [1.0], "count": [1.0]}))
    with pytest.raises(IntegrityError):
        forged.verify(_key(running).public.to_base64())
    model.verify(_key(running).public.to_base64())


def _corsia(running: Running, *args: str) -> subprocess.CompletedProcess[str]:
    where = ["--url", running.url, "--token-file", str(running.token_file)]
    return subprocess.run([sys.executable, "-m", "corsia", "model", *args, *where], capture_output=True, text=True)


def test_the_command_line_lists_shows_verifies_and_predicts(running: Running, tmp_path: Path) -> None:
    running.sign_checkpoint()
    listed = _corsia(running, "ls", "--json")
    assert json.loads(listed.stdout)["models"][-1]["name"] == "risk", listed.stderr
    assert "risk" in _corsia(running, "ls").stdout
    assert json.loads(_corsia(running, "show", "risk", "--json").stdout)["features"] == list(FEATURES)
    made = _corsia(running, "predict", "risk", "--study", "trial", "--json")
    assert json.loads(made.stdout)["rows"] == 6
    good, bad = tmp_path / "good.pub", tmp_path / "bad.pub"
    write_public(good, _key(running).public)
    write_public(bad, SecretKey.generate().public)
    assert json.loads(_corsia(running, "verify", "risk", "--key", str(good), "--json").stdout)["verified"] is True
    refused = _corsia(running, "verify", "risk", "--key", str(bad), "--json")
    assert refused.returncode == 19
    assert json.loads(refused.stdout)["error"]["code"] == "model.manifest"
    assert _corsia(running, "show", "nothing").returncode == 11
    unpinned = _corsia(running, "verify", "risk")
    assert unpinned.returncode == 11


def test_the_champion_predicts_unless_another_version_is_named(running: Running, tmp_path: Path) -> None:
    """A version that a study has just published, and nobody promoted, scores nobody by default."""
    publish(running.world, _key(running), serial=5)
    publish(running.world, _key(running), serial=6, alias="candidate")
    path, body = "/api/v1/models/risk", {"inputs": {"age": [40.0], "count": [1.0]}}

    def versions() -> set[int]:
        with running.operator() as http:
            one = http.post(f"{path}/invocations", json=body).json()["version"]
            two = http.post(f"{path}/predict", json={"study": "trial"}).json()["version"]
        three = json.loads(_corsia(running, "predict", "risk", "--study", "trial", "--json").stdout)["version"]
        return {one, two, three}

    assert versions() == {5}
    with running.operator() as http:
        assert http.post(f"{path}/invocations?version=6", json=body).json()["version"] == 6
        assert http.post(f"{path}/predict", json={"study": "trial", "alias": "candidate"}).json()["version"] == 6
        assert http.get(path).json()["manifest"]["version"] == 6  # who reads, reads the newest
    with running.world.store.begin() as session:
        session.execute(update(ModelRow).values(alias="candidate"))
    assert versions() == {6}

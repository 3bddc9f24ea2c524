"""Publishing into a real MLflow store: one version a run, lineage, no pickle, loadable by alias, no network needed."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from central.federation.checkpoint import join_arrays
from central.federation.local import train_locally
from central.registry import Registry, Release, RoundMetrics
from pipelines import infer
from pipelines.train import load
from privacy.envelope import SecretKey
from protocol.errors import UnavailableError
from protocol.parcel import canonical_json
from protocol.trust import Purpose
from tests.federation_hospital import frame, study

KEY = SecretKey.from_bytes(b"\x01" * 32)
NAME = "lung-survival"


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # a SQLite store puts artifacts under ./mlruns
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="module")
def weights() -> bytes:
    plan = study(rounds=1)
    reached = train_locally(plan, {s: load(plan, s, frame(s)) for s in plan.sites})
    return join_arrays(reached.model, reached.preprocessing)


def release(weights: bytes, run: str, version: int = 1) -> Release:
    value = {
        "name": NAME, "version": version, "serial": version, "run": run, "features": ["x0", "x1"],
        "learner": {"name": "survival", "version": "1", "settings": {}},
        "weights": {"sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights)},
    }  # fmt: skip
    signature = base64.b64encode(KEY.sign(Purpose.MANIFEST, infer.sign_bytes(value))).decode()
    return Release(
        run=run, name=NAME, alias="champion", experiment="tiny", weights=weights, features=("x0", "x1"),
        outputs=("risk", "survival", "horizon"), files={"table.csv": b"feature\nx0\nx1\n"},
        manifest=canonical_json({"manifest": value, "signature": signature}), card="# Card\n",
        params={"learner": "survival"}, tags={"corsia.study": "tiny", "corsia.epsilon": "none"},
        rounds=tuple(RoundMetrics(round=n, metrics={"c-index": 0.5 + n / 10, "rows": 120}) for n in (1, 2)),
    )  # fmt: skip


def test_a_run_makes_one_version_with_lineage_and_loads_by_alias(uri: str, tmp_path: Path, weights: bytes) -> None:
    registry = Registry(uri)
    assert registry.next_version(NAME) == 1
    assert registry.publish(release(weights, "aa" * 16)) == 1
    assert registry.publish(release(weights, "aa" * 16)) == 1  # killed after MLflow had it: nothing new
    assert registry.find(NAME, "aa" * 16) == 1
    assert registry.publish(release(weights, "bb" * 16, 2)) == 2
    assert registry.next_version(NAME) == 3

    import mlflow

    client = mlflow.MlflowClient(tracking_uri=uri)
    version = client.get_model_version_by_alias(NAME, "champion")
    assert version.version in (2, "2")
    assert {k: v for k, v in version.tags.items() if k != "corsia.run"} == {
        "corsia.study": "tiny", "corsia.epsilon": "none",
    }  # fmt: skip
    history = client.get_metric_history(version.run_id, "c-index")
    assert [(m.step, round(m.value, 3)) for m in history] == [(1, 0.6), (2, 0.7)]
    assert len(client.search_runs([client.get_experiment_by_name("tiny").experiment_id])) == 2

    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    table = frame("site-z")
    expected = infer.load(release(weights, "bb" * 16, 2).manifest, weights, KEY.public).predict(table)
    assert model.predict(table[["x0", "x1"]])["risk"].tolist() == expected["risk"].tolist()
    assert len(model.predict(table.astype({"status": int})[["x1", "x0", "status"]])) == 40


def test_a_withdrawn_run_leaves_no_version_and_its_alias_can_lead_back(uri: str, weights: bytes) -> None:
    from mlflow import MlflowClient

    registry, client = Registry(uri), MlflowClient(tracking_uri=uri, registry_uri=uri)
    registry.publish(release(weights, "aa" * 16))
    registry.publish(release(weights, "bb" * 16, 2))
    assert registry.withdraw(NAME, "bb" * 16, "tiny")
    assert not registry.withdraw(NAME, "bb" * 16, "tiny")
    assert not registry.withdraw("never-made", "bb" * 16, "no-such-study")
    registry.point(NAME, "champion", 1)
    assert [v.version for v in client.search_model_versions(f"name = '{NAME}'")] in ([1], ["1"])
    assert str(client.get_model_version_by_alias(NAME, "champion").version) == "1"
    assert len(client.search_runs([client.get_experiment_by_name("tiny").experiment_id])) == 1


def test_no_artifact_is_a_pickle_and_the_model_card_is_there(uri: str, tmp_path: Path, weights: bytes) -> None:
    Registry(uri).publish(release(weights, "aa" * 16))
    files = [path for path in (tmp_path / "mlruns").rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"MODEL_CARD.md", "manifest.json", "model.safetensors", "MLmodel"} <= names
    for path in files:
        raw = path.read_bytes()
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".py", ".pyc")
        assert not raw.startswith(b"\x80")  # a pickle's protocol mark
        assert not zipfile.is_zipfile(path)
        assert b"cloudpickle" not in raw
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "true"


def test_a_server_that_is_not_there_is_a_transient_error() -> None:
    with pytest.raises(UnavailableError) as error:
        Registry("http://127.0.0.1:9").find(NAME, "aa" * 16)
    assert error.value.code == "unavailable.mlflow"

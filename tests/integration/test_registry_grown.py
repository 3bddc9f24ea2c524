"""Publishing through an MLflow server that stands on PostgreSQL and S3, as a grown centre's does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from central.registry import Registry
from corsia.fleet import free_port
from tests.integration.test_registry_mlflow import NAME, release, weights

__all__ = ["weights"]


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of `mlflow server`, which has no file of its own."""
    url = request.getfixturevalue("postgres").new()
    objects = request.getfixturevalue("s3")
    objects.client().create_bucket(Bucket="models")
    uri = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", uri.rpartition(":")[2],
               "--backend-store-uri", url, "--artifacts-destination", "s3://models/mlflow",
               "--workers", "1"]  # fmt: skip
    settings = {"MLFLOW_S3_ENDPOINT_URL": objects.endpoint, "AWS_ACCESS_KEY_ID": objects.key,
                "AWS_SECRET_ACCESS_KEY": objects.secret, "AWS_DEFAULT_REGION": "us-east-1",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}  # fmt: skip
    with (tmp_path / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **settings}, cwd=tmp_path, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=5):  # noqa: S310
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.2)
        yield uri
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.full
def test_a_model_is_published_through_a_server_on_postgresql_and_s3(
    server: str, weights: bytes, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    registry = Registry(server)
    assert registry.publish(release(weights, "aa" * 16)) == 1
    assert registry.publish(release(weights, "aa" * 16)) == 1
    assert registry.publish(release(weights, "bb" * 16, 2)) == 2
    mlflow.set_tracking_uri(server)
    from tests.federation_hospital import frame

    scores = mlflow.pyfunc.load_model(f"models:/{NAME}@champion").predict(frame("site-z")[["x0", "x1"]])
    assert len(scores) == 40
    assert registry.withdraw(NAME, "bb" * 16, "tiny")
    kept = request.getfixturevalue("s3").client().list_objects_v2(Bucket="models").get("Contents", [])
    assert any(one["Key"].endswith("model.safetensors") for one in kept)
    assert not [one["Key"] for one in kept if one["Key"].endswith((".pkl", ".pickle", ".pt"))]
    assert not (tmp_path / "mlruns").exists()

"""The MLflow Model Registry: where a published model is found by people. Nothing is trusted because it lies there.

A version holds a folder with `manifest.json` and `model.safetensors`, loaded by `pipelines.infer` through MLflow's
`loader_module`: no pickle, no code. MLflow takes seconds to import, so that happens on first use (or in `warm`).
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from pipelines.infer import MANIFEST_FILE, WEIGHTS_FILE
from protocol.errors import UnavailableError

__all__ = ["Registry", "Release", "RoundMetrics"]

RUN_TAG = "corsia.run"
_MOST_DESCRIPTION = 5000
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundMetrics:
    """Metrics of one round, by name."""

    round: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A model as it goes into the registry.

    Attributes:
        run: the federated run's id; one run makes one version, however often it is published.
        manifest: the signed document's bytes.
        weights: safetensors bytes.
        card: the model card, Markdown.
        features: columns that a frame must have.
        kinds: MLflow type of each, or "any", which is also what one that is not named has.
        example: two plausible rows by column; none: no example is shown.
        outputs: columns that a prediction has.
        files: what lies beside the model for people, by name.
        params, tags: shown with the run and the version.
    """

    run: str
    name: str
    alias: str
    experiment: str
    manifest: bytes
    weights: bytes
    card: str
    features: tuple[str, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)
    example: Mapping[str, list[Any]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    rounds: tuple[RoundMetrics, ...] = ()


class Registry:
    """One MLflow tracking server.

    Args:
        tracking_uri: its address, or a SQLite URI.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri

    def warm(self) -> threading.Thread:
        """Import MLflow in the background; the first use waits for it."""
        thread = threading.Thread(target=_mlflow, name="mlflow-import", daemon=True)
        thread.start()
        return thread

    def find(self, name: str, run: str) -> int | None:
        """The version that a run has made, or None.

        Raises:
            UnavailableError: `unavailable.mlflow`.
        """
        with _named():
            found = [int(v.version) for v in self._versions(name) if v.tags.get(RUN_TAG) == run]
        return min(found, default=None)

    def next_version(self, name: str) -> int:
        """The number that the next version under a name gets.

        Raises:
            UnavailableError: `unavailable.mlflow`.
        """
        with _named():
            return max((int(v.version) for v in self._versions(name)), default=0) + 1

    def publish(self, release: Release) -> int:
        """Log run, metrics, model and card, register and set the alias; returns the version. Repeatable.

        Raises:
            UnavailableError: `unavailable.mlflow`; doing it again goes on with what is there.
        """
        with _named():
            client = self._client()
            version = self.find(release.name, release.run)
            if version is None:
                run_id = self._run(client, release)
                source = self._upload(client, run_id, release)
                version = self._register(client, run_id, source, release)
            client.set_registered_model_alias(release.name, release.alias, str(version))
            return version

    def withdraw(self, name: str, run: str, experiment: str) -> bool:
        """Delete what a federated run has made here, and say whether it was a version. Repeatable.

        Args:
            experiment: the study's id.

        Raises:
            UnavailableError: `unavailable.mlflow`.
        """
        with _named():
            client = self._client()
            made = [v for v in self._versions(name) if v.tags.get(RUN_TAG) == run]
            for version in made:
                client.delete_model_version(name, str(version.version))
            known = client.get_experiment_by_name(experiment)
            for one in client.search_runs([known.experiment_id], f"tags.`{RUN_TAG}` = '{run}'") if known else ():
                client.delete_run(one.info.run_id)
            return bool(made)

    def _versions(self, name: str) -> list[Any]:
        return list(self._client().search_model_versions(f"name = '{name}'", max_results=10_000))

    def _client(self) -> Any:
        return _mlflow().MlflowClient(tracking_uri=self._uri, registry_uri=self._uri)

    def _run(self, client: Any, release: Release) -> str:
        """The MLflow run of a federated run: the one that an interrupted publication began, or a new one."""
        mlflow = _mlflow()
        known = client.get_experiment_by_name(release.experiment)
        experiment = known.experiment_id if known else client.create_experiment(release.experiment)
        begun = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{release.run}'", max_results=1)
        if begun:
            return str(begun[0].info.run_id)
        tags = {**release.tags, RUN_TAG: release.run, "mlflow.source.name": "corsia", "mlflow.user": "corsia"}
        run_id = str(client.create_run(experiment, tags=tags, run_name=release.tags.get("corsia.study")).info.run_id)
        entities = mlflow.entities
        metrics = [
            entities.Metric(name, float(value), 0, point.round) for point in release.rounds
            for name, value in point.metrics.items()
        ]  # fmt: skip
        params = [entities.Param(name, str(value)[:500]) for name, value in release.params.items()]
        client.log_batch(run_id, metrics=metrics, params=params)
        return run_id

    def _upload(self, client: Any, run_id: str, release: Release) -> str:
        with tempfile.TemporaryDirectory(prefix="corsia-model-") as folder:
            data, model = Path(folder) / "corsia", Path(folder) / "model"
            data.mkdir()
            (data / MANIFEST_FILE).write_bytes(release.manifest)
            (data / WEIGHTS_FILE).write_bytes(release.weights)
            _save_pyfunc(model, data, release)
            (model / "MODEL_CARD.md").write_text(release.card, encoding="utf-8")
            for name, content in release.files.items():
                (model / name).parent.mkdir(exist_ok=True)
                (model / name).write_bytes(content)
            client.log_artifacts(run_id, str(model), "model")
        client.set_terminated(run_id, "FINISHED")
        return f"{client.get_run(run_id).info.artifact_uri}/model"

    def _register(self, client: Any, run_id: str, source: str, release: Release) -> int:
        if not client.search_registered_models(f"name = '{release.name}'"):
            client.create_registered_model(release.name, description="Federated model published by corsia")
        tags = {**release.tags, RUN_TAG: release.run}
        made = client.create_model_version(
            release.name, source, run_id=run_id, tags=tags, description=_short(release.card), await_creation_for=0
        )
        return int(made.version)

    def point(self, name: str, alias: str, version: int, *, instead_of: str = "", tags: Mapping[str, str] = {}) -> None:
        """Let an alias lead to a version, as its newest signed manifest says. Repeatable.

        Args:
            instead_of: an alias that does not lead to this version any more.
            tags: set on the version.

        Raises:
            UnavailableError: `unavailable.mlflow`.
        """
        with _named():
            client = self._client()
            client.set_registered_model_alias(name, alias, str(version))
            aliases = client.get_registered_model(name).aliases
            if instead_of and str(aliases.get(instead_of, "")) == str(version):
                client.delete_registered_model_alias(name, instead_of)
            for key, value in tags.items():
                client.set_model_version_tag(name, str(version), key, value)


def _short(card: str) -> str:
    """A card without pictures, within the 5000 characters that MLflow's own database takes; the whole lies beside."""
    card = "\n".join(line for line in card.splitlines() if not line.startswith("!["))
    return (
        card
        if len(card) <= _MOST_DESCRIPTION
        else card[: _MOST_DESCRIPTION - 40].rstrip() + "\n\n(cut: see MODEL_CARD.md)"
    )


def _save_pyfunc(path: Path, data: Path, release: Release) -> None:
    """The pyfunc folder: loader module and data path only."""
    import pandas as pd

    mlflow = _mlflow()
    schema = mlflow.types.Schema
    column, types = mlflow.types.ColSpec, mlflow.types
    example = signature = None  # of a model that predicts nothing (an association study), or from no columns
    if release.outputs and release.features:
        example = pd.DataFrame(release.example) if release.example else None
        kinds = {name: release.kinds.get(name, "any") for name in release.features}
        signature = mlflow.models.ModelSignature(
            inputs=schema([column(types.schema.AnyType() if k == "any" else k, name) for name, k in kinds.items()]),
            outputs=schema([column("double", name) for name in release.outputs]),
        )
    with warnings.catch_warnings():  # it warns where a model has no example
        warnings.simplefilter("ignore", UserWarning)
        mlflow.pyfunc.save_model(
            str(path),
            loader_module="pipelines.infer",
            data_path=str(data),
            signature=signature,
            input_example=example,
            pip_requirements=[f"corsia=={version_of('corsia')}"],
            metadata={RUN_TAG: release.run},
        )


_importing = threading.Lock()


def _mlflow() -> Any:
    """MLflow with telemetry off, imported once."""
    with _importing:
        os.environ.update(_QUIET)
        with warnings.catch_warnings():  # its own modules warn when imported
            warnings.simplefilter("ignore")
            import mlflow
            import mlflow.pyfunc

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        return mlflow


@contextmanager
def _named() -> Iterator[None]:
    """Gives what MLflow raises its name."""
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException

        if not isinstance(error, MlflowException | RequestException | OSError):
            raise
        log.warning("mlflow.unavailable", extra={"fields": {"error": type(error).__name__}})
        raise UnavailableError("unavailable.mlflow", f"MLflow: {type(error).__name__}") from error

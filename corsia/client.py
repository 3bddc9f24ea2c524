"""The notebook's way to a centre: studies, tables, models and the log over the REST API.

    hub = corsia.connect("http://127.0.0.1:7480", token_file="operator.token")
    study = hub.studies.submit(Path("study.toml"))
    study.watch()
    hub.features(study.id).to_pandas()

Only what the API gives is seen here; errors come as `protocol.errors` by their code. Heavy libraries (pandas, pyarrow,
mlflow) are imported when used.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from corsia.features import FeatureTable
from corsia.statistics import Statistics
from corsia.studies import Studies, StudyTable
from corsia.tables import Listing
from protocol.errors import (
    AuthenticationError,
    ConfigurationError,
    CorsiaError,
    InputError,
    IntegrityError,
    StudyRefused,
    UnavailableError,
    from_code,
)

if TYPE_CHECKING:
    import httpx
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Hub", "Log", "Model", "Models", "connect"]


def connect(
    url: str, token: str | None = None, token_file: str | Path | None = None, *, timeout_s: float = 60.0
) -> Hub:
    """Connect to a centre and check that the token is right.

    Args:
        url: address of the web process, as in `http://127.0.0.1:7480`.
        token: the operator's token; or
        token_file: the file that holds it (`operator.token` in the centre's state folder).
        timeout_s: of each request, in seconds.

    Raises:
        AuthenticationError: `auth.token`.
        UnavailableError: `unavailable.centre`.

    Example:
        >>> connect("http://127.0.0.1:1", token="t")
        Traceback (most recent call last):
        protocol.errors.UnavailableError: the centre does not answer at http://127.0.0.1:1 [unavailable.centre]
    """
    if token is None:
        if token_file is None:
            raise AuthenticationError("auth.token", "give token or token_file")
        try:
            token = Path(token_file).expanduser().read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise AuthenticationError("auth.token", f"{token_file} cannot be read") from None
    hub = Hub(url, token, timeout_s=timeout_s)
    try:
        hub.request("GET", "/log/head")
    except CorsiaError:
        hub.close()
        raise
    return hub


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A published model: its signed manifest, and predictions through MLflow.

    Attributes:
        manifest: name, version, study, sites, rounds, metrics, digest of the weights...
        signature: of the manifest's canonical JSON by the publication key.
    """

    name: str
    version: int
    alias: str
    manifest: Mapping[str, Any]
    signature: bytes
    hub: Hub = field(repr=False)

    @property
    def uri(self) -> str:
        """What MLflow calls it."""
        return f"models:/{self.name}@{self.alias}"

    def verify(self, publication_key: str) -> None:
        """Check the manifest against the publication key (base64), got on another way than this connection.

        Raises:
            IntegrityError: `parcel.signature`.
        """
        from privacy.envelope import PublicKey
        from protocol.parcel import canonical_json
        from protocol.trust import Purpose

        key = PublicKey.from_base64(publication_key)
        key.verify(Purpose.MANIFEST, canonical_json(dict(self.manifest)), self.signature)

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Score rows here, with the model loaded from MLflow (`MLFLOW_TRACKING_URI`); the rows stay here.

        Raises:
            ConfigurationError: `config.extra-missing` without mlflow.
            IntegrityError: `model.manifest` when MLflow's alias leads to other weights than the signed manifest names.
            UnavailableError: `unavailable.mlflow`.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("DO_NOT_TRACK", "true")
        try:
            import mlflow
            from mlflow.exceptions import MlflowException
        except ImportError:
            raise ConfigurationError("config.extra-missing", "corsia[central] is needed for mlflow") from None
        try:
            loaded = mlflow.pyfunc.load_model(self.uri)
        except MlflowException as error:
            raise UnavailableError("unavailable.mlflow", f"{self.uri} cannot be loaded") from error
        scorer = getattr(loaded._model_impl, "scorer", None)  # its own digest check has bound it to its weights
        if scorer is None or scorer.manifest.value["weights"] != self.manifest["weights"]:
            raise IntegrityError("model.manifest", "MLflow holds other weights than the signed manifest names")
        return cast("pd.DataFrame", loaded.predict(frame))

    def table(self) -> pd.DataFrame:
        """What people read of it: one row a feature, or a variant of an association study (beta, se, p, ...)."""
        import io

        import pandas as pd

        data = self.hub.download(f"/models/{quote(self.name, safe='')}/table?version={self.version}")
        return pd.read_parquet(io.BytesIO(data))

    def plot(self) -> Figure:
        """Manhattan and QQ plots of an association study; weights of another model.

        Raises:
            InputError: `input.usage` for a model whose table has neither.
        """
        from corsia.figures import model_figure

        return model_figure(self.table())

    def score(self, study: str) -> dict[str, Any]:
        """Score a study's curated rows at the centre; the scores stay in its lake."""
        body = {"study": study, "version": self.version}
        return dict(self.hub.request("POST", f"/models/{quote(self.name, safe='')}/predict", json=body))


class Models:
    """`hub.models`: published models by name."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def list(self) -> Listing:
        """Every published version, newest first."""
        return Listing(self._hub.request("GET", "/models"), ("name", "version", "alias", "study", "uri"))

    def __getitem__(self, name: str) -> Model:
        try:
            value = self._hub.request("GET", f"/models/{quote(name, safe='')}")
        except InputError:
            raise KeyError(name) from None
        known = value["model"]
        return Model(
            name=known["name"],
            version=known["version"],
            alias=known["alias"],
            manifest=value["manifest"],
            signature=base64.b64decode(value["signature"]),
            hub=self._hub,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(row["name"] for row in self.list()))

    def _repr_html_(self) -> str:
        return self.list()._repr_html_()


class Log:
    """`hub.log`: the centre's append-only log, checked on this side."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def export(self) -> dict[str, Any]:
        """Origin, log key, leaves and signed checkpoints."""
        return dict(self._hub.request("GET", "/log"))

    def verify(self, log_key: str | None = None) -> dict[str, Any]:
        """Recompute the whole log here and check every checkpoint's signature.

        Args:
            log_key: the log's public key (base64) as a site pinned it; without it the centre's own word is taken.

        Raises:
            IntegrityError: `log.proof`.
        """
        from privacy.transparency import verify_log

        export = self.export()
        return dict(verify_log(export if log_key is None else export | {"log_key": log_key}))

    def proof(self, index: int) -> dict[str, Any]:
        """The inclusion proof of one leaf."""
        return dict(self._hub.request("GET", f"/log/proof/{int(index)}"))


class Hub:
    """A connection to one centre. Made by `connect`."""

    def __init__(self, url: str, token: str, *, timeout_s: float = 60.0) -> None:
        try:
            import httpx
        except ImportError:
            raise ConfigurationError("config.extra-missing", "corsia[demo] or corsia[central] is needed") from None
        self.url = url.rstrip("/")
        self._http: httpx.Client = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_s,
            trust_env=self.url.startswith("https://"),
        )

    @property
    def sites(self) -> Listing:
        """Enrolled sites with their last heartbeat."""
        rows = self.request("GET", "/sites")
        return Listing(rows, ("name", "network", "alive", "paused", "version", "spool_parcels"))

    @property
    def lanes(self) -> Listing:
        """Totals of each lane."""
        rows = self.request("GET", "/lanes")
        return Listing(rows, ("lane", "studies", "records", "files", "parcels", "bytes", "withheld"))

    @property
    def studies(self) -> Studies:
        """Studies: submit, list, pick."""
        return Studies(self)

    @property
    def models(self) -> Models:
        """Published models by name."""
        return Models(self)

    @property
    def log(self) -> Log:
        """The append-only log."""
        return Log(self)

    def table(self, study_id: str) -> StudyTable:
        """The curated rows of a study of lanes 1 to 3."""
        return StudyTable(self, study_id)

    def features(self, study_id: str) -> FeatureTable:
        """The feature table of a study of lane 3: SQL, pandas, plots, standard analyses, report.

        Raises:
            StudyRefused: `study.unknown`, also for a study of another lane.
        """
        if self.studies[study_id].status().value["lane"] != "extract":
            raise StudyRefused("study.unknown", f"study {study_id} extracts no features: use hub.table(...)")
        return FeatureTable(self, study_id)

    def statistics(self, study_id: str) -> Statistics:
        """The pooled statistics of a study with pipeline `aggregate`: no row of it ever left a hospital."""
        return Statistics(self, study_id)

    def request(self, method: str, path: str, **more: Any) -> Any:
        """One call of the API; its JSON answer.

        Raises:
            CorsiaError: by the code of the problem document.
            UnavailableError: `unavailable.centre`.
        """
        return self._send(method, path, more).json()

    def download(self, path: str) -> bytes:
        """One call of the API; its raw answer. Raises as `request`."""
        return self._send("GET", path, {"timeout": 300.0}).content

    def post(self, path: str, body: Any) -> bytes:
        """One call of the API with a JSON body; its raw answer. Raises as `request`."""
        return self._send("POST", path, {"json": body, "timeout": 300.0}).content

    def lines(self, path: str) -> Generator[str, None, None]:
        """The lines of a streamed answer, as they come. Raises as `request`, also when the stream breaks."""
        import httpx

        try:
            with self._http.stream("GET", path) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _error(answer)
                yield from answer.iter_lines()
        except httpx.HTTPError:
            raise UnavailableError("unavailable.centre", f"the centre does not answer at {self.url}") from None

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<corsia hub at {self.url}>"

    def _send(self, method: str, path: str, more: dict[str, Any]) -> httpx.Response:
        import httpx

        try:
            answer = self._http.request(method, path, **more)
        except httpx.HTTPError:
            raise UnavailableError("unavailable.centre", f"the centre does not answer at {self.url}") from None
        if answer.is_success:
            return answer
        raise _error(answer)


def _error(answer: httpx.Response) -> CorsiaError:
    try:
        value = answer.json()
        return from_code(str(value["code"]), str(value["detail"]))
    except (ValueError, KeyError, TypeError):
        return UnavailableError("unavailable.centre", f"status {answer.status_code} from the centre")

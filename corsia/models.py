"""`hub.models`: published models by name, their predictions, and the two persons' way to an alias.

    model = hub.models["lung-survival"]            # the newest; "lung-survival@champion" by alias
    scores = model.predict(frame)                  # at the centre, over REST
    hub.models["lung-survival"].promote()          # Alice; then Bob, with his own token:
    hub.models.approve("lung-survival")

Heavy libraries (pandas, mlflow) are imported when used.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

from corsia import replies
from corsia.tables import Listing
from protocol.errors import ConfigurationError, InputError, IntegrityError, UnavailableError
from protocol.study import CHAMPION

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from corsia.client import Hub

__all__ = ["Model", "Models"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A published version of a model: its signed manifest, and predictions.

    Attributes:
        alias: the alias that leads to it now, or "".
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
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"

    def document(self) -> bytes:
        """Manifest and signature as one file, as sites fetch it."""
        from protocol.parcel import canonical_json

        return canonical_json({"manifest": dict(self.manifest), "signature": _text(self.signature)})

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
        """Score rows at the centre (`POST /models/NAME/invocations`), which keeps none; same index as `frame`.

        Only the model's own columns are sent. For rows that must not leave this machine: `predict_here`.

        Raises:
            InputError: `input.rows` for none or too many, `input.column-missing`, `input.table`.
            IntegrityError: `model.manifest`.
            WorkerError: `worker.killed` when the model takes too long.

        Examples:
            >>> import pandas as pd
            >>> frame = pd.DataFrame({"age": [40.0, 80.0], "count": [1.0, 1.0]}, index=["x", "y"])
            >>> scores = hub.models["risk"].predict(frame)
            >>> list(scores.index), len(scores)
            (['x', 'y'], 2)
        """
        import pandas as pd

        if frame.empty:
            raise InputError("input.rows", "no row to score")
        needed = [name for name in frame.columns if name in set(self.manifest["features"])]
        sent = frame[needed]
        rows = [[_cell(value) for value in row] for row in sent.itertuples(index=False, name=None)]
        body = json.dumps({"dataframe_split": {"columns": [str(c) for c in sent.columns], "data": rows}})
        answer = self.hub.invoke(self.name, self.version, body.encode(), "application/json")
        if len(answer["predictions"]) != len(frame):
            raise replies.foreign(self.hub.url)
        return pd.DataFrame(answer["predictions"], index=frame.index)

    def predict_here(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Score rows on this machine, with the model loaded from MLflow (`MLFLOW_TRACKING_URI`).

        Raises:
            ConfigurationError: `config.extra-missing` without mlflow.
            IntegrityError: `model.manifest` when MLflow leads to other weights than the signed manifest names.
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
            loaded = mlflow.pyfunc.load_model(f"models:/{self.name}/{self.version}")  # an alias may lag behind
        except MlflowException as error:
            raise UnavailableError("unavailable.mlflow", f"{self.name}/{self.version} cannot be loaded") from error
        scorer = getattr(loaded._model_impl, "scorer", None)  # its own digest check has bound it to its weights
        if scorer is None or scorer.manifest.value["weights"] != self.manifest["weights"]:
            raise IntegrityError("model.manifest", "MLflow holds other weights than the signed manifest names")
        return cast("pd.DataFrame", scorer.predict(frame))

    def table(self) -> pd.DataFrame:
        """What people read of it: one row a feature, or a variant of an association study (beta, se, p, ...)."""
        data = self.hub.download(f"/models/{quote(self.name, safe='')}/table?version={self.version}")
        frame: pd.DataFrame = replies.rows(data, self.hub.url).to_pandas()
        return frame

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

    def promote(self, alias: str = CHAMPION, *, rollback: bool = False) -> dict[str, Any]:
        """Propose that this version get an alias; another operator's `hub.models.approve` makes it so.

        Args:
            rollback: say so when the version is lower than the one that has the alias now.

        Returns:
            `{"id": ..., "state": "open"}`.

        Raises:
            IntegrityError: `model.rollback` for a lower version without `rollback`.
            ConflictError: `conflict.state` when the version has the alias already.
        """
        from central.decisions import Proposal, sign

        operator, key = self.hub.operator()
        holders = [row for row in self.hub.models.list() if (row["name"], row["alias"]) == (self.name, alias)]
        proposal = Proposal.new(
            operator=operator,
            name=self.name,
            version=self.version,
            weights=str(self.manifest["weights"]["sha256"]),
            alias=alias,
            rollback=rollback,
            replaces=int(holders[0]["serial"]) if holders else 0,
        )
        body = {"statement": _text(proposal.to_bytes()), "signature": _text(sign(proposal, key))}
        return dict(self.hub.request("POST", f"/models/{quote(self.name, safe='')}/promotions", json=body))


class Models:
    """`hub.models`: published models by name."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def list(self) -> Listing:
        """Every published version, newest first.

        Examples:
            >>> [(row["name"], row["version"]) for row in hub.models.list()]
            [('risk', 1)]
        """
        rows = self._hub.pages("/models?limit=1000")
        return Listing(rows, ("name", "version", "alias", "promotion", "study", "uri"))

    def get(self, name: str, *, version: int | None = None, alias: str | None = None) -> Model:
        """One version; without version and alias the one published or promoted last.

        Raises:
            KeyError: there is none.
        """
        asked = {k: v for k, v in (("version", version), ("alias", alias)) if v is not None}
        try:
            value = self._hub.request("GET", f"/models/{quote(name, safe='')}?{urlencode(asked)}")
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

    def serving(self, name: str) -> Model:
        """What predicts where no version is named: the champion, or the newest while there is none. KeyError: none."""
        try:
            return self.get(name, alias=CHAMPION)
        except KeyError:
            return self.get(name)

    def promotions(self, name: str) -> Listing:
        """Proposals for a model and what became of them, newest first."""
        rows = self._hub.pages(f"/models/{quote(name, safe='')}/promotions?limit=1000")
        return Listing(rows, ("version", "alias", "state", "proposed_by", "approved_by", "serial", "id"))

    def approve(self, name: str, proposal: str | None = None) -> dict[str, Any]:
        """Approve another operator's proposal: the open one, or the one with this id.

        Returns:
            `{"id", "name", "version", "serial"}` of the new manifest.

        Raises:
            InputError: `input.usage` when there is no such proposal, or several are open and none is named.
            PermissionRefused: `permission.second-person` for one's own.
            ConflictError: `conflict.state` when it is not open, or the alias has moved since.
        """
        from central.decisions import Approval, Proposal, sign

        found = [
            row for row in self.promotions(name) if row["id"] == proposal or (not proposal and row["state"] == "open")
        ]
        if not found:
            raise InputError("input.usage", f"no proposal for {name} waits for approval")
        if len(found) > 1:
            raise InputError("input.usage", f"{len(found)} proposals for {name} wait: say which by its id")
        statement = base64.b64decode(found[0]["statement"])
        asked = Proposal.from_bytes(statement)  # what is signed is what it says, not what the list says of it
        if (asked.name, asked.version, asked.alias) != (name, found[0]["version"], found[0]["alias"]):
            raise IntegrityError("model.manifest", "the proposal is not what the centre shows of it")
        operator, key = self._hub.operator()
        body = {"signature": _text(sign(Approval.of(statement, operator), key))}
        path = f"/models/{quote(name, safe='')}/promotions/{asked.id}/approval"
        return dict(self._hub.request("POST", path, json=body))

    def __getitem__(self, name: str) -> Model:
        """`"name"` for the newest, `"name@alias"`, or `"name/version"`."""
        plain, _, alias = name.partition("@")
        plain, _, version = plain.partition("/")
        if (version and not version.isdecimal()) or (alias and version):
            raise KeyError(name)
        return self.get(plain, version=int(version) if version else None, alias=alias or None)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(row["name"] for row in self.list()))

    def _repr_html_(self) -> str:
        return self.list()._repr_html_()


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _cell(value: Any) -> Any:
    """A cell as JSON has it; what is missing or not finite is null, dates are text."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    import pandas as pd

    return None if pd.isna(value) else str(value)

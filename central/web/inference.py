"""Predictions over REST: a published model, verified once, scores the rows of a request and keeps nothing.

Models of NumPy alone score in this process. Whatever may need torch, or is a site's own plug-in, scores in a process
of its own under a deadline, so that a slow or broken model cannot take the web process with it.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from central.frames import read_rows
from central.store import Store
from central.store.models import ModelRow
from central.trusted import SignerKeys
from protocol.errors import CorsiaError, InputError, UnavailableError, WorkerError, from_code

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.infer import Manifest, Scorer

__all__ = ["LIGHT", "Inference", "score_apart"]

LIGHT = frozenset({"tabular", "survival"})  # learners that are known to predict with NumPy alone
TIMEOUT_S = 120.0
_KEPT = 8
KEPT_BYTES = 1 << 30  # of weights, over all models that are kept ready
_APART, _WAITING = 2, 4  # models that score apart at once, and requests that wait for their turn
_LENGTH = struct.Struct(">Q")


class Inference:
    """Scores requests. Safe for threads.

    Args:
        store: where manifests and weights lie.
        keys: gives the publication key.
        timeout_s: of a model that scores in a process of its own.
    """

    def __init__(self, store: Store, keys: SignerKeys, timeout_s: float = TIMEOUT_S) -> None:
        self._store, self._keys, self._timeout_s = store, keys, timeout_s
        self._lock, self._apart = threading.Lock(), threading.BoundedSemaphore(_APART)
        self._asked = threading.BoundedSemaphore(_APART + _WAITING)
        self._ready: OrderedDict[str, tuple[Manifest, bytes, Scorer | None]] = OrderedDict()

    def predict(self, row: ModelRow, body: bytes, content_type: str) -> list[dict[str, Any]]:
        """One record a row of the body; what is not finite is null.

        Raises:
            InputError: what is wrong with the rows, or with this model for them.
            IntegrityError: `model.manifest`, `blob.digest`: the model is not used.
            WorkerError: `worker.killed` for a model that took too long, `worker.failed`.
            UnavailableError: `unavailable.process` when the signer's key cannot be had, or too many are waiting.
        """
        manifest, weights, scorer = self.ready(row)
        frame = read_rows(body, content_type, tuple(manifest.value["features"]))
        if scorer is not None:
            scored = scorer.predict(frame)
        else:
            scored = self._scored_apart(manifest, weights, frame)
        if len(scored) != len(frame):
            raise InputError("input.rows", "the model did not score every row")
        return _records(scored)

    def _scored_apart(self, manifest: Manifest, weights: bytes, frame: pd.DataFrame) -> pd.DataFrame:
        """In turn; beyond a few that wait it is refused: each holds one of the threads that all requests share."""
        if not self._asked.acquire(blocking=False):
            raise UnavailableError("unavailable.process", "too many predictions are asked for at once")
        try:
            with self._apart:
                return score_apart(manifest, weights, frame, self._timeout_s)
        finally:
            self._asked.release()

    def ready(self, row: ModelRow) -> tuple[Manifest, bytes, Scorer | None]:
        """Verified manifest and weights, and what scores them here, if that may be.

        Raises:
            IntegrityError: `model.manifest`, `blob.digest`.
            UnavailableError: `unavailable.process`.
        """
        from pipelines.infer import Scorer, verify

        with self._lock:
            known = self._ready.get(row.manifest)
            if known is not None:
                self._ready.move_to_end(row.manifest)
                return known
        weights = self._store.get_blob(row.weights)
        manifest = verify(self._store.get_blob(row.manifest), weights, self._keys.publication_key())
        light = manifest.value["learner"]["name"] in LIGHT
        made = (manifest, weights, Scorer(manifest, weights) if light else None)
        with self._lock:
            self._ready[row.manifest] = made
            while len(self._ready) > _KEPT or sum(len(kept[1]) for kept in self._ready.values()) > KEPT_BYTES:
                self._ready.popitem(last=False)  # in the end this one too: what is too large is read each time
        return made


def score_apart(manifest: Manifest, weights: bytes, frame: pd.DataFrame, timeout_s: float) -> pd.DataFrame:
    """Predictions by a child process (`central.scorer`), which ends with them.

    Raises:
        WorkerError: `worker.killed` after `timeout_s`, `worker.failed` when it dies.
        CorsiaError: what the child says by its code.
    """
    import pandas as pd

    sink = io.BytesIO()
    frame.to_parquet(sink, index=False)
    parts = (json.dumps(dict(manifest.value)).encode(), weights, sink.getvalue())
    sent = b"".join(_LENGTH.pack(len(part)) + part for part in parts)
    command = [sys.executable, "-m", "central.scorer"]
    try:
        done = subprocess.run(command, input=sent, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise WorkerError("worker.killed", "the model took too long over these rows") from None
    if done.returncode != 0:
        raise _told(done.returncode, done.stderr)
    try:
        return pd.read_parquet(io.BytesIO(done.stdout), use_threads=False)
    except (ValueError, OSError):
        raise WorkerError("worker.failed", "the model gave no readable answer") from None


def _told(status: int, raw: bytes) -> CorsiaError:
    last = raw.decode(errors="replace").strip().rpartition("\n")[2]
    try:
        value = json.loads(last)
        return from_code(str(value["code"]), str(value["message"]))
    except (ValueError, KeyError, TypeError):
        return WorkerError("worker.failed", f"the model failed on these rows: its process ended with {status}")


def _records(scored: pd.DataFrame) -> list[dict[str, Any]]:
    names = [str(name) for name in scored.columns]
    rows = scored.itertuples(index=False, name=None)
    return [{name: _plain(value) for name, value in zip(names, row, strict=True)} for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if hasattr(value, "item"):  # a NumPy scalar
        return _plain(value.item())
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)

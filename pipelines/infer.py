"""Inference with a published model: at a hospital (lane `infer`), at the centre, or through MLflow.

    manifest (signed) + weights (safetensors) -> `verify` -> `Scorer` -> risk a row

What is trusted is the manifest, signed by the publication key; never a registry's tags. At a hospital the agent
verifies signature, serial and log before the worker sees the objects, and the results stay there. Weights are read
as safetensors; nothing here unpickles, and no torch is needed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import Gate, Job, Source, SourceFile, learners
from protocol.errors import InputError, IntegrityError
from protocol.parcel import Item, ItemKind, canonical_json
from protocol.trust import Purpose

if TYPE_CHECKING:
    import pandas as pd

    from privacy.envelope import PublicKey

__all__ = [
    "MANIFEST_FILE",
    "WEIGHTS_FILE",
    "Manifest",
    "Scorer",
    "dicom_files",
    "load",
    "log_leaf",
    "run",
    "sign_bytes",
    "verify",
    "verify_manifest",
]

MANIFEST_FILE, WEIGHTS_FILE = "manifest.json", "model.safetensors"
PUBLICATION_KEY = "CORSIA_PUBLICATION_KEY"  # base64 public key: MLflow loads then check the signature too
MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a model is: the signed statement that centre and edge trust.

    Attributes:
        value: the whole manifest: name, version, serial, lineage, learner, features, digest of the weights.
        signature: over the canonical JSON of `value`, context `Purpose.MANIFEST`.
    """

    value: Mapping[str, Any]
    signature: bytes

    @property
    def name(self) -> str:
        """Registered name."""
        return str(self.value["name"])

    @property
    def version(self) -> int:
        """Version under the name."""
        return int(self.value["version"])

    @property
    def serial(self) -> int:
        """Grows with each publication under the name; a lower one than already accepted is a roll-back."""
        return int(self.value["serial"])

    @property
    def alias(self) -> str:
        """The alias that this manifest gives its version."""
        return str(self.value.get("alias", ""))

    @property
    def rollback(self) -> bool:
        """Whether two operators signed it as a return to a lower version."""
        promotion = self.value.get("promotion")
        return isinstance(promotion, Mapping) and promotion.get("rollback") is True

    @property
    def log_index(self) -> int:
        """Its place in the log.

        Raises:
            IntegrityError: `model.manifest` when it names none.
        """
        index = self.value["log"].get("index") if isinstance(self.value.get("log"), Mapping) else None
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < 2**63:
            raise IntegrityError("model.manifest", "the manifest names no place in the log")
        return index

    @classmethod
    def from_bytes(cls, raw: bytes) -> Manifest:
        """Read `{"manifest": {...}, "signature": base64}`; checks nothing but the form.

        Raises:
            IntegrityError: `model.manifest`.
        """
        try:
            if len(raw) > MAX_MANIFEST_BYTES:
                raise ValueError("size")
            document = json.loads(raw)
            value = document["manifest"]
            canonical_json(value)
            made = cls(value=value, signature=b64decode(document["signature"], validate=True))
            learner = (value["learner"]["name"], value["learner"]["settings"], value["weights"]["sha256"])
            if set(document) != {"manifest", "signature"} or not all(isinstance(p, str | dict) for p in learner):
                raise ValueError("form")
            if not isinstance(value["features"], list) or made.version < 1 or made.serial < 1 or not made.name:
                raise ValueError("form")
            return made
        except (ValueError, KeyError, TypeError, RecursionError, Base64Error):
            raise IntegrityError("model.manifest", "malformed manifest") from None


def sign_bytes(value: Mapping[str, Any]) -> bytes:
    """The bytes that the publication key signs (context `Purpose.MANIFEST`)."""
    return canonical_json(dict(value))


def log_leaf(value: Mapping[str, Any]) -> dict[str, str]:
    """The log's leaf of a model: the run's id and the digest of the manifest without its own place in the log."""
    unlogged = {k: v for k, v in value.items() if k != "log"}
    return {
        "kind": "model",
        "id": str(value.get("run", "")),
        "sha256": hashlib.sha256(canonical_json(unlogged)).hexdigest(),
    }


def verify(manifest: bytes, weights: bytes, publication_key: PublicKey) -> Manifest:
    """Check signature and digest before a model is used.

    Raises:
        IntegrityError: `model.manifest` for a foreign, changed or malformed manifest, or other weights than it names.
    """
    read = verify_manifest(manifest, publication_key)
    _check_weights(read, weights)
    return read


def verify_manifest(manifest: bytes, publication_key: PublicKey) -> Manifest:
    """Check the signature alone, where no weights are at hand.

    Raises:
        IntegrityError: `model.manifest`.
    """
    read = Manifest.from_bytes(manifest)
    try:
        publication_key.verify(Purpose.MANIFEST, sign_bytes(read.value), read.signature)
    except IntegrityError:
        raise IntegrityError("model.manifest", "the manifest is not signed by the publication key") from None
    return read


def load(manifest: bytes, weights: bytes, publication_key: PublicKey) -> Scorer:
    """Verify a published model and make it ready.

    Raises:
        IntegrityError: `model.manifest`; nothing is loaded.
    """
    return Scorer(verify(manifest, weights, publication_key), weights)


class Scorer:
    """A model ready to predict. The caller has verified the manifest (`load`); the weights' digest is checked here.

    Raises:
        IntegrityError: `model.manifest`.
    """

    def __init__(self, manifest: Manifest, weights: bytes) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load as read

        _check_weights(manifest, weights)
        value = manifest.value
        try:
            arrays = read(weights)
            self._learner = learners.named(
                value["learner"]["name"],
                tuple(value["features"]),
                value["learner"]["settings"],
                str(value["learner"].get("version", "1")),
            )
        except (SafetensorError, ValueError, InputError):
            raise IntegrityError("model.manifest", "the model does not load with the installed learners") from None
        self.manifest = manifest
        self._model = _under("model/", arrays)
        self._preprocessing = _under("preprocessing/", arrays)

    @property
    def reads_images(self) -> bool:
        """Whether it predicts from images (`predict_images`) and not from a table."""
        return isinstance(self._learner, learners.ImageModel)

    @property
    def features(self) -> tuple[str, ...]:
        """Columns that a frame must have."""
        return self._learner.features

    def table(self) -> pd.DataFrame:
        """What people read of the model: one row a feature, or a variant of an association study."""
        return self._learner.table(self._model, self._preprocessing)

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """One row a row of `frame`, same index: `risk`, `survival`, `horizon` for a survival model.

        Raises:
            InputError: `input.column-missing`, `input.table`.
        """
        return self._learner.predict(self._model, self._preprocessing, frame)

    def predict_images(self, files: Iterable[SourceFile], key: bytes) -> tuple[pd.DataFrame, dict[str, int]]:
        """One row a patient with a usable series: `pseudonym`, `series` (a UID made by the key), the predictions.

        Args:
            files: DICOM files, best those of one patient together.
            key: 32 bytes; who holds it can tell which patient a pseudonym is.

        Returns:
            The table, and how many files (`unreadable`) and patients (`image`) were set aside.

        Raises:
            InputError: `input.usage` for a model of tables.
        """
        from privacy.deid.pseudonym import Pseudonymizer

        if not isinstance(self._learner, learners.ImageModel):
            raise InputError("input.usage", "this model predicts from a table")
        pseudonyms = Pseudonymizer(key)
        found, withheld = self._learner.predict_images(self._model, self._preprocessing, files)
        found.insert(0, "pseudonym", [pseudonyms.pseudonym(str(who)) for who in found.pop("patient")])
        found["series"] = [pseudonyms.uid(str(uid)) for uid in found["series"]]
        return found, withheld


def dicom_files(folder: Path) -> Iterator[SourceFile]:
    """The files below a folder in the order of their names, under numbers instead of these."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for number, path in enumerate(paths, start=1):
        yield SourceFile(f"{number:08d}.dcm", path.read_bytes())


def run(job: Job, source: Source, gate: Gate) -> None:
    """Lane `infer` at a hospital: score all selected rows, or patients' images; the table stays at the site.

    Columns: `row` (position in the selection), `pseudonym` where the site names a patient column, `series` (a UID made
    by the study's key) of images, the predictions.

    Raises:
        IntegrityError: `model.manifest` when the objects are missing or do not fit together.
        InputError: `input.table`, `input.column-missing`, `input.rows`.
    """
    objects = _objects(source)
    scorer = Scorer(Manifest.from_bytes(objects[MANIFEST_FILE]), objects[WEIGHTS_FILE])
    if job.study.model is None or job.study.model.name != scorer.manifest.name:
        raise IntegrityError("model.manifest", "another model than the study names")
    if scorer.reads_images:
        return _run_images(job, source, gate, scorer)
    frame = source.table()
    if frame is None or frame.empty:
        raise InputError("input.rows", "no row to score")
    predictions = scorer.predict(frame).reset_index(drop=True)
    predictions.insert(0, "row", np.arange(len(predictions)))
    patient = job.column("patient")
    persons = len(predictions)
    if patient is not None and patient in frame.columns:
        from privacy.deid.pseudonym import Pseudonymizer

        pseudonyms = Pseudonymizer(job.key)
        named = [pseudonyms.pseudonym(str(value)) for value in frame[patient]]
        predictions.insert(1, "pseudonym", named)
        persons = len(set(named))
    _put(gate, predictions, persons)


def _run_images(job: Job, source: Source, gate: Gate, scorer: Scorer) -> None:
    if not job.study.dataset.images:
        raise InputError("input.dicom", "the model needs images; the study asks for none")
    predictions, withheld = scorer.predict_images(source.files(), job.key)
    if predictions.empty:
        raise InputError("input.rows", "no image to score")
    for reason, count in withheld.items():
        gate.withhold(reason, count)
    predictions.insert(0, "row", np.arange(len(predictions)))
    _put(gate, predictions, len(predictions))


def _put(gate: Gate, predictions: pd.DataFrame, persons: int) -> None:
    data = _parquet(predictions)
    name, rows = "predictions.parquet", len(predictions)
    gate.put(Item(kind=ItemKind.TABLE, name=name, data=data, persons=persons, rows=rows))
    gate.progress(rows, rows)


def _objects(source: Source) -> Mapping[str, bytes]:
    """The model's two objects: beside the rows (`blobs`), or as files of the source."""
    found: dict[str, bytes] = dict(getattr(source, "blobs", None) or {})
    if not {MANIFEST_FILE, WEIGHTS_FILE} <= set(found):
        found |= {file.name: file.data for file in source.files() if file.name in (MANIFEST_FILE, WEIGHTS_FILE)}
    if not {MANIFEST_FILE, WEIGHTS_FILE} <= set(found):
        raise IntegrityError("model.manifest", "the model's objects are missing")
    return found


def _load_pyfunc(path: str) -> _PyFunc:
    """What MLflow calls (`loader_module="pipelines.infer"`): a folder with manifest and weights, no pickle in it.

    The digest is always checked; the signature where `CORSIA_PUBLICATION_KEY` names the key to trust.
    """
    folder = Path(path)
    manifest, weights = (folder / MANIFEST_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes()
    trusted = os.environ.get(PUBLICATION_KEY)
    if trusted:
        from privacy.envelope import PublicKey

        return _PyFunc(load(manifest, weights, PublicKey.from_base64(trusted)))
    return _PyFunc(Scorer(Manifest.from_bytes(manifest), weights))


class _PyFunc:
    """MLflow's calling convention around a `Scorer`."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """A frame, or anything pandas makes one of, in; the scorer's table out."""
        import pandas as pd

        del params
        frame = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame(model_input)
        if self.scorer.reads_images:
            return self._of_folders(frame)
        return self.scorer.predict(frame)

    def _of_folders(self, frame: pd.DataFrame) -> pd.DataFrame:
        """`folder` in; pseudonyms are by a key that is thrown away, so they tell only what is alike in one call."""
        import secrets

        import pandas as pd

        if "folder" not in frame.columns:
            raise InputError("input.column-missing", "column 'folder': paths of DICOM folders")
        key, parts = secrets.token_bytes(32), []
        for row, folder in zip(frame.index, frame["folder"], strict=True):
            found, _ = self.scorer.predict_images(dicom_files(Path(str(folder))), key)
            parts.append(found.set_axis([row] * len(found)))
        return pd.concat(parts) if parts else pd.DataFrame()


def _check_weights(manifest: Manifest, weights: bytes) -> None:
    named = manifest.value["weights"]
    if hashlib.sha256(weights).hexdigest() != named["sha256"] or named.get("size") != len(weights):
        raise IntegrityError("model.manifest", "the weights are not those that the manifest names")


def _under(prefix: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _parquet(frame: pd.DataFrame) -> bytes:
    sink = io.BytesIO()
    frame.to_parquet(sink, index=False)
    return sink.getvalue()

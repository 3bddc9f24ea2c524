"""A published model: what is verified before it is used, and what the lane gives."""

from __future__ import annotations

import base64
import hashlib
import io
import json

import numpy as np
import pandas as pd
import pytest

from central.federation.checkpoint import join_arrays
from central.federation.local import train_locally
from pipelines import Job, SourceFile, infer
from pipelines.train import load as load_rows
from privacy.envelope import SecretKey
from protocol.errors import CorsiaError, InputError, IntegrityError
from protocol.parcel import canonical_json
from protocol.study import Study
from protocol.trust import Purpose
from tests.federation_hospital import frame, study

KEY, OTHER = SecretKey.from_bytes(b"\x01" * 32), SecretKey.from_bytes(b"\x02" * 32)


@pytest.fixture(scope="module")
def weights() -> bytes:
    plan = study(rounds=1)
    reached = train_locally(plan, {s: load_rows(plan, s, frame(s)) for s in plan.sites})
    return join_arrays(reached.model, reached.preprocessing)


def manifest(weights: bytes, key: SecretKey = KEY, **changes: object) -> bytes:
    value = {
        "name": "lung-survival", "version": 1, "serial": 1, "run": "ab" * 16, "features": ["x0", "x1"],
        "learner": {"name": "survival", "version": "1", "settings": {}},
        "weights": {"sha256": hashlib.sha256(weights).hexdigest(), "size": len(weights)},
        "log": {"index": 4}, **changes,
    }  # fmt: skip
    signature = key.sign(Purpose.MANIFEST, infer.sign_bytes(value))
    return canonical_json({"manifest": value, "signature": base64.b64encode(signature).decode()})


def test_a_signed_model_loads_and_predicts(weights: bytes) -> None:
    scorer = infer.load(manifest(weights), weights, KEY.public)
    assert scorer.features == ("x0", "x1")
    predicted = scorer.predict(frame("site-z").set_index(np.arange(40) * 2))
    assert list(predicted.index) == list(range(0, 80, 2))
    assert np.isfinite(predicted[["risk", "survival"]].to_numpy()).all()


def _changed(raw: bytes, **changes: object) -> bytes:
    document = json.loads(raw)
    document["manifest"].update(changes)
    return canonical_json(document)


@pytest.mark.parametrize("case", range(11))
def test_anything_but_the_signed_model_is_refused(weights: bytes, case: int) -> None:
    good = manifest(weights)
    cases = [
        (manifest(weights, OTHER), weights),
        (_changed(good, version=2), weights),
        (_changed(good, features=["x1", "x0"]), weights),
        (good, weights[:-1]),
        (good, weights + b"\0"),
        (good, b""),
        (b"", weights),
        (b"[]", weights),
        (b"[" * 100_000, weights),
        (canonical_json({**json.loads(good), "more": 1}), weights),
        (good.replace(b'"signature":"', b'"signature":"*'), weights),
    ]
    with pytest.raises(IntegrityError) as error:
        infer.load(*cases[case], KEY.public)
    assert error.value.code == "model.manifest"


def test_signed_nonsense_is_refused_before_use(weights: bytes) -> None:
    for changes in (
        {"learner": {"name": "magic", "settings": {}}},
        {"learner": {"name": "survival", "settings": {"a": 1}}},
    ):
        with pytest.raises(IntegrityError):
            infer.load(manifest(weights, **changes), weights, KEY.public)
    bad = b"not safetensors"
    with pytest.raises(IntegrityError):
        infer.load(manifest(bad), bad, KEY.public)


def test_the_logs_leaf_does_not_depend_on_its_own_place(weights: bytes) -> None:
    one, two = (json.loads(manifest(weights, log={"index": i}))["manifest"] for i in (1, 2))
    assert infer.log_leaf(one) == infer.log_leaf(two)
    assert infer.log_leaf(one) != infer.log_leaf({**one, "version": 2})


class _Source:
    def __init__(
        self, table: pd.DataFrame | None, files: dict[str, bytes], blobs: dict[str, bytes] | None = None
    ) -> None:
        self._table, self._files = table, files
        if blobs is not None:
            self.blobs = blobs

    def table(self) -> pd.DataFrame | None:
        return self._table

    def files(self):
        return iter([SourceFile(name, data) for name, data in self._files.items()])


class _Gate:
    def __init__(self) -> None:
        self.items = []

    def put(self, item) -> None:
        self.items.append(item)

    def withhold(self, reason: str, count: int = 1) -> None: ...

    def progress(self, done: int, total: int) -> None: ...


def plan(name: str = "lung-survival") -> Study:
    raw = study().model_dump(by_alias=True, exclude_none=True)
    del raw["training"]
    return Study.model_validate(raw | {"lane": "infer", "model": {"name": name}, "pipeline": {"name": "infer"}})


@pytest.mark.parametrize("beside", [True, False])
def test_the_lane_scores_every_row_and_keeps_names_out(weights: bytes, beside: bool) -> None:
    objects = {infer.MANIFEST_FILE: manifest(weights), infer.WEIGHTS_FILE: weights}
    table = frame("site-z").assign(pid=[f"ROSSIMARIO{i % 30}" for i in range(40)])
    source = _Source(table, {}, objects) if beside else _Source(table, {"0": b"", **objects})
    gate = _Gate()
    infer.run(Job(study=plan(), site="site-z", key=bytes(32), roles={"pid": "patient"}), source, gate)
    (item,) = gate.items
    assert (item.name, item.rows, item.persons) == ("predictions.parquet", 40, 30)
    made = pd.read_parquet(io.BytesIO(item.data))
    assert list(made.columns) == ["row", "pseudonym", "risk", "survival", "horizon"]
    assert made["pseudonym"].nunique() == 30
    assert made["pseudonym"].str.fullmatch(r"P[A-Z2-7]{16}").all()
    assert b"ROSSI" not in item.data


@pytest.mark.parametrize(
    ("table", "objects", "name", "code"),
    [
        (frame("site-z"), False, "lung-survival", "model.manifest"),
        (frame("site-z"), True, "another", "model.manifest"),
        (None, True, "lung-survival", "input.rows"),
        (frame("site-z").iloc[:0], True, "lung-survival", "input.rows"),
        (frame("site-z").drop(columns="x1"), True, "lung-survival", "input.column-missing"),
    ],
)
def test_the_lane_refuses_with_a_code(weights: bytes, table, objects: bool, name: str, code: str) -> None:
    files = {infer.MANIFEST_FILE: manifest(weights), infer.WEIGHTS_FILE: weights} if objects else {}
    with pytest.raises(CorsiaError) as error:
        infer.run(Job(study=plan(name), site="site-z", key=bytes(32)), _Source(table, files), _Gate())
    assert error.value.code == code


def test_mlflows_loader_checks_digest_and_where_a_key_is_named_the_signature(
    weights: bytes, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / infer.MANIFEST_FILE).write_bytes(manifest(weights, OTHER))
    (tmp_path / infer.WEIGHTS_FILE).write_bytes(weights)
    assert len(infer._load_pyfunc(str(tmp_path)).predict(frame("site-z"))) == 40
    monkeypatch.setenv(infer.PUBLICATION_KEY, KEY.public.to_base64())
    with pytest.raises(IntegrityError):
        infer._load_pyfunc(str(tmp_path))
    monkeypatch.delenv(infer.PUBLICATION_KEY)
    (tmp_path / infer.WEIGHTS_FILE).write_bytes(weights[:-1])
    with pytest.raises(IntegrityError):
        infer._load_pyfunc(str(tmp_path))


def test_columns_that_are_missing_are_named(weights: bytes) -> None:
    scorer = infer.load(manifest(weights), weights, KEY.public)
    with pytest.raises(InputError, match="x1"):
        scorer.predict(frame("site-z")[["x0"]])

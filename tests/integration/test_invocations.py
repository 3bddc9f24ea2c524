"""Scoring over REST and from the command line: MLflow's forms, bounds, hostile bodies, slow models apart."""

from __future__ import annotations

import base64
import json
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

import corsia
from central import frames
from central.store.models import ModelRow
from central.trusted import SignerKeys
from central.web import inference
from pipelines.infer import Manifest, Scorer
from privacy.envelope import SecretKey, read_key
from protocol.errors import CODES, CorsiaError, InputError, UnavailableError, WorkerError
from tests.vaultkit import FEATURES, publish
from tests.webkit import Running, running_centre

ROWS = pd.DataFrame({"age": [40.0, 80.0, None], "count": [1, 1, 1], "other": ["a", "b", "c"]})


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_centre(tmp_path_factory.mktemp("centre")) as made:
        training = {"learner": "survival", "features": list(FEATURES), "outcome": ["t", "s"],
                    "publish": {"model": "risk"}}  # fmt: skip
        made.world.submit("fed", lane="train", pipeline={"name": "train"}, training=training, output={})
        publish(made.world, _key(made))
        yield made


def _key(running: Running) -> SecretKey:
    return read_key(running.world.root / "signer" / "publication.key")


def expected(running: Running) -> pd.DataFrame:
    return Scorer(*_objects(running)).predict(ROWS)


def _objects(running: Running) -> tuple[Manifest, bytes]:
    value = running.get("/models/risk?version=1")
    weights = running.world.store.get_blob(value["model"]["weights_sha256"])
    return Manifest.from_bytes(base64.b64decode(value["blob"])), weights


def post(running: Running, body: Any, kind: str = "application/json", query: str = "") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with running.operator() as http:
        return http.post(f"/api/v1/models/risk/invocations{query}", content=content, headers={"Content-Type": kind})


_LISTS = [[40.0, 1], [80.0, 1], [None, 1]]
_RECORDS = [{"age": 40, "count": 1}, {"age": 80, "count": 1, "other": "b"}, {"count": 1}]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"dataframe_split": {"columns": ["age", "count"], "index": [5, 6, 7], "data": _LISTS}}, "application/json"),
        ({"dataframe_records": _RECORDS}, "application/json; charset=utf-8"),
        ({"inputs": {"count": [1, 1, 1], "age": [40, 80, None]}}, "application/json"),
        ({"inputs": _LISTS, "params": {}}, "application/json"),
        ({"instances": _RECORDS}, "application/json"),
        (b"age,count,other\n40,1,a\n80,1,b\n,1,c\n", "text/csv"),
        ("\ufeffage;count\r\n40;1\r\n80;1\r\n;1\r\n".encode(), "text/csv; charset=utf-8"),
    ],
)
def test_every_form_gives_the_same_scores(running: Running, body: Any, kind: str) -> None:
    answer = post(running, body, kind)
    assert answer.status_code == 200, answer.text
    value = answer.json()
    assert (value["model"], value["version"], value["alias"], value["serial"]) == ("risk", 1, "champion", 1)
    made = pd.DataFrame(value["predictions"])
    pd.testing.assert_frame_equal(made, expected(running).reset_index(drop=True).astype(float), check_dtype=False)


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"", "application/json", "input.table"),
        (b"{", "application/json", "input.table"),
        (b"\xff\xfe", "application/json", "input.table"),
        (b"[" * 200_000, "application/json", "input.table"),
        ([], "application/json", "input.table"),
        ({}, "application/json", "input.table"),
        ({"dataframe_split": {"columns": ["age"], "data": [[1]]}, "more": 1}, "application/json", "input.table"),
        ({"dataframe_split": {"columns": ["age", "age"], "data": [[1, 2]]}}, "application/json", "input.table"),
        ({"dataframe_split": {"columns": ["age", "count"], "data": [[1]]}}, "application/json", "input.table"),
        ({"dataframe_split": {"columns": [1], "data": [[1]]}}, "application/json", "input.table"),
        ({"dataframe_split": {"columns": ["age", "count"], "data": []}}, "application/json", "input.rows"),
        ({"dataframe_split": {"columns": ["age", "count"], "data": [[{}, 1]]}}, "application/json", "input.table"),
        ({"dataframe_records": [{"age": [1], "count": 1}]}, "application/json", "input.table"),
        ({"dataframe_records": [1, 2]}, "application/json", "input.table"),
        ({"dataframe_records": []}, "application/json", "input.rows"),
        ({"dataframe_records": "x"}, "application/json", "input.rows"),
        ({"inputs": {"age": [1, 2], "count": [1]}}, "application/json", "input.table"),
        ({"inputs": [[1, 2, 3]]}, "application/json", "input.table"),
        ({"inputs": {"age": [10**400], "count": [1]}}, "application/json", "input.table"),
        ({"dataframe_records": [{"age": 40}]}, "application/json", "input.column-missing"),
        ({"dataframe_records": [{"age": "ROSSI MARIO", "count": 1}]}, "application/json", "input.table"),
        (b"age,count\n", "text/csv", "input.rows"),
        (b"", "text/csv", "input.table"),
        (b"age,count\n1,2,3\n1,2,3,4\n", "text/csv", "input.table"),
        (b"\xff\xfe\x00", "text/csv", "input.table"),
        (b"age,age\n1,2\n", "text/csv", "input.column-missing"),
        (b"x", "text/plain", "input.usage"),
        (b"x", "", "input.usage"),
    ],
)
def test_bad_rows_are_one_clear_problem_that_quotes_no_cell(running: Running, body: Any, kind: str, code: str) -> None:
    answer = post(running, body, kind)
    assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert code in CODES
    assert "ROSSI" not in answer.text
    assert not any("ROSSI" in path.read_text() for path in running.world.root.rglob("*.jsonl"))


def test_body_and_rows_are_bounded(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_ROWS", 2)
    for body, kind in (({"inputs": _LISTS}, "application/json"), (b"age,count\n1,1\n1,1\n1,1\n", "text/csv"),
                       ({"inputs": {"age": [1] * 3, "count": [1] * 3}}, "application/json")):  # fmt: skip
        answer = post(running, body, kind)
        assert (answer.status_code, answer.json()["code"]) == (422, "input.rows")
    from central.web import models

    monkeypatch.setattr(models, "MAX_BODY_BYTES", 1000)
    answer = post(running, b"x" * 1001, "text/csv")
    assert (answer.status_code, answer.json()["code"]) == (422, "input.rows")


def test_version_and_alias_choose_and_nothing_else_is_found(running: Running) -> None:
    body = {"inputs": _LISTS}
    assert post(running, body, query="?version=1").status_code == 200
    assert post(running, body, query="?alias=champion").status_code == 200
    for query in ("?version=9", "?alias=candidate", "?alias=champion&version=2"):
        assert post(running, body, query=query).status_code == 404
    assert post(running, body, query="?version=x").status_code == 422
    with running.operator() as http:
        assert http.post("/api/v1/models/none/invocations", json=body).status_code == 404
    with running.client() as http:
        assert http.post("/api/v1/models/risk/invocations", json=body).status_code == 401


def test_a_manifest_that_another_key_signed_scores_nothing(running: Running) -> None:
    publish(running.world, SecretKey.generate(), serial=2, alias="poisoned")
    answer = post(running, {"inputs": _LISTS}, query="?version=2")
    assert (answer.status_code, answer.json()["code"]) == (500, "model.manifest")


def test_a_model_that_may_need_torch_scores_in_a_process_of_its_own(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = post(running, {"inputs": _LISTS}, query="?version=1").json()
    manifest, weights = _objects(running)
    monkeypatch.setattr(inference, "LIGHT", frozenset())
    apart = inference.Inference(running.world.store, SignerKeys(running.centre.signer))
    with running.world.store.read() as session:
        row = session.get_one(ModelRow, ("risk", 1))
    body = json.dumps({"inputs": _LISTS}).encode()
    assert apart.predict(row, body, "application/json") == here["predictions"]
    with pytest.raises(InputError, match="count") as error:
        apart.predict(row, b'{"inputs": {"age": [1]}}', "application/json")
    assert error.value.code == "input.column-missing"
    frame = ROWS[["age", "count"]]
    with pytest.raises(WorkerError, match=r"worker\.killed"):
        inference.score_apart(manifest, weights, frame, timeout_s=0.05)
    broken = Manifest(value={**manifest.value, "learner": {"name": "survival"}}, signature=b"")
    with pytest.raises(CorsiaError) as failed:
        inference.score_apart(broken, weights, frame, timeout_s=60)
    assert failed.value.code == "worker.failed"


def test_requests_that_would_wait_too_long_for_a_slow_model_are_refused(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else as many slow predictions as the web process has threads would keep an operator from stopping a run."""
    monkeypatch.setattr(inference, "LIGHT", frozenset())
    gate = threading.Event()

    def slow(_manifest: Manifest, _weights: bytes, frame: pd.DataFrame, _timeout_s: float) -> pd.DataFrame:
        assert gate.wait(60)
        return frame

    monkeypatch.setattr(inference, "score_apart", slow)
    apart = inference.Inference(running.world.store, SignerKeys(running.centre.signer))
    with running.world.store.read() as session:
        row = session.get_one(ModelRow, ("risk", 1))
    body = json.dumps({"inputs": _LISTS}).encode()
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(apart.predict, row, body, "application/json") for _ in range(12)]
        ended, waiting = wait(asked, timeout=60, return_when="FIRST_COMPLETED")
        try:
            while len(ended) < 6:
                more, waiting = wait(waiting, timeout=60, return_when="FIRST_COMPLETED")
                assert more, "they all wait"
                ended |= more
            for refused in ended:
                assert isinstance(refused.exception(), UnavailableError)
        finally:
            gate.set()
    assert [one.exception() for one in waiting] == [None] * 6
    assert len(apart.predict(row, body, "application/json")) == 3  # and then it is free again


def test_predictions_that_are_not_finite_are_null() -> None:
    scored = pd.DataFrame({"a": [np.nan, np.inf, 1.5], "b": np.array([1, 2, 3], np.int64), "c": ["x", None, "y"]})
    rows = inference._records(scored)
    assert rows[0] | {"c": "x"} == {"a": None, "b": 1, "c": "x"}
    assert [row["a"] for row in rows] == [None, None, 1.5]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_the_client_sends_the_models_columns_alone(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    invoke = corsia.Hub.invoke

    def spy(self: corsia.Hub, name: str, version: int | None, body: bytes, kind: str, alias: str = "") -> Any:
        sent.append(body)
        return invoke(self, name, version, body, kind, alias)

    monkeypatch.setattr(corsia.Hub, "invoke", spy)
    with corsia.connect(running.url, running.token) as hub:
        odd = ROWS.assign(when=pd.Timestamp("2020-01-01"), count=pd.array([1, 1, None], dtype="Int64"))
        made = hub.models["risk/1"].predict(odd)
        with pytest.raises(InputError):
            hub.models["risk"].predict(ROWS.iloc[:0])
    assert json.loads(sent[0])["dataframe_split"] == {"columns": ["age", "count"],
                                                      "data": [[40, 1], [80, 1], [None, None]]}  # fmt: skip
    assert math.isfinite(made["risk"].sum())


def test_the_command_line_scores_a_file(running: Running, tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    running.token_file.chmod(0o600)
    base = [sys.executable, "-m", "corsia", "model", "predict", "risk", "--url", running.url, "--token-file",
            str(running.token_file), "--json"]  # fmt: skip
    done = subprocess.run([*base, "--alias", "champion", "--input", "rows.csv", "--out", "scores.csv"], cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 3
    made = pd.read_csv(tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(made, expected(running).reset_index(drop=True).astype(float), check_dtype=False)
    (tmp_path / "odd.csv").write_text("age;count;other\n-9,0;1;a\n80,5;1;b\n")
    done = subprocess.run([*base, "--input", "odd.csv", "--out", "odd-scores.csv", "--missing", "-9"], cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "counted as missing: -9" in done.stderr
    with corsia.connect(running.url, running.token) as hub:
        meant = hub.models["risk@champion"].predict(pd.DataFrame({"age": [None, 80.5], "count": [1, 1]}))
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "odd-scores.csv"), meant.astype(float), check_dtype=False)
    for bad in (["--input", "rows.csv"], ["--study", "a", "--input", "rows.csv", "--out", "x"], []):
        assert subprocess.run([*base, *bad], cwd=tmp_path, capture_output=True).returncode == 11


def test_models_kept_ready_are_bounded_by_their_bytes(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = publish(running.world, _key(running), serial=11, alias="other")[1]
    publish(running.world, _key(running), serial=12, alias="other")
    with running.world.store.read() as session:
        one, two = (session.get_one(ModelRow, ("risk", version)) for version in (11, 12))
    body = json.dumps({"inputs": _LISTS}).encode()
    for bytes_, names in ((2 * len(weights), {one.manifest, two.manifest}), (len(weights), {two.manifest}), (1, set())):
        monkeypatch.setattr(inference, "KEPT_BYTES", bytes_)
        kept = inference.Inference(running.world.store, SignerKeys(running.centre.signer))
        scores = [kept.predict(row, body, "application/json") for row in (one, two)]
        assert set(kept._ready) == names
        assert scores[0] == scores[1], "what is not kept scores all the same"

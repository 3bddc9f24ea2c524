"""Images through the daemon with real workers: consent, rounds, several processes, inference on a DICOM folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w

from edge.config import EdgeConfig, load
from pipelines import learners
from pipelines.flower import (
    ARRAYS,
    CONFIG,
    Message,
    RecordDict,
    array_record,
    arrays_of,
    config_record,
    message_from_bytes,
    message_to_bytes,
    record_of,
)
from pipelines.replies import describe_reply
from pipelines.train import PREPROCESSING
from privacy.envelope import read_key
from protocol.assignment import Assignment, Blob, RoundPhase, State
from protocol.study import Study
from tests.agentkit import Office, enrolled, running
from tests.agentkit import study as any_study
from tests.imagekit import CNN, frame, write_folder
from tests.integration.test_agent_models import Shelf


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    """A hospital with twelve patients, of whom one has not consented."""
    write_folder(tmp_path / "data" / "dicom", "site-a")
    table = frame("site-a").assign(consent=["no"] + ["yes"] * 11)
    table.to_csv(tmp_path / "data" / "table.csv", index=False)
    return tmp_path


def site(folder: Path, **limits: Any) -> EdgeConfig:
    value = {
        "site": "site-a",
        "state_dir": "state",
        "limits": {"heartbeat_s": 0.2, "worker_timeout_s": 120.0, "device": "cpu", **limits},
        "datasets": {
            "lung": {
                "table": "data/table.csv",
                "dicom": "data/dicom",
                "columns": {"patient_id": "patient", "dense": "value"},
                "consent": {"column": "consent", "granted": ["yes"]},
                "policy": {
                    "lanes": ["train", "infer"], "pipelines": ["train", "infer"], "purposes": ["research"],
                    "min_k": 2, "min_cohort": 5, "allow_unbounded_epsilon": True, "approve": "auto",
                },
            }
        },
    }  # fmt: skip
    path = folder / "edge.toml"
    path.write_text(tomli_w.dumps(value))
    return load(path)


def training(**parameters: Any) -> Study:
    return any_study(
        "lung-cnn", lane="train", dataset={"name": "lung", "columns": ["dense"], "images": True},
        pipeline={"name": "train", "parameters": {**CNN, **parameters}}, output={},
        training={
            "learner": "cnn", "features": [], "outcome": ["dense"], "rounds": 1, "local_steps": 6,
            "learning_rate": 0.01, "publish": {"model": "dense-lesion"},
        },
    )  # fmt: skip


def asked(plan: Study, phase: str, arrays: dict[str, Any] | None = None, more: dict[str, Any] | None = None) -> bytes:
    """An instruction as the federation makes it."""
    from central.federation.flower import identify

    identify(1)
    made = learners.for_study(plan)
    if arrays is None:
        record = RecordDict({CONFIG: config_record(0, made.preparation(), attempt=0)})
        return message_to_bytes(Message(record, 1, "query.prepare", group_id="0"), run_id=1, message_id="p")
    declared = made.update(arrays) if phase == "train" else made.scoring()
    record = RecordDict({
        ARRAYS: array_record(arrays), PREPROCESSING: array_record(more or {}),
        CONFIG: config_record(1, declared, attempt=0),
    })  # fmt: skip
    return message_to_bytes(Message(record, 1, phase, group_id="1"), run_id=1, message_id=phase)


def answer(config: EdgeConfig, office: Office, of: Assignment, message: bytes, **instruction: Any) -> dict[str, Any]:
    said = office.instruct(of, message, **instruction)
    report = office.wait(said, timeout_s=120)
    assert report.state is State.DONE, report
    (batch,) = office.opened(said, read_key(config.state_dir / "identity.key"))
    raw = batch.items[0].data
    assert describe_reply(raw, message).metrics["num-examples"] == 11
    return arrays_of(record_of(message_from_bytes(raw), ARRAYS))


def rounds(config: EdgeConfig, office: Office, plan: Study) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Preparation and one round; gives preprocessing, model and scores."""
    made = learners.for_study(plan)
    with running(config, office):
        of = office.submit(plan)
        report = office.wait(of, timeout_s=120)
        assert (report.state, report.code) == (State.DONE, "")
        assert report.counts["withheld_consent"] >= 9  # the files of one patient, and the row
        sums = answer(config, office, of, asked(plan, "prepare"))
        preprocessing = made.agree(sums)
        model = made.initial(sums, preprocessing)
        trained = answer(
            config, office, of, asked(plan, "train", model, preprocessing), round=1, phase=RoundPhase.TRAIN
        )
        scores = answer(
            config, office, of, asked(plan, "evaluate", trained, preprocessing), round=1, phase=RoundPhase.EVALUATE
        )
    return preprocessing, trained, scores


def published(office: Office, preprocessing: dict[str, Any], model: dict[str, Any]) -> tuple[Blob, ...]:
    from safetensors.numpy import save

    arrays = {f"model/{k}": v for k, v in model.items()} | {f"preprocessing/{k}": v for k, v in preprocessing.items()}
    shelf = Shelf(office, save(arrays))
    learner = {"name": "cnn", "version": "1", "settings": CNN}
    return shelf.blobs(shelf.document(1, name="dense-lesion", features=[], learner=learner))


def test_images_train_at_the_site_and_the_model_scores_its_folder(folder: Path) -> None:
    config = site(folder)
    office = enrolled(config)
    preprocessing, model, scores = rounds(config, office, training())
    assert scores["rows"].tolist() == [11.0]
    blobs = published(office, preprocessing, model)
    score = any_study(
        "score-dicom", lane="infer", dataset={"name": "lung", "images": True}, pipeline={"name": "infer"}, output={},
        model={"name": "dense-lesion"},
    )  # fmt: skip
    with running(config, office):
        said = office.wait(office.submit(score, blobs=blobs), timeout_s=120)
        assert (said.state, said.code) == (State.DONE, "")
        assert said.counts["rows"] == 11
    result = config.state_dir / "results" / "score-dicom.parquet"
    table = pd.read_parquet(result)
    assert list(table.columns) == ["row", "pseudonym", "series", "probability"]
    assert table["probability"].between(0, 1).all()
    assert table["series"].str.startswith("2.25.").all()
    for written in (result, *config.state_dir.glob("*.jsonl")):
        raw = written.read_bytes().lower()
        assert b"site-a-0" not in raw
        assert b"bardellini" not in raw
    assert list((config.state_dir / "work").glob("*")) == []


@pytest.mark.full  # its twin that always runs: tests/unit/test_engine.py
def test_two_processes_of_one_worker_share_the_batches(folder: Path) -> None:
    """Inside the namespace without network; up to rounding the model of one process, and the same bytes again."""
    import numpy as np

    models = []
    for name, processes in (("one", 1), ("two", 2), ("again", 2)):
        config = site(folder, training_processes=processes)
        config = config.model_copy(update={"state_dir": folder / name})
        office = enrolled(config)
        models.append(rounds(config, office, training(augment={}))[1])
    for key, value in models[0].items():
        assert np.allclose(models[1][key], value, atol=1e-4)
        assert np.array_equal(models[1][key], models[2][key])


def test_a_device_that_is_not_there_ends_the_study_with_its_code(folder: Path) -> None:
    config = site(folder, device="cuda:9")
    office = enrolled(config)
    with running(config, office):
        said = office.wait(office.submit(training()), timeout_s=120)
    assert (said.state, said.code) == (State.FAILED, "worker.device")

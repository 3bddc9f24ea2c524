"""The daemon with a hospital's servers: a study waits for the first pull, and gets what came and consents."""

from __future__ import annotations

import sqlite3
import tomllib
from io import BytesIO
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pydicom
import tomli_w

from corsia.synthetic import ct_series
from edge.config import EdgeConfig, load
from edge.identity import Identity
from protocol.assignment import State
from protocol.parcel import ItemKind
from tests.agentkit import enrolled, running, site_config, study
from tests.sourcekit import LOGIN, PASSWORD, Orthanc, private


def hospital(folder: Path, pacs: Orthanc) -> EdgeConfig:
    """The usual hospital, its table in a database and its images in a PACS."""
    site_config(folder)
    path = folder / "edge.toml"
    value = tomllib.loads(path.read_text())
    dataset = value["datasets"]["cohort"]
    frame = pd.read_csv(folder / "data" / "table.csv")
    with sqlite3.connect(folder / "cohort.sqlite") as database:
        frame.to_sql("cohort", database, index=False)
    database.close()
    private(folder / "url", f"sqlite:///{folder / 'cohort.sqlite'}")
    private(folder / "auth", LOGIN)
    del dataset["table"]
    dataset["sql"] = {"url_file": "url", "relation": "cohort"}
    dataset["dicomweb"] = {"url": pacs.url, "auth_file": "auth", "every_s": 0.5, "patience_s": 1}
    path.write_text(tomli_w.dumps(value))
    return load(path)


def test_a_study_gets_what_was_pulled_and_consents(tmp_path: Path) -> None:
    pacs = Orthanc(tmp_path / "pacs")
    persons = [f"MRN{n:07d}" for n in range(8)]  # the last one does not consent
    pacs.start()
    for at, name in enumerate(persons):
        for data in ct_series({"PatientID": name, "PatientName": "PLANTED^NAME"}, seed=at, size=8, slices=1):
            pacs.put(data)
    pacs.stop()
    config = hospital(tmp_path / "site", pacs)
    office = enrolled(config)
    asked = study(dataset={"name": "cohort", "columns": ["age", "score"], "images": True},
                  output={"columns": [{"name": "age", "dtype": "int"}], "files": True})  # fmt: skip
    with running(config, office):
        sent = office.submit(asked)
        office.wait(sent, State.RUNNING, timeout_s=120)  # nothing can be pulled: it is tried again
        pacs.start()
        done = office.wait(sent, timeout_s=240)
    pacs.stop()
    assert done.state is State.DONE, done
    items = [item for batch in office.opened(sent, Identity.load(config.state_dir).key) for item in batch.items]
    images = [pydicom.dcmread(BytesIO(item.data)) for item in items if item.kind is ItemKind.DICOM]
    assert sorted(str(one.PatientID) for one in images) == persons[:7]
    rows = sum(pq.read_table(BytesIO(item.data)).num_rows for item in items if item.kind is ItemKind.TABLE)
    assert rows == 21
    log = (config.state_dir / "log.jsonl").read_text() if (config.state_dir / "log.jsonl").exists() else ""
    assert PASSWORD not in log + (config.state_dir / "journal.jsonl").read_text()

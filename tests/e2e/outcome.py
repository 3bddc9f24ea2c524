"""What must be equal between a disturbed and an undisturbed run (TRUST rules, "the same outcome")."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from central.vault import Lake


def outcome(out: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal: curated rows and files, withheld counts, ledger totals, rounds, the model's bits."""
    lake = Lake.of(out / "centre" / "state" / "vault")
    studies = sorted(study for study in lake.root.iterdir() if study.is_dir())
    lanes = json.loads(json.dumps(summary["lanes"]))
    lanes["harvest"].pop("bytes")  # sealed parcels' Parquet holds no time, but ids differ in length
    return {
        "lanes": lanes,
        "inference": summary["inference"],
        "verified": summary["log"]["verified"],
        "rows": {study.name: _rows(lake, study) for study in studies},
        "files": {study.name: _pixels(lake, study) for study in studies},
        "model": _model(out),
        "ledger": {site.name: _ledger(site / "state" / "ledger.db") for site in sorted((out / "sites").iterdir())},
    }


def _rows(lake: Lake, study: Path) -> list[str]:
    """Every curated row without its pseudonym (each run has its own keys), sorted."""
    rows: list[str] = []
    for path in study.glob("*/*.parquet"):
        frame = lake.table(str(path.relative_to(lake.root))).to_pandas()
        frame = frame.drop(columns=["pseudonym", "visit_date", "note"], errors="ignore")
        rows += frame[sorted(frame.columns)].to_csv(index=False, header=False).splitlines()
    return sorted(rows)


def _pixels(lake: Lake, study: Path) -> Counter[str]:
    from pydicom import dcmread

    found: Counter[str] = Counter()
    for path in study.glob("*/*.dcm.sealed"):
        dataset = dcmread(BytesIO(lake.read(str(path.relative_to(lake.root)).removesuffix(".sealed"))))
        found[hashlib.sha256(dataset.get("PixelData", b"")).hexdigest()] += 1
    return found


def _model(out: Path) -> dict[str, str]:
    with sqlite3.connect(out / "centre" / "state" / "corsia.db") as db:
        digests = [row[0] for row in db.execute("SELECT weights FROM models ORDER BY version")]
    assert len(digests) == 1, "one run publishes one version"
    from safetensors.numpy import load as load_tensors

    tensors = load_tensors((out / "centre" / "state" / "blobs" / digests[0]).read_bytes())
    return {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in sorted(tensors.items())}


def _ledger(path: Path) -> dict[str, int]:
    from edge.ledger import Ledger

    Ledger(path).verify()
    with sqlite3.connect(path) as db:
        rows = list(db.execute("SELECT study, COUNT(*) FROM ledger GROUP BY study"))
    return {"studies": len(rows), "spends": sum(count for _, count in rows)}

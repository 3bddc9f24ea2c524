"""An edge that only harvests and anonymizes needs neither torch nor mlflow, nor anything else of other seats."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_FOREIGN = ("torch", "mlflow", "flwr", "ray", "sqlalchemy", "fastapi", "uvicorn", "duckdb", "radiomics", "SimpleITK",
            "lifelines", "safetensors", "skimage")  # fmt: skip
_CODE = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {_FOREIGN!r}:
            raise ImportError("not installed at this seat: " + name)
sys.meta_path.insert(0, Blocked())
import edge.agent, edge.preview, edge.confined, corsia.cli.edge, corsia.cli.init, corsia.cli.parcel, corsia.cli.deid
import pandas as pd
from datetime import datetime, timezone
from pipelines import Job, registry
from protocol.study import Study
class Source:
    def table(self):
        names = [f"MRN{{i}}" for i in range(20)]
        return pd.DataFrame({{"patient_id": names, "note": ["Visita del 3/4/2024"] * 20, "age": [61] * 20}})
    def files(self):
        return iter(())
class Gate:
    def __init__(self): self.items = []
    def put(self, item): self.items.append(item)
    def withhold(self, reason, count=1): pass
    def progress(self, done, total): pass
for lane, columns in (
    ("harvest", [dict(name="age", dtype="int")]),
    ("anonymize", [dict(name=n, dtype="string") for n in ("pseudonym", "note", "age")]),
):
    study = Study.model_validate(dict(schema=1, id="s", title="t", lane=lane, purpose="r", legal_basis="consent",
        controller="c", ethics_reference="e", expires=datetime(2100, 1, 1, tzinfo=timezone.utc), sites=["a"],
        dataset=dict(name="d", columns=["patient_id", "note", "age"]), pipeline=dict(name=lane),
        output=dict(columns=columns), privacy=dict(k=2)))
    gate = Gate()
    roles = {{"patient_id": "patient", "note": "text", "age": "quasi"}}
    registry.load(lane)(Job(study=study, site="a", key=b"k" * 32, roles=roles), Source(), gate)
    assert gate.items, lane
print("ok")
"""


@pytest.mark.slow
def test_the_edge_runs_lanes_1_and_2_without_the_other_seats_packages() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CODE], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip().endswith("ok"), done.stderr[-3000:]


def test_the_edge_extra_names_no_foreign_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) >= {"edge", "central", "train", "imaging", "simulate", "dev", "all"}
    named = " ".join(extras["edge"]).lower()
    assert not any(package.lower() in named for package in _FOREIGN)

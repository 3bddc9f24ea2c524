"""`corsia demo`: one study a lane over real hospitals' rows and images, every process and every socket real.

    hospitals (corsia.cohort) -> fleet (corsia.fleet) -> five studies -> what arrived -> what leaked -> summary

The comparison of models is made here, by the harness that wrote the sources: no site's rows cross the wall for it.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from corsia.cohort import COLUMNS, CONSENT, Hospital, build_hospital
from corsia.fleet import Fleet
from corsia.genomes import TRAIT
from corsia.leaks import find_leaks, written_left
from corsia.lung import FEATURES, hospitals
from corsia.opened import opened
from protocol.errors import ConflictError, WorkerError

__all__ = ["DemoResult", "run_demo", "studies"]

_NETWORKS = ("oncology", "cardiology", "neuroscience", "paediatric", "oncology")
_CLINICAL = [*FEATURES, "time", "status"]
_SPLIT_SEED = 1
_PATIENCE_S = 600.0  # without any news: a busy machine is slow, a broken one is silent
Tell = Callable[[str], None]


@dataclass
class DemoResult:
    """The line that `--json` prints, and where things are."""

    summary: dict[str, Any]
    out: Path
    url: str
    token_file: Path
    mlflow: str


def studies(training: list[str], joining: str, *, rounds: int = 5) -> dict[str, dict[str, Any]]:
    """The demo's five studies as plain dictionaries (the TOML's content), by id."""
    common: dict[str, Any] = {
        "schema": 1,
        "purpose": "research",
        "legal_basis": "scientific-research",
        "controller": "Corsia demo consortium",
        "ethics_reference": "none: invented identities over public data",
        "expires": datetime.now(UTC).replace(microsecond=0) + timedelta(days=30),
        "sites": training,
    }
    columns = [{"name": c, "dtype": "float"} for c in _CLINICAL]
    trained = {"name": "lung", "columns": _CLINICAL}
    only_training_rows = [{"column": "split", "op": "==", "value": "train"}]
    return {
        "lung-harvest": common
        | {
            "id": "lung-harvest",
            "title": "Lung cancer: raw clinical rows of consenting patients",
            "lane": "harvest",
            "dataset": {"name": "lung", "columns": ["patient_id", "split", *_CLINICAL]},
            "pipeline": {"name": "harvest"},
            "output": {
                "columns": [{"name": "patient_id", "dtype": "string"}, {"name": "split", "dtype": "string"}, *columns]
            },
        },
        "lung-anonymize": common
        | {
            "id": "lung-anonymize",
            "title": "Lung cancer: de-identified images, rows, notes and FHIR records",
            "lane": "anonymize",
            "dataset": {
                "name": "lung",
                "columns": [c for c in COLUMNS if c not in ("split", "event", TRAIT)],
                "images": True,
                "fhir": True,
            },
            "pipeline": {"name": "anonymize", "parameters": _anonymize()},
            "output": {
                "files": True,
                "documents": True,
                "columns": [
                    *(
                        {"name": n, "dtype": "string"}
                        for n in ("pseudonym", "note", "sex", "age", "cap", "visit_date", "birth_date")
                    ),
                    *({"name": c, "dtype": "float"} for c in _CLINICAL if c not in ("age", "sex")),
                ],
            },
            "privacy": {"k": 3, "l": 2, "t": 0.6, "sensitive": ["status"]},
        },
        "lung-features": common
        | {
            "id": "lung-features",
            "title": "Lung cancer: CT radiomics and clinical features",
            "lane": "extract",
            "dataset": {"name": "lung", "columns": ["patient_id", *_CLINICAL], "images": True},
            "pipeline": {"name": "extract", "parameters": {"roi": "GTV", "bin_width": 25, "join": "inner"}},
            "output": {
                "columns": [
                    {"name": "pseudonym", "dtype": "string"},
                    *({"name": c, "dtype": "float"} for c in _CLINICAL),
                    {"name": "original_*", "dtype": "float"},
                ]
            },
            "privacy": {"k": 3, "min_cohort": 8},
        },
        "lung-survival": common
        | {
            "id": "lung-survival",
            "title": "Lung cancer: survival model, federated",
            "lane": "train",
            "dataset": trained | {"where": only_training_rows},
            "pipeline": {"name": "train"},
            "training": {
                "learner": "survival",
                "features": list(FEATURES),
                "outcome": ["time", "status"],
                "rounds": rounds,
                "strategy": "fedavg",
                "publish": {"model": "lung-survival"},
            },
        },
        "lung-inference": common
        | {
            "id": "lung-inference",
            "title": "Lung cancer: risk at a hospital that took no part in training",
            "lane": "infer",
            "sites": [joining],
            "dataset": {"name": "lung", "columns": ["patient_id", *FEATURES]},
            "pipeline": {"name": "infer"},
            "model": {"name": "lung-survival", "alias": "champion"},
        },
    }


def _anonymize() -> dict[str, Any]:
    """Parameters of lane 2: dates moved, writing in pixels blanked, levels of all quasi-identifiers searched."""
    from privacy.deid.pixeltext import available

    options = ["retain-longitudinal-modified-dates", "clean-descriptors"]
    return {
        # Without the detector (no wheel for this Python) pictures are judged by class and mark alone.
        "options": [*options, "clean-pixel-data"] if available() else options,
        "hierarchies": {
            "age": {"kind": "age"},
            "birth_date": {"kind": "birth"},
            "cap": {"kind": "postal"},
            "sex": {"kind": "suppress"},
        },
        "suppression_limit": 0.1,
        "text_language": "it",
    }


def edge_config() -> dict[str, Any]:
    """What each demo hospital's edge.toml says of its dataset."""
    lanes = ["harvest", "anonymize", "extract", "train", "infer"]
    return {
        "limits": {"heartbeat_s": 2.0},
        "datasets": {
            "lung": {
                "advertise": ["counts", "schema"],
                "table": "data/table.csv",
                "dicom": "data/dicom",
                "fhir": "data/fhir",
                "genotypes": "data/genotypes",
                "columns": COLUMNS,
                "consent": CONSENT,
                "policy": {
                    "lanes": lanes,
                    "pipelines": [*lanes, "aggregate"],
                    "purposes": ["research"],
                    "release_columns": ["patient_id", *_CLINICAL, "split"],
                    "min_k": 3,
                    "min_l": 2,
                    "max_t": 0.8,
                    "sensitive": ["status"],
                    "min_cohort": 8,
                    "feature_k": 1,  # published rows: exact ages may leave in lane 3
                    "traps": {"queries": 50.0},  # notebooks are run again and again over one demo
                    "max_bytes": 200_000_000,
                    "allow_unbounded_epsilon": True,
                    "approve": "auto",
                },
            }
        },
    }


def run_demo(
    out: Path, *, sites: int = 3, tell: Tell = lambda _line: None, rounds: int = 5,
    faults: dict[str, str] | None = None, keep: Callable[[DemoResult], None] | None = None,
) -> DemoResult:  # fmt: skip
    """Run the four lanes and inference end to end.

    Args:
        out: a new or empty folder, or one an earlier demo wrote (which is replaced).
        sites: training hospitals, 2 to 4; one more joins for inference alone.
        tell: called with a line of progress.
        rounds: federated rounds.
        faults: see `Fleet.faults`.
        keep: called with the result while everything still runs.

    Raises:
        InputError: `input.usage` for a number of sites that the data cannot carry.
        ConflictError: `conflict.exists` when `out` holds something else.
        WorkerError: a study failed.
    """
    started = time.monotonic()
    rows = hospitals(sites, split_seed=_SPLIT_SEED)
    _prepare(out)
    *training, joining = rows
    with Fleet(out, faults=faults or {}) as fleet:
        tell("starting MLflow and the centre")
        fleet.start_mlflow()
        fleet.start_centre({name: _NETWORKS[i] for i, name in enumerate(rows)})
        tell(f"writing {len(rows)} hospitals with invented identities")
        built = [build_hospital(name, frame, out / "sites" / name / "data") for name, frame in rows.items()]
        for hospital in built:
            fleet.enrol_site(hospital.name, edge_config())
            fleet.start_site(hospital.name)
            tell(f"{hospital.name} enrolled: {hospital.rows} rows, {hospital.files} DICOM files")
        plans = studies(training, joining, rounds=rounds)
        first = [study_id for study_id in plans if study_id != "lung-inference"]
        for study_id in first:
            _submit(fleet, plans[study_id], tell)
        _wait_for(fleet, first, tell)
        fleet.promote("lung-survival")
        tell("lung-survival promoted to champion by two operators")
        _submit(fleet, plans["lung-inference"], tell)
        _wait_for(fleet, ["lung-inference"], tell)
        scored = fleet.post("/models/lung-survival/predict", {"study": "lung-harvest"})
        tell("looking for planted identities in all that the centre holds")
        summary = _summarise(fleet, built, rows, scored, joining)
        summary["seconds"] = round(time.monotonic() - started, 1)
        result = DemoResult(summary, fleet.out, fleet.url, fleet.token_file, fleet.mlflow_uri)
        if keep is not None:
            keep(result)
    return result


def _prepare(out: Path) -> None:
    marker = out / ".corsia-demo"
    if out.exists() and any(out.iterdir()):
        if not marker.exists():
            raise ConflictError("conflict.exists", f"{out} is not empty and not a demo's folder")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def _submit(fleet: Fleet, plan: dict[str, Any], tell: Tell) -> None:
    import tomli_w

    fleet.submit(plan["id"], tomli_w.dumps(plan).encode())
    tell(f"submitted {plan['id']} ({plan['lane']})")


def _wait_for(fleet: Fleet, ids: list[str], tell: Tell) -> None:
    """Until every study is done; a failed one ends the demo with its codes."""
    until = time.monotonic() + _PATIENCE_S
    seen: set[str] = set()
    while True:
        states = {}
        for study_id in ids:
            with suppress(OSError):  # the web process may be starting again
                states[study_id] = fleet.api(f"/studies/{study_id}")
        for line in _news(states):
            if line not in seen:
                seen.add(line)
                tell(line)
                until = time.monotonic() + _PATIENCE_S
        failed = [s for s, v in states.items() if v["state"] == "failed"]
        if failed or time.monotonic() > until:
            late = [s for s in ids if s not in states or states[s]["state"] != "done"]
            raise WorkerError(
                "worker.failed", f"studies not finished: {', '.join(failed or late)}; see {fleet.out / 'logs'}"
            )
        if len(states) == len(ids) and all(v["state"] == "done" for v in states.values()):
            return
        time.sleep(0.3)


def _news(states: dict[str, Any]) -> list[str]:
    lines = []
    for study_id, value in states.items():
        lines += [
            f"{study_id}: {a['site']} {a['state']}" + (f" [{a['code']}]" if a["code"] else "")
            for a in value["assignments"]
            if a["kind"] == "study" and a["state"] in ("running", "done", "refused", "failed")
        ]
        lines += [
            f"{study_id}: round {r['round']} "
            + " ".join(f"{k} {v:.3f}" for k, v in r["metrics"].items() if isinstance(v, float))
            for r in value.get("rounds", [])
            if r["round"] > 0 and r["metrics"]
        ]
        if value["state"] == "done":
            lines.append(f"{study_id}: done")
    return lines


def _summarise(
    fleet: Fleet, built: list[Hospital], rows: dict[str, Any], scored: dict[str, Any], joining: str
) -> dict[str, Any]:
    from corsia.lung import compare

    details = {s["id"]: fleet.api(f"/studies/{s['id']}") for s in fleet.api("/studies")}
    planted = [value for hospital in built for value in hospital.planted]
    x0, y0, x1, y1 = zip(*(hospital.written for hospital in built), strict=True)
    shared = (max(x0), max(y0), min(x1), min(y1))  # in every hospital's picture letters stand here
    vault = fleet.out / "centre" / "state" / "vault"
    with TemporaryDirectory(dir=fleet.out) as plain:  # the lake itself is ciphertext
        held = [opened(vault, study, Path(plain)) for study in ("lung-anonymize", "lung-features")]
        held += [fleet.out / "mlflow", fleet.out / "centre" / "state" / "blobs"]
        leaks = find_leaks([path for path in held if path.exists()], planted)
        pictures = [read for path in held[0].glob("*/*.dcm") if (read := written_left(path, shared))]
    model = fleet.api("/models/lung-survival")
    weights = fleet.out / "centre" / "state" / "blobs" / model["manifest"]["weights"]["sha256"]
    consented = {hospital.name: rows[hospital.name][list(hospital.consented)] for hospital in built}
    scores = compare(consented, weights.read_bytes())
    trained = details["lung-survival"]
    checked = fleet.post("/log/verify", {})
    return {
        "sites": len(rows) - 1,
        "lanes": {
            "harvest": _lane(details, "lung-harvest", "records", "withheld", "parcels", "bytes"),
            "anonymize": _lane(details, "lung-anonymize", "files", "records")
            | {
                "identifiers_planted": len(set(planted)),
                "identifiers_left": len({leak.value for leak in leaks}) + pictures.count("left"),
                "k": _achieved_k(details["lung-anonymize"]),
                "documents": _documents(details["lung-anonymize"]),
                "pictures_cleaned": pictures.count("blank"),
                "quarantined": _quarantined(details["lung-anonymize"]),
            },
            "extract": _lane(details, "lung-features", "rows", "columns"),
            "train": {
                "rounds": max((r["round"] for r in trained["rounds"]), default=0),
                "metric": "c-index",
                **scores,
                "model": f"models:/lung-survival/{model['manifest']['version']}",
            },
        },
        "inference": {
            "centre": {"rows": scored["rows"]},
            "edge": {"site": joining, "rows": _count(details["lung-inference"], "rows")},
        },
        "log": {"verified": bool(checked["verified"]), "entries": checked["entries"]},
    }


def _lane(details: dict[str, Any], study_id: str, *keys: str) -> dict[str, int]:
    totals = details[study_id]["totals"] if study_id in details else {}
    return {key: int(totals.get(key, 0)) for key in keys}


def _count(detail: dict[str, Any], key: str) -> int:
    return sum(int(a["counts"].get(key, 0)) for a in detail["assignments"])


def _documents(detail: dict[str, Any]) -> int:
    return sum(int(report.get("curated_documents", 0)) for report in detail["reports"])


def _quarantined(detail: dict[str, Any]) -> dict[str, int]:
    """What lane 2 kept back at the hospitals, by reason."""
    found: Counter[str] = Counter()
    for report in detail["reports"]:
        found.update(report.get("certificate", {}).get("quarantine", {}))
    return dict(sorted(found.items()))


def _achieved_k(detail: dict[str, Any]) -> int:
    return min((int(r["table"]["k"]["achieved"]) for r in detail["reports"] if "table" in r), default=0)

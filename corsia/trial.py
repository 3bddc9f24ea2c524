"""`corsia study try`: a training study for real on this machine, with one CSV a site, before any hospital sees it.

    CSVs -> centre, MLflow, one agent a file (corsia.fleet) -> submit -> approve at each site -> rounds -> model

The files are read where they lie and stay there. What the harness adds for comparison (each site's own model) is made
in this process and crosses no wall.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corsia.drafts.file import CsvFile, read_file
from corsia.drafts.site import dataset_config
from corsia.fleet import Fleet
from protocol.errors import ConflictError, CorsiaError, InputError, UnavailableError, from_code
from protocol.study import Lane, Study, dump_study, parse_study

__all__ = ["Trial", "read_study", "run_trial"]

_MARKER = ".corsia-trial"
_WRITTEN = ("centre", "mlflow", "sites", "logs", "studies", "model")
_FINAL = ("refused", "failed", "expired")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What `--json` prints, and where things are while it runs.

    Attributes:
        summary: study, sites, rounds, metrics, history, local, model, card, log, seconds.
    """

    summary: Mapping[str, Any]
    out: Path
    url: str
    token_file: Path
    mlflow: str
    name: str


def read_study(path: Path, sites: Mapping[str, Path], tell: Tell) -> tuple[Study, bytes]:
    """The study with these sites, and its bytes: those of the file when its sites are the same.

    Raises:
        InputError: `input.study`, `input.usage` for a study of another lane.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError("input.study", f"{path}: {error.strerror}") from None
    study = parse_study(raw)
    if study.lane is not Lane.TRAIN:
        raise InputError(
            "input.usage", f"{path.name} is a study of lane {study.lane.value!r}; a trial is for lane train"
        )
    if set(sites) == set(study.sites):
        return study, raw
    tell(f"the study names other sites: tried with {', '.join(sites)} (in the file: {', '.join(study.sites)})")
    changed = study.model_copy(update={"sites": tuple(sites)})
    return changed, dump_study(changed)


def run_trial(
    study: Study, document: bytes, sites: Mapping[str, Path], out: Path, *, tell: Tell, missing: tuple[str, ...] = (),
    timeout_s: float = 3600.0, keep: Callable[[Trial], None] | None = None,
) -> Trial:  # fmt: skip
    """Train, publish and measure.

    Args:
        out: a new or empty folder, or one that an earlier trial wrote (what that wrote is replaced).
        missing: words that mean missing, besides those that are known.
        keep: called with the result while everything still runs.

    Raises:
        InputError: for a file or study that cannot be used, before anything is started.
        ConflictError: `conflict.exists` when `out` holds something else.
        CorsiaError: the code by which a site or the run failed.
    """
    from pipelines.train import check_supported

    started = time.monotonic()
    check_supported(study)
    files = {site: _checked(study, path, missing) for site, path in sites.items()}
    _prepare(out)
    with Fleet(out) as fleet:
        tell("starting MLflow and the centre")
        fleet.start_mlflow()
        fleet.start_centre(dict.fromkeys(sites, "trial"))
        for site, file in files.items():
            fleet.enrol_site(site, {"limits": {"heartbeat_s": 2.0}, "datasets": _dataset(study, file)})
            fleet.start_site(site)
            tell(f"{site} enrolled: {file.rows} rows of {file.path.name}")
        fleet.submit(study.id, document)
        tell(f"submitted {study.id}; {_protection(study)}")
        _approve(fleet, study, tell, timeout_s)
        detail = _follow(fleet, study, tell, timeout_s)
        tell("training each site's own model for comparison")
        summary = _summary(fleet, study, detail, files)
        summary["seconds"] = round(time.monotonic() - started, 1)
        result = Trial(
            summary=summary, out=fleet.out, url=fleet.url, token_file=fleet.token_file, mlflow=fleet.mlflow_uri,
            name=_published(study),
        )  # fmt: skip
        if keep is not None:
            keep(result)
    return result


def _published(study: Study) -> str:
    if study.training is None:
        raise InputError("input.study", "training: the study has no such table")
    return study.training.publish.model


def _asked(study: Study) -> list[str]:
    t = study.training
    trained = [*t.features, *t.outcome] if t else []
    return list(dict.fromkeys([*study.dataset.columns, *trained, *(c.column for c in study.dataset.where)]))


def _checked(study: Study, path: Path, missing: tuple[str, ...]) -> CsvFile:
    declared = study.pipeline.parameters.get("categorical")
    file = read_file(path, missing=missing, categorical=list(declared) if isinstance(declared, Mapping) else ())
    file.require(_asked(study))
    return file


def _dataset(study: Study, file: CsvFile) -> dict[str, Any]:
    """The site's configuration: as drafted, and with policies that ask for no more than the study promises."""
    config = dataset_config(file, _asked(study), table=str(file.path.resolve()))
    p = study.privacy
    config["policy"] |= {"min_k": p.k, "min_cohort": p.min_cohort, "purposes": [study.purpose]}
    if p.epsilon is not None and p.delta is not None:
        config["policy"] |= {"epsilon_per_study": p.epsilon, "epsilon_per_year": max(p.epsilon, 5.0), "delta": p.delta}
    return {study.dataset.name: config}


def _protection(study: Study) -> str:
    if study.privacy.secure_aggregation:
        return "updates are masked: the centre learns sums over sites"
    return "updates are sealed, not masked: the centre sees each site's update"


def _prepare(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / _MARKER).exists():
            raise ConflictError("conflict.exists", f"{out} is not empty and not a trial's folder")
        for name in _WRITTEN:  # and nothing that somebody put beside it
            if (out / name).exists():
                shutil.rmtree(out / name)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).touch()


def _approve(fleet: Fleet, study: Study, tell: Tell, timeout_s: float) -> None:
    """What a steward does at each hospital: wait for the study, then `corsia edge approve`."""
    left = set(study.sites)
    until = time.monotonic() + timeout_s
    while left:
        detail = _detail(fleet, study.id)
        _raise_failed(detail)
        for site, state in _states(detail).items():
            if site in left and state == "pending":
                fleet.corsia("edge", "approve", study.id, "--config", str(fleet.out / "sites" / site / "edge.toml"))
                tell(f"{site} approved")
                left.discard(site)
        _in_time(until, "the study did not reach every site")
        time.sleep(0.2)


def _follow(fleet: Fleet, study: Study, tell: Tell, timeout_s: float) -> dict[str, Any]:
    until, told = time.monotonic() + timeout_s, 0
    while True:
        detail = _detail(fleet, study.id)
        for done in [r for r in detail.get("rounds", []) if r["round"] > 0 and r["metrics"]][told:]:
            told += 1
            shown = " ".join(f"{k} {v:.4g}" for k, v in done["metrics"].items() if isinstance(v, float))
            tell(f"round {done['round']} of {detail['run']['of']}: {shown}")
        if detail.get("state") == "done":
            return detail
        _raise_failed(detail)
        _in_time(until, f"the run is not finished after {timeout_s:g} s")
        time.sleep(0.2)


def _detail(fleet: Fleet, study_id: str) -> dict[str, Any]:
    with suppress(OSError):  # the web process may be starting again
        found: dict[str, Any] = fleet.api(f"/studies/{study_id}")
        return found
    return {}


def _states(detail: Mapping[str, Any]) -> dict[str, str]:
    return {a["site"]: a["state"] for a in detail.get("assignments", []) if a["kind"] == "study"}


def _raise_failed(detail: Mapping[str, Any]) -> None:
    """The first code by which a site refused or the run failed, as an error."""
    if detail.get("state") != "failed":
        lost = [a for a in detail.get("assignments", []) if a["kind"] == "study" and a["state"] in _FINAL]
        if len(lost) < len(_states(detail)) or not lost:
            return
    run = detail.get("run") or {}
    named = [(a["site"], a["code"]) for a in detail["assignments"] if a["code"]]
    where = "; ".join(f"{site}: {code}" for site, code in dict(named).items())
    code = str(named[0][1] if named else run.get("code") or "worker.failed")  # the cause before its consequence
    error = from_code(code)
    raise type(error)(error.code, f"the study failed: {error.message}" + (f" ({where})" if where else ""))


def _in_time(until: float, what: str) -> None:
    if time.monotonic() > until:
        raise UnavailableError("unavailable.process", what)


def _summary(fleet: Fleet, study: Study, detail: Mapping[str, Any], files: Mapping[str, CsvFile]) -> dict[str, Any]:
    name = _published(study)
    manifest = fleet.api(f"/models/{name}")["manifest"]
    rounds = [r for r in detail["rounds"] if r["round"] > 0]
    checked = fleet.post("/log/verify", {})
    return {
        "study": study.id,
        "sites": list(study.sites),
        "rounds": len(rounds),
        "metrics": dict(manifest["metrics"]),
        "history": [{"round": r["round"], **r["metrics"]} for r in rounds],
        "masked": study.privacy.secure_aggregation,
        "local": own_models(study, files),
        "model": f"models:/{name}/{manifest['version']}",
        "card": str(_card(fleet, name)),
        "log": {"verified": bool(checked["verified"]), "entries": checked["entries"]},
    }


def _card(fleet: Fleet, name: str) -> Path:
    """A copy of the model card beside the trial's other files."""
    found = sorted((fleet.out / "mlflow").rglob("MODEL_CARD.md"), key=lambda path: path.stat().st_mtime)
    target = fleet.out / "model"
    target.mkdir(exist_ok=True)
    if found:
        shutil.copyfile(found[-1], target / "MODEL_CARD.md")
    return target / "MODEL_CARD.md"


def own_models(study: Study, files: Mapping[str, CsvFile]) -> dict[str, Any]:
    """Each site's model of its own rows alone, measured on the rows of all sites; or the code why there is none."""
    import numpy as np

    from central.federation.local import train_locally
    from edge.config import DatasetConfig
    from edge.sources import DatasetSource
    from pipelines.train import load

    open_ = {"secure_aggregation": False, "dp": "none", "epsilon": None, "delta": None}
    plain = study.model_copy(update={"privacy": study.privacy.model_copy(update=open_)})
    data = {}
    for site, file in files.items():
        with suppress(CorsiaError):
            config = DatasetConfig.model_validate(_dataset(study, file)[study.dataset.name])
            data[site] = load(plain, site, DatasetSource(config, plain).table())
    made: dict[str, Any] = {}
    for site, one in data.items():
        try:
            reached = train_locally(plain.model_copy(update={"sites": (site,)}), {site: one})
        except CorsiaError as error:
            made[site] = {"code": error.code}
            continue
        scores = [d.learner.score(reached.model, reached.preprocessing, d.rows) for d in data.values()]
        total = {key: np.sum([score[key] for score in scores], axis=0) for key in scores[0]}
        made[site] = {k: round(v, 6) for k, v in one.learner.metrics(total).items()}
    return made

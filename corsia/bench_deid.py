"""`corsia bench deid`: what each de-identifier leaves behind, and how fast it is, on files made in the run.

One CT slice after another, with a token of its own in every text, date and UID attribute of PS3.15 Table E.1-1: at top
level, at three depths, in private blocks, in curves and overlays, in the file meta group and the preamble. Peers run in
their own environments and are only used when they are there; nothing is fetched. Left over is what the output's bytes
still hold. Figures are reported as they come.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from corsia.bench_deid_data import plant, write_files, write_notes

__all__ = ["PEERS", "bench_deid"]

PEERS = {"dicom-anonymizer": "2.1.0", "deid": "0.4.13", "dcm-anonymizer": "0.5.0", "dcmanon": "0.3.1"}
OURS = {"corsia": "one-core", "corsia-without-second-look": "engine", "corsia-all-cores": "all-cores"}
PLANTED_FILES, ROUNDS = 3, 3
_CLEAN = 10  # values left at top level
_WORKER = Path(__file__).with_name("bench_deid_peer.py")


def bench_deid(
    tell: Callable[[str], object] = lambda _line: None,
    *,
    peers: Path | None = None,
    files: int = 1000,
    adult: Path | None = None,
    timeout: float = 1800.0,
) -> dict[str, Any]:
    """Every tool over the same files, in rounds, so that other work on the machine hits all alike; tables; text.

    Args:
        tell: called with a line after each step.
        peers: folder with one virtual environment a peer (`benchmarks/deid-peers.sh` makes it).
        files: how many files.
        adult: folder with ARX's Adult table and hierarchies; None leaves tables out.
        timeout: seconds for one peer.

    Returns:
        `dicom` (tool -> files/s, CPU ms a file, planted values left by class), `ratio`, `missing`, `adult`, `text`.
    """
    with TemporaryDirectory() as folder:
        plain, full = Path(folder, "plain"), Path(folder, "planted")
        planted = plant()
        size = write_files(plain, files, {})
        write_files(full, PLANTED_FILES, planted)
        tell(f"{files} files, {size / 1e6:.0f} MB; {PLANTED_FILES} more with {len(planted)} planted values each")
        missing = {name: version for name, version in PEERS.items() if _python(peers, name) is None}
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("pydicom", *OURS, *PEERS) if name not in missing}
        for turn in range(ROUNDS):
            for name, timed in runs.items():
                with TemporaryDirectory(dir=folder) as out:
                    timed.append(_timed(peers, name, plain, Path(out), timeout))
            tell(f"round {turn + 1} of {ROUNDS}")
        dicom: dict[str, Any] = {}
        for name, timed in runs.items():
            with TemporaryDirectory(dir=folder) as out:
                whole = _timed(peers, name, full, Path(out), timeout)
                failed = [one for one in (*timed, whole) if "error" in one]
                dicom[name] = failed[0] if failed else _figures(_median(timed), whole, Path(out), planted)
            tell(f"{name}: {json.dumps(dicom[name])}")
        text = _text(peers, Path(folder), missing, timeout)
        tell(f"text: {json.dumps(text)}")
        table = _adult(peers, adult, missing, timeout) if adult is not None else None
        tell(f"adult: {json.dumps(table)}")
    return {
        "files": files,
        "cores": os.cpu_count(),
        "rounds": ROUNDS,
        "planted": _by_class(planted, lambda _value: True),
        "dicom": dicom,
        "ratio": _ratios(dicom),
        "missing": missing,
        "adult": table,
        "text": text,
    }


def _timed(peers: Path | None, name: str, source: Path, out: Path, timeout: float) -> dict[str, Any]:
    """One run of one tool into a folder that is new."""
    target = out / "out"
    target.mkdir()
    if name in OURS:
        return _ours(OURS[name], source, target, timeout)
    return _run(name, _python(peers, name), [str(source), str(target)], timeout)


def _median(timed: list[dict[str, Any]]) -> dict[str, Any]:
    """The run in the middle by CPU seconds, with the clock's own middle."""
    middle = sorted(timed, key=lambda one: float(one["cpu_seconds"]))[len(timed) // 2]
    return {**middle, "seconds": sorted(float(one["seconds"]) for one in timed)[len(timed) // 2]}


def _python(peers: Path | None, name: str) -> Path | None:
    found = peers / name / "bin" / "python" if peers is not None else None
    return found if found is not None and found.exists() else None


def _run(name: str, python: Path | None, args: list[str], timeout: float) -> dict[str, Any]:
    """One tool in a process of its own, without the variables that would make it import from here."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [str(python or sys.executable), "-W", "ignore", str(_WORKER), name, *args]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=timeout, check=True)
        value: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        return {"error": type(error).__name__}
    return value


def _ours(mode: str, source: Path, target: Path, timeout: float) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "corsia.bench_deid_ours", mode, str(source), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=True)
        value: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        return {"error": type(error).__name__}
    return value


# -- figures


def _figures(result: dict[str, Any], full: dict[str, Any], out: Path, planted: dict[str, str]) -> dict[str, Any]:
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    left: set[str] = set()
    for path in paths:
        data = path.read_bytes()
        left |= {value for value in planted if value.encode() in data}
    files = max(result["files"], 1)
    return {
        "files": result["files"],
        "failed": result["failed"] + full["failed"],
        "files_per_s": round(files / result["seconds"], 1),
        "cpu_ms_per_file": round(1000 * result["cpu_seconds"] / files, 2),
        "left": _by_class(planted, left.__contains__) if full["files"] else None,
    }


def _by_class(planted: dict[str, str], wanted: Callable[[str], bool]) -> dict[str, int]:
    counts = dict.fromkeys(planted.values(), 0)
    for value, kind in planted.items():
        counts[kind] += wanted(value)
    return counts


def _ratios(dicom: dict[str, Any]) -> dict[str, Any]:
    """Ours over the ceiling and over the fastest tool that leaves few at top level.

    `all_cores_vs_...` is by the clock, and so suffers from other work on the cores; `..._by_cpu` is what the CPU
    seconds of each would give on a machine of its own.
    """
    ran = {name: value for name, value in dicom.items() if "error" not in value and value["files"]}
    out: dict[str, Any] = {}
    if {"pydicom", "corsia"} <= set(ran):
        out["per_core_vs_pydicom"] = round(ran["pydicom"]["cpu_ms_per_file"] / ran["corsia"]["cpu_ms_per_file"], 2)
    clean = [name for name in PEERS if name in ran and ran[name]["left"] and ran[name]["left"]["top"] < _CLEAN]
    if clean and "corsia-all-cores" in ran:
        fastest, ours = max(clean, key=lambda name: float(ran[name]["files_per_s"])), ran["corsia-all-cores"]
        speed = ours["files_per_s"] / ran[fastest]["files_per_s"]
        cpu = ran[fastest]["cpu_ms_per_file"] / ours["cpu_ms_per_file"] * (os.cpu_count() or 1)
        out["fastest_clean_peer"] = fastest
        out["all_cores_vs_fastest_clean_peer"] = round(speed, 2)
        out["all_cores_vs_fastest_clean_peer_by_cpu"] = round(cpu, 2)
    for name in PEERS:
        if name in ran and "corsia-all-cores" in ran:
            out[f"all_cores_vs_{name}"] = round(ran["corsia-all-cores"]["files_per_s"] / ran[name]["files_per_s"], 2)
    return out


# -- text and tables


def _text(peers: Path | None, folder: Path, missing: dict[str, str], timeout: float) -> dict[str, Any]:
    from privacy.deid.text import TextEngine

    corpus = find_spec("corsia.bench_deid_text")
    more = {"corpus": import_module("corsia.bench_deid_text").run()} if corpus is not None else {}
    notes, values = write_notes(folder / "notes.json", 200)
    engine = TextEngine("en")
    engine.redact(notes[0])
    start = time.perf_counter()
    ours = [engine.redact(note)[0] for note in notes]
    out: dict[str, Any] = {**more, "corsia": _recall(ours, values, time.perf_counter() - start)}
    python = _python(peers, "presidio-analyzer")
    if python is None:
        missing["presidio-analyzer"] = "2.2.366"
        return out
    result = _run("presidio-analyzer", python, [str(folder / "notes.json")], timeout)
    theirs = result if "error" in result else _recall(result["texts"], values, result["seconds"])
    return out | {"presidio-default-recognizers-no-model": theirs}


def _recall(texts: list[str], values: list[dict[str, str]], seconds: float) -> dict[str, Any]:
    kinds: dict[str, list[bool]] = {}
    for text, planted in zip(texts, values, strict=True):
        for kind, value in planted.items():
            kinds.setdefault(kind, []).append(value not in text)
    recall = {kind: round(sum(gone) / len(gone), 3) for kind, gone in kinds.items()}
    return {"recall": recall, "ms_per_note": round(1000 * seconds / len(texts), 2)}


def _adult(peers: Path | None, folder: Path, missing: dict[str, str], timeout: float) -> dict[str, Any]:
    import pandas as pd

    from privacy.deid.grouping import Criteria, Grouped
    from privacy.deid.hierarchy import from_file
    from privacy.deid.lattice import search

    frame = pd.read_csv(folder / "adult_int.csv", sep=";")
    start = time.perf_counter()
    ladders = [from_file(folder / f"adult_int_hierarchy_{name}.csv").climb(frame[name], str(name)) for name in frame]
    found = search(Grouped(ladders), Criteria(k=5, suppression=0.0))
    ours = {"seconds": round(time.perf_counter() - start, 3), "nodes": found.nodes, "optimal": found.optimal}
    python = _python(peers, "anjana")
    if python is None:
        missing["anjana"] = "1.2.3"
        return {"k": 5, "corsia": ours}
    result = _run("anjana", python, [str(folder)], timeout)
    return {"k": 5, "corsia": ours, "anjana": result}

"""`corsia bench deid`: what each de-identifier leaves behind, and how fast it is, on files made in the run.

One CT slice after another, with a token of its own in every text, date and UID attribute of PS3.15 Table E.1-1: at top
level, at three depths, in private blocks, in curves and overlays, in the file meta group and the preamble. Peers run in
their own environments and are only used when they are there; nothing is fetched. Left over is what the output's bytes
still hold. Ratios are of CPU seconds, since the machine may be shared. Figures are reported as they come.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from corsia.bench_deid_data import plant, write_files, write_notes

__all__ = ["PEERS", "bench_deid"]

PEERS = {"dicom-anonymizer": "2.1.0", "deid": "0.4.13", "dcm-anonymizer": "0.5.0", "dcmanon": "0.3.1"}
PLANTED_FILES = 3
_WORKER = Path(__file__).with_name("bench_deid_peer.py")
_ENGINES: list[Any] = []


def bench_deid(
    tell: Callable[[str], object] = lambda _line: None,
    *,
    peers: Path | None = None,
    files: int = 100,
    adult: Path | None = None,
    timeout: float = 1800.0,
) -> dict[str, Any]:
    """Every tool over the same files, then tables and text.

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
        dicom: dict[str, Any] = {}
        missing: dict[str, str] = {}
        for name in ("pydicom", "corsia", "corsia-second-look", "corsia-all-cores", *PEERS):
            python = _python(peers, name)
            if name in PEERS and python is None:
                missing[name] = PEERS[name]
                continue
            runs = []
            for source in (plain, full):
                out = Path(folder, f"{name}-{source.name}")
                out.mkdir()
                ours = name.startswith("corsia")
                runs.append(_ours(name, source, out) if ours else _run(name, python, [str(source), str(out)], timeout))
            failed = [run for run in runs if "error" in run]
            dicom[name] = failed[0] if failed else _figures(runs[0], runs[1], out, planted)
            tell(f"{name}: {json.dumps(dicom[name])}")
        text = _text(peers, Path(folder), missing, timeout)
        tell(f"text: {json.dumps(text)}")
        table = _adult(peers, adult, missing, timeout) if adult is not None else None
        tell(f"adult: {json.dumps(table)}")
    return {
        "files": files,
        "cores": os.cpu_count(),
        "planted": _by_class(planted, lambda _value: True),
        "dicom": dicom,
        "ratio": _ratios(dicom),
        "missing": missing,
        "adult": table,
        "text": text,
    }


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


# -- ours


def _ours(name: str, source: Path, out: Path) -> dict[str, Any]:
    jobs = (os.cpu_count() or 1) if name == "corsia-all-cores" else 1
    paths = sorted(source.glob("*.dcm"))
    second = name != "corsia"
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        warm = [pool.submit(_one, paths[0], out, second, 0.3) for _ in range(jobs)]
        for future in warm:
            future.result()
        start = time.perf_counter()
        done = list(pool.map(_one, paths, [out] * len(paths), [second] * len(paths), chunksize=4))
        seconds = time.perf_counter() - start
    failed = sum(cpu is None for cpu in done)
    cpu_seconds = sum(cpu for cpu in done if cpu is not None)
    return {"files": len(done) - failed, "failed": failed, "seconds": seconds, "cpu_seconds": cpu_seconds}


def _one(path: Path, out: Path, second: bool, wait: float = 0.0) -> float | None:
    """De-identify one file; CPU seconds, None when it was not passed."""
    from privacy.deid import residual
    from protocol.errors import DisclosureRefused, InputError

    if not _ENGINES:
        _ENGINES.append(_engine())
    time.sleep(wait)  # while warming up, so that each process gets one
    start = time.process_time()
    data = path.read_bytes()
    try:
        result = _ENGINES[0].deidentify(data)
        if second and residual.left_in_file(data, result.data, frozenset()):
            raise DisclosureRefused("gate.residual")
    except (InputError, DisclosureRefused):
        return None
    (out / path.name).write_bytes(result.data)
    return time.process_time() - start


def _engine() -> Any:
    from privacy.deid.dicom import DicomEngine
    from privacy.deid.profiles import load
    from privacy.deid.pseudonym import Pseudonymizer
    from privacy.deid.text import TextEngine

    return DicomEngine(Pseudonymizer(bytes(range(32))), profile=load("basic", frozenset()), text=TextEngine("en"))


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


def _ratios(dicom: dict[str, Any]) -> dict[str, float]:
    """Ours over the ceiling and over the fastest tool that leaves fewer than ten at top level."""
    ran = {name: value for name, value in dicom.items() if "error" not in value and value["files"]}
    out: dict[str, float] = {}
    if {"pydicom", "corsia"} <= set(ran):
        out["per_core_of_pydicom"] = round(ran["pydicom"]["cpu_ms_per_file"] / ran["corsia"]["cpu_ms_per_file"], 2)
    peers = [ran[name] for name in PEERS if name in ran and ran[name]["left"] is not None]
    if peers and "corsia-all-cores" in ran:
        clean = [peer["files_per_s"] for peer in peers if peer["left"]["top"] < 10]
        if clean:
            out["all_cores_of_fastest_clean_peer"] = round(ran["corsia-all-cores"]["files_per_s"] / max(clean), 2)
        for name in PEERS:
            if name in ran:
                out[f"all_cores_of_{name}"] = round(
                    ran["corsia-all-cores"]["files_per_s"] / ran[name]["files_per_s"], 2
                )
    return out


# -- text and tables


def _text(peers: Path | None, folder: Path, missing: dict[str, str], timeout: float) -> dict[str, Any]:
    from privacy.deid.text import TextEngine

    notes, values = write_notes(folder / "notes.json", 200)
    engine = TextEngine("en")
    engine.redact(notes[0])
    start = time.perf_counter()
    ours = [engine.redact(note)[0] for note in notes]
    out = {"corsia": _recall(ours, values, time.perf_counter() - start)}
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

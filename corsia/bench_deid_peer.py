"""One tool over one folder, in the tool's own environment: run as a script, imports nothing of this product.

    DIR/dicom-anonymizer/bin/python corsia/bench_deid_peer.py dicom-anonymizer IN OUT

Prints one JSON object: files, seconds by the clock and of this process's CPU, the tool's start not counted, and how
many files failed. Each tool runs with
its defaults, but for the edition of its table where it ships a newer one.
"""

# The tools are in the environments of the peers, not in this product's.
# mypy: disable-error-code="import-not-found,import-untyped"

from __future__ import annotations

import io
import json
import logging
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any


def _pydicom() -> Callable[[Path, Path], object]:
    import pydicom

    return lambda source, target: pydicom.dcmread(source).save_as(target, enforce_file_format=True)


def _dicom_anonymizer() -> Callable[[Path, Path], object]:
    from dicomanonymizer import dicom_anonymization_databases as tables
    from dicomanonymizer.simpledicomanonymizer import anonymize_dicom_file, initialize_actions

    # Its default is the table of 2023: with the newest that it ships it leaves least.
    newest = max(path.stem for path in Path(next(iter(tables.__path__))).glob("dicomfields_2*.py"))
    return lambda source, target: anonymize_dicom_file(
        str(source), str(target), base_rules_gen=lambda: initialize_actions(newest)
    )


def _deid() -> Callable[[Path, Path], object]:
    from deid.config import DeidRecipe
    from deid.dicom import replace_identifiers

    recipe = DeidRecipe()
    return lambda source, target: replace_identifiers(
        [str(source)], deid=recipe, save=True, overwrite=True, output_folder=str(target.parent), remove_private=True
    )


def _dcm_anonymizer() -> Callable[[Path, Path], object]:
    from dcm_anon.pipeline import UIDMapper, anonymize_file

    mapper = UIDMapper("bench")
    return lambda source, target: anonymize_file(source, target, mapper)


def _dcmanon() -> Callable[[Path, Path], object]:
    from dcmanon import Anonymizer

    tool = Anonymizer()
    return lambda source, target: target.write_bytes(tool.anonymize(str(source)))


TOOLS = {
    "pydicom": _pydicom,
    "dicom-anonymizer": _dicom_anonymizer,
    "deid": _deid,
    "dcm-anonymizer": _dcm_anonymizer,
    "dcmanon": _dcmanon,
}


def files(name: str, source: Path, target: Path) -> dict[str, Any]:
    """Run a tool over a folder; the first file twice, so that what it loads at first use is not counted."""
    tool = TOOLS[name]()
    paths = sorted(source.glob("*.dcm"))
    _try(tool, paths[0], target)
    clock, cpu = time.perf_counter(), time.process_time()
    failed = sum(not _try(tool, path, target) for path in paths)
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    return {"files": len(paths) - failed, "failed": failed, "seconds": clock, "cpu_seconds": cpu}


def _try(tool: Callable[[Path, Path], object], path: Path, target: Path) -> bool:
    try:
        tool(path, target / path.name)
    except Exception:  # whatever a peer raises is a file that it did not do
        return False
    return True


def anjana(folder: Path) -> dict[str, Any]:
    """k = 5 without suppression on Adult."""
    import pandas as pd
    from anjana.anonymity import k_anonymity

    frame = pd.read_csv(folder / "adult_int.csv", sep=";")
    ladders: dict[Any, dict[int, Any]] = {}
    for name in frame.columns:
        levels = pd.read_csv(folder / f"adult_int_hierarchy_{name}.csv", sep=";", header=None)
        ladders[name] = {int(level): levels[level].to_numpy() for level in levels.columns}
    start = time.perf_counter()
    out = k_anonymity(frame, [], list(frame.columns), 5, 0, ladders)
    seconds = time.perf_counter() - start
    return {"rows": len(out), "seconds": round(seconds, 3), "k": int(out.groupby(list(out.columns)).size().min())}


def presidio(notes: Path) -> dict[str, Any]:
    """Its own recognizers for English without a model: what each note is after they were cut out."""
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    engine = AnalyzerEngine(nlp_engine=NoOpNlpEngine([{"lang_code": "en", "model_name": "none"}]))
    texts = json.loads(notes.read_text("utf-8"))
    engine.analyze(texts[0], "en")
    start, out = time.perf_counter(), []
    for text in texts:
        for found in sorted(engine.analyze(text, "en"), key=lambda r: -r.start):
            text = text[: found.start] + "*" * (found.end - found.start) + text[found.end :]
        out.append(text)
    return {"seconds": time.perf_counter() - start, "texts": out}


def main() -> None:
    """Run what the command line names."""
    logging.disable(logging.CRITICAL)
    name, *rest = sys.argv[1:]
    paths = [Path(part) for part in rest]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        if name == "anjana":
            result = anjana(paths[0])
        elif name == "presidio-analyzer":
            result = presidio(paths[0])
        else:
            result = files(name, paths[0], paths[1])
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()

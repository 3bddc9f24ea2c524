"""`corsia deid fhir`: FHIR R4 files and folders at this machine, without study or centre."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from protocol.errors import DisclosureRefused, InputError

__all__ = ["fhir"]


def fhir(
    source: Annotated[Path, typer.Argument(help="File or folder: .json or .ndjson, also .gz.")],
    target: Annotated[Path, typer.Argument(help="Folder for de-identified files, under names that tell nothing.")],
    key: Annotated[Path, typer.Option("--key", help="32 raw bytes, mode 0600 (`corsia parcel keygen`).")],
    lang: Annotated[str, typer.Option(help="Language of texts: it or en.")] = "it",
    patient_system: Annotated[
        str | None, typer.Option(help="Identifier.system of the patient ids that DICOM and tables carry.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write the report (JSON, no values) here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """De-identify FHIR resources, bundles and NDJSON; a file that cannot be made clean is not passed.

    Example: corsia deid fhir bundles/ clean/ --key site.key --lang en
    """
    from corsia.cli.deid import _pseudonymizer, _text_engine
    from privacy.deid.fhir import FhirEngine
    from privacy.deid.fhir_files import parse
    from privacy.deid.fhir_r4 import EDITION

    keys = _pseudonymizer(key)
    engine = FhirEngine(keys, _text_engine(lang), patient_system=patient_system)
    files = list(_files(source))
    target.mkdir(parents=True, exist_ok=True)
    for path in files:  # who is who, before the first line is rewritten
        if ".ndjson" in path.suffixes:
            try:
                for line in _lines(path):
                    engine.learn(parse(line))
            except InputError:
                continue  # reported when it is its turn
    counts: Counter[str] = Counter()
    taken: set[str] = set()
    for path in files:
        try:
            _one(path, target, engine, taken)
            counts["passed"] += 1
        except (InputError, DisclosureRefused) as error:
            counts[error.code] += 1
    value: dict[str, Any] = {
        "edition": EDITION,
        "key_id": keys.key_id,
        "passed": counts.pop("passed", 0),
        "quarantined": sum(counts.values()),
        "reasons": dict(sorted(counts.items())),
        "done": dict(sorted(engine.counts.items())),
    }
    if report is not None:
        report.write_text(json.dumps(value, indent=1, sort_keys=True), "utf-8")
    if as_json:
        typer.echo(json.dumps(value, sort_keys=True))
    else:
        typer.echo(f"{value['passed']} passed, {value['quarantined']} quarantined", err=True)


def _one(path: Path, target: Path, engine: Any, taken: set[str]) -> None:
    """De-identify one file; nothing is left in the target when it fails."""
    from privacy.deid.fhir_files import deidentify_lines, parse, render, target_name

    if ".ndjson" in path.suffixes:
        resource, lines = None, deidentify_lines(_lines(path), engine)
    else:
        resource = parse(_bytes(path))
        lines = iter([render(engine.deidentify(resource), indent=1)])
    name = target_name(path.name, engine, resource)
    stem, _, suffix = name.rpartition(".")
    number = 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}.{suffix}"
    partial = target / f"{name}.part"
    try:
        with partial.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(line + "\n")
        partial.replace(target / name)
    finally:
        partial.unlink(missing_ok=True)
    taken.add(name)


def _files(source: Path) -> Iterator[Path]:
    if source.is_file():
        yield source
    elif source.is_dir():
        found = (p for p in source.rglob("*") if p.is_file() and not p.is_symlink())
        yield from sorted(p for p in found if {".json", ".ndjson"} & set(p.suffixes))
    else:
        raise InputError("input.usage", f"{source} is neither a file nor a folder")


def _bytes(path: Path) -> bytes:
    return b"".join(_lines(path))


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise InputError("input.usage", f"{type(error).__name__} while reading") from None

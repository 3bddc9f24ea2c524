"""`corsia deid fhir`: FHIR R4 files and folders at this machine, without study or centre."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from corsia.cli.deid_table import write_file
from corsia.cli.show import check_place
from privacy.envelope.keyfile import read_seed
from protocol.errors import InputError

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
    quarantine: Annotated[Path | None, typer.Option(help="Copy files that were not passed here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """De-identify FHIR R4 resources, bundles and NDJSON; a file that cannot be made clean is not passed.

    The files of one run are one batch: who is named in one is taken out of the texts of all.

    Example: corsia deid fhir bundles/ clean/ --key site.key --lang en
    """
    from privacy.deid.fhir import FhirEngine
    from privacy.deid.fhir_files import run
    from privacy.deid.fhir_r4 import EDITION
    from privacy.deid.pseudonym import Pseudonymizer
    from privacy.deid.text import TextEngine

    if lang not in ("it", "en"):
        raise InputError("input.usage", "--lang is it or en")
    if report is not None:
        check_place(report)
    keys = Pseudonymizer(read_seed(key))
    engine = FhirEngine(keys, TextEngine(lang), patient_system=patient_system)  # type: ignore[arg-type]
    value = {"edition": EDITION, "key_id": keys.key_id, **run(source, target, engine, quarantine=quarantine)}
    if report is not None:
        write_file(report, json.dumps(value, indent=1, sort_keys=True).encode())
    if as_json:
        typer.echo(json.dumps(value, sort_keys=True))
    typer.echo(f"{value['passed']} passed, {value['quarantined']} quarantined", err=True)

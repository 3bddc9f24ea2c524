"""`corsia deid dicom|text|table|fhir`: the de-identification engines at this machine, without study or centre."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from corsia.cli.deid_fhir import fhir
from corsia.cli.deid_link import link
from corsia.cli.deid_table import table, write_file
from corsia.cli.show import check_place
from privacy.envelope.keyfile import read_seed
from protocol.errors import InputError
from protocol.validation import unread

app = typer.Typer(no_args_is_help=True, help="De-identify DICOM, text, tables and FHIR at this machine.")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
KeyFile = Annotated[Path, typer.Option("--key", help="32 raw bytes, mode 0600 (`corsia parcel keygen`).")]
ReportFile = Annotated[Path | None, typer.Option("--report", help="Write the report (JSON, no values) here.")]


@app.command("dicom")
def dicom(
    source: Annotated[Path, typer.Argument(help="File or folder.")],
    target: Annotated[Path, typer.Argument(help="Folder for de-identified files, named by their new UID.")],
    key: KeyFile,
    profile: Annotated[str, typer.Option(help="Profile of PS3.15.")] = "basic",
    option: Annotated[list[str] | None, typer.Option(help="Option of PS3.15; may be repeated.")] = None,
    lang: Annotated[str, typer.Option(help="Language of descriptors: it or en.")] = "it",
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; one a core without it.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report (JSON, no values) here, and .html.")] = None,
    quarantine: Annotated[Path | None, typer.Option(help="Copy files that were not passed here.")] = None,
    allow_risky: Annotated[
        bool, typer.Option("--allow-risky", help="With clean-pixel-data: clean screenshots and photographs too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """De-identify DICOM files; what cannot be made clean is not passed.

    Run it again after an interruption: it goes on where it was. Nothing in the target says what a file was called.

    Example: corsia deid dicom scans/ clean/ --key site.key --option retain-longitudinal-modified-dates
    """
    from datetime import UTC, datetime

    from privacy.deid import batch
    from privacy.deid.report import html

    if lang not in ("it", "en"):
        raise InputError("input.usage", "--lang is it or en")
    if report is not None:
        check_place(report)
        check_place(report.with_suffix(".html"))
    settings = batch.Settings(
        key=read_seed(key), target=target, profile=profile, options=frozenset(option or ()), language=lang,
        quarantine=quarantine, allow_risky=allow_risky,
    )  # fmt: skip
    with _progress() as progress:
        value = batch.run(settings, source, jobs=jobs or len(os.sched_getaffinity(0)), progress=progress)
    if report is not None:
        dated = {**value, "finished": datetime.now(UTC).isoformat(timespec="seconds")}
        write_file(report.with_suffix(".html"), html(dated).encode())
        write_file(report, json.dumps(dated, indent=1, sort_keys=True).encode())
    if as_json:
        typer.echo(json.dumps(value, sort_keys=True))
    duplicates = f", {value['duplicates']} the same again" if value["duplicates"] else ""
    others = f", {value['others']} in the target from elsewhere" if value["others"] else ""
    typer.echo(f"{value['passed']} passed, {value['quarantined']} quarantined{duplicates}{others}", err=True)


@app.command("text")
def text(
    source: Annotated[str, typer.Argument(help="File, or - for standard input.")] = "-",
    lang: Annotated[str, typer.Option(help="it or en.")] = "it",
    key: Annotated[Path | None, typer.Option(help="With it, dates are moved instead of replaced.")] = None,
    known: Annotated[Path | None, typer.Option(help="Identifying values, one a line, that must go.")] = None,
    patient: Annotated[str, typer.Option(help="Patient id, as in DICOM and tables: dates move as theirs do.")] = "",
    model: Annotated[Path | None, typer.Option(help="Folder of a spaCy model of the site's own.")] = None,
    spans: Annotated[bool, typer.Option("--spans", help="Print kinds and positions as JSON lines instead.")] = False,
) -> None:
    """Redact free text, line for line.

    Example: corsia deid text note.txt --lang it --known names.txt
    """
    from privacy.deid.deny import DenyList
    from privacy.deid.text import redact_lines

    values = _read(known).splitlines() if known else []
    deny = DenyList([*values, patient] if patient else values)
    # Without a patient's id the values that are known of him stand for him.
    shift = _pseudonymizer(key).shift_days(patient or " ".join(sorted(values))) if key else None
    raw = _read(None if source == "-" else Path(source))
    clean, found = redact_lines(_text_engine(lang, model), raw, deny=deny, shift_days=shift)
    if not spans:
        typer.echo(clean, nl=False)
        return
    for number, span in found:
        place = {"line": number, "start": span.start, "end": span.end, "label": span.label}
        typer.echo(json.dumps(place))


app.command("table")(table)
app.command("fhir")(fhir)
app.command("link")(link)


def _text_engine(lang: str, model: Path | None = None) -> Any:
    from privacy.deid.text import TextEngine

    return TextEngine(lang, model=model)  # type: ignore[arg-type]


def _pseudonymizer(path: Path) -> Any:
    from privacy.deid.pseudonym import Pseudonymizer

    return Pseudonymizer(read_seed(path))


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("files", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _read(path: Path | None) -> str:
    """A file, or standard input, with its line ends as they are."""
    try:
        return (sys.stdin.buffer.read() if path is None else path.read_bytes()).decode("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise InputError("input.usage", f"{path or 'standard input'} cannot be read: {unread(error)}") from None

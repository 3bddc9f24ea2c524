"""`corsia deid dicom|text|table`: the de-identification engines at this machine, without study or centre."""

from __future__ import annotations

import json
import os
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from protocol.errors import ConfigurationError, InputError

app = typer.Typer(no_args_is_help=True, help="De-identify DICOM, text and tables at this machine.")
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
    settings = batch.Settings(
        key=_key(key), target=target, profile=profile, options=frozenset(option or ()), language=lang,
        quarantine=quarantine, allow_risky=allow_risky,
    )  # fmt: skip
    with _progress() as progress:
        value = batch.run(settings, source, jobs=jobs or len(os.sched_getaffinity(0)), progress=progress)
    if report is not None:
        dated = {**value, "finished": datetime.now(UTC).isoformat(timespec="seconds")}
        _write(report.with_suffix(".html"), html(dated).encode())
        _write(report, json.dumps(dated, indent=1, sort_keys=True).encode())
    if as_json:
        typer.echo(json.dumps(value, sort_keys=True))
    duplicates = f", {value['duplicates']} the same again" if value["duplicates"] else ""
    typer.echo(f"{value['passed']} passed, {value['quarantined']} quarantined{duplicates}", err=True)


@app.command("text")
def text(
    source: Annotated[str, typer.Argument(help="File, or - for standard input.")] = "-",
    lang: Annotated[str, typer.Option(help="it or en.")] = "it",
    key: Annotated[Path | None, typer.Option(help="With it, dates are moved instead of replaced.")] = None,
    known: Annotated[Path | None, typer.Option(help="Identifying values, one a line, that must go.")] = None,
    spans: Annotated[bool, typer.Option("--spans", help="Print kinds and positions as JSON lines instead.")] = False,
) -> None:
    """Redact free text, line for line.

    Example: corsia deid text note.txt --lang it --known names.txt
    """
    from privacy.deid.deny import DenyList

    values = _read(known).splitlines() if known else []
    deny = DenyList(values)
    # Without a patient's id the values that are known of him stand for him.
    shift = _pseudonymizer(key).shift_days(" ".join(sorted(values))) if key else None
    engine = _text_engine(lang)
    for number, line in enumerate((sys.stdin.read() if source == "-" else _read(Path(source))).splitlines(), 1):
        clean, found = engine.redact(line, deny=deny, shift_days=shift)
        if not spans:
            typer.echo(clean)
            continue
        for span in found:
            place = {"line": number, "start": span.start, "end": span.end, "label": span.label}
            typer.echo(json.dumps(place))


@app.command("table")
def table(
    source: Annotated[Path, typer.Argument(help="CSV or Parquet.")],
    target: Annotated[Path, typer.Argument(help="CSV or Parquet, by its suffix.")],
    spec: Annotated[Path, typer.Option(help="TOML: [columns], [generalise], k, language.")],
    key: Annotated[Path | None, typer.Option(help="32 raw bytes, mode 0600; a fresh key without it.")] = None,
    report: ReportFile = None,
    as_json: Json = False,
) -> None:
    """De-identify a table by the role of each column, down to classes of k persons.

    Example: corsia deid table patients.csv clean.csv --spec columns.toml --report report.json
    """
    import pandas as pd

    from privacy.deid.pseudonym import Pseudonymizer
    from privacy.deid.table import TableEngine, TableSpec

    wanted = _spec(spec)
    keys = _pseudonymizer(key) if key else Pseudonymizer(os.urandom(32))
    columns = TableSpec(roles=wanted["columns"], bands=wanted["generalise"], k=wanted["k"])
    engine = TableEngine(columns, keys, _text_engine(wanted["language"]))
    try:
        words = {name: str for name, role in columns.roles.items() if role not in ("quasi", "value")}
        frame = pd.read_parquet(source) if source.suffix == ".parquet" else pd.read_csv(source, dtype=words)
    except (ValueError, OSError, UnicodeError) as error:
        raise InputError("input.table", f"{source}: {type(error).__name__}") from None
    result = engine.deidentify(frame)
    if target.suffix == ".parquet":
        result.frame.to_parquet(target, index=False)
    else:
        result.frame.to_csv(target, index=False)
    _finish({"key_id": keys.key_id, **result.report}, report, as_json)


def _text_engine(lang: str) -> Any:
    from privacy.deid.text import TextEngine

    return TextEngine(lang)  # type: ignore[arg-type]


def _pseudonymizer(path: Path) -> Any:
    from privacy.deid.pseudonym import Pseudonymizer

    return Pseudonymizer(_key(path))


def _key(path: Path) -> bytes:
    from privacy.deid.pseudonym import KEY_BYTES

    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(KEY_BYTES + 1)
    except OSError as error:
        raise ConfigurationError("config.missing", f"{path}: {error.strerror}") from None
    if mode & 0o077 or len(raw) != KEY_BYTES:
        raise ConfigurationError("config.key-mode", f"{path}: mode {mode:04o}, {len(raw)} bytes read")
    return raw


def _spec(path: Path) -> dict[str, Any]:
    try:
        value = tomllib.loads(_read(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError("input.usage", f"{path}: {error}") from None
    unknown = sorted(set(value) - {"columns", "generalise", "k", "language"})
    if unknown or not isinstance(value.get("columns"), dict):
        raise InputError("input.usage", f"{path}: " + (f"unknown key {unknown[0]!r}" if unknown else "no [columns]"))
    k, bands = value.get("k", 5), value.get("generalise", {})
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise InputError("input.usage", f"{path}: k must be a whole number from 1")
    if not isinstance(bands, dict) or not all(isinstance(w, int | float) for w in bands.values()):
        raise InputError("input.usage", f"{path}: [generalise] gives a width a column")
    if not all(isinstance(role, str) for role in value["columns"].values()):
        raise InputError("input.usage", f"{path}: [columns] gives a role a column")
    return {"columns": value["columns"], "generalise": bands, "k": k, "language": value.get("language", "it")}


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("files", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise InputError("input.usage", f"{path} cannot be read: {type(error).__name__}") from None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    partial.replace(path)


def _finish(value: dict[str, Any], report: Path | None, as_json: bool) -> None:
    if report is not None:
        _write(report, json.dumps(value, indent=1, sort_keys=True).encode())
    if as_json:
        typer.echo(json.dumps(value, sort_keys=True))
    else:
        typer.echo(f"{value['rows_out']} of {value['rows_in']} rows, k = {value['k']['achieved']}", err=True)

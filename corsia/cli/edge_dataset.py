"""`corsia edge dataset ...`: describe a dataset, have its schema confirmed, pull it, look at its quality."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corsia.cli.show import put, show, table
from protocol.errors import ConfigurationError, ConflictError, InputError

if TYPE_CHECKING:
    from corsia.schema import Proposal
    from edge.config import EdgeConfig

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The site's catalogue of datasets.")
Config = Annotated[Path, typer.Option("--config", help="The site's edge.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Name = Annotated[str, typer.Argument(help="The dataset's name.")]
_DEFAULT = Path("edge.toml")
_FOLDERS = ("dicom", "fhir", "genotypes", "matrix", "omop")


@app.command()
def add(
    name: Name,
    config: Config = _DEFAULT,
    file: Annotated[Path | None, typer.Option("--table", help="CSV, Parquet or Excel.")] = None,
    redcap: Annotated[
        Path | None, typer.Option("--redcap", help="--table is a REDCap export, of this dictionary.")
    ] = None,
    sql: Annotated[Path | None, typer.Option("--sql", help="A table in a database: the file with its URL.")] = None,
    relation: Annotated[str, typer.Option("--relation", help="With --sql: the table or view.")] = "",
    folder: Annotated[
        list[str] | None, typer.Option("--folder", help="KIND=PATH; dicom, fhir, genotypes, matrix, omop.")
    ] = None,
    dicomweb: Annotated[str, typer.Option("--dicomweb", help="A PACS: the base URL of its DICOMweb.")] = "",
    fhir_server: Annotated[str, typer.Option("--fhir-server", help="The base URL of a FHIR R4 server.")] = "",
    auth_file: Annotated[Path | None, typer.Option("--auth-file", help="USER:PASSWORD for it, mode 0600.")] = None,
    role: Annotated[list[str] | None, typer.Option("--role", help="COLUMN=ROLE, where the guess is wrong.")] = None,
    confirm: Annotated[str, typer.Option("--confirm", help="The digest of the proposal that you have read.")] = "",
    json_out: Json = False,
) -> None:
    """Propose what the columns of a dataset are; written to edge.toml once a person has confirmed it.

    On a terminal it asks. Elsewhere the first call shows the proposal and its digest, the second one confirms it.

    Example: corsia edge dataset add cohort --table data/patients.xlsx --folder dicom=/pacs/export

    Example: corsia edge dataset add cohort --table data/patients.xlsx --confirm 0f3c2a91b7de
    """
    from pydantic import ValidationError

    from corsia.schema import propose
    from edge.config import DatasetConfig
    from protocol.validation import first_fault

    site = _load(config)
    if name in site.datasets:
        raise ConflictError("conflict.exists", f"{config} has a dataset {name!r}: correct it there")
    given = _given(file, redcap, sql, relation, folder or [], dicomweb, fhir_server, auth_file)
    try:
        draft = DatasetConfig.model_validate({**given, "row_is_person": True, "policy": {"require_consent": False}})
    except ValidationError as error:
        raise InputError("input.usage", first_fault(error, whole="dataset")) from None
    proposal = propose(draft)
    if proposal is not None:
        proposal = proposal.corrected(dict(_pair(one, "--role") for one in role or []))
    asks = sys.stdin.isatty() and not json_out
    if proposal is not None and asks and not confirm:
        proposal = _asked(proposal)
    elif proposal is not None and confirm != proposal.digest:
        _propose(name, proposal, json_out, stale=bool(confirm))
        return
    made = _section(given, proposal)
    _write(config, name, made)
    text = f"wrote [datasets.{name}] to {config}; its policy allows nothing yet: say there what you allow"
    show({"dataset": name, "written": str(config), "columns": len(made.get("columns", {}))}, json_out, text)


@app.command()
def pull(
    name: Name,
    config: Config = _DEFAULT,
    full: Annotated[bool, typer.Option("--full", help="Look at everything anew, and drop what is gone there.")] = False,
    emptied: Annotated[bool, typer.Option("--emptied", help="With --full: drop all, should nothing be there.")] = False,
    json_out: Json = False,
) -> None:
    """Pull a dataset's servers now, as the daemon does by itself.

    Example: corsia edge dataset pull cohort --config edge.toml
    """
    from edge.sources.places import mirror_root
    from edge.sources.pulling import places
    from edge.sources.pulling import pull as taken

    if emptied and not full:
        raise InputError("input.usage", "--emptied goes with --full")
    site = _load(config)
    found: dict[str, Any] = {}
    for place in places(_dataset(site, name)):
        root = mirror_root(site.state_dir, name, place.kind)
        tally = taken(root, place, full=full, emptied=emptied)
        found[place.name] = {"kept": tally.kept, "gone": tally.gone, "isolated": dict(tally.isolated)}
    if not found:
        raise InputError("input.usage", f"dataset {name!r} is not pulled from anywhere")
    lines = [
        f"{place}: {one['kept']} new, {one['gone']} gone, set aside {one['isolated']}" for place, one in found.items()
    ]
    show({"dataset": name, "places": found}, json_out, "\n".join(lines))


@app.command()
def profile(
    name: Name,
    config: Config = _DEFAULT,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report with plots here, mode 0600.")] = None,
    json_out: Json = False,
) -> None:
    """Count and describe a dataset: schema, quality, plots. Kept in the state folder; nothing leaves.

    Example: corsia edge dataset profile cohort --config edge.toml --html cohort.html
    """
    from edge import catalogue
    from edge.storage import named_errors

    site = _load(config)
    _dataset(site, name)
    site.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    made, told = catalogue.profile(site, name), _told(site, name)
    if html is not None:
        with named_errors():
            put(html, catalogue.page(made).encode())
    if json_out:
        show(made | {"advertised": told}, True, "")
        return
    table(f"dataset {name}", ["what", "count"], [[k, n] for k, n in made["counts"].items()])
    columns = ["role", "type", "missing"]
    table("schema", ["column", *columns], [[n, *(one[c] for c in columns)] for n, one in made["schema"].items()])
    table("quality", ["what", "count"], [[line["what"], line["count"]] for line in made["quality"]])
    typer.echo(_said(told))


@app.command()
def check(name: Name, config: Config = _DEFAULT, json_out: Json = False) -> None:
    """Say whether each part of a dataset can be read now: servers, credentials, columns. Changes nothing.

    Example: corsia edge dataset check cohort --config edge.toml
    """
    from edge import catalogue

    site = _load(config)
    _dataset(site, name)
    lines = catalogue.check(site, name)
    if json_out:
        show({"dataset": name, "ok": all(line["ok"] for line in lines), "checks": lines}, True, "")
    else:
        table(
            f"dataset {name}",
            ["what", "ok", "said"],
            [[n["what"], "yes" if n["ok"] else "NO", n["said"]] for n in lines],
        )
    bad = [line for line in lines if not line["ok"]]
    if bad:
        raise ConfigurationError("config.invalid", f"{len(bad)} of {len(lines)} parts cannot be read: {bad[0]['what']}")


# --- inside


def _told(site: EdgeConfig, name: str) -> dict[str, Any] | None:
    """The very value that the heartbeat carries; None: not that the dataset is there."""
    from dataclasses import asdict

    from edge.advertised import advertised

    dataset = site.datasets[name]
    return asdict(advertised(name, dataset)) if dataset.advertise else None


def _said(told: dict[str, Any] | None) -> str:
    if told is None:
        return "the centre is told nothing, not even that it is there (advertise = [])"
    return f"the heartbeat tells the centre this, and no more: {json.dumps(told, sort_keys=True)}"


def _load(config: Path) -> EdgeConfig:
    from edge.config import load

    return load(config)


def _dataset(site: EdgeConfig, name: str) -> Any:
    if name not in site.datasets:
        raise InputError("input.usage", f"edge.toml has no dataset {name!r}")
    return site.datasets[name]


def _pair(text: str, option: str) -> tuple[str, str]:
    left, sign, right = text.rpartition("=") if option == "--role" else text.partition("=")
    if not sign or not left or not right:
        raise InputError("input.usage", f"{option} {text}: NAME=VALUE")
    return left, right


def _given(
    file: Path | None, redcap: Path | None, sql: Path | None, relation: str, folders: list[str], dicomweb: str,
    fhir_server: str, auth_file: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """The sources as edge.toml has them, paths made absolute."""
    made: dict[str, Any] = {}
    if file is not None:
        made["table"] = os.path.abspath(file)
    if redcap is not None:
        made["redcap"] = {"dictionary": os.path.abspath(redcap)}
    if sql is not None:
        made["sql"] = {"url_file": os.path.abspath(sql), "relation": relation}
    for kind, path in (_pair(one, "--folder") for one in folders):
        if kind not in _FOLDERS:
            raise InputError("input.usage", f"--folder {kind}: one of {', '.join(_FOLDERS)}")
        made[kind] = os.path.abspath(path)
    auth = {} if auth_file is None else {"auth_file": os.path.abspath(auth_file)}
    if dicomweb:
        made["dicomweb"] = {"url": dicomweb, **auth}
    if fhir_server:
        made["fhir_server"] = {"url": fhir_server, **auth}
    if not made:
        raise InputError("input.usage", "name at least one source: --table, --sql, --folder, --dicomweb, --fhir-server")
    return made


def _propose(name: str, proposal: Proposal, json_out: bool, *, stale: bool) -> None:
    value = {
        "dataset": name, "digest": proposal.digest, "columns": dict(proposal.roles), "kinds": dict(proposal.kinds),
        "consent": proposal.consent, "granted": list(proposal.granted), "notes": list(proposal.notes), "written": None,
    }  # fmt: skip
    if not json_out:
        _shown(proposal)
    said = "this is another proposal than the one confirmed" if stale else "nothing was written"
    show(value, json_out, f"{said}; correct with --role COLUMN=ROLE, then confirm: --confirm {proposal.digest}")


def _shown(proposal: Proposal) -> None:
    rows = [[name, kind, proposal.roles.get(name, "(not read)")] for name, kind in proposal.kinds.items()]
    table("columns; the roles are guesses", ["column", "looks like", "role"], rows)
    for note in proposal.notes:
        typer.echo(note)
    if proposal.consent:
        typer.echo(f"consent: {proposal.consent} in {list(proposal.granted)}; its values are {list(proposal.levels)}")


def _asked(proposal: Proposal) -> Proposal:
    _shown(proposal)
    while answer := typer.prompt(
        "Correct a role, as COLUMN=ROLE (empty: they are right)", default="", show_default=False
    ):
        try:
            proposal = proposal.corrected(dict([_pair(answer, "--role")]))
        except InputError as error:
            typer.echo(error.message)
    if not typer.confirm("Write this to edge.toml?", default=False):
        raise typer.Abort
    return proposal


def _section(given: dict[str, Any], proposal: Proposal | None) -> dict[str, Any]:
    """The dataset as it goes into edge.toml."""
    made: dict[str, Any] = dict(given)
    consent = proposal is not None and bool(proposal.consent)
    if proposal is not None:
        if "patient" not in proposal.roles.values():
            made["row_is_person"] = True
        if proposal.form:
            made["format"] = dict(proposal.form)
        made["columns"] = dict(proposal.roles)
        if consent:
            made["consent"] = {"column": proposal.consent, "granted": list(proposal.granted) or ["yes"]}
    made["policy"] = {"lanes": [], "pipelines": [], "purposes": [], "require_consent": consent, "approve": "manual"}
    return made


def _write(config: Path, name: str, made: dict[str, Any]) -> None:
    """Put a section at the end of the file, once the whole is known to be valid."""
    import tomli_w

    from edge.config import load
    from edge.storage import named_errors
    from protocol.durable import write_file

    with named_errors():
        old = config.read_bytes()
        text = old.rstrip() + b"\n\n" + tomli_w.dumps({"datasets": {name: made}}).encode()
        trial = config.with_name(f".{config.name}.trial")
        write_file(trial, text)
        try:
            load(trial)
        finally:
            trial.unlink(missing_ok=True)
        write_file(config, text)

"""`corsia model`: list, verify, use and promote published models, over the centre's REST API.

A manifest is trusted for its signature by the publication key, which is read at the centre (`--config`) or from a
file (`--key`), never from the connection that brought the manifest.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol.errors import InputError, IntegrityError, StorageError

if TYPE_CHECKING:
    from corsia.client import Hub, Model

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, verify, use and promote published models.\n\nExample: corsia model ls --config central.toml",
)

Url = Annotated[str | None, typer.Option("--url", help="The centre's web address.")]
TokenFile = Annotated[Path | None, typer.Option("--token-file", help="File with an operator's token.")]
Config = Annotated[Path | None, typer.Option("--config", help="central.toml, instead of --url (and --token-file).")]
Json = Annotated[bool, typer.Option("--json", help="End stdout in one JSON object.")]
Name = Annotated[str, typer.Argument(help="The model's name.")]
Version = Annotated[int | None, typer.Option("--version", min=1, help="Which version; the newest without it.")]


@app.callback()
def _group() -> None:
    """List, verify, use and promote published models."""


@app.command("ls")
def list_models(url: Url = None, token_file: TokenFile = None, config: Config = None, as_json: Json = False) -> None:
    """Every published version, newest first.

    Example: corsia model ls --config central.toml
    """
    with connect_hub(url, token_file, config) as hub:
        rows = list(hub.models.list())
    if as_json:
        _print({"models": rows})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "version", "alias", "serial", "promotion", "study", "MLflow")
    for row in rows:
        table.add_row(*(str(row[k]) for k in ("name", "version", "alias", "serial", "promotion", "study", "uri")))
    Console(markup=False).print(table)


@app.command()
def show(
    name: Name,
    version: Version = None,
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """The manifest of a version.

    Example: corsia model show lung-survival --config central.toml
    """
    with connect_hub(url, token_file, config) as hub:
        model = _model(hub, name, version)
    value = dict(model.manifest)
    typer.echo(json.dumps(value) if as_json else json.dumps(value, indent=2, sort_keys=True))


@app.command()
def verify(
    name: Name,
    version: Version = None,
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
    key: Annotated[Path | None, typer.Option("--key", help="The publication key's public file.")] = None,
    as_json: Json = False,
) -> None:
    """Check the manifest's signature, the log, and that the log holds this model where the manifest says.

    Example: corsia model verify lung-survival --config central.toml
    """
    publication_key = _publication_key(config, key)
    with connect_hub(url, token_file, config) as hub:
        model = _model(hub, name, version)
        try:
            model.verify(publication_key)
        except IntegrityError:
            raise IntegrityError("model.manifest") from None
        entries = _check_log(hub, model)
    result = {"verified": True, "model": model.name, "version": model.version, "log_entries": entries}
    _print(result) if as_json else typer.echo(f"{model.name} version {model.version}: signature and log verify")


@app.command()
def predict(
    name: Name,
    study: Annotated[str | None, typer.Option("--study", help="Study whose curated rows are scored.")] = None,
    source: Annotated[Path | None, typer.Option("--input", help="A CSV of rows to score at the centre.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The CSV of predictions, a row a row of --input.")] = None,
    missing: Annotated[
        list[str] | None, typer.Option("--missing", help="Of --input: a word or number that means missing; repeatable.")
    ] = None,
    version: Version = None,
    alias: Annotated[str, typer.Option("--alias", help="By alias, as in `champion`.")] = "",
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Score a study's curated rows (the scores stay in the centre's lake), or the rows of a CSV, which come back.

    Example: corsia model predict lung-survival --study lung-harvest --config central.toml
    Example: corsia model predict lung-survival --alias champion --input new.csv --out scores.csv --config central.toml
    """
    if (study is None) == (source is None) or (source is None) != (out is None):
        raise InputError("input.usage", "give --study, or --input and --out")
    with connect_hub(url, token_file, config) as hub:
        model = _model(hub, name, version, alias) if version or alias else _serving(hub, name)
        made = model.score(study) if study is not None else _score_file(model, source, out, missing or [])
    _print(made) if as_json else typer.echo(f"{made['rows']} rows scored by {name} version {made['version']}")


@app.command()
def promote(
    name: Name,
    version: Version = None,
    alias: Annotated[str, typer.Option("--alias", help="The alias that the version is to get.")] = "champion",
    rollback: Annotated[bool, typer.Option("--rollback", help="To a lower version than has the alias now.")] = False,
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Propose that a version get an alias. Nothing changes until another operator approves.

    Example: corsia model promote lung-survival --version 2 --alias champion --config central.toml
    """
    with connect_hub(url, token_file, config) as hub:
        made = _model(hub, name, version).promote(alias, rollback=rollback)
    text = f"proposed ({made['id']}); another operator: corsia model approve {name} --token-file HIS.token ..."
    _print(made) if as_json else typer.echo(text)


@app.command()
def approve(
    name: Name,
    proposal: Annotated[str | None, typer.Option("--proposal", help="Its id; the open one without it.")] = None,
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Approve another operator's proposal: the signer signs and logs the version's new manifest.

    Example: corsia model approve lung-survival --token-file bob.token --config central.toml
    """
    with connect_hub(url, token_file, config) as hub:
        made = hub.models.approve(name, proposal)
    text = f"{made['name']} version {made['version']} is promoted, serial {made['serial']}"
    _print(made) if as_json else typer.echo(text)


@app.command()
def promotions(
    name: Name, url: Url = None, token_file: TokenFile = None, config: Config = None, as_json: Json = False
) -> None:
    """Who proposed and approved what, newest first.

    Example: corsia model promotions lung-survival --config central.toml
    """
    with connect_hub(url, token_file, config) as hub:
        rows = list(hub.models.promotions(name))
    if as_json:
        _print({"promotions": rows})
    for row in [] if as_json else rows:
        back = " (roll-back)" if row["rollback"] else ""
        by = f"{row['proposed_by']}, {row['approved_by'] or 'nobody yet'}"
        typer.echo(f"{row['id']}  version {row['version']} -> {row['alias']}{back}  {row['state']}  {by}")


@app.command()
def manifest(
    name: Name,
    out: Annotated[Path, typer.Option("--out", help="The file to write, as it was signed.")],
    version: Version = None,
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write a version's signed manifest, as for `corsia edge models rollback` at a site.

    Example: corsia model manifest lung-survival --version 1 --out manifest.json --config central.toml
    """
    with connect_hub(url, token_file, config) as hub:
        model = _model(hub, name, version)
        document = model.document()
    try:
        out.write_bytes(document)
    except OSError:
        raise StorageError("storage.failed", f"{out} cannot be written") from None
    made = {"model": model.name, "version": model.version, "written": str(out)}
    _print(made) if as_json else typer.echo(f"wrote {out}")


def _score_file(model: Model, source: Path | None, out: Path | None, missing: list[str]) -> dict[str, Any]:
    """Only the model's own columns are read and sent; the file may be any spreadsheet's CSV."""
    from corsia.drafts.rows import read_rows

    if source is None or out is None:
        raise InputError("input.usage", "give --input and --out")

    def tell(line: str) -> None:
        typer.echo(f"  {line}", err=True)

    made = model.predict(read_rows(source, list(model.manifest["features"]), missing=missing, tell=tell))
    try:
        made.to_csv(out, index=False)
    except OSError:
        raise StorageError("storage.failed", f"{out} cannot be written") from None
    return {"rows": len(made), "version": model.version, "out": str(out)}


def connect_hub(url: str | None, token_file: Path | None, config: Path | None) -> Hub:
    from corsia.client import connect

    if config is not None:
        from central.config import load_config, operator_token

        loaded = load_config(config)
        address = url or f"http://{loaded.web.host}:{loaded.web.port}"
        if token_file is None:
            return connect(address, token=operator_token(loaded))
        return connect(address, token_file=token_file)
    if url is None:
        raise InputError("input.usage", "give --config, or --url and --token-file")
    return connect(url, token_file=token_file, interactive=False)


def _publication_key(config: Path | None, key: Path | None) -> str:
    if key is not None:
        from privacy.envelope import read_public

        return read_public(key).to_base64()
    if config is None:
        raise InputError("input.usage", "give --config or --key: the publication key is not taken from the connection")
    from central import ipc
    from central.config import load_config

    return str(ipc.call(load_config(config).socket("signer"), "public_keys")["publication_key"])


def _serving(hub: Hub, name: str) -> Model:
    try:
        return hub.models.serving(name)
    except KeyError:
        raise InputError("input.usage", f"no published model {name}") from None


def _model(hub: Hub, name: str, version: int | None = None, alias: str = "") -> Model:
    try:
        return hub.models.get(name, version=version, alias=alias or None)
    except KeyError:
        which = f" version {version}" if version else f"@{alias}" if alias else ""
        raise InputError("input.usage", f"no published model {name}{which}") from None


def _check_log(hub: Hub, model: Model) -> int:
    """Entries of the verified log, which must hold the model's leaf at the index that the manifest names."""
    from pipelines.infer import log_leaf
    from privacy.transparency import verify_log
    from protocol.parcel import canonical_json

    export = hub.log.export()
    entries = int(verify_log(export)["entries"])
    try:
        leaf = base64.b64decode(export["leaves"][int(model.manifest["log"]["index"])])
    except (KeyError, IndexError, ValueError, TypeError):
        raise IntegrityError("log.proof", "the manifest names no entry of the log") from None
    if leaf != canonical_json(log_leaf(model.manifest)):
        raise IntegrityError("log.proof", "the log holds another entry where the manifest says")
    return entries


def _print(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value))

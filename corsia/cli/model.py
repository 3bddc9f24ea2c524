"""`corsia model`: list, verify and use published models, over the centre's REST API.

A manifest is trusted for its signature by the publication key, which is read at the centre (`--config`) or from a
file (`--key`), never from the connection that brought the manifest.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from protocol.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from corsia.client import Hub, Model

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, verify and use published models.\n\nExample: corsia model ls --config central.toml",
)

Url = Annotated[str | None, typer.Option("--url", help="The centre's web address.")]
TokenFile = Annotated[Path | None, typer.Option("--token-file", help="File with the operator's token.")]
Config = Annotated[Path | None, typer.Option("--config", help="central.toml, instead of --url and --token-file.")]
Json = Annotated[bool, typer.Option("--json", help="End stdout in one JSON object.")]
Name = Annotated[str, typer.Argument(help="The model's name.")]


@app.callback()
def _group() -> None:
    """List, verify and use published models."""


@app.command("ls")
def list_models(url: Url = None, token_file: TokenFile = None, config: Config = None, as_json: Json = False) -> None:
    """Every published version, newest first.

    Example: corsia model ls --config central.toml
    """
    with _connect(url, token_file, config) as hub:
        rows = list(hub.models.list())
    if as_json:
        _print({"models": rows})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "version", "alias", "study", "MLflow")
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("name", "version", "alias", "study", "uri")))
    Console(markup=False).print(table)


@app.command()
def show(
    name: Name, url: Url = None, token_file: TokenFile = None, config: Config = None, as_json: Json = False
) -> None:
    """The manifest of the newest version.

    Example: corsia model show lung-survival --config central.toml
    """
    with _connect(url, token_file, config) as hub:
        model = _model(hub, name)
    manifest = dict(model.manifest)
    typer.echo(json.dumps(manifest) if as_json else json.dumps(manifest, indent=2, sort_keys=True))


@app.command()
def verify(
    name: Name,
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
    with _connect(url, token_file, config) as hub:
        model = _model(hub, name)
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
    study: Annotated[str, typer.Option("--study", help="Study whose curated rows are scored.")],
    url: Url = None,
    token_file: TokenFile = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Score a study's curated rows at the centre; the scores stay in its lake.

    Example: corsia model predict lung-survival --study lung-harvest --config central.toml
    """
    with _connect(url, token_file, config) as hub:
        made = _model(hub, name).score(study)
    _print(made) if as_json else typer.echo(f"{made['rows']} rows scored by {name} version {made['version']}")


def _connect(url: str | None, token_file: Path | None, config: Path | None) -> Hub:
    from corsia.client import connect

    if config is not None:
        from central.config import load_config, operator_token

        loaded = load_config(config)
        return connect(url or f"http://{loaded.web.host}:{loaded.web.port}", token=operator_token(loaded))
    if url is None or token_file is None:
        raise InputError("input.usage", "give --config, or --url and --token-file")
    return connect(url, token_file=token_file)


def _publication_key(config: Path | None, key: Path | None) -> str:
    if key is not None:
        from privacy.envelope import read_public

        return read_public(key).to_base64()
    if config is None:
        raise InputError("input.usage", "give --config or --key: the publication key is not taken from the connection")
    from central import ipc
    from central.config import load_config

    return str(ipc.call(load_config(config).socket("signer"), "public_keys")["publication_key"])


def _model(hub: Hub, name: str) -> Model:
    try:
        return hub.models[name]
    except KeyError:
        raise InputError("input.usage", f"no published model {name}") from None


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

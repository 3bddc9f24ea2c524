"""`corsia central harvest`: pull public or agreed tables over HTTPS, with their provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from corsia.cli.show import show, table
from protocol.errors import InputError, from_code

app = typer.Typer(no_args_is_help=True, help="Public or agreed tables that the centre pulls by itself.")
Config = Annotated[Path, typer.Option("--config", help="The centre's configuration.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_DEFAULT = Path("central.toml")


@app.command()
def run(
    names: Annotated[list[str] | None, typer.Argument(help="Of [remotes.NAME]; all without.")] = None,
    config: Config = _DEFAULT,
    now: Annotated[bool, typer.Option("--now", help="Those that are not due, too.")] = False,
    json_out: Json = False,
) -> None:
    """Pull what is due; for a timer, as often as you like. The exit status is that of the first failure.

    Example: corsia central harvest run --config central.toml
    """
    from central.config import load_config
    from central.remotes import harvest

    site = load_config(config)
    unknown = [name for name in names or [] if name not in site.remotes]
    if unknown:
        raise InputError("input.usage", f"{config} has no [remotes.{unknown[0]}]")
    chosen = {name: site.remotes[name] for name in names or site.remotes}
    made = list(harvest(site.state_dir, chosen, due_only=not now))
    value = [{"name": one.name, "state": one.state, "sha256": one.sha256, "code": one.code} for one in made]
    lines = [f"{one.name}: {one.state} {one.code or one.sha256[:16]}" for one in made]
    show({"pulled": value}, json_out, "\n".join(lines) or "no [remotes] in the configuration")
    if failed := next((one.code for one in made if one.state == "failed"), ""):
        raise typer.Exit(from_code(failed).exit_status)


@app.command("list")
def show_all(config: Config = _DEFAULT, json_out: Json = False) -> None:
    """Say how each remote stands: last pull, bytes, licence.

    Example: corsia central harvest list --config central.toml
    """
    from central.config import load_config
    from central.remotes import provenance

    site = load_config(config)
    rows: list[dict[str, Any]] = []
    for name, remote in site.remotes.items():
        lines = provenance(site.state_dir / "harvested" / name)
        good: dict[str, Any] = next((line for line in reversed(lines) if line["state"] != "failed"), {})
        rows.append({
            "name": name, "licence": remote.licence, "publisher": remote.publisher, "pulls": len(lines),
            "last": good.get("at", ""), "rows": good.get("rows", 0), "sha256": good.get("sha256", ""),
        })  # fmt: skip
    if json_out:
        show({"remotes": rows}, True, "")
        return
    columns = ["name", "licence", "publisher", "pulls", "last", "rows", "sha256"]
    table("remotes", columns, [[row[c] for c in columns] for row in rows])


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="Of [remotes.NAME].")],
    out: Annotated[Path, typer.Option("--out", help="The table; its provenance goes beside it, as .provenance.json.")],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Write the last good table, checked, and its provenance beside it.

    Example: corsia central harvest export weather --out weather.csv
    """
    import json

    from central.config import load_config
    from central.vault.remotes import original

    data, line = original(load_config(config).state_dir, name)
    out.write_bytes(data)
    out.with_name(f"{out.name}.provenance.json").write_text(json.dumps(line, sort_keys=True, indent=1) + "\n")
    show({"written": str(out), "provenance": line}, json_out, f"wrote {out}: {line['licence']}, {line['publisher']}")


@app.command()
def erase(
    name: Annotated[str, typer.Argument(help="Of what was pulled; it need not be configured any more.")],
    config: Config = _DEFAULT,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json_out: Json = False,
) -> None:
    """Erase a remote table for good: the vault destroys its key, and it is never pulled again. Its provenance stays.

    Example: corsia central harvest erase weather --yes
    """
    from central import remotes
    from central.config import load_config

    site = load_config(config)
    if not yes and not typer.confirm(f"Erase the remote table {name} for good?", default=False):
        raise typer.Abort
    remotes.erase(site.state_dir, name)
    show({"erased": name}, json_out, f"{name}: its key is destroyed as soon as the vault runs")

"""`corsia central`: run the consortium's centre, invite, admit and revoke sites.

`serve` runs on the centre's machine; the others speak to the signer over its local socket with the operator's token.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corsia.cli import central_backup, central_spool, operator
from corsia.cli.keys import centre_stopped, keys_app
from protocol.errors import UnavailableError

if TYPE_CHECKING:
    from central.config import CentralConfig

app = typer.Typer(no_args_is_help=True, help="Run and operate the consortium's centre.")
app.add_typer(operator.app, name="operator")
app.add_typer(central_spool.app, name="spool")
app.registered_commands += central_backup.app.registered_commands
Config = Annotated[Path, typer.Option("--config", help="The centre's configuration.")]
Json = Annotated[bool, typer.Option("--json", help="End in one JSON object on one line.")]
Site = Annotated[str, typer.Argument(help="The site's name, as its edge.toml says.", metavar="SITE")]
CONFIG = Path("central.toml")
_keys = keys_app("central", CONFIG, lambda path: _load(path).state_dir, centre_stopped)
_keys.registered_commands += central_backup.keys.registered_commands
app.add_typer(_keys, name="keys")


@app.command()
def serve(config: Config = CONFIG, json_out: Json = False) -> None:
    """Start gateway, vault, federation, signer and web, and keep them running until SIGTERM.

    Example: corsia central serve --config central.toml
    """
    from central.config import load_config
    from central.supervisor import Supervisor
    from protocol.events import configure

    loaded = load_config(config)
    loaded.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    configure("supervisor", loaded.state_dir / "logs" / "supervisor.jsonl")
    Supervisor(config, on_ready=lambda ready: _announce(ready, json_out)).run()


@app.command()
def invite(site: Site, config: Config = CONFIG, json_out: Json = False) -> None:
    """Print a one-time join code for a site, valid for 7 days. Send it over a trusted channel.

    Example: corsia central invite site-a
    """
    reply = _ask_signer(config, "invite", site=site)
    typer.echo(json.dumps({"site": reply["site"], "code": reply["code"]}) if json_out else reply["code"])


@app.command()
def admit(
    site: Site,
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", help="As the site told it by telephone; who is first must give it.")
    ] = "",
    token_file: Annotated[Path | None, typer.Option("--token-file", help="Your own token; else the first one.")] = None,
    url: Annotated[str | None, typer.Option("--url", help="The centre's address, from another machine.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="central.toml, on the centre's machine.")] = None,
    json_out: Json = False,
) -> None:
    """Say that an enrolled site is who it says; when a second operator does too, studies may name it.

    Example: corsia central admit site-a --fingerprint 3f5a... --token-file alice.token --config central.toml
    """
    from corsia.cli.model import connect_hub
    from corsia.decisions import admit as decide

    with connect_hub(url, token_file, config or (None if url else CONFIG)) as hub:
        made = decide(hub, site, fingerprint)
    text = f"{site} is admitted" if made["state"] == "approved" else "waits for another operator to do the same"
    typer.echo(json.dumps(made) if json_out else f"{made['fingerprint']}\n{text}")


@app.command()
def revoke(site: Site, config: Config = CONFIG, json_out: Json = False) -> None:
    """Revoke a site: its certificates stop working within a second. A new invite lets it enrol again.

    Example: corsia central revoke site-a
    """
    reply = _ask_signer(config, "revoke", site=site)
    if json_out:
        typer.echo(json.dumps({"site": reply["site"], "certificates": reply["certificates"]}))
    else:
        typer.echo(f"revoked {site}: {reply['certificates']} certificates")


@app.command()
def rotate(
    key: Annotated[str, typer.Argument(help="ca, study-signing or log.", metavar="KEY")],
    config: Config = CONFIG,
    json_out: Json = False,
) -> None:
    """Put a new key in the place of one that was stolen; the centre must be stopped, and every site enrols anew.

    Example: corsia central rotate study-signing --config central.toml
    """
    from central.config import load_config
    from central.rotation import rotate as replace

    value = replace(load_config(config), key)
    if json_out:
        typer.echo(json.dumps(value))
        return
    typer.echo(f"a new {key} key: {value['fingerprint']}\nthe old files: {value['retired']}")
    typer.echo("start the centre, then give every site a new join code: corsia central invite SITE")


@app.command()
def status(config: Config = CONFIG, json_out: Json = False) -> None:
    """Show which processes answer, which sites are connected, and where studies stand.

    Example: corsia central status --json
    """
    from central.config import PROCESSES, load_config
    from central.supervisor import answers

    loaded = load_config(config)
    processes = {name: answers(loaded, name) for name in PROCESSES}
    value: dict[str, Any] = {"name": loaded.name, "processes": processes, **_state(loaded, processes)}
    if json_out:
        typer.echo(json.dumps(value))
        return
    for name, up in processes.items():
        typer.echo(f"{name:12} {'up' if up else 'down'}")
    for site in value["sites"]:
        word = "revoked" if site["revoked"] else "connected" if site["connected"] else "away"
        word += " (paused)" if site["paused"] else ""
        word += "" if site["admitted"] else " (waits for `corsia central admit`)"
        typer.echo(f"site {site['name']:20} {word}  {site['fingerprint']}")
    for study in value["studies"]:
        typer.echo(f"study {study['id']:19} {study['lane']:10} {study['state']}")


def _load(config: Path) -> CentralConfig:
    from central.config import load_config

    return load_config(config)


def _announce(config: CentralConfig, json_out: bool) -> None:
    gateway, web = config.gateway, f"http://{config.web.host}:{config.web.port}"
    if json_out:
        line = json.dumps(
            {
                "ready": True,
                "name": config.name,
                "pid": os.getpid(),
                "fleet": gateway.fleet_address,
                "enrolment": gateway.enrolment_address,
                "web": web,
            }
        )
    else:
        line = f"ready: {config.name}, sites at {gateway.fleet_address}, dashboard at {web}"
    typer.echo(line)


def _ask_signer(config: Path, method: str, **params: Any) -> dict[str, Any]:
    from central import ipc
    from central.config import load_config, operator_token

    loaded = load_config(config)
    try:
        return ipc.call(loaded.socket("signer"), method, token=operator_token(loaded), **params)
    except UnavailableError:
        hint = "the signer does not answer: start the centre with `corsia central serve`"
        raise UnavailableError("unavailable.process", hint) from None


def _state(config: CentralConfig, up: dict[str, bool]) -> dict[str, Any]:
    from sqlalchemy import select

    from central import ipc
    from central.store import Store
    from central.store.models import SiteRow, StudyRow
    from privacy.envelope import PublicKey

    if not (config.state_dir / "corsia.db").exists():
        return {"sites": [], "studies": []}
    connected = ipc.call(config.socket("gateway"), "status")["connected"] if up["gateway"] else []
    asked: dict[str, Any] = {"two_persons": False, "sites": {}}
    if up["signer"]:
        asked = ipc.call(config.socket("signer"), "admitted")
    with Store(config.state_dir).read() as session:
        rows_of_sites = session.scalars(select(SiteRow).order_by(SiteRow.name)).all()
        fingerprints = {row.name: PublicKey.from_base64(row.identity).fingerprint for row in rows_of_sites}
        sites = [
            {
                "name": row.name,
                "fingerprint": fingerprints[row.name],
                "connected": row.name in connected,
                "revoked": row.revoked,
                "admitted": not asked["two_persons"] or asked["sites"].get(row.name) == fingerprints[row.name],
                "paused": row.paused,
                "last_seen": row.last_seen,
            }
            for row in rows_of_sites
        ]
        rows = session.scalars(select(StudyRow).order_by(StudyRow.created_at))
        studies = [{"id": row.id, "lane": row.lane, "state": row.state, "digest": row.digest} for row in rows]
    return {"sites": sites, "studies": studies}

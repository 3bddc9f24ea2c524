"""`corsia edge ...`: run and operate the agent of one hospital. Every command works whether the daemon runs or not."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from corsia import steward
from corsia.cli import edge_backup, edge_dataset, edge_journal, edge_models, edge_rights, edge_spool, edge_web
from corsia.cli.edge_status import site_status
from corsia.cli.keys import keys_app, site_stopped
from corsia.cli.show import put, show, table
from corsia.steward import decide, find, opened
from protocol.errors import InputError

if TYPE_CHECKING:
    from edge.config import EdgeConfig
    from edge.preview import Preview

app = typer.Typer(no_args_is_help=True, help="Run and operate the agent of one hospital.")
app.add_typer(edge_spool.app, name="spool")
app.add_typer(edge_models.app, name="models")
app.add_typer(edge_dataset.app, name="dataset")
app.registered_commands += edge_backup.app.registered_commands
app.add_typer(edge_journal.app, name="journal")
app.command("subject")(edge_rights.subject)
app.command("breach-report")(edge_rights.breach_report)
app.command("web")(edge_web.web)

Config = Annotated[Path, typer.Option("--config", help="The site's edge.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
_DEFAULT = Path("edge.toml")
app.add_typer(keys_app("edge", _DEFAULT, lambda path: _load(path).state_dir, site_stopped), name="keys")


@app.command()
def run(config: Config = _DEFAULT) -> None:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C; logs go to log.jsonl in the state folder.

    Example: corsia edge run --config /etc/corsia/edge.toml
    """
    from edge.agent import Agent
    from protocol import events
    from protocol.heap import keep_buffers

    site = _load(config)
    site.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    events.configure("edge", site.state_dir / "log.jsonl")
    sys.stderr.write(f"edge {site.site}: running, logs in {site.state_dir / 'log.jsonl'}\n")
    keep_buffers()
    Agent(site).run(stop)


@app.command()
def enroll(
    config: Config = _DEFAULT,
    code: Annotated[str, typer.Option("--code", help="The join code from `corsia central invite SITE`.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Enrol anew; the identity key is kept.")] = False,
    json_out: Json = False,
) -> None:
    """Make this site's keys and enrol it at the centre with a join code; `-` reads the code from standard input.

    Make a recovery key then (`corsia edge recovery-key`): without one there is no backup.

    Example: corsia edge enroll --config edge.toml --code corsia1-AbC...
    """
    from edge.identity import enrol
    from edge.journal import Journal
    from edge.route import Route

    site = _load(config)
    if code == "-":
        code = sys.stdin.readline()
    if not code.strip():
        raise InputError("input.usage", "give --code with the join code")
    identity = enrol(site.site, site.state_dir, code.strip(), force=force, route=Route.of(site.delivery))
    Journal(site.state_dir / "journal.jsonl").append("site.enrolled", site=identity.site)
    fingerprint = identity.key.public.fingerprint
    value = {
        "site": identity.site,
        "fingerprint": fingerprint,
        "certificate_until": identity.not_after.isoformat(),
        "fleet": identity.fleet,
    }
    text = f"{identity.site} is enrolled at {identity.fleet}\nfingerprint, to compare by telephone: {fingerprint}"
    text += "\nnext: corsia edge recovery-key --out K, to be kept off-site: without it there is no backup"
    show(value, json_out, text)


@app.command()
def status(config: Config = _DEFAULT, json_out: Json = False) -> None:
    """Say how this site stands: enrolment, pause, studies, spool, heads of ledger and journal, budgets.

    Example: corsia edge status --config edge.toml --json
    """
    site = _load(config)
    value = site_status(site)
    if json_out:
        show(value, True, "")
        return
    lines = [[k, v] for k, v in value.items() if k not in ("studies", "budgets")]
    table(f"site {site.site}", ["what", "value"], lines)
    columns = ["id", "lane", "state", "code", "error_id", "approval"]
    table("studies", columns, [[study[c] for c in columns] for study in value["studies"]])
    for budget in value["budgets"]:
        table(f"365 days of {budget['dataset']}", ["what", "value"], [[k, v] for k, v in budget.items()][1:])


@app.command()
def approve(
    study: Annotated[str, typer.Argument(help="The study's id or digest.")],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Approve a received study for the code that is installed now; shows what changed if it was approved before.

    Example: corsia edge approve lung-features --config edge.toml
    """
    _decide(_load(config), study, "approve", json_out)


@app.command()
def refuse(
    study: Annotated[str, typer.Argument(help="The study's id or digest.")],
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Refuse a study, or withdraw its approval: nothing more of it leaves.

    Example: corsia edge refuse lung-features --config edge.toml
    """
    _decide(_load(config), study, "refuse", json_out)


@app.command()
def preview(
    study: Annotated[str, typer.Argument(help="Id or digest of a received study.")] = "",
    file: Annotated[Path | None, typer.Option("--file", help="A study file instead of a received study.")] = None,
    config: Config = _DEFAULT,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page with plots here too, mode 0600.")] = None,
    json_out: Json = False,
) -> None:
    """Show what would leave for a study: counts, columns, bytes and every rule's word. Sends and spends nothing.

    Example: corsia edge preview lung-features --config edge.toml
    Example: corsia edge preview --file study.toml --config edge.toml --html preview.html
    """
    from edge.preview import page
    from edge.preview import preview as look
    from edge.storage import named_errors

    site = _load(config)
    if (file is None) == (not study):
        raise InputError("input.usage", "name a received study, or give --file study.toml")
    if file is not None:
        document = file.read_bytes()
    else:
        with opened(site) as state:
            document = find(state, study).assignment.document
    made = look(site, document)
    if html is not None:
        with named_errors():
            put(html, page(made).encode())
    if json_out:
        show(made.to_json(), True, "")
    else:
        _show_preview(made)


@app.command()
def pause(config: Config = _DEFAULT, json_out: Json = False) -> None:
    """Stop all egress at once; outlives restarts, until `resume`.

    Example: corsia edge pause --config edge.toml
    """
    site = _load(config)
    steward.pause(site)
    show({"site": site.site, "paused": True}, json_out, "egress is paused")


@app.command()
def resume(
    config: Config = _DEFAULT,
    accept_log: Annotated[
        bool,
        typer.Option("--accept-log", help="The daemon paused because of the centre's log: take the log as it is now."),
    ] = False,
    json_out: Json = False,
) -> None:
    """Let egress go on. After `log.proof` or `log.witness` this is a decision: compare checkpoints with others first.

    Example: corsia edge resume --config edge.toml
    Example: corsia edge resume --accept-log --config edge.toml
    """
    site = _load(config)
    if reason := steward.resume(site, accept_log=accept_log):
        typer.echo(f"accepted after {reason}: from now on the centre's present log counts", err=True)
    show({"site": site.site, "paused": False}, json_out, "egress goes on")


# --- inside


def _load(config: Path) -> EdgeConfig:
    from edge.config import load

    return load(config)


def _decide(site: EdgeConfig, name: str, verb: Literal["approve", "refuse"], json_out: bool) -> None:
    value = decide(site, name, verb)
    text = f"{name}: {value['verdict']} (study {value['digest'][:16]}, code {value['code_digest'][:16]})"
    if value["was"] == "suspended":
        text += "\nthe installed code changed since the last approval:" + "".join(f"\n  {c}" for c in value["changed"])
    show(value, json_out, text)


def _show_preview(made: Preview) -> None:
    table(
        f"rules for {made.study}",
        ["rule", "study", "site", "effective", "ok", "reason"],
        [[r.name, r.asked, r.site, r.effective, "yes" if r.ok else "NO", r.reason] for r in made.rules],
    )
    if made.gate:
        table("egress gate", ["rule", "ok", "reason"], [[c.rule, "yes" if c.ok else "NO", c.reason] for c in made.gate])
    from edge.preview import COUNTS

    rows: list[list[Any]] = [[name, getattr(made, name)] for name in COUNTS]
    rows += [[f"withheld: {reason}", count] for reason, count in made.withheld.items()]
    table("what would leave", ["what", "count"], [*rows, ["columns", ", ".join(made.columns)]])
    typer.echo("nothing was sent, nothing was spent" + (f"; it would end with {made.code}" if made.code else ""))
    if made.code:
        typer.echo(f"{made.reason}: {made.hint}")

"""`corsia edge journal`: the site's own record, verified, and told to the data protection officer."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corsia.cli.show import put, show, table
from protocol.errors import InputError

if TYPE_CHECKING:
    from edge.config import EdgeConfig

__all__ = ["app", "moment"]

app = typer.Typer(invoke_without_command=True, help="The site's own record of what was asked, decided and sent.")
Config = Annotated[Path, typer.Option("--config", help="The site's edge.toml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Language = Annotated[str, typer.Option("--lang", help="Of the report: it or en.")]
_DEFAULT = Path("edge.toml")


@app.callback()
def journal(
    context: typer.Context,
    config: Config = _DEFAULT,
    tail: Annotated[int, typer.Option("--tail", help="How many of the last entries to show.", min=0)] = 20,
    check: Annotated[bool, typer.Option("--verify", help="Check the whole hash chain.")] = False,
    json_out: Json = False,
) -> None:
    """Show the site's own hash-chained record of what was asked, decided and sent.

    Example: corsia edge journal --tail 50 --verify --config edge.toml
    """
    if context.invoked_subcommand is not None:
        return
    from edge.journal import Journal

    record = Journal(_load(config).state_dir / "journal.jsonl", readonly=True)
    checked = record.verify() if check else None
    lines = record.tail(tail)
    value: dict[str, Any] = {
        "head": record.head(),
        "entries": [{"seq": line.seq, "at": line.at, "event": line.event, **line.fields} for line in lines],
    }
    if checked is not None:
        value |= {"verified": True, "lines": checked}
    if json_out:
        show(value, True, "")
        return
    rows = [
        [line.seq, f"{datetime.fromtimestamp(line.at, UTC):%Y-%m-%d %H:%M:%S}", line.event,
         " ".join(f"{k}={v}" for k, v in line.fields.items())]
        for line in lines
    ]  # fmt: skip
    table("journal", ["seq", "time", "event", "fields"], rows)
    if checked is not None:
        typer.echo(f"the chain of {checked} lines verifies; head {record.head()}")


@app.command()
def verify(config: Config = _DEFAULT, json_out: Json = False) -> None:
    """Check the hash chain, and every head of it that this site has signed; exit 19 when anything was changed.

    Example: corsia edge journal verify --config edge.toml --json
    """
    from edge.heads import Heads
    from edge.journal import Journal
    from privacy.envelope import read_key

    site = _load(config)
    record = Journal(site.state_dir / "journal.jsonl", readonly=True)
    value = Heads(site.state_dir).verify(record, read_key(site.state_dir / "identity.key").public)
    at = (
        ""
        if value["signed_at"] is None
        else f" at {datetime.fromtimestamp(value['signed_at'], UTC):%Y-%m-%d %H:%M:%S}Z"
    )
    text = f"{value['lines']} lines verify; {value['signed']} signed heads, the newest over {value['signed_lines']}{at}"
    show({"verified": True, **value}, json_out, text)


@app.command()
def export(
    config: Config = _DEFAULT,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write one line a release here, mode 0600.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report to be read here, mode 0600.")] = None,
    since: Annotated[str, typer.Option("--since", help="From this day or time on (UTC), as 2026-01-31.")] = "",
    until: Annotated[str, typer.Option("--until", help="Before this day or time (UTC).")] = "",
    lang: Language = "it",
    json_out: Json = False,
) -> None:
    """Say what left this site, when, to whom, on what legal basis, about how many people, and what budget it spent.

    Example: corsia edge journal export --csv left.csv --html left.html --since 2026-01-01 --config edge.toml
    """
    from edge.account import account
    from edge.pages import account_csv, account_page, languages
    from edge.storage import named_errors

    if csv is None and html is None and not json_out:
        raise InputError("input.usage", "give --csv FILE, --html FILE or --json")
    if lang not in languages():
        raise InputError("input.usage", f"--lang: {' or '.join(languages())}")
    made = account(_load(config), since=moment(since, "--since"), until=moment(until, "--until"))
    with named_errors():
        if csv is not None:
            put(csv, account_csv(made).encode())
        if html is not None:
            put(html, account_page(made, lang).encode())
    text = f"{len(made.releases)} releases, {sum(r.parcels for r in made.releases)} parcels"
    show(made.to_json(), json_out, text)


def moment(text: str, option: str) -> float | None:
    """A day or time as Unix seconds; None for no text.

    Raises:
        InputError: `input.usage`.
    """
    if not text:
        return None
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo is not None else read.replace(tzinfo=UTC)).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):  # the latter: by its zone before the year 1, or after 9999
        raise InputError("input.usage", f"{option}: a day or time as 2026-01-31 or 2026-01-31T12:00:00Z") from None


def _load(config: Path) -> EdgeConfig:
    from edge.config import load

    return load(config)

"""`corsia edge subject` and `breach-report`: what a site owes its patients and its authority (GDPR 15 and 33)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corsia.cli.edge_journal import Config, Json, Language, moment
from corsia.cli.show import put, show, table
from protocol.errors import InputError

if TYPE_CHECKING:
    from edge.access import About
    from edge.breach import Breach
    from edge.config import EdgeConfig

__all__ = ["breach_report", "subject"]

_DEFAULT = Path("edge.toml")


def subject(
    patient: Annotated[
        str, typer.Argument(help="The patient's id; better not given here: it is asked for, or read from stdin.")
    ] = "",
    config: Config = _DEFAULT,
    json_out: Json = False,
) -> None:
    """Say what left about one patient: studies, pseudonyms, parcels, dates. Looked up here; nothing leaves.

    Without an argument the id is asked for, unseen, or read from the first line of standard input, so that it stands in
    no shell history and no list of processes. The journal tells that there was a look-up, and of nobody.

    Example: corsia edge subject --config edge.toml
    Example: corsia edge subject --config edge.toml --json < id.txt
    """
    from edge.access import about

    patient = patient or _asked()
    found = about(_load(config), patient)
    value = {"studies": [_line(one) for one in found]}
    if json_out:
        show(value, True, "")
        return
    columns = ["study", "purpose", "legal_basis", "controller", "pseudonym", "sure", "parcels", "first", "last"]
    table("what left about this patient", columns, [[one[c] for c in columns] for one in value["studies"]])
    typer.echo(f"{len(found)} studies; sure = no: somebody is in these parcels, and the data do not say who")


def breach_report(
    study: Annotated[str, typer.Option("--study", help="Id or digest of the study.")],
    config: Config = _DEFAULT,
    since: Annotated[str, typer.Option("--since", help="What left from this day or time on (UTC).")] = "",
    until: Annotated[str, typer.Option("--until", help="And before this one.")] = "",
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write the draft here, mode 0600.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write it as a page here, mode 0600.")] = None,
    lang: Language = "it",
    json_out: Json = False,
) -> None:
    """Draft the notification of a breach (GDPR 33(3)) from this site's own records; prints it unless told where.

    Example: corsia edge breach-report --study lung --since 2026-01-01 --markdown breach.md --config edge.toml
    """
    from edge.breach import breach_markdown, breach_page
    from edge.pages import languages
    from edge.storage import named_errors

    if lang not in languages():
        raise InputError("input.usage", f"--lang: {' or '.join(languages())}")
    made = _breach(_load(config), study, moment(since, "--since"), moment(until, "--until"))
    with named_errors():
        if markdown is not None:
            put(markdown, breach_markdown(made, lang).encode())
        if html is not None:
            put(html, breach_page(made, lang).encode())
    value = {
        "study": made.study.id,
        "persons": made.persons,
        "records": sum(one.rows for one in made.releases),
        "parcels": sum(one.parcels for one in made.releases),
        "bytes": sum(one.bytes for one in made.releases),
        "recipient": made.study.recipient,
        "paused": made.paused,
        "approval": made.approval,
    }
    written = " ".join(str(path) for path in (markdown, html) if path is not None)
    show(value, json_out, f"wrote {written}" if written else breach_markdown(made, lang))


def _breach(site: EdgeConfig, name: str, since: float | None, until: float | None) -> Breach:
    from contextlib import closing

    from corsia.steward import find
    from edge.account import account, study_line
    from edge.approvals import Approvals
    from edge.breach import Breach
    from edge.pause import is_paused
    from edge.plugins import PluginCode
    from edge.released import Released
    from edge.state import SiteState
    from pipelines.registry import code_digest
    from protocol.study import parse_study

    with closing(SiteState(site.state_dir / "state.db")) as state, closing(Released(site.state_dir)) as kept:
        record = find(state, name)
        digest = record.assignment.study_digest
        made = account(site, since=since, until=until)
        releases = [one for one in made.releases if one.study.digest == digest]
        told = [one for one in releases if not one.withdrawal]
        parcels = [parcel for one in told for parcel in one.parcel_ids]
        losses = [one.epsilon for one in releases if one.epsilon is not None]
        return Breach(
            account=made,
            study=study_line(parse_study(record.assignment.document), digest),
            releases=releases,
            persons=kept.count(digest, parcels) if told else 0,
            epsilon=sum(losses) if losses else None,
            paused=is_paused(site.state_dir),
            approval=Approvals(state, code_digest, PluginCode(site, state).digest).look(digest).verdict.value,
        )


def _asked() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Patient id", hide_input=True))
    try:
        return sys.stdin.readline().rstrip("\r\n")
    except UnicodeDecodeError:  # which would show the id's bytes
        raise InputError("input.usage", "the patient's id on standard input is not UTF-8") from None


def _line(one: About) -> dict[str, Any]:
    from edge.pages import day

    study = one.study
    ids = [name for release in one.releases for name in release.parcel_ids]
    return {
        "study": study.id,
        "title": study.title,
        "digest": study.digest,
        "lane": study.lane,
        "purpose": study.purpose,
        "legal_basis": study.legal_basis,
        "controller": study.controller,
        "recipient": study.recipient,
        "pseudonym": one.pseudonym,
        "sure": "yes" if one.sure else "no",
        "parcels": len(ids),
        "parcel_ids": ids,
        "first": day(min(release.first for release in one.releases)),
        "last": day(max(release.last for release in one.releases)),
    }


def _load(config: Path) -> EdgeConfig:
    from edge.config import load

    return load(config)

"""The account of what left, as CSV and as one HTML page to be read: no script, no link, nothing of a person.

Place in the flow: `edge/account.py` -> here -> the data protection officer. Whatever a study says is escaped.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from edge.account import Account, Release, StudyLine
from edge.wording import LANGUAGES, Words, words
from protocol.sheet import cell

__all__ = ["account_csv", "account_page", "day", "document", "languages", "receipts", "unreceipted"]

MAX_LINES = 200  # releases of a study that a page lists; the CSV has all
_COLUMNS = (
    "site", "first_utc", "last_utc", "study", "title", "study_digest", "lane", "purpose", "legal_basis", "controller",
    "ethics_reference", "dataset", "centre", "recipient_key", "assignment", "part", "parcels", "bytes", "persons",
    "rows", "epsilon", "log_indexes", "parcel_ids", "on_medium", "after_backup", "withdrawal",
)  # fmt: skip
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin:2rem 0 .4rem}table{border-collapse:collapse;margin:.4rem 0}"
    "td,th{border-bottom:1px solid #ddd;padding:.2rem .7rem;text-align:left;vertical-align:top}"
    "th{font-weight:600}code{font-size:.85em;overflow-wrap:anywhere}p{margin:.4rem 0}"
    "@media print{body{margin:0;max-width:none}h2{break-after:avoid}}"
)


def languages() -> tuple[str, ...]:
    """The languages there are."""
    return tuple(LANGUAGES)


def day(at: float) -> str:
    """A time to the second, UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def account_csv(made: Account) -> str:
    """One line a release, with a header; a cell that a spreadsheet would take for a formula is quoted by `'`."""
    target = io.StringIO()
    writer = csv.writer(target)
    writer.writerow(_COLUMNS)
    for one in made.releases:
        study = one.study
        writer.writerow(
            cell(value) for value in (
                made.site, day(one.first), day(one.last), study.id, study.title, study.digest, study.lane,
                study.purpose, study.legal_basis, study.controller, study.ethics_reference, study.dataset,
                made.centre, study.recipient, one.assignment, one.part, one.parcels, one.bytes,
                "" if one.persons is None else one.persons, one.rows,
                "unbounded" if one.epsilon is None else one.epsilon, " ".join(map(str, one.indexes)),
                " ".join(one.parcel_ids), one.on_medium, one.counted, "yes" if one.withdrawal else "no",
            )
        )  # fmt: skip
    return target.getvalue()


def account_page(made: Account, language: str) -> str:
    """The report as one self-contained page."""
    say = words(language)
    total = say["total_text"].format(
        studies=sum(1 for _ in made.by_study()),
        releases=len(made.releases),
        parcels=sum(one.parcels for one in made.releases),
        bytes=sum(one.bytes for one in made.releases),
    )
    facts = [
        (say["period"], period(made, say)),
        (say["total"], total),
        (say["centre"], made.centre or "-"),
        (say["journal"], say["journal_text"].format(lines=made.lines, head=made.head)),
        (say["lookups"], str(made.lookups)),
        (say["made"], day(datetime.now(UTC).timestamp())),
    ]
    parts = [_facts(facts), f"<p>{escape(say['sealed'])}</p>"]
    parts += [_study(study, releases, say) for study, releases in made.by_study()]
    if not made.releases:
        parts.append(f"<p>{escape(say['nothing'])}</p>")
    if made.ended:
        lines: list[list[object]] = [[say["code"], say["count"]]]
        lines += [[code, count] for code, count in made.ended.items()]
        parts.append(f"<h2>{escape(say['ended'])}</h2><p>{escape(say['ended_text'])}</p>{_table(lines)}")
    return document(say["title"].format(site=made.site), "".join(parts), language)


def document(title: str, body: str, language: str) -> str:
    """A page around a body that is HTML already."""
    return (
        f"<!doctype html><html lang={language}><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>{body}</html>\n"
    )


def period(made: Account, say: Words) -> str:
    """The period in words."""
    bounds = [say["from"].format(day(made.since))] if made.since is not None else []
    bounds += [say["to"].format(day(made.until))] if made.until is not None else []
    return ", ".join(bounds) or say["always"]


def receipts(releases: Sequence[Release]) -> str:
    """Places in the log, as ranges."""
    indexes = sorted({index for one in releases for index in one.indexes})
    ranges: list[list[int]] = []
    for index in indexes:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def unreceipted(releases: Sequence[Release], say: Words) -> list[str]:
    """What is to be said of parcels that have no receipt here: on a medium, or gone after a backup."""
    counts = {name: sum(getattr(one, name) for one in releases) for name in ("on_medium", "counted")}
    return [say[name].format(count=count) for name, count in counts.items() if count]


def _study(study: StudyLine, releases: list[Release], say: Words) -> str:
    facts = [
        (say["lane"], say.get(study.lane, study.lane)),
        (say["purpose"], study.purpose),
        (say["legal_basis"], say.get(study.legal_basis, study.legal_basis)),
        (say["controller"], study.controller),
        (say["ethics"], study.ethics_reference),
        (say["dataset"], study.dataset),
        (say["recipient"], study.recipient),
    ]
    lines: list[list[object]] = [
        [say[name] for name in ("when", "part", "parcels", "bytes", "persons", "rows", "budget", "receipts")]
    ]
    updates = [one for one in releases if one.part and not one.withdrawal]
    shown = [*(one for one in releases if not one.part), *updates[:MAX_LINES]]
    lines += [_release(one, say) for one in shown[:MAX_LINES]]
    note = f"<p>{escape(say['rounds'].format(count=len(updates)))}</p>" if updates else ""
    title = f"{say['study']} {study.id}: {study.title}"
    return f"<h2>{escape(title)}</h2>{_facts(facts)}<p><b>{escape(say['releases'])}</b></p>{note}{_table(lines)}"


def _release(one: Release, say: Words) -> list[object]:
    return [
        day(one.first) if one.first == one.last else f"{day(one.first)} - {day(one.last)}",
        say["withdrawal"] if one.withdrawal else one.part or "-",
        one.parcels,
        one.bytes,
        "-" if one.withdrawal else say["unknown"] if one.persons is None else one.persons,
        one.rows,
        "-" if one.withdrawal else say["unbounded"] if one.epsilon is None else f"{one.epsilon:g}",
        "; ".join([*([receipts([one])] if one.indexes else []), *unreceipted([one], say)]),
    ]


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in facts) + "</table>"


def _table(lines: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(str(one))}</th>" for one in lines[0])
    rows = ["".join(f"<td>{escape(str(one))}</td>" for one in line) for line in lines[1:]]
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"

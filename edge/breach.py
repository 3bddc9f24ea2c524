"""The draft of a breach notification (GDPR 33): what this site's own records can say, with places for what they cannot.

Place in the flow: `edge/account.py` -> here -> the data protection officer, who completes, judges and sends it. Counts,
categories and recipients only; no person.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from html import escape

from edge.account import Account, Release, StudyLine
from edge.pages import day, document, period, receipts, unreceipted
from edge.wording import Words, words

__all__ = ["Breach", "breach_markdown", "breach_page"]

_MANY = 20  # parcels that are named; the CSV has all


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """What the draft is about.

    Attributes:
        study: as it was signed.
        releases: of this study, in the period.
        persons: different persons in all of them, None when that is not known.
        epsilon: what the ledger reserved for them in all; None without noise.
        paused: whether egress is stopped now.
        approval: the site's verdict on the study now.
    """

    account: Account
    study: StudyLine
    releases: list[Release]
    persons: int | None
    epsilon: float | None
    paused: bool
    approval: str


def breach_markdown(made: Breach, language: str) -> str:
    """The draft as Markdown."""
    say = words(language)
    blocks = [f"# {say['b_title']}", _draft(say)]
    for heading, lines in _sections(made, say):
        blocks += [f"## {heading}", "\n".join(f"- {_flat(line)}" for line in lines)]
    return "\n\n".join(blocks) + "\n"


def breach_page(made: Breach, language: str) -> str:
    """The draft as one self-contained HTML page."""
    say = words(language)
    parts = [f"<p>{escape(_draft(say))}</p>"]
    for heading, lines in _sections(made, say):
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        parts.append(f"<h2>{escape(heading)}</h2><ul>{items}</ul>")
    return document(say["b_title"], "".join(parts), language)


def _draft(say: Words) -> str:
    return say["b_draft"].format(at=day(time.time()))


def _sections(made: Breach, say: Words) -> list[tuple[str, list[str]]]:
    study, site = made.study, made.account.site
    about = {"controller": study.controller, "key": study.recipient, "centre": made.account.centre or "-"}
    names = [one.parcel_ids for one in made.releases]
    ids = [one for group in names for one in group]
    more = f" ... ({len(ids)})" if len(ids) > _MANY else ""
    evidence = say["b_evidence_text"].format(
        lines=made.account.lines,
        head=made.account.head,
        receipts=receipts(made.releases) or "-",
        ids=(" ".join(ids[:_MANY]) or "-") + more,
    )
    state = say["b_state"].format(paused=say["b_paused" if made.paused else "b_open"], approval=made.approval)
    return [
        (say["b_nature"], [say["b_nature_text"], *_scope(made, say)]),
        (say["b_dpo"], [say["b_dpo_text"].format(site=site, **about)]),
        (say["b_consequences"], _consequences(made, say)),
        (say["b_measures"], [say["b_sealed"], state, say["b_taken"]]),
        (say["b_recipients"], [say["b_recipients_text"].format(**about)]),
        (say["b_evidence"], [evidence]),
    ]


def _scope(made: Breach, say: Words) -> list[str]:
    study, releases = made.study, made.releases
    if not releases:
        return [say["b_none"].format(period=period(made.account, say))]
    lane = say.get(study.lane, study.lane)
    scope = say["b_scope"].format(
        id=study.id,
        title=study.title,
        lane=lane,
        purpose=study.purpose,
        basis=say.get(study.legal_basis, study.legal_basis),
        first=day(min(one.first for one in releases)),
        last=day(max(one.last for one in releases)),
    )
    records = say["b_records"].format(
        records=sum(one.rows for one in releases),
        parcels=sum(one.parcels for one in releases),
        bytes=sum(one.bytes for one in releases),
    )
    persons = say["b_persons"].format(persons=say["unknown"] if made.persons is None else made.persons)
    columns = ", ".join((*study.columns, *study.content)) or "-"
    return [
        scope,
        say["b_subjects"].format(dataset=study.dataset, site=made.account.site),
        persons,
        records,
        *unreceipted(releases, say),
        say["b_categories"].format(columns=columns, lane=lane),
    ]


def _consequences(made: Breach, say: Words) -> list[str]:
    study = made.study
    masked = say["b_masked" if study.masked else "b_plain"]
    lines = [say[f"b_{study.lane}"].format(key=study.recipient, masked=masked)] if f"b_{study.lane}" in say else []
    if made.epsilon is not None:
        lines.append(say["b_epsilon"].format(epsilon=f"{made.epsilon:g}"))
    return [*lines, say["b_ciphertext"]]


def _flat(text: str) -> str:
    """One line in which nothing is Markdown or HTML: a study's title is the centre's text."""
    flat = " ".join(text.split())
    return "".join(f"\\{c}" if c in "\\`*_<>#|" else c for c in flat)

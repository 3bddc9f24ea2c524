"""The certificate of a batch as one HTML page: what was done, what was checked, and what was not. Holds no PHI.

    page = html(report)             # of `batch.run`

Every value in the page is a count, a code or a word of the report's own; each is escaped, and a text that is not one
of these words is refused. No script, no link, no picture. Not here: how the numbers come about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Any

__all__ = ["html"]

_SAFE = re.compile(r"[A-Za-z0-9 .,_:/+()\-]{0,400}")
_CHECKED = (
    "Every element at every depth was treated by the profile's table; what the table does not name was treated by its "
    "value representation and not kept on trust.",
    "A second, independent reader searched each result for every value that had to go, as whole words, with the parts "
    "of names, dates in other spellings and numbers with other separators; a file with a find is not passed.",
    "Preamble and file meta were written anew; private attributes, curves and overlays were taken out unless an "
    "option below keeps them.",
    "Whatever could not be read, treated or checked was not passed.",
)
_UNCHECKED = (
    "Uncompressed pixels were not searched by the second look. Unless Clean Pixel Data is among the options, writing "
    "burned into images was not looked for; classes of images that usually carry it were not passed.",
    "Faces and other features that can be recognised in a volume of the head were not altered.",
    "Values under four characters, coded values, words of the standard and numbers in binary were compared at their "
    "own place only; the numbers are below.",
    "Misspelt names, and persons whom the file names only in free text, are found by no comparison of values.",
    "Linkage with other sources, singling out and inference were not tested.",
)
_REASONS = {
    "gate.residual": "the second look found a value that had to go",
    "input.deidentified": "says that it was de-identified under this key already",
    "input.dicom": "cannot be read or treated as DICOM",
    "input.pixels": "pixels or attachments may show who it is",
}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;"
    "background:#fff}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}"
    "th,td{text-align:left;padding:.25rem 1rem .25rem 0;border-bottom:1px solid #ccc;vertical-align:top;"
    "overflow-wrap:anywhere}td.n{text-align:right}.label{border-left:4px solid #a15c00;padding:.5rem 1rem;"
    "background:#fff6e6}"
)


def html(report: dict[str, Any]) -> str:
    """The page for one report.

    Raises:
        ValueError: the report holds a text that is no code, version or count.
    """
    options = ", ".join(report["options"]) or "none"
    versions = ", ".join(f"{name} {number}" for name, number in sorted(report["versions"].items()))
    facts = [
        ("Profile", f"PS3.15 {report['profile']}, table {report['edition']}"),
        ("Options", options),
        ("Key", report["key_id"]),
        ("Software", versions),
        ("Rules (SHA-256)", report["rules_sha256"]),
        ("Results (SHA-256 over UIDs and digests)", report["outputs_sha256"]),
    ]
    if "finished" in report:
        facts.append(("Finished (UTC)", report["finished"]))
    counts = [
        ("Files met", report["files"]),
        ("Passed", report["passed"]),
        ("The same object again", report["duplicates"]),
        ("Another object under the same UID", report["same_uid"]),
        ("Not passed", report["quarantined"]),
        ("Persons (pseudonyms)", report["persons"]),
        ("In the target from elsewhere: not covered by this page", report.get("others", 0)),
    ]
    parts = [
        "<!DOCTYPE html>\n<html lang=en><head><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>De-identification certificate</title><style>{_STYLE}</style></head><body><main>",
        "<h1>De-identification certificate of one batch</h1>",
        "<p class=label><strong>Pseudonymous, not anonymous.</strong> These data remain personal data: who holds the "
        "key, or other data on the same persons, may tell who they are.</p>",
        "<h2>Batch</h2>", _table(facts), "<h2>Files</h2>", _table(counts),
        "<h2>Why files were not passed</h2>", _named(report["reasons"], _REASONS),
        "<h2>Of these, special kinds</h2>", _named(report["kinds"], {}),
        "<h2>What was checked</h2>", _list(_CHECKED), "<h2>What was not checked</h2>", _list(_UNCHECKED),
        "<h2>Elements treated, by action</h2>", _named(report["elements"], {}),
        "<h2>Second look: finds, by class</h2>", _named(report["residual"], {}),
        "<h2>Second look: compared at their own place only, or explained</h2>", _named(report["exclusions"], {}),
        "</main></body></html>\n",
    ]  # fmt: skip
    return "\n".join(parts)


def _text(value: object) -> str:
    text = str(value)
    if _SAFE.fullmatch(text) is None:
        raise ValueError("a text that is not of the report's own")
    return escape(text)


def _table(rows: Iterable[tuple[str, object]]) -> str:
    cells = (
        f"<tr><th>{_text(name)}</th><td class={'n' if isinstance(value, int) else 't'}>{_text(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _named(counts: dict[str, int], words: dict[str, str]) -> str:
    if not counts:
        return "<p>none</p>"
    return _table((f"{name}: {words[name]}" if name in words else name, int(count)) for name, count in counts.items())


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"

"""Free text in Italian and English without the network: presidio's recognizers, our rules, names, and the deny-list.

    engine = TextEngine("it")
    clean, spans = engine.redact("Il sig. Bianchi, nato il 3/4/1950", deny=["Bianchi^Ugo"], shift_days=12)
    clean = redact_lines(engine, note, deny=["Bianchi^Ugo"])[0]

Every recognizer runs at score zero and decides nothing alone away: a fiscal code with a wrong check letter goes too.
Medical eponyms, scores and drugs stay. Placeholders say what stood there; dates are moved instead where the patient's
shift is given. A site's own model for names (a spaCy folder) adds spans and takes none away. Not here: DICOM
descriptors (`vocabulary.py` closes them).

Source: presidio-analyzer 2.2 with its no-op engine; Italian identifiers by their public formats.
"""

# ruff: noqa: E501 - patterns and notes are data, one a line
from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from privacy.deid import candidates, columns, names, patterns, places, recognizers
from privacy.deid.dates import parse_date
from privacy.deid.deny import DenyList
from privacy.deid.textdates import YEAR, find_dates, shift_written
from privacy.deid.view import View
from protocol.errors import InputError

__all__ = ["Span", "TextEngine", "redact_lines"]

MAX_CHARACTERS = 1_000_000
# On overlap the first label names the union.
_PRIORITY = "fiscal email url account document address date phone record facility name place age network".split()
_BIRTH = re.compile(
    r"(?:\bnat[oa](?:\s+(?:a|ad|in)\s+[\w'’ ()]{2,40}?)?\s*,?\s*(?:il(?: giorno)?|in data)?|data (?:di )?nasc(?:ita|\.)|\bd\.?d?\.?n\.?"
    r"|\bdob|\bd\.o\.b\.?|\bborn(?: on)?(?: [\w ]{2,30} on)?|date of birth|birth ?date|nascita|classe)\s*[:,|=;]?\s*$",
    re.IGNORECASE,
)
_BREAK = re.compile(r"\r\n|[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_TNM = re.compile(
    r"[ycprasm]{0,3}T(?:[0-4Xx]|is)[a-dA-D]?(?:mi)?[NM ][\w() ]{0,20}|(?:BRAF|[KNH]RAS|EGFR|IDH[12]|JAK2|PIK3CA|TP53|HER2|ALK|RET|MET|KIT|PDGFRA|ESR1|CHA2DS2)\w{0,10}"
    r"|[GEHNAQ]\d{1,2}(?:[A-Z]\d)?|(?:18|99M?|68|177|90|131|11)[A-Z]{1,2}\w*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What was replaced: start and end in the original text, and its kind. Never the text itself."""

    start: int
    end: int
    label: str


class TextEngine:
    """Redacts texts of one language.

    Args:
        lang: `it` or `en`.
        deny: values that identify in all texts (a hospital's name, a ward's doctors).
        model: folder of a spaCy model of the site; its persons, places, organisations and dates go too. Loaded at once,
            only from this folder, only when given.

    Raises:
        InputError: `input.usage` for another language.
        ConfigurationError: `config.extra-missing` at first use without presidio; `config.missing` when the model's
            folder does not hold one.
    """

    def __init__(
        self, lang: Literal["it", "en"] = "it", deny: Iterable[str] = (), *, model: str | Path | None = None
    ) -> None:
        if lang not in patterns.PLACEHOLDERS:
            raise InputError("input.usage", f"language {lang!r}: there is it, en")
        self.lang = lang
        self._placeholders = patterns.PLACEHOLDERS[lang]
        self._deny = DenyList(deny)
        self._model = recognizers.SiteModel(Path(model)) if model is not None else None

    def redact(
        self, text: str, deny: DenyList | Iterable[str] = (), shift_days: int | None = None
    ) -> tuple[str, list[Span]]:
        """Replace what identifies a person.

        Args:
            text: any text; line breaks are kept, one of them inside a replaced part too.
            deny: of the patient.
            shift_days: the patient's date shift; dates other than of birth are moved by it, not replaced.

        Returns:
            The text, and the spans in order.
        """
        if len(text) > MAX_CHARACTERS:
            raise InputError("input.usage", "the text is too long for one piece")
        own = deny if isinstance(deny, DenyList) else DenyList(deny)
        view = View(text)
        found = _merged(self._spans(view.text, own), view.text)
        last = max((int(year) for year in YEAR.findall(view.text)), default=2001)
        pieces: list[str] = []
        spans: list[Span] = []
        at = 0
        for span in found:
            start, end = view.original(span.start, span.end)
            start = max(start, at)
            if end <= start:
                continue
            breaks = "".join(_BREAK.findall(text, start, end))
            pieces += [text[at:start], self._replacement(span, view.text, own, shift_days, last), breaks]
            spans.append(Span(start=start, end=end, label=span.label))
            at = end
        return "".join([*pieces, text[at:]]), spans

    def _replacement(self, span: Span, text: str, own: DenyList, shift_days: int | None, year: int) -> str:
        if span.label == "date" and shift_days is not None:
            found = text[span.start : span.end]
            birth = _BIRTH.search(text[max(0, span.start - 80) : span.start]) is not None
            if not birth and parse_date(found) not in (own.dates | self._deny.dates):
                moved = shift_written(found, shift_days, year)
                if moved is not None:
                    return moved
        return self._placeholders[span.label]

    def _spans(self, text: str, own: DenyList) -> list[Span]:
        found = [
            Span(start=start, end=end, label="record" if any(c.isdigit() for c in text[start:end]) else "name")
            for deny in (own, self._deny)
            for start, end in deny.find(text)
        ]
        found += [Span(start=start, end=end, label="date") for start, end in find_dates(text)]
        people: list[tuple[int, int]] = []
        for label, pattern in patterns.RULES:
            for match in pattern.finditer(text):
                if label in ("titled", "labelled", "related", "lower", "short"):
                    people += candidates.trimmed(text, *match.span("v"), label)
                else:
                    found += _checked(text, label, match)
        plain = names.find_names(text)
        people += names.repeated(text, people)
        found += [Span(start=start, end=end, label="name") for start, end in [*people, *plain]]
        for finder in (columns.find_columns, places.find_places):
            found += [Span(start=start, end=end, label=label) for start, end, label in finder(text)]
        found += [Span(start=start, end=end, label=label) for start, end, label in recognizers.find(text, self.lang)]
        if self._model is not None:
            found += [Span(start=start, end=end, label=label) for start, end, label in self._model.find(text)]
        return found


def redact_lines(
    engine: TextEngine, text: str, *, deny: DenyList | Iterable[str] = (), shift_days: int | None = None
) -> tuple[str, list[tuple[int, Span]]]:
    """Redact a whole note, so that a name found in one line goes from all; the number of lines stays.

    Args:
        engine: of the note's language.
        text: the note with its line ends, of any length.
        deny: of the patient.
        shift_days: of the patient.

    Returns:
        The text with the same line ends, and each span with the number of its line, from 1; positions in that line.
    """
    own = deny if isinstance(deny, DenyList) else DenyList(deny)
    pieces: list[str] = []
    spans: list[tuple[int, Span]] = []
    line = 1
    for part in _parts(text):
        clean, found = engine.redact(part, own, shift_days)
        pieces.append(clean)
        starts = [0, *(match.end() for match in re.finditer("\n", part))]
        at = 0
        for span in found:
            while at + 1 < len(starts) and starts[at + 1] <= span.start:
                at += 1
            first = starts[at]
            spans.append((line + at, Span(start=span.start - first, end=span.end - first, label=span.label)))
        line += len(starts) - 1
    return "".join(pieces), spans


def _parts(text: str) -> Iterable[str]:
    """The text in pieces the engine takes, cut at line ends, else at blanks."""
    while len(text) > MAX_CHARACTERS:
        cut = max(text.rfind("\n", 0, MAX_CHARACTERS) + 1, 0) or text.rfind(" ", 0, MAX_CHARACTERS) + 1
        cut = cut or MAX_CHARACTERS
        yield text[:cut]
        text = text[cut:]
    yield text


def _checked(text: str, label: str, match: re.Match[str]) -> list[Span]:
    """One match of a rule, unless the words around say it is medicine."""
    start, end = match.span("v") if "v" in match.re.groupindex else match.span()
    if label == "address" and "street" in match.re.groupindex:
        lead = text[max(0, match.start() - 5) : match.start()].lower()
        street = match["street"].lower()
        way = (street == "via" and lead.endswith("per ")) or (
            street == "corso" and lead.endswith(("in ", "nel ", "di ")) and match["v"][0].islower()
        )
        if way or patterns.NOT_A_STREET.match(text, match.start("v")):
            return []
        start = match.start()
    if label == "facility":
        start = match.start() if "k" in match.re.groupindex else start
        if "k" in match.re.groupindex and not places.is_proper(text, *match.span("v")):
            return []
    if label == "place":
        start, end = places.trimmed(text, start, end)
    if label == "record" and _TNM.fullmatch(text[start:end]):
        return []
    return [Span(start=start, end=end, label=label)] if end > start else []


def _merged(spans: list[Span], text: str) -> list[Span]:
    """The union of overlapping spans, each under the label that comes first in `_PRIORITY`."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if span.start >= span.end:
            continue
        last = merged[-1] if merged else None
        if last and span.start < last.end:
            label = min(last.label, span.label, key=_PRIORITY.index)
            merged[-1] = Span(start=last.start, end=max(last.end, span.end), label=label)
        elif last and last.label == span.label == "name" and text[last.end : span.start] in (" ", ", ", "-", "'"):
            merged[-1] = Span(start=last.start, end=span.end, label="name")
        else:
            merged.append(span)
    return merged

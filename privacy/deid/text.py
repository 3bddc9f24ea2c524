"""Free text in Italian and English without the network: presidio's recognizers, our rules, names, and the deny-list.

    engine = TextEngine("it")
    clean, spans = engine.redact("Il sig. Bianchi, nato il 3/4/1950", deny=["Bianchi^Ugo"], shift_days=12)

Every recognizer runs at score zero and decides nothing alone away: a fiscal code with a wrong check letter goes too.
Medical eponyms and scores stay. Placeholders say what stood there; dates are moved instead where the patient's shift
is given. Not here: DICOM descriptors (`vocabulary.py` closes them), a model for names (none ships offline).

Source: presidio-analyzer 2.2 with its no-op engine; Italian identifiers by their public formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from warnings import catch_warnings, simplefilter

from privacy.deid import patterns
from privacy.deid.dates import DATE_PATTERN, parse_date, shift_text_date
from privacy.deid.deny import DenyList, fold
from privacy.deid.vocabulary import read_words
from protocol.errors import ConfigurationError, InputError

__all__ = ["Span", "TextEngine"]

MAX_CHARACTERS = 1_000_000
# On overlap the first label names the union.
_PRIORITY = "fiscal email url account document address date phone record facility name place age network".split()
_BIRTH = re.compile(
    r"(?:nat[oa](?:\s+a\s+[\w'’ ()]{2,40}?)?\s*,?\s*(?:il|in data)?|data di nascita|d\.?d?n\.?|dob|born(?: on)?"
    r"|date of birth|nascita)\s*[:,]?\s*$",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+(?:['’\-][^\W\d_]+)*")
# Two letters with points that are no initials of a person: "e.v.", "s.c.", "P.S.".
_ABBREVIATIONS = frozenset("EV PO SC IV IM PS DH SN DX SX CV EO NB TC RM PA FC AA VV UU AO CC TS CF SS OD OS".split())
_SENTENCE_END = re.compile(r"(?:^|[.!?:;\n\-(•*]\s*)$")
# Own rules cover these kinds better, or they would reach for a list of domains on the network.
_PRESIDIO_ENTITIES = {
    "IT_FISCAL_CODE": "fiscal", "IT_DRIVER_LICENSE": "document", "IT_IDENTITY_CARD": "document",
    "IT_PASSPORT": "document", "IT_VAT_CODE": "document", "IBAN_CODE": "account", "CREDIT_CARD": "account",
    "IP_ADDRESS": "network", "PHONE_NUMBER": "phone",
}  # fmt: skip


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

    Raises:
        InputError: `input.usage` for another language.
        ConfigurationError: `config.extra-missing` at first use without presidio.
    """

    def __init__(self, lang: Literal["it", "en"] = "it", deny: Iterable[str] = ()) -> None:
        if lang not in patterns.PLACEHOLDERS:
            raise InputError("input.usage", f"language {lang!r}: there is it, en")
        self.lang = lang
        self._placeholders = patterns.PLACEHOLDERS[lang]
        self._deny = DenyList(deny)

    def redact(
        self, text: str, deny: DenyList | Iterable[str] = (), shift_days: int | None = None
    ) -> tuple[str, list[Span]]:
        """Replace what identifies a person.

        Args:
            text: any text; line breaks are kept.
            deny: of the patient.
            shift_days: the patient's date shift; full dates other than of birth are moved by it, not replaced.

        Returns:
            The text, and the spans in order.
        """
        if len(text) > MAX_CHARACTERS:
            raise InputError("input.usage", "the text is too long for one piece")
        own = deny if isinstance(deny, DenyList) else DenyList(deny)
        spans = _merged(self._spans(text, own))
        pieces, at = [], 0
        for span in spans:
            found = text[span.start : span.end]
            pieces += [text[at : span.start], self._replacement(span, found, text[: span.start], own, shift_days)]
            at = span.end
        return "".join([*pieces, text[at:]]), spans

    def _replacement(self, span: Span, found: str, before: str, own: DenyList, shift_days: int | None) -> str:
        if span.label == "date" and shift_days is not None:
            birth = _BIRTH.search(before[-80:]) is not None or parse_date(found) in (own.dates | self._deny.dates)
            moved = None if birth else shift_text_date(found, shift_days)
            if moved is not None:
                return moved
        return self._placeholders[span.label]

    def _spans(self, text: str, own: DenyList) -> list[Span]:
        found = [
            Span(start=start, end=end, label="record" if any(c.isdigit() for c in text[start:end]) else "name")
            for deny in (own, self._deny)
            for start, end in deny.find(text)
        ]
        found += [_span("date", match) for match in DATE_PATTERN.finditer(text)]
        for label, pattern in patterns.RULES:
            for match in pattern.finditer(text):
                if label == "titled":
                    if not _is_heading(match["v"]):
                        found.append(_span("name", match))
                elif label != "name" or not _is_medical(text, match):
                    found.append(_span(label, match))
        found += _names(text)
        found += [_span("place", m) for m in patterns.CONTEXT_PLACE.finditer(text) if fold(m["v"]) in _municipalities()]
        found += self._presidio(text)
        return found

    def _presidio(self, text: str) -> list[Span]:
        results = _analyzer(self.lang).analyze(text, self.lang, score_threshold=0.0)
        spans = [Span(start=r.start, end=r.end, label=_PRESIDIO_ENTITIES[r.entity_type]) for r in results]
        # At score zero these also match short numbers and plain words; ours have a floor.
        return [s for s in spans if s.end - s.start >= 7 and any(c.isdigit() for c in text[s.start : s.end])]


@lru_cache(maxsize=2)
def _analyzer(lang: str) -> Any:
    """presidio with a no-op NLP engine and only recognizers that need neither a model nor the network."""
    try:
        with catch_warnings():
            simplefilter("ignore")  # its dependencies warn at import
            from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
            from presidio_analyzer import predefined_recognizers as known
            from presidio_analyzer.nlp_engine import NoOpNlpEngine
    except ImportError:
        raise ConfigurationError("config.extra-missing", "pip install 'corsia[edge]'") from None
    classes = (
        known.ItFiscalCodeRecognizer, known.ItDriverLicenseRecognizer, known.ItIdentityCardRecognizer,
        known.ItPassportRecognizer, known.ItVatCodeRecognizer, known.IbanRecognizer, known.CreditCardRecognizer,
        known.IpRecognizer,
    )  # fmt: skip
    recognizers = [cls(supported_language=lang) for cls in classes]
    recognizers.append(known.PhoneRecognizer(supported_language=lang, supported_regions=("IT", "GB", "US")))
    registry = RecognizerRegistry(recognizers=recognizers, supported_languages=[lang])
    return AnalyzerEngine(
        registry=registry,
        nlp_engine=NoOpNlpEngine([{"lang_code": lang, "model_name": "none"}]),
        supported_languages=[lang],
    )


def _span(label: str, match: re.Match[str]) -> Span:
    start, end = match.span("v") if "v" in match.re.groupindex else match.span()
    return Span(start=start, end=end, label=label)


def _merged(spans: list[Span]) -> list[Span]:
    """The union of overlapping spans, each under the label that comes first in `_PRIORITY`."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        if span.start >= span.end:
            continue
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            label = min(last.label, span.label, key=_PRIORITY.index)
            merged[-1] = Span(start=last.start, end=max(last.end, span.end), label=label)
        else:
            merged.append(span)
    return merged


def _is_medical(text: str, match: re.Match[str]) -> bool:
    """Whether what looks like a name is an eponym, a drug or a term in its place."""
    start, end = match.span("v") if "v" in match.re.groupindex else match.span()
    parts = _WORD.findall(text[start:end])
    if patterns.EPONYM_BEFORE.search(text[max(0, start - 40) : start]) and fold(parts[0]) in _eponyms():
        return True
    if all(len(part) == 1 for part in parts):
        return "".join(parts).upper() in _ABBREVIATIONS
    return all(fold(part) in _medical() or len(part) == 1 for part in parts)


def _is_heading(found: str) -> bool:
    """Whether what follows a title is clinical language ("Paziente Affetto"); an eponym after a title is a person."""
    parts = [fold(part) for part in _WORD.findall(found) if len(part) > 1]
    return bool(parts) and all(part in _medical() and part not in _eponyms() for part in parts)


def _names(text: str) -> list[Span]:
    """Names without a title: neighbours of which one is a known name or none is a term, and known names alone."""
    found = []
    for match in patterns.ADJACENT.finditer(text):
        words = list(_WORD.finditer(text, *match.span()))
        if _sentence_start(text, words[0].start()) and not _is_name(words[0][0]):
            words = words[1:]
        if len(words) < 2 or _is_medical(text, match):
            continue
        folded = [fold(word[0]) for word in words]
        unknown = [word for word in folded if word not in _medical()]
        if any(_is_name(word) for word in folded) or (len(unknown) == len(folded) and not match[0].isupper()):
            found.append(Span(start=words[0].start(), end=words[-1].end(), label="name"))
    for match in _WORD.finditer(text):
        word, before = match[0], text[max(0, match.start() - 40) : match.start()]
        if not word[0].isupper() or len(word) <= 3 or not _is_name(word) or fold(word) in _medical():
            continue
        if not _sentence_start(text, match.start()) and not patterns.EPONYM_BEFORE.search(before):
            found.append(Span(start=match.start(), end=match.end(), label="name"))
    return found


def _sentence_start(text: str, at: int) -> bool:
    return _SENTENCE_END.search(text[max(0, at - 4) : at]) is not None


def _is_name(word: str) -> bool:
    return fold(word) in _known_names()


@lru_cache(maxsize=1)
def _known_names() -> frozenset[str]:
    """Given names (python-codicefiscale, own list) and surnames (own list), folded."""
    names = {fold(word) for file in ("surnames.txt", "given.txt") for word in read_words(file)}
    for sex in ("M", "F"):
        names |= {fold(part) for name in _package_data("names.json")[sex] for part in name.split()}
    return frozenset(names)


@lru_cache(maxsize=1)
def _municipalities() -> frozenset[str]:
    return frozenset(fold(entry["name"]) for entry in _package_data("municipalities.json"))


@lru_cache(maxsize=1)
def _eponyms() -> frozenset[str]:
    return frozenset(map(fold, read_words("eponyms.txt")))


@lru_cache(maxsize=1)
def _medical() -> frozenset[str]:
    """Words that are no names in clinical text: the standard's, the trade's, eponyms, everyday clinical Italian."""
    files = ("dicom.txt", "imaging.txt", "clinical.txt", "eponyms.txt")
    return frozenset(fold(word) for file in files for word in read_words(file))


def _package_data(name: str) -> Any:
    import json
    from importlib.resources import files

    try:
        return json.loads(files("codicefiscale").joinpath("data", name).read_text("utf-8"))
    except (ModuleNotFoundError, FileNotFoundError):
        raise ConfigurationError("config.extra-missing", "pip install 'corsia[edge]'") from None

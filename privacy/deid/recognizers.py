"""Recognizers that come from elsewhere: presidio's with its no-op engine, and a site's own spaCy model from a folder.

Neither asks the network: presidio's e-mail and URL recognizers, which fetch a list of public suffixes, are not used,
and a model is only ever loaded from the folder that is given. Not here: our own rules (`patterns.py`).

Source: presidio-analyzer 2.2 (MIT).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

from protocol.errors import ConfigurationError

__all__ = ["SiteModel", "find"]

# Own rules cover the other kinds better, or they would reach for a list of domains on the network.
_ENTITIES = {
    "IT_FISCAL_CODE": "fiscal", "IT_DRIVER_LICENSE": "document", "IT_IDENTITY_CARD": "document",
    "IT_PASSPORT": "document", "IT_VAT_CODE": "document", "IBAN_CODE": "account", "CREDIT_CARD": "account",
    "IP_ADDRESS": "network", "PHONE_NUMBER": "phone",
}  # fmt: skip
_MODEL_LABELS = {
    "PER": "name", "PERSON": "name", "PERS": "name", "LOC": "place", "GPE": "place", "LOCATION": "place",
    "FAC": "facility",
    "ORG": "facility", "HOSPITAL": "facility", "DATE": "date", "ID": "record", "PHONE": "phone", "ADDRESS": "address",
}  # fmt: skip
_PIECE = 500
_FLOOR = 7  # at score zero presidio's rules also match short numbers


def find(text: str, lang: str) -> list[tuple[int, int, str]]:
    """Start, end and kind of what presidio finds at score zero, with at least one digit in at least 7 characters."""
    spans = []
    for at, piece in _pieces(text):
        if not any(c.isdigit() for c in piece):
            continue
        for result in _analyzer(lang).analyze(piece, lang, score_threshold=0.0):
            found = piece[result.start : result.end]
            if len(found) < _FLOOR or not any(c.isdigit() for c in found):
                continue
            if result.entity_type == "PHONE_NUMBER" and not _may_be_phone(piece, result.start, result.end):
                continue
            spans.append((at + result.start, at + result.end, _ENTITIES[result.entity_type]))
    return spans


def _may_be_phone(text: str, start: int, end: int) -> bool:
    """A number with letters or decimals around it, or of few digits in groups of one or two, is a measure."""
    if text[start - 1 : start].isalnum() or text[end : end + 1].isalnum():
        return False
    groups = re.findall(r"\d+", text[start:end])
    return sum(map(len, groups)) >= 8 and max(map(len, groups)) >= 3


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Parts of bounded length, cut at a blank where there is one, so that time grows with the length only."""
    at = 0
    while at < len(text):
        end = min(at + _PIECE, len(text))
        if end < len(text):
            cut = text.rfind("\n", at + _PIECE // 2, end)
            cut = cut if cut != -1 else text.rfind(" ", at + _PIECE // 2, end)
            end = cut + 1 if cut != -1 else end
        yield at, text[at:end]
        at = end


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


class SiteModel:
    """A spaCy model that a site brings in a folder of its own.

    Args:
        folder: as written by `nlp.to_disk`; nothing is downloaded and no package name is accepted.

    Raises:
        ConfigurationError: `config.missing` when the folder holds no model that loads; `config.extra-missing`.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "meta.json").is_file() or not (folder / "config.cfg").is_file():
            raise ConfigurationError("config.missing", f"{folder}: not a folder of a spaCy model")
        try:
            with catch_warnings():
                simplefilter("ignore")
                import spacy

                self._model: Any = spacy.load(folder)
        except ImportError:
            raise ConfigurationError("config.extra-missing", "pip install 'corsia[edge]'") from None
        except (OSError, ValueError, KeyError) as error:
            raise ConfigurationError("config.missing", f"{folder}: {type(error).__name__}") from None

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """Start, end and kind of the model's entities that identify; its other labels are left alone."""
        return [
            (at + entity.start_char, at + entity.end_char, _MODEL_LABELS[entity.label_])
            for at, piece in _pieces(text)
            for entity in self._model(piece).ents
            if entity.label_ in _MODEL_LABELS
        ]

"""The words that people read on pages, in English and Italian: one catalogue for centre and hospital.

`words.toml` holds every text once a language; texts take what stands in braces. `errors-it.toml` holds the Italian of
what `protocol.errors` says in English. A key that is missing is a fault of the program and says so: no page is half
translated.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from protocol.errors import CODES

__all__ = ["LANGUAGES", "Words", "chosen", "words"]

LANGUAGES = ("en", "it")
_FILE = Path(__file__).parent / "words.toml"
_ERRORS = Path(__file__).parent / "errors-it.toml"
_ENGLISH = LANGUAGES[0]


class Words:
    """The texts of one language.

    Args:
        language: one of `LANGUAGES`.
        texts: `section.name` -> text.
        errors: the English that an error says -> the same in this language; empty for English.
    """

    def __init__(self, language: str, texts: Mapping[str, str], errors: Mapping[str, str]) -> None:
        self.language, self._texts, self._errors = language, texts, errors

    def __call__(self, key: str, /, **values: object) -> str:
        """A text with its values filled in.

        Raises:
            KeyError: the catalogue has no such key.
        """
        text = self._texts[key]
        return text.format(**values) if values else text

    def named(self, word: object, section: str) -> str:
        """The word for a value of a fixed list (a state, a lane); the value itself where the catalogue has none."""
        return self._texts.get(f"{section}.{word}", str(word))

    def told(self, english: str) -> tuple[str, str]:
        """What an error says, as a page shows it, and the language that this is in.

        A code's summary or hint is in the reader's language; what was said of the one case stays English.
        """
        text = self._errors.get(english)
        return (english, _ENGLISH) if text is None else (text, self.language)

    def error(self, code: str) -> tuple[str, str, str]:
        """A code's summary, its hint and the language that they are in; no text for a code that nobody knows."""
        entry = CODES.get(code)
        if entry is None:
            return "", "", self.language
        summary, language = self.told(entry.summary)
        return summary, self.told(entry.hint)[0], language

    def keys(self) -> frozenset[str]:
        """All keys."""
        return frozenset(self._texts)


@lru_cache(maxsize=len(LANGUAGES))
def words(language: str) -> Words:
    """The texts of a language.

    Raises:
        KeyError: an unknown language, or a text that is not in it.
    """
    if language not in LANGUAGES:
        raise KeyError(language)
    sections = _read(_FILE)
    texts = {f"{section}.{name}": text[language] for section, held in sections.items() for name, text in held.items()}
    return Words(language, texts, {} if language == _ENGLISH else _errors())


def _errors() -> dict[str, str]:
    """English -> Italian of all that the codes say, and of what pages say in their place."""
    sections = _read(_ERRORS)
    told: dict[str, str] = dict(sections["also"])
    for code, entry in CODES.items():
        section, _, name = code.partition(".")
        told |= {entry.summary: sections[section][name]["summary"], entry.hint: sections[section][name]["hint"]}
    return told


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return tomllib.load(file)


def chosen(wished: str, accepted: str) -> str:
    """The language for a reader: what he chose, else the first of a browser's list that there is, else English.

    Args:
        wished: a cookie's or a link's word.
        accepted: an `Accept-Language` header (RFC 9110, section 12.5.4); weights are not looked at, order is.
    """
    if wished in LANGUAGES:
        return wished
    asked = (part.partition(";")[0].strip().lower().partition("-")[0] for part in accepted[:500].split(","))
    return next((one for one in asked if one in LANGUAGES), LANGUAGES[0])

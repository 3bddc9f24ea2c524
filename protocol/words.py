"""The words that people read on pages, in English and Italian: one catalogue for centre and hospital.

`words.toml` holds every text once a language; texts take what stands in braces. A key that is missing is a fault of
the program and says so: no page is half translated.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

__all__ = ["LANGUAGES", "Words", "chosen", "words"]

LANGUAGES = ("en", "it")
_FILE = Path(__file__).parent / "words.toml"


class Words:
    """The texts of one language.

    Args:
        language: one of `LANGUAGES`.
        texts: `section.name` -> text.
    """

    def __init__(self, language: str, texts: Mapping[str, str]) -> None:
        self.language, self._texts = language, texts

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
    with _FILE.open("rb") as file:
        sections = tomllib.load(file)
    texts = {f"{section}.{name}": text[language] for section, held in sections.items() for name, text in held.items()}
    return Words(language, texts)


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

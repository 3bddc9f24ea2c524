"""Values of many persons, found in a text by what they have in common with it, however many persons there are.

    crowd = Crowd(); crowd.add(names); DenyList(crowd.near(text)).find(text)

A deny-list of everybody would be one pattern of thousands of words; here the few whose words stand in the text are
looked up first. Not here: what is done with them (`deny`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from privacy.deid.deny import fold

__all__ = ["Crowd"]

_WORD = re.compile(r"[^\W_]+")
_BETWEEN = re.compile(r"[\s\-./_]+")
_GRAM, _LEAST = 6, 3


class Crowd:
    """Grows with `add`; a value is near a text when one of its words stands there, alone or within another word."""

    def __init__(self) -> None:
        self._values: dict[str, int] = {}
        self._by_form: dict[str, list[str]] = {}

    def add(self, values: Iterable[str]) -> None:
        """Take in values."""
        for value in values:
            if value not in self._values:
                self._values[value] = len(self._values)
                for form in set(_forms(value)):
                    self._by_form.setdefault(form, []).append(value)

    def near(self, text: str) -> tuple[str, ...]:
        """The values that may stand in a text, in the order in which they came."""
        if not self._by_form:
            return ()
        folded = fold(text)
        seen = set(_WORD.findall(folded))
        for written in (folded, _BETWEEN.sub("", folded)):
            seen.update(written[at : at + _GRAM] for at in range(len(written) - _GRAM + 1))
        found = {value for form in seen & self._by_form.keys() for value in self._by_form[form]}
        return tuple(sorted(found, key=self._values.__getitem__))


def _forms(value: str) -> Iterator[str]:
    parts = _WORD.findall(fold(value))
    for part in [*parts, "".join(parts)]:
        if len(part) >= _LEAST:
            yield part[:_GRAM]

"""What every place that data are pulled from looks like to the mirror: pages of records, each kept or set aside alone.

An origin (a PACS, a FHIR server) enumerates and reads; the mirror (`edge.sources.mirror`) keeps, remembers and
resumes. An origin holds no state of its own that must outlive it: what it has to remember are the marks of pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["REFUSED", "Bad", "Gone", "Known", "Origin", "Page", "Part"]

REFUSED = "refused"  # the place did not give a record although it listed it: asked for again before it is set aside


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file to be kept.

    Attributes:
        keys: of the records in it, as the place names them; they stand in no log and in no file name.
        data: the file's bytes.
        suffix: of the file, with its point.
        lines: the file holds one record a line, in the order of `keys`.
    """

    keys: tuple[str, ...]
    data: bytes = field(repr=False)
    suffix: str
    lines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """One record that cannot be used: counted by its reason, its bytes laid aside, the others go on."""

    key: str = field(repr=False)
    reason: str
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Gone:
    """A record that the place says it has deleted."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some records that are done with together.

    Attributes:
        mark: what is remembered once all of them are kept, by this name.
        version: what is remembered under it; "" for nothing.
        items: made as they are read. Raises UnavailableError; what was read before it is kept all the same.
    """

    mark: str
    version: str
    items: Iterator[Part | Bad | Gone]


class Known(Protocol):
    """What an origin may ask about what is kept already."""

    def mark(self, name: str) -> str:
        """The version remembered under a name; "" for none."""
        ...

    def has(self, key: str) -> bool:
        """Whether a record is kept, or has been set aside for good."""
        ...


class Origin(Protocol):
    """A place at the hospital."""

    def pages(self, known: Known) -> Iterator[Page]:
        """All that the place has and `known` does not.

        Raises:
            UnavailableError: `unavailable.source`; to be asked again.
            AuthenticationError: `auth.source`.
            InputError: `input.source` when its answers make no sense.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...

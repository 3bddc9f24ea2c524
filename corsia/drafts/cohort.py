"""Several hospitals' files side by side: the columns they share, and what differs between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from corsia.drafts.column import Column, Kind
from corsia.drafts.file import CsvFile
from corsia.drafts.names import near
from pipelines.learners.vocabulary import Spellings
from protocol.errors import InputError

__all__ = ["Cohort", "Shared", "gather"]

MAX_LEVELS = 100
_LARGEST = 1e7  # beyond it squares summed under masks may leave their range


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A column that all files have and agree on.

    Attributes:
        levels: of a category, those with enough rows, commonest first; all of them in `counts`.
    """

    name: str
    kind: Kind
    levels: tuple[str, ...]
    counts: Mapping[str, int]
    values: Mapping[float, int]
    present: int

    @property
    def distinct(self) -> int:
        """How many different values, spellings of one level counted once."""
        return len(self.values) if self.kind is Kind.NUMBER else len(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """What a study can be made of.

    Attributes:
        files: site -> file.
        shared: columns of the same kind in all files, numbers and categories, in the first file's order.
        notes: what was left out or differs, for the user.
    """

    files: Mapping[str, CsvFile]
    shared: Mapping[str, Shared]
    notes: tuple[str, ...]


def gather(files: Mapping[str, CsvFile], *, least: int) -> Cohort:
    """Compare the files.

    Args:
        least: levels with fewer rows in all files together are not named in a study.

    Raises:
        InputError: `input.table` when the files share no column.
    """
    notes = [f"{site} ({file.path.name}): {note}" for site, file in files.items() for note in file.notes]
    names = [set(file.columns) for file in files.values()]
    common = reduce(set.intersection, names)
    if not common:
        raise InputError("input.table", "the files have no column in common: are their headers spelt alike?")
    notes += _not_everywhere(files, common)
    shared: dict[str, Shared] = {}
    for name in next(iter(files.values())).columns:
        if name in common:
            made, told = _merged(name, {site: file.columns[name] for site, file in files.items()}, least)
            notes += [f"{name!r}: {line}" for line in told]
            if made is not None:
                shared[name] = made
    return Cohort(files=files, shared=shared, notes=tuple(notes))


def _not_everywhere(files: Mapping[str, CsvFile], common: set[str]) -> list[str]:
    told = []
    rest = sorted({name for file in files.values() for name in file.columns} - common)
    for name in rest:
        lacking = [site for site, file in files.items() if name not in file.columns]
        alike = near(name, [other for other in rest if other != name], cutoff=0.85)
        hint = f"; is it {alike[0]!r} elsewhere?" if alike else ""
        told.append(f"{name!r}: left out: not at {', '.join(lacking)}{hint}")
    return told


def _merged(name: str, columns: Mapping[str, Column], least: int) -> tuple[Shared | None, list[str]]:
    kinds = {site: column.kind for site, column in columns.items() if column.kind is not Kind.EMPTY}
    told = [f"no value at {site}" for site, column in columns.items() if column.kind is Kind.EMPTY]
    found = set(kinds.values())
    if not found:
        return None, ["left out: empty"]
    if found == {Kind.TEXT, Kind.CATEGORY}:
        found = {Kind.TEXT}
    for kind, word in ((Kind.IDENTIFIER, "it may name a person"), (Kind.DATE, "dates are no features")):
        if kind in found:
            return None, [f"left out: {word}"]
    if len(found) > 1:
        said = ", ".join(f"{kind} at {site}" for site, kind in kinds.items())
        return None, [f"left out: the files differ: {said}"]
    kind = found.pop()
    if kind is Kind.TEXT:
        return None, ["left out: free text, or nearly as many words as rows"]
    values = sum((Counter(column.values) for column in columns.values()), Counter[float]())
    counts, spelt = _levels([column.levels for column in columns.values()])
    told += spelt
    if kind is Kind.NUMBER and max(map(abs, values)) > _LARGEST:
        return None, [*told, "left out: numbers above 10 million: give them in a larger unit"]
    levels, more = _named(counts, least)
    present = sum(column.present for column in columns.values())
    return Shared(name=name, kind=kind, levels=levels, counts=counts, values=values, present=present), told + more


def _levels(found: Sequence[Mapping[str, int]]) -> tuple[dict[str, int], list[str]]:
    """Counts by the commonest spelling, and which spellings were taken as one."""
    total = sum(map(Counter, found), Counter[str]())
    made: dict[str, int] = {}
    spelt: dict[str, list[str]] = {}
    for text, count in total.most_common():
        known = list(made)
        at = Spellings(known).find(text) if len(known) < 10 * MAX_LEVELS else None
        first = text if at is None else known[at]
        made[first] = made.get(first, 0) + count
        spelt.setdefault(first, []).append(text)
    several = [f"{' = '.join(map(repr, texts[:4]))}" for texts in spelt.values() if len(texts) > 1]
    return made, [f"spellings taken as one level: {'; '.join(several[:5])}"] if several else []


def _named(counts: Mapping[str, int], least: int) -> tuple[tuple[str, ...], list[str]]:
    often = [text for text, count in counts.items() if count >= least and len(text) <= 128]
    often.sort(key=lambda text: (-counts[text], text))
    told = []
    if len(often) < len(counts):
        told.append(f"{len(counts) - len(often)} levels in fewer than {least} rows are not named; they count as none")
    if len(often) > MAX_LEVELS:
        told.append(f"{len(often)} levels: the {MAX_LEVELS} commonest are named, others count as none")
    return tuple(often[:MAX_LEVELS]), told

"""What a worker says besides rows and arrays, checked word by word: items, counts, cohorts, and how it failed.

Place in the flow: `edge.worker` hands on each frame of the child. Nothing of an exception but its type goes further.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from protocol.errors import CODES, CorsiaError, WorkerError, from_code
from protocol.parcel import Item, ItemKind

__all__ = ["Outcome", "Told", "failure", "no_item", "take"]

MAX_REASONS = 64
MAX_COHORTS = 10_000
# What lane code may end with: nothing that this side would wait for, or take for a word of its own ledger.
_SAYABLE = ("config.extra-missing", "gate.", "input.", "model.", "policy.", "worker.")
_WORD = re.compile(r"^[a-z][a-z0-9-]{0,47}\Z")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}\Z")
_TYPE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,63}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """About whom a sum is, as the worker says: patients' ids, and how many numbers about each column."""

    persons: tuple[str, ...]
    numbers: dict[str, int]


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a lane told besides its items: withheld counts by reason, and the cohorts of its sums."""

    withheld: dict[str, int] = field(default_factory=dict)
    cohorts: list[Told] = field(default_factory=list)


def _item(head: dict[str, Any], data: bytes) -> Item:
    try:
        numbers = (head["persons"], head["rows"])
        if not _NAME.match(head["name"]) or not all(type(n) is int and 0 <= n <= 1 << 40 for n in numbers):
            raise ValueError("head")
        return Item(kind=ItemKind(head["kind"]), name=head["name"], data=data, persons=numbers[0], rows=numbers[1])
    except (KeyError, TypeError, ValueError):
        raise WorkerError("worker.failed", "the worker sent a malformed item") from None


def take(op: str, head: dict[str, Any], data: bytes, outcome: Outcome, put: Callable[[Item], None]) -> None:
    """What the child tells without waiting for an answer."""
    if op == "item":
        put(_item(head, data))
    elif op == "withhold":
        _count(outcome, head)
    elif op == "cohort":
        outcome.cohorts.append(_told(head, data))
        if len(outcome.cohorts) > MAX_COHORTS:
            raise WorkerError("worker.failed", "the worker named too many cohorts")


def _told(head: dict[str, Any], data: bytes) -> Told:
    try:
        persons, numbers = json.loads(data), head["numbers"]
        if not all(isinstance(one, str) for one in persons) or not all(type(n) is int for n in numbers.values()):
            raise ValueError("types")
        return Told(persons=tuple(persons), numbers=dict(numbers))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise WorkerError("worker.failed", "the worker named a malformed cohort") from None


def _count(outcome: Outcome, head: dict[str, Any]) -> None:
    reason, count = head.get("reason"), head.get("count")
    known = outcome.withheld
    if not (isinstance(reason, str) and _WORD.match(reason) and type(count) is int and 0 <= count <= 1 << 40):
        raise WorkerError("worker.failed", "the worker counted what is no reason")
    known[reason] = known.get(reason, 0) + count
    if len(known) > MAX_REASONS:
        raise WorkerError("worker.failed", "the worker gave too many reasons")


def failure(head: dict[str, Any]) -> CorsiaError:
    """The error that the child ended with: a code that it may say, or the type of an exception."""
    code, name = head.get("code"), head.get("type")
    if isinstance(code, str) and code in CODES and code.startswith(_SAYABLE):
        return from_code(code)
    known = name if isinstance(name, str) and _TYPE.match(name) else "unknown"
    return WorkerError("worker.failed", f"the pipeline raised {known}")


def no_item(_item: Item) -> None:
    """Where no item is expected."""
    raise WorkerError("worker.failed", "training puts no items")

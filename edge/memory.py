"""What a dataset's released sums were about, remembered in the ledger, so that no later ones single a person out.

Place in the flow: gate (cohorts as the worker told them, checked) -> `admitted`, inside `Ledger.reserve`'s transaction
-> seal. What was reserved counts as released, whether or not it left. The ledger holds keyed fingerprints; their key
lies beside it, is used for nothing else and never leaves the site. The arithmetic is `privacy.disclosure.differencing`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.storage import named_errors
from privacy.disclosure.differencing import CohortMemory
from privacy.disclosure.traps import Traps
from privacy.envelope.keyfile import kept_secret, read_secret
from protocol.errors import BudgetExceeded, ConfigurationError, IntegrityError
from protocol.parcel import canonical_json

__all__ = ["KEY_FILE", "Release", "admitted", "look"]

KEY_FILE = "memory.key"
_KEY_BYTES = 32
_FORMAT = "corsia-memory-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What one release of sums is about.

    Attributes:
        cohorts: label -> patients' ids.
        numbers: column -> how many numbers about it leave.
        minimum: fewest persons that any combination of cohorts may single out.
        traps: the site's.
    """

    cohorts: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, int]
    minimum: int
    traps: Traps


def admitted(state_dir: Path, name: str, release: Release) -> Callable[[bytes | None], bytes]:
    """For `Ledger.reserve`: the dataset's memory after a release. The same release of a name is remembered once.

    Raises (when called):
        DisclosureRefused: `gate.cohort`, `gate.differencing`, `gate.queries`; nothing is remembered then.
        BudgetExceeded: `budget.ledger` when the memory is damaged, or its key is lost.
        StorageError: the key cannot be written.
    """

    def change(before: bytes | None) -> bytes:
        return _after(_key(state_dir, fresh=before is None), before, name, release)

    return change


def look(state_dir: Path, before: bytes | None, release: Release) -> None:
    """Whether a release would be refused now; changes nothing. Raises as `admitted`."""
    key = secrets.token_bytes(_KEY_BYTES) if before is None else _key(state_dir, fresh=False)
    _after(key, before, "", release)


def _after(key: bytes, before: bytes | None, name: str, release: Release) -> bytes:
    try:
        memory, marks = _read(before) if before is not None else (CohortMemory.new(key, os.urandom(16)), {})
        mark = _mark(key, release)
        if before is not None and name and marks.get(name) == mark:
            return before
        memory = memory.admit(key, release.cohorts, release.minimum, columns=release.numbers, traps=release.traps)
    except IntegrityError as error:
        raise BudgetExceeded("budget.ledger", error.message) from None
    return canonical_json({"format": _FORMAT, "cohorts": json.loads(memory.to_bytes()), "marks": marks | {name: mark}})


def _read(data: bytes) -> tuple[CohortMemory, dict[str, str]]:
    try:
        body = json.loads(data)
        if body["format"] != _FORMAT:
            raise ValueError(_FORMAT)
        marks = {str(name): str(mark) for name, mark in body["marks"].items()}
        return CohortMemory.from_bytes(json.dumps(body["cohorts"]).encode()), marks
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BudgetExceeded("budget.ledger", "the memory of cohorts is damaged") from None


def _mark(key: bytes, release: Release) -> str:
    """Tells whether a release is the one that bore this name before, after a crash between reserve and release."""
    people = sorted(sorted({one.strip().casefold() for one in persons}) for persons in release.cohorts.values())
    body = canonical_json({"people": people, "numbers": dict(release.numbers)})
    return hmac.digest(key, b"corsia memory mark" + hashlib.sha256(body).digest(), "sha256").hex()


def _key(state_dir: Path, *, fresh: bool) -> bytes:
    path = state_dir / KEY_FILE
    try:
        with named_errors():
            key = kept_secret(path, lambda: secrets.token_bytes(_KEY_BYTES)) if fresh else read_secret(path)
    except ConfigurationError as error:
        if error.code != "config.missing":
            raise
        key = b""
    if len(key) != _KEY_BYTES:
        raise BudgetExceeded("budget.ledger", "the key of the memory of cohorts is lost")
    return key

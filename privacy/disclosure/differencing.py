"""What cohorts released before give away together with a new one.

Sums over cohorts are linear: whoever has some can add and subtract them. The memory keeps each released cohort as a
set of keyed fingerprints. A new cohort is refused when some combination of it with any number of earlier ones (a
difference of two, a union taken away from a third, ...) vanishes everywhere but on fewer than the minimum number of
persons. It also counts how many numbers were ever released on a column of these persons.

Exact linear algebra modulo a prime, on groups of persons who are in the same cohorts. Where the search would be too
long, the answer is no. A memory that is full refuses; it never forgets. Not here: where it is stored.

Source: Denning and Schloerer, ACM TODS 1980;5:88-102 (trackers); Chin and Ozsoyoglu, IEEE TSE 1982;8:574-82 (audit of
sums); Dinur and Nissim, PODS 2003 (number of answers).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from privacy.disclosure.traps import Traps
from protocol.errors import DisclosureRefused, IntegrityError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Matrix = npt.NDArray[np.int64]

__all__ = ["CohortMemory"]

MAX_COHORTS = 512
MAX_PERSONS = 5_000_000
MAX_SEARCH, MAX_COLUMNS = 3_000, 300
_PRIME = (1 << 31) - 1
_WIDTH = 8
_FORMAT = "corsia-cohorts-1"


@dataclass(frozen=True, slots=True)
class CohortMemory:
    """Cohorts of one dataset that were released, over all studies. A value: `released` gives a new one.

    Attributes:
        salt: 16 random bytes of this memory.
        check: tells whether a key is the one it was begun with.
        cohorts: each a frozen set of fingerprints; equal ones are kept once.
        spent: fingerprint of a column -> (cohort's place, numbers released), in order.
    """

    salt: bytes
    check: bytes
    cohorts: tuple[frozenset[bytes], ...] = ()
    spent: Mapping[bytes, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    @classmethod
    def new(cls, key: bytes, salt: bytes) -> CohortMemory:
        """An empty memory. `salt` is 16 bytes from the operating system's generator, the key stays with the site."""
        if len(salt) != 16 or len(key) < 16:
            raise ValueError("the salt is 16 bytes, the key at least 16")
        return cls(salt=salt, check=_mac(key, salt, b"check"))

    def refuse(
        self, key: bytes, persons: Iterable[str], minimum: int, *, columns: Mapping[str, int] | None = None,
        traps: Traps | None = None,
    ) -> None:  # fmt: skip
        """Raise unless sums over these persons may join what was released; changes nothing.

        Args:
            key: the site's.
            persons: who is in the cohort; ids are stripped, case does not matter, repeats count once.
            minimum: fewest persons that any combination may single out.
            columns: column -> how many numbers about it would be released.
            traps: for `queries`; the defaults when None.

        Raises:
            DisclosureRefused: `gate.cohort`, `gate.differencing`, `gate.queries`.
            IntegrityError: `journal.chain` for another key than the memory was begun with.
        """
        new = self._fingerprints(key, persons)
        if len(new) < minimum:
            raise DisclosureRefused("gate.cohort", f"fewer than {minimum} persons")
        if new not in self.cohorts:
            if len(self.cohorts) >= MAX_COHORTS or len(new) > MAX_PERSONS:
                raise DisclosureRefused(
                    "gate.differencing", "the memory of cohorts is full: the steward must review it"
                )
            if _singles_out([*self.cohorts, new], minimum):
                raise DisclosureRefused(
                    "gate.differencing",
                    f"with cohorts released before, fewer than {minimum} persons would be singled out",
                )
        allowed = (traps or Traps()).queries * len(new)
        for name, numbers in (columns or {}).items():
            before = self.spent.get(_mac(key, self.salt, b"column:" + name.encode()), ())
            so_far = sum(n for place, n in before if not new.isdisjoint(self.cohorts[place]))
            if so_far + numbers > allowed:
                raise DisclosureRefused("gate.queries", "a column's numbers on these persons are spent")

    def released(self, key: bytes, persons: Iterable[str], *, columns: Mapping[str, int] | None = None) -> CohortMemory:
        """The memory after a release. The caller has asked `refuse` under the same lock."""
        new = self._fingerprints(key, persons)
        cohorts = self.cohorts if new in self.cohorts else (*self.cohorts, new)
        place = cohorts.index(new)
        spent = dict(self.spent)
        for name, numbers in (columns or {}).items():
            column = _mac(key, self.salt, b"column:" + name.encode())
            spent[column] = (*spent.get(column, ()), (place, int(numbers)))
        return replace(self, cohorts=cohorts, spent=spent)

    def admit(
        self, key: bytes, cohorts: Mapping[str, Iterable[str]], minimum: int, *,
        columns: Mapping[str, int] | None = None, traps: Traps | None = None,
    ) -> CohortMemory:  # fmt: skip
        """The memory after all cohorts of one release, each checked against those before it as well.

        Args:
            key: the site's.
            cohorts: label -> persons, such as `pipelines.features.statistics.Sums.cohorts`.
            minimum: fewest persons that any combination may single out.
            columns: column -> numbers about it in the whole release; booked on the largest cohort.
            traps: for `queries`.

        Raises:
            DisclosureRefused: as `refuse`; nothing is remembered then.
        """
        known = self
        people = sorted(({str(p) for p in persons} for persons in cohorts.values()), key=len, reverse=True)
        for place, persons in enumerate(people):
            about = columns if place == 0 else None
            known.refuse(key, persons, minimum, columns=about, traps=traps)
            known = known.released(key, persons, columns=about)
        return known

    def to_bytes(self) -> bytes:
        """JSON; the cohorts are bit rows over the sorted fingerprints of all persons."""
        everybody = sorted(set().union(*self.cohorts))
        place = {print_: i for i, print_ in enumerate(everybody)}
        rows = []
        for cohort in self.cohorts:
            bits = bytearray((len(everybody) + 7) // 8)
            for print_ in cohort:
                bits[place[print_] >> 3] |= 1 << (place[print_] & 7)
            rows.append(_text(bytes(bits)))
        body = {
            "format": _FORMAT,
            "salt": _text(self.salt),
            "check": _text(self.check),
            "persons": _text(b"".join(everybody)),
            "cohorts": rows,
            "spent": {_text(name): [list(pair) for pair in pairs] for name, pairs in sorted(self.spent.items())},
        }
        return json.dumps(body, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> CohortMemory:
        """Read what `to_bytes` wrote.

        Raises:
            IntegrityError: `journal.chain` for anything else; nothing may be released then.
        """
        try:
            return cls._read(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, binascii.Error, RecursionError):
            raise IntegrityError("journal.chain", "the memory of cohorts is damaged") from None

    @classmethod
    def _read(cls, body: dict[str, Any]) -> CohortMemory:
        if body["format"] != _FORMAT:
            raise ValueError
        packed = _bytes(body["persons"])
        everybody = [packed[i : i + _WIDTH] for i in range(0, len(packed), _WIDTH)]
        if len(packed) % _WIDTH or everybody != sorted(set(everybody)) or len(body["cohorts"]) > MAX_COHORTS:
            raise ValueError
        cohorts = []
        for row in map(_bytes, body["cohorts"]):
            if len(row) != (len(everybody) + 7) // 8:
                raise ValueError
            cohorts.append(frozenset(p for i, p in enumerate(everybody) if row[i >> 3] >> (i & 7) & 1))
        spent = {_bytes(n): tuple((int(a), int(b)) for a, b in pairs) for n, pairs in body["spent"].items()}
        if any(not 0 <= a < len(cohorts) or b < 0 for pairs in spent.values() for a, b in pairs):
            raise ValueError
        return cls(salt=_bytes(body["salt"]), check=_bytes(body["check"]), cohorts=tuple(cohorts), spent=spent)

    def _fingerprints(self, key: bytes, persons: Iterable[str]) -> frozenset[bytes]:
        if not hmac.compare_digest(_mac(key, self.salt, b"check"), self.check):
            raise IntegrityError("journal.chain", "the memory of cohorts was begun with another key")
        plain = {str(person).strip().casefold() for person in persons}
        return frozenset(_mac(key, self.salt, b"person:" + person.encode()) for person in plain)


def _mac(key: bytes, salt: bytes, message: bytes) -> bytes:
    return hmac.digest(key, b"corsia cohort memory" + salt + message, "sha256")[:_WIDTH]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _singles_out(cohorts: list[frozenset[bytes]], minimum: int) -> bool:
    """Whether a combination of the cohorts is zero but on 1 to minimum - 1 persons."""
    import numpy as np

    matrix, sizes = _groups(cohorts)
    small = np.flatnonzero(sizes < minimum)
    if not len(small):
        return False
    reduced, _ = _reduce(matrix, np.concatenate([np.flatnonzero(sizes >= minimum), small]))
    within, _ = _reduce(reduced[~reduced[:, sizes >= minimum].any(axis=1)][:, small])
    within = within[within.any(axis=1)]
    if not len(within):
        return False
    weights = sizes[small]
    if any(int(weights[row != 0].sum()) < minimum for row in within):
        return True
    return len(within) > 1 and not _heavy(within, weights, minimum) and _lighter(within, weights, minimum)


def _heavy(basis: Matrix, weights: npt.NDArray[np.int64], minimum: int) -> bool:
    """Whether every combination is surely heavy: none vanishes on a set of columns of full rank, and there are many."""
    import numpy as np

    left, found = np.flatnonzero(basis.any(axis=0)), 0
    while found < minimum:
        _, pivots = _reduce(basis[:, left])
        if len(pivots) < len(basis):
            return False
        found += int(weights[left[pivots]].min())
        left = np.delete(left, pivots)
    return True


def _lighter(basis: Matrix, weights: npt.NDArray[np.int64], minimum: int) -> bool:
    """Whether some combination of the basis is lighter than any of its rows: every light support is tried."""
    import numpy as np

    used = np.flatnonzero(basis.any(axis=0))
    if len(used) > MAX_COLUMNS:
        return True
    tried = 0
    for number in range(1, minimum):
        for chosen in combinations(used.tolist(), number):
            if int(weights[list(chosen)].sum()) >= minimum:
                continue
            tried += 1
            if tried > MAX_SEARCH:
                return True
            _, pivots = _reduce(basis[:, np.setdiff1d(used, chosen)])
            if len(pivots) < len(basis):
                return True
    return False


def _groups(cohorts: list[frozenset[bytes]]) -> tuple[Matrix, npt.NDArray[np.int64]]:
    """Membership of each group of persons who are in the same cohorts [cohorts, groups], and the groups' sizes."""
    import numpy as np

    prints = [np.frombuffer(b"".join(cohort), dtype=">u8") for cohort in cohorts]
    everybody = np.unique(np.concatenate(prints))
    member = np.zeros((len(everybody), len(cohorts)), dtype=np.bool_)
    for place, found in enumerate(prints):
        member[np.searchsorted(everybody, found), place] = True
    packed = np.packbits(member, axis=1)
    _, first, sizes = np.unique(packed, axis=0, return_index=True, return_counts=True)
    return member[first].T.astype(np.int64), sizes.astype(np.int64)


def _reduce(matrix: Matrix, order: npt.NDArray[np.int64] | None = None) -> tuple[Matrix, list[int]]:
    """Reduced row echelon form modulo the prime and its pivots, which are taken in the order of columns given."""
    import numpy as np

    rows = matrix.copy() % _PRIME
    taken: list[int] = []
    for column in range(rows.shape[1]) if order is None else order.tolist():
        top = len(taken)
        if top == len(rows):
            break
        pivots = np.flatnonzero(rows[top:, column])
        if not len(pivots):
            continue
        pivot = top + int(pivots[0])
        if pivot != top:
            rows[[top, pivot]] = rows[[pivot, top]]
        rows[top] = rows[top] * pow(int(rows[top, column]), -1, _PRIME) % _PRIME
        factors = rows[:, column].copy()
        factors[top] = 0
        touched = np.flatnonzero(factors)
        rows[touched] = (rows[touched] - factors[touched, None] * rows[top] % _PRIME) % _PRIME
        taken.append(column)
    return rows, taken

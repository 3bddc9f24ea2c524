"""Differencing: what earlier cohorts give away together with a new one, over queries and studies."""

from __future__ import annotations

import json
import secrets
from itertools import product

import numpy as np
import pytest

from privacy.disclosure.differencing import CohortMemory
from privacy.disclosure.traps import Traps
from protocol.errors import DisclosureRefused, IntegrityError

KEY = bytes(range(32))
SALT = bytes(16)


def people(*spans: tuple[int, int]) -> list[str]:
    return [f"P{i}" for low, high in spans for i in range(low, high)]


def memory(*cohorts: list[str]) -> CohortMemory:
    made = CohortMemory.new(KEY, SALT)
    for cohort in cohorts:
        made = made.released(KEY, cohort)
    return made


def refused(known: CohortMemory, cohort: list[str], minimum: int = 5, **more: object) -> str | None:
    try:
        known.refuse(KEY, cohort, minimum, **more)  # type: ignore[arg-type]
    except DisclosureRefused as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("earlier", "new", "code"),
    [
        ([], people((0, 4)), "gate.cohort"),
        ([], people((0, 5)), None),
        ([people((0, 100))], people((0, 100)), None),  # the same again
        ([people((0, 100))], people((0, 99)), "gate.differencing"),  # one fewer
        ([people((0, 100))], people((0, 96)), "gate.differencing"),
        ([people((0, 100))], people((0, 95)), None),
        ([people((0, 99))], people((0, 100)), "gate.differencing"),  # one more
        ([people((0, 100))], people((1, 101)), "gate.differencing"),  # one for another
        ([people((0, 50)), people((50, 100))], people((0, 99)), "gate.differencing"),  # union of two
        ([people((0, 50)), people((50, 101))], people((0, 100)), "gate.differencing"),
        ([people((0, 100)), people((0, 40))], people((41, 100)), "gate.differencing"),  # difference of two
        (
            [people((0, 60)), people((40, 100)), people((40, 60))],
            people((0, 99)),
            "gate.differencing",
        ),  # in- and exclusion
        ([people((0, 30)), people((30, 60)), people((60, 90))], people((0, 91)), "gate.differencing"),  # union of three
        ([people((0, 60))], people((58, 120)), None),  # a small overlap alone tells nothing by sums
        ([people((0, 60)), people((58, 120))], people((0, 120)), "gate.differencing"),  # but now it does
        ([people((0, 100))], people((200, 300)), None),
    ],
)
def test_what_singles_out_a_few_is_refused(earlier: list[list[str]], new: list[str], code: str | None) -> None:
    assert refused(memory(*earlier), new) == code


def test_the_order_of_cohorts_does_not_matter_to_what_is_refused_in_the_end() -> None:
    cohorts = [people((0, 50)), people((50, 100)), people((0, 99))]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        known, codes = CohortMemory.new(KEY, SALT), []
        for place in order:
            codes.append(refused(known, cohorts[place]))
            if codes[-1] is None:
                known = known.released(KEY, cohorts[place])
        assert codes == [None, None, "gate.differencing"]


def test_it_refuses_exactly_when_some_combination_singles_out_a_few() -> None:
    """Against every combination of small whole coefficients of three random cohorts."""
    rng = np.random.default_rng(5)
    fired = 0
    for _ in range(60):
        sets = [rng.random(14) < rng.choice([0.5, 0.9]) for _ in range(3)]
        cohorts = [[f"P{i}" for i in np.flatnonzero(s)] for s in sets]
        expected = any(
            0 < np.count_nonzero(sum(c * s.astype(int) for c, s in zip(factors, sets, strict=True))) < 3
            for factors in product(range(-3, 4), repeat=3)
            if any(factors)
        )
        if cohorts[2] in cohorts[:2]:  # nothing new is told
            continue
        known = memory(cohorts[0], cohorts[1])
        found = refused(known, cohorts[2], 3) is not None
        fired += expected
        assert found == expected
    assert 5 < fired < 55


def test_ids_are_normalised_and_never_in_what_is_stored() -> None:
    known = memory([" p1 ", "P1", "P2", "P3"])
    assert len(known.cohorts[0]) == 3
    data = known.to_bytes()
    assert b"P1" not in data
    assert b"p1" not in data
    other = CohortMemory.new(KEY, b"1" * 16).released(KEY, ["P1", "P2", "P3"])
    assert other.cohorts[0].isdisjoint(known.cohorts[0])  # another salt, other prints


def test_what_is_stored_comes_back_and_nothing_else_is_taken() -> None:
    known = memory(people((0, 100)), people((50, 170))).released(KEY, people((0, 100)), columns={"age": 7})
    again = CohortMemory.from_bytes(known.to_bytes())
    assert again == known
    assert refused(again, people((0, 99))) == "gate.differencing"
    body = json.loads(known.to_bytes())
    broken = [b"", b"{}", b"[]", known.to_bytes()[:-9], json.dumps(body | {"format": "x"}).encode()]
    broken += [json.dumps(body | {"cohorts": ["AA=="]}).encode(), json.dumps(body | {"persons": "AAAA"}).encode()]
    for data in broken:
        with pytest.raises(IntegrityError):
            CohortMemory.from_bytes(data)


def test_another_key_is_refused() -> None:
    with pytest.raises(IntegrityError):
        memory(people((0, 9))).refuse(secrets.token_bytes(32), people((0, 9)), 5)
    with pytest.raises(ValueError, match="salt"):
        CohortMemory.new(KEY, b"short")


def test_numbers_on_a_column_add_up_over_queries() -> None:
    everybody, known = people((0, 100)), memory()
    for _ in range(4):
        assert refused(known, everybody, columns={"glucose": 25}) is None
        known = known.released(KEY, everybody, columns={"glucose": 25})
    assert refused(known, everybody, columns={"glucose": 1}) == "gate.queries"
    assert refused(known, people((0, 60)), columns={"glucose": 1}) == "gate.queries"  # other cohort, same persons
    assert refused(known, everybody, columns={"age": 25}) is None
    assert refused(known, people((200, 300)), columns={"glucose": 25}) is None
    assert refused(known, everybody, columns={"glucose": 1}, traps=Traps(queries=2.0)) is None


def test_a_full_memory_refuses_and_large_ones_are_quick() -> None:
    from privacy.disclosure import differencing

    cohorts = [people((i * 10, i * 10 + 400)) for i in range(60)]
    known = memory(*cohorts)
    assert refused(known, people((0, 799))) == "gate.differencing"  # one fewer than two together
    assert refused(known, people((5000, 5100))) is None
    full = CohortMemory(salt=known.salt, check=known.check, cohorts=known.cohorts * 10)
    assert len(full.cohorts) >= differencing.MAX_COHORTS
    assert refused(full, people((9000, 9100))) == "gate.differencing"


def test_a_release_of_many_cohorts_is_admitted_as_a_whole_or_not_at_all() -> None:
    groups = {"all": people((0, 100)), "F": people((0, 50)), "M": people((50, 100))}
    known = memory().admit(KEY, groups, 5, columns={"age": 60})
    assert len(known.cohorts) == 3
    assert refused(known, people((0, 100)), columns={"age": 41}) == "gate.queries"
    with pytest.raises(DisclosureRefused) as caught:
        memory().admit(KEY, groups | {"almost": people((0, 48))}, 5)
    assert caught.value.code == "gate.differencing"

"""The ports that a demo's servers get."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Sequence

import pytest

from corsia.fleet import free_port


def test_no_port_is_one_that_browsers_refuse_and_none_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_order(choices: Sequence[int]) -> int:
        return choices[next(counted)]

    counted = itertools.count()
    monkeypatch.setattr(secrets, "choice", in_order)
    given = [free_port() for _ in range(3)]
    assert min(given) > 10_080
    assert len(set(given)) == 3


def test_two_processes_are_not_given_the_same_before_either_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    offered: dict[int, set[int]] = {4711: set(), 4712: set()}

    def chosen(choices: Sequence[int]) -> int:
        offered[os.getpid()].update(choices)
        return choices[-1]

    monkeypatch.setattr(secrets, "choice", chosen)
    for process in offered:
        monkeypatch.setattr(os, "getpid", lambda number=process: number)
        assert free_port() > 10_080
    assert not offered[4711] & offered[4712]

"""Cells of spreadsheets: a formula becomes text, numbers and plain words stay."""

from __future__ import annotations

import pytest

from protocol.sheet import cell


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_is_text(text: str) -> None:
    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["a=1", "", 3, -3, 2.5, True])
def test_other_values_stay(value: object) -> None:
    assert cell(value) == value


def test_nothing_is_an_empty_cell() -> None:
    assert cell(None) == ""

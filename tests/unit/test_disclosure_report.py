"""Uniqueness and the page that a site reads before it approves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from privacy.disclosure import report, uniqueness
from protocol.errors import InputError


def test_suda_finds_the_smallest_sets_that_tell() -> None:
    frame = pd.DataFrame(
        {"sex": ["F", "F", "F", "M", "M", "M"], "age": [30, 30, 40, 30, 30, 99], "town": ["a", "b", "a", "a", "a", "a"]}
    )
    found = uniqueness.report(frame, ["sex", "age", "town"])
    # rows 1 (town b) and 2 (age 40), 5 (age 99) are alone with one column; row 0 with sex, age and town
    assert found.uniques[("town",)] == 1
    assert found.uniques[("age",)] == 2
    assert found.unique == 4
    assert found.smallest == {1: 3, 2: 0, 3: 1}
    assert found.special == 3
    scores = uniqueness.suda(frame, ["sex", "age", "town"])
    assert scores.tolist() == [1.0, 2.0, 2.0, 0.0, 0.0, 2.0]
    assert uniqueness.report(frame.iloc[:0], ["sex"]).persons == 0
    with pytest.raises(InputError):
        uniqueness.report(pd.DataFrame(np.zeros((2, 60))), list(range(60)), 3)  # type: ignore[arg-type]


def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "pseudonym": [f"P{i:03d}" for i in range(200)],
            "age": rng.integers(40, 90, 200),
            "sex": rng.choice(["F", "M"], 200),
            "glucose": rng.normal(5.5, 1.0, 200),
            "rare": ["common"] * 198 + ["<script>alert(1)</script>"] * 2,
        }
    )
    frame.loc[frame.index[:2], "glucose"] = np.nan
    frame.loc[5, "glucose"] = 98.76543
    return frame


def test_the_report_shows_counts_and_no_value_of_a_few() -> None:
    found = report.summary(table(), quasi=["age", "sex"], minimum=5, k=5, person="pseudonym", columns={"age": "years"})
    assert found["persons"] == 200
    assert found["k"] == int(table().groupby(["age", "sex"]).size().min())
    assert found["uniqueness"]["unique"] == int((table().groupby(["age", "sex"]).size() == 1).sum())
    assert found["columns"]["glucose"]["missing"] is None  # two persons
    assert found["columns"]["rare"]["histogram"] == {"(suppressed)": None}  # the level of a few may name them
    assert found["columns"]["age"]["definition"] == "years"
    counts = [c for c in found["columns"]["glucose"]["histogram"].values() if c is not None]
    assert all(c == 0 or c >= 5 for c in counts)
    assert "pseudonym" not in found["columns"]


def test_the_page_is_one_file_with_plots_and_nothing_that_runs() -> None:
    found = report.summary(table(), quasi=["age", "sex"], minimum=5, k=5, person="pseudonym")
    html = report.page(found, first={"A <b>": [["what", "count"], ["<script>", 3]]})
    assert html.count("<svg") == 6
    assert "suppressed" in html
    assert "<script" not in html
    assert "<td>&lt;script&gt;</td><td>3</td>" in html
    assert "alert" not in html
    assert "http" not in html
    assert "98.76" not in html
    assert "P000" not in html
    empty = report.summary(table().iloc[:0], quasi=["age"], minimum=5, k=5, person="pseudonym")
    assert "</html>" in report.page(empty)

"""The lattice search: against brute force over every node, and against an independent anonymity library."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from privacy import disclosure
from privacy.deid.grouping import Criteria, Grouped, Sensitive
from privacy.deid.hierarchy import from_file, from_rows
from privacy.deid.ladder import Ladder
from privacy.deid.lattice import Found, search
from privacy.deid.loss import METRICS
from privacy.deid.risk import expected_inverse, risk
from protocol.errors import DisclosureRefused, InputError

ADULT = Path(__file__).parents[3] / "shared" / "data" / "arx_adult"
if not ADULT.is_dir():
    ADULT = Path(__file__).parents[2] / ".." / "shared" / "data" / "arx_adult"

TREES = {
    "a": [[str(n), "lo" if n < 3 else "hi", "*"] for n in range(6)],
    "b": [[c, "v" if c in "ae" else "c", "*"] for c in "abcde"],
    "q": [["x", "*"], ["y", "*"]],
}
ROWS = st.lists(
    st.tuples(
        st.sampled_from([*"012345", None]),
        st.sampled_from([*"abcde", None]),
        st.sampled_from("xy"),
        st.integers(0, 3),
        st.integers(0, 30),
    ),
    min_size=1,
    max_size=40,
)


def table(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["a", "b", "q", "s", "p"])


def grouped(frame: pd.DataFrame, *, ordered: bool = True, persons: bool = False) -> tuple[list[Ladder], Grouped]:
    ladders = [from_rows(TREES[name]).climb(frame[name], name) for name in TREES]
    codes, width = disclosure.ranked(frame["s"])
    secret = Sensitive(name="s", codes=codes, width=width, ordered=ordered)
    return ladders, Grouped(ladders, [secret], frame["p"].to_numpy() if persons else None)


# -- an evaluation of one node that shares no code with the engine


def emd(part: list[int], whole: list[int], ordered: bool) -> float:
    values = sorted(set(whole))
    p = [part.count(v) / len(part) for v in values]
    q = [whole.count(v) / len(whole) for v in values]
    if not ordered:
        return sum(abs(x - y) for x, y in zip(p, q, strict=True)) / 2
    if len(values) == 1:
        return 0.0
    moved = itertools.accumulate(x - y for x, y in zip(p, q, strict=True))
    return sum(abs(x) for x in moved) / (len(values) - 1)


def good(part: list[int], c: Criteria) -> bool:
    if c.l_value is None:
        return True
    counts = sorted(Counter(part).values(), reverse=True)
    if c.l_rule == "distinct":
        return len(counts) >= c.l_value
    if c.l_rule == "entropy":
        return math.exp(-sum(n / len(part) * math.log(n / len(part)) for n in counts)) >= c.l_value - 1e-9
    return counts[0] < c.c * sum(counts[int(c.l_value) - 1 :])


def evaluate(frame: pd.DataFrame, ladders: list[Ladder], node: Any, c: Criteria, persons: bool) -> Any:
    keys = list(zip(*(ladder.labels_at(level) for ladder, level in zip(ladders, node, strict=True)), strict=True))
    members = defaultdict(list)
    for i, key in enumerate(keys):
        members[key].append(i)
    s, p = frame["s"].tolist(), frame["p"].tolist()
    size = {k: len({p[i] for i in m}) if persons else len(m) for k, m in members.items()}
    kept = {k for k, m in members.items() if size[k] >= c.k and good([s[i] for i in m], c)}
    while c.t is not None and kept:
        whole = [s[i] for k in kept for i in members[k]]
        far = {k for k in kept if emd([s[i] for i in members[k]], whole, True) > c.t + 1e-9}
        if not far:
            break
        kept -= far
    gone = sum(len(m) for k, m in members.items() if k not in kept)
    return kept and gone <= c.suppression * len(frame) + 1e-9, members, kept, gone


def loss(frame: pd.DataFrame, ladders: list[Ladder], node: Any, result: Any, metric: str) -> float:
    _ok, members, kept, gone = result
    n = len(frame)
    if metric == "discernibility":
        return (sum(len(members[k]) ** 2 for k in kept) + gone * n) / n**2
    spent = whole = 0.0
    for name, ladder, level in zip(TREES, ladders, node, strict=True):
        labels, raw = ladder.labels_at(level), [None if v != v else v for v in frame[name]]
        there, count = Counter(labels), Counter(raw)
        sizes = Counter(row[level] for row in TREES[name])
        for key, rows in members.items():
            for i in rows:
                if metric == "entropy":
                    top = math.log2(n / count[raw[i]])
                    cell = math.log2(there[labels[i]] / count[raw[i]])
                else:
                    top = 1.0
                    last = level == len(ladder) - 1
                    cell = 1.0 if last else 0.0 if raw[i] is None else (sizes[labels[i]] - 1) / (len(TREES[name]) - 1)
                whole += top
                spent += cell if key in kept else top
    return spent / whole if whole else 0.0


CRITERIA = st.builds(
    Criteria,
    k=st.integers(1, 6),
    l_value=st.sampled_from([None, 2, 3]),
    l_rule=st.sampled_from(["distinct", "entropy", "recursive"]),
    c=st.sampled_from([1.0, 2.5]),
    t=st.sampled_from([None, 0.1, 0.3]),
    suppression=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)


@settings(max_examples=60, phases=[Phase.generate], deadline=None, derandomize=True)
@given(ROWS, CRITERIA, st.sampled_from(METRICS), st.booleans(), st.sampled_from(["auto", "heuristic"]))
def test_no_node_of_the_lattice_is_better(
    rows: list[tuple[Any, ...]], criteria: Criteria, metric: Any, persons: bool, how: Any
) -> None:
    frame = table(rows)
    ladders, data = grouped(frame, persons=persons)
    losses = {}
    for node in itertools.product(*(range(len(ladder)) for ladder in ladders)):
        result = evaluate(frame, ladders, node, criteria, persons)
        if result[0]:
            losses[node] = loss(frame, ladders, node, result, metric)
    if not losses:
        with pytest.raises(DisclosureRefused) as caught:
            search(data, criteria, metric=metric, how=how)
        assert caught.value.code == "gate.k"
        return
    found = search(data, criteria, metric=metric, how=how)
    assert found.optimal
    assert found.node in losses
    assert found.loss == pytest.approx(losses[found.node], abs=1e-9)
    assert found.loss == pytest.approx(min(losses.values()), abs=1e-9)
    _ok, _members, _kept, gone = evaluate(frame, ladders, found.node, criteria, persons)
    assert int((~found.kept).sum()) == gone


@settings(max_examples=25, phases=[Phase.generate], deadline=None, derandomize=True)
@given(ROWS, CRITERIA)
def test_what_tagging_relies_on(rows: list[tuple[Any, ...]], criteria: Criteria) -> None:
    """An impossible node has no finer one that holds; up-closed criteria withhold fewer rows at coarser nodes."""
    ladders, data = grouped(table(rows))
    verdicts = {}
    for node in itertools.product(*(range(len(ladder)) for ladder in ladders)):
        classes = data.classes(node)
        verdict = data.judge(classes, criteria)
        verdicts[node] = verdict, set(np.flatnonzero(verdict.failed[classes.ids]).tolist())
    for fine, coarse in itertools.product(verdicts, verdicts):
        if any(a > b for a, b in zip(fine, coarse, strict=True)):
            continue
        (below, gone_below), (above, gone_above) = verdicts[fine], verdicts[coarse]
        assert not (above.impossible and below.ok)
        if criteria.up_closed:
            assert not below.ok or above.ok
        if criteria.t is None and criteria.l_value is None and not above.impossible and not below.impossible:
            assert gone_above <= gone_below


# -- pycanon as oracle


@settings(max_examples=25, phases=[Phase.generate], deadline=None, derandomize=True)
@given(ROWS)
def test_k_l_and_t_as_pycanon_counts_them(rows: list[tuple[Any, ...]]) -> None:
    pycanon = pytest.importorskip("pycanon.anonymity")
    frame = table(rows).fillna("missing")
    quasi = ["a", "q"]
    frame["w"] = frame["s"].map("v{}".format)
    assert disclosure.k_anonymity(frame, quasi) == pycanon.k_anonymity(frame, quasi)
    assert disclosure.l_diversity(frame, quasi, ["s", "b"]) == pycanon.l_diversity(frame, quasi, ["s", "b"])
    entropy = disclosure.l_diversity(frame, quasi, ["s"], "entropy")
    assert pycanon.entropy_l_diversity(frame, quasi, ["s"]) in {int(entropy + d) for d in (-1e-9, 0, 1e-9)}
    assert disclosure.t_closeness(frame, quasi, ["w"]) == pytest.approx(pycanon.t_closeness(frame, quasi, ["w"]))
    if frame["s"].nunique() > 1:
        assert disclosure.t_closeness(frame, quasi, ["s"]) == pytest.approx(pycanon.t_closeness(frame, quasi, ["s"]))


def test_recursive_by_hand() -> None:
    frame = pd.DataFrame({"q": [1] * 7, "s": list("aaabbcd")})
    assert disclosure.recursive_c(frame, ["q"], ["s"], 2) == pytest.approx(3 / 4)
    assert disclosure.recursive_c(frame, ["q"], ["s"], 3) == pytest.approx(3 / 2)
    assert disclosure.recursive_c(frame, ["q"], ["s"], 5) == math.inf


# -- search


def test_suppression_is_a_limit_and_buys_detail() -> None:
    frame = table([("0", "a", "x", i % 2, i) for i in range(19)] + [("5", "e", "y", 0, 19)])
    _ladders, data = grouped(frame)
    strict = search(data, Criteria(k=5))
    assert strict.node != (0, 0, 0)
    assert strict.kept.all()
    loose = search(data, Criteria(k=5, suppression=0.05))
    assert loose.node == (0, 0, 0)
    assert int((~loose.kept).sum()) == 1
    assert loose.loss == pytest.approx(0.05)
    assert search(data, Criteria(k=5, suppression=0.04)).node == strict.node
    with pytest.raises(DisclosureRefused):
        search(data, Criteria(k=21, suppression=0.5))


def test_bad_criteria_and_words_are_refused() -> None:
    for wrong in ({"k": 0}, {"t": 2}, {"l_value": 0}, {"suppression": 1.5}, {"l_value": 2.5, "l_rule": "recursive"}):
        with pytest.raises(InputError):
            Criteria(**wrong)  # type: ignore[arg-type]
    _ladders, data = grouped(table([("0", "a", "x", 1, 1)]))
    with pytest.raises(InputError):
        search(data, Criteria(k=1), metric="best")  # type: ignore[arg-type]


def test_key_space_beyond_64_bits() -> None:
    tree = [[str(n), str(n // 2), str(n // 4), "*"] for n in range(64)]
    rows = np.random.default_rng(7).integers(0, 64, (300, 14))
    ladders = [from_rows(tree).climb(pd.Series(rows[:, j]), str(j)) for j in range(14)]
    data = Grouped(ladders)
    assert len(data.classes((0,) * 14).rows) == len({tuple(row) for row in rows.tolist()})
    found = search(data, Criteria(k=5))  # 4**14 nodes: the heuristic
    assert found.nodes == 4**14
    assert found.optimal  # it saw every node that holds
    assert disclosure.k_anonymity(pd.DataFrame([a.labels_at(n) for a, n in zip(ladders, found.node, strict=True)]).T,
                                  list(range(14))) >= 5  # fmt: skip
    assert found.loss < 1
    with pytest.raises(InputError):
        search(data, Criteria(k=5), how="optimal")


@pytest.mark.skipif(not ADULT.is_dir(), reason="no ../shared/data")
def test_adult_is_optimal_within_a_second() -> None:
    frame = pd.read_csv(ADULT / "adult_int.csv", sep=";")
    assert frame.shape == (30162, 9)
    found, best = _adult(frame, 0.0), math.inf
    for _attempt in range(3):  # the machine has other work
        start = time.perf_counter()
        found = _adult(frame, 0.0)
        best = min(best, time.perf_counter() - start)
        if best < 1:
            break
    assert best < 1
    assert found.optimal
    assert (found.nodes, found.node) == (12960, (0, 4, 1, 1, 3, 2, 2, 1, 0))
    ladders = [from_file(ADULT / f"adult_int_hierarchy_{name}.csv").climb(frame[name], name) for name in frame]
    out = pd.DataFrame({a.name: a.labels_at(n) for a, n in zip(ladders, found.node, strict=True)})
    assert pytest.importorskip("pycanon.anonymity").k_anonymity(out, list(out)) >= 5
    loose = _adult(frame, 0.02)
    assert loose.optimal
    assert loose.loss < found.loss
    assert 0 < (~loose.kept).sum() <= 0.02 * len(frame)


def _adult(frame: pd.DataFrame, suppression: float) -> Found:
    ladders = [from_file(ADULT / f"adult_int_hierarchy_{name}.csv").climb(frame[name], name) for name in frame]
    return search(Grouped(ladders), Criteria(k=5, suppression=suppression))


# -- risk


def test_risks() -> None:
    sizes = np.array([1, 2, 2, 4, 4, 4, 4])
    found = risk(sizes, 0.4)
    assert found["unique_rows"] == 1
    assert found["prosecutor"] == {"max": 1.0, "mean": pytest.approx(3 / 7), "rows_above": pytest.approx(3 / 7)}
    assert found["journalist"] == found["prosecutor"]
    assert found["marketer"]["mean"] == pytest.approx(3 / 7)  # three classes, one right match in each
    sample = risk(sizes, 0.4, 700)
    assert sample["journalist"]["max"] < 0.1
    assert sample["marketer"]["mean"] == pytest.approx(sample["journalist"]["mean"])
    assert risk(sizes[:0], 0.2)["prosecutor"]["max"] == 0


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.49, 0.51, 0.9, 1.0])
@pytest.mark.parametrize("size", [1, 2, 5, 50, 51])
def test_expected_inverse_is_the_sum_it_stands_for(size: int, fraction: float) -> None:
    if fraction == 1.0:
        assert expected_inverse(size, 1.0) == 1 / size
        return
    total, term, n = 0.0, size * math.log(fraction), 0
    while n < 400_000:  # sum over F - f of its negative binomial probability / F
        total += math.exp(term) / (size + n)
        term += math.log1p(-fraction) + math.log((size + n) / (n + 1))
        n += 1
        if n > size / fraction * 3 and term < -40:
            break
    assert expected_inverse(size, fraction) == pytest.approx(total, rel=1e-4)

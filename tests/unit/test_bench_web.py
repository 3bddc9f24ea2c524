"""`corsia bench web`: each page is asked for and measured; no time is asserted."""

from __future__ import annotations

from corsia.bench_web import PAGES, bench_web


def test_every_page_of_a_small_consortium_is_measured() -> None:
    told: list[str] = []
    made = bench_web(told.append, sites=4, studies=10, times=2)
    assert set(made["pages"]) == set(PAGES)
    assert all(page["bytes"] > 2000 and 0 < page["median_ms"] <= page["max_ms"] for page in made["pages"].values())
    assert made["worst_ms"] >= made["worst_median_ms"] > 0
    assert len(told) == len(PAGES) + 1

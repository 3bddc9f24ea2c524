"""The site's limit of the rate and its quiet hours."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import Delivery
from edge.pace import Pace, quiet, span_of
from protocol.errors import Paused


class Time:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def go() -> bool:
    return False


@settings(deadline=None)
@given(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=30), st.floats(1, 1000))
def test_what_passed_before_a_piece_is_within_the_rate(sizes: list[int], mbit_s: float) -> None:
    time = Time()
    pace = Pace(mbit_s, clock=lambda: time.now, sleep=time.sleep)
    passed = 0
    for size in sizes:
        pace.take(size, go)
        assert passed <= time.now * mbit_s * 1e6 / 8 + 1
        assert time.now <= passed / (mbit_s * 1e6 / 8) + 1e-6  # and no slower than that
        passed += size


def test_idle_time_is_not_saved_up() -> None:
    time = Time()
    pace = Pace(8, clock=lambda: time.now, sleep=time.sleep)
    time.now = 1000.0
    for _ in range(3):
        pace.take(1_000_000, go)
    assert time.now == pytest.approx(1002.0)


def test_without_a_limit_nothing_waits() -> None:
    time = Time()
    Pace(clock=lambda: time.now, sleep=time.sleep).take(1 << 40, go)
    assert time.now == 0


def test_a_wait_ends_when_told_to_stop() -> None:
    time = Time()
    pace = Pace(1, clock=lambda: time.now, sleep=time.sleep)
    pace.take(1_000_000, go)
    with pytest.raises(Paused):
        pace.take(1, lambda: time.now > 1.0)
    assert time.now < 1.2


@pytest.mark.parametrize(
    ("spans", "at", "expect"),
    [
        (["22:00-06:00"], "23:59", True),
        (["22:00-06:00"], "00:00", True),
        (["22:00-06:00"], "05:59", True),
        (["22:00-06:00"], "06:00", False),
        (["22:00-06:00"], "21:59", False),
        (["07:30-18:00"], "07:30", True),
        (["07:30-18:00"], "18:00", False),
        (["07:30-12:00", "13:00-18:00"], "12:30", False),
        (["07:30-12:00", "13:00-18:00"], "13:00", True),
        ([], "12:00", False),
    ],
)
def test_quiet_hours_may_run_over_midnight(spans: list[str], at: str, expect: bool) -> None:
    now = datetime.combine(datetime(2026, 3, 29), datetime.strptime(at, "%H:%M").time())  # noqa: DTZ001, DTZ007
    assert quiet([span_of(text) for text in spans], now) is expect
    assert Delivery(quiet_hours=tuple(spans)).resting(now) is expect


@pytest.mark.parametrize("text", ["22-06", "22:00", "22:00-22:00", "25:00-06:00", "22:00-06:00-07:00", "", "a-b"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Delivery(quiet_hours=(text,))


@pytest.mark.parametrize(
    "values",
    [
        {"max_mbit_s": 0},
        {"proxy": "socks5://h:1"},
        {"proxy": "http://user:pw@h:3128"},  # a login in the file that anyone may read
        {"proxy": "h:3128"},
        {"proxy_auth": "x"},
        {"speed": 3},
    ],
)
def test_what_cannot_be_meant_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Delivery.model_validate(values)

"""Limits of one site: their configuration, the rate of calls, and what landed in a day."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest

from central.config import LimitsConfig, read_config
from central.gateway.quota import HOUR_S, Calls, Landed, Rate
from central.store import Store
from central.store.models import ParcelRow
from protocol.errors import ConfigurationError, UnavailableError

LIMITS = LimitsConfig.model_validate(
    {
        "site": {"bytes_per_day": 5000, "parcels_per_day": 10, "calls_per_s": 3},
        "sites": {"big": {"bytes_per_day": 50_000}},
    }
)


def refused(code: str):  # type: ignore[no-untyped-def]
    return pytest.raises(UnavailableError, check=lambda error: error.code == code and error.retry_s >= 1)


def test_one_sites_limits_are_those_of_all_but_for_what_it_names(tmp_path: Path) -> None:
    assert (LIMITS.of("big").bytes_per_day, LIMITS.of("big").parcels_per_day) == (50_000, 10)
    assert LIMITS.of("small") == LIMITS.site
    assert LimitsConfig().of("any").bytes_per_day == 200_000_000_000
    text = "[limits.site]\ncalls = 4\n[limits.sites.b]\nstreams = 1\n"
    made = read_config(f'name = "c"\n{text}', tmp_path / "central.toml").limits.of("b")
    assert (made.calls, made.streams) == (4, 1)
    for wrong in (
        "[limits.sites.b]\nbytes = 1",
        "[limits.sites]\nb = 3",
        "[limits.sites.B]",
        "[limits.site]\ncalls = 0",
    ):
        with pytest.raises(ConfigurationError):
            read_config(f'name = "c"\n{wrong}', tmp_path / "central.toml")


def test_a_rate_is_a_burst_and_then_a_trickle_for_each_site_alone() -> None:
    calls = Calls(LIMITS)
    for _ in range(6):
        calls.take("small")
    with refused("unavailable.rate"):
        calls.take("small", 20)
    calls.take("big")
    calls.take("big", 20)
    with refused("unavailable.rate"):
        calls.take("big")


def test_who_asks_too_often_still_gets_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate, passed = Rate(burst=2, per_s=2.0, peers=1), 0
    for _ in range(400):  # four a second for 100 seconds, where two a second are allowed
        now[0] += 0.25
        try:
            rate.take("a")
            passed += 1
        except UnavailableError:
            pass
    assert 200 <= passed <= 202


def test_a_fine_is_a_debt_of_a_burst_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = Rate(burst=20, per_s=1.0, peers=1)
    rate.take("a")
    for _ in range(9):
        rate.fine("a", 9.0)
    now[0] += 20.5
    with refused("unavailable.rate"):
        rate.take("a")
    now[0] += 1
    rate.take("a")


def test_the_wait_that_is_asked_for_is_bounded() -> None:
    for per_s, least, most in ((0.0, 3600, 3600), (1e-9, 3600, 3600), (1000.0, 1, 1), (0.01, 90, 100)):
        rate = Rate(burst=1, per_s=per_s, peers=1)
        rate.take("a")
        with pytest.raises(UnavailableError) as caught:
            rate.take("a")
        assert least <= caught.value.retry_s <= most


def parcel(store: Store, site: str, size: int, ago_s: float, content_type: str = "features") -> None:
    with store.begin() as session:
        session.add(
            ParcelRow(
                id=secrets.token_hex(16), site=site, study_digest="", assignment_id="", content_type=content_type,
                digest="", size_bytes=size, log_index=0, landed_at=time.time() - ago_s,
            )
        )  # fmt: skip


def test_what_landed_in_a_day_counts_also_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for site, size, ago_s in (("small", 1000, 30 * HOUR_S), ("small", 2000, HOUR_S), ("other", 4000, 0)):
        parcel(store, site, size, ago_s)
    landed = Landed(store, LIMITS)
    landed.check("small", [3000])
    with refused("unavailable.quota"):
        landed.check("small", [3001])
    with refused("unavailable.quota"):
        landed.check("small", [1000, 1000, 1001])
    landed.add("small", 2500)
    landed.check("small", [500])
    with refused("unavailable.quota"):
        landed.check("small", [501])
    landed.check("other", [1000])
    landed.check("big", [50_000])
    landed.check("big", [1] * 10)
    with refused("unavailable.quota"):
        landed.check("big", [1] * 11)


def test_withdrawals_are_counted_apart_also_after_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    parcel(store, "small", 4000, HOUR_S, content_type="withdrawal")
    parcel(store, "small", 3000, HOUR_S)
    Landed(store, LIMITS).check("small", [2000])
    told = Landed(store, LIMITS, withdrawals=True)
    told.check("small", [1000])
    with refused("unavailable.quota"):
        told.check("small", [1001])


def test_what_landed_a_day_ago_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    landed, now = Landed(Store(tmp_path), LIMITS), time.time()
    landed.add("small", 5000)
    with refused("unavailable.quota"):
        landed.check("small", [1])
    monkeypatch.setattr(time, "time", lambda: now + 24 * HOUR_S - 1)
    with refused("unavailable.quota"):
        landed.check("small", [1])
    monkeypatch.setattr(time, "time", lambda: now + 25 * HOUR_S)
    landed.check("small", [5000])

"""A consortium played through with outages: everything arrives once, and the figures are of what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from corsia import rehearsal_plan as plan
from corsia.rehearsal_figures import Coefficients, Line, extrapolate, line


def rehearsed(out: Path, sites: int, rounds: int, timeout_s: float) -> dict[str, Any]:
    words = ["rehearse", "--sites", str(sites), "--rounds", str(rounds), "--out", str(out), "--json"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "corsia", *words], capture_output=True, text=True, timeout=timeout_s
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 1
    return dict(json.loads(done.stdout))


def well(told: dict[str, Any], sites: int) -> None:
    assert told["complete"] is True
    assert told["log"]["verified"] is True
    assert sum(told["networks"].values()) == told["sites"] == sites
    assert len(told["networks"]) == 4
    assert min(told["networks"].values()) >= sites // 4
    assert told["patients"]["largest"] > 2 * told["patients"]["smallest"]
    for lane in ("harvest", "anonymize", "extract"):
        assert told["lanes"][lane]["sites"] == sites
        assert told["lanes"][lane]["parcels"] >= sites
    assert set(told["lanes"]) == set(plan.LANES)
    assert {(o["what"], o["how"]) for o in told["outages"]} == {
        ("agents", "killed"), ("agents", "frozen"), ("gateway", "killed"), ("vault", "killed"),
    }  # fmt: skip
    assert told["lanes"]["train"]["parcels"] >= sites, "who was away in a round is not missed"
    assert all(outage["recovered_s"] > 0 for outage in told["outages"])
    assert told["throughput"]["rows_per_s"] > 0
    assert told["at_rest"][-1]["sites"] == sites
    assert told["coefficients"]["parcel_cpu_s"] > 0
    assert told["memory"]["agent_mb"] > 10
    assert told["extrapolation"]["sites"] == 1000
    (plot,) = told["plots"]
    assert Path(plot).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.e2e
@pytest.mark.full
@pytest.mark.timeout(1200)
def test_four_sites_are_rehearsed(tmp_path: Path) -> None:
    well(rehearsed(tmp_path / "out", 4, 1, 1100), 4)


@pytest.mark.e2e
@pytest.mark.full
@pytest.mark.timeout(3600)
def test_fifty_one_sites_are_rehearsed(tmp_path: Path) -> None:
    well(rehearsed(tmp_path / "out", 51, 3, 3500), 51)


def test_a_line_goes_through_what_was_measured() -> None:
    found = line([(6, 106.0), (12, 112.0), (18, 118.0)])
    assert (round(found.base, 6), round(found.slope, 6), round(found.spread, 6)) == (100.0, 1.0, 0.0)
    assert found.at(1000) == pytest.approx(1100.0)
    assert line([(4, 10.0)]) == Line(10.0, 0.0, 0.0)
    assert Line(10.0, -1.0, 0.0).at(1000) == 0.0


def test_what_is_extrapolated_follows_from_the_coefficients() -> None:
    known = Coefficients(memory_mb=Line(500.0, 0.25, 0.0), parcel_cpu_s=0.01, parcel_bytes=2e5, parcels_a_site=3.0,
                         beat_cpu_s=0.002, agent_mb=90.0)  # fmt: skip
    told = extrapolate(known, 1000, heartbeat_s=10.0)
    assert told == {"sites": 1000, "centre_memory_mb": 750.0, "heartbeat_cores": 0.2, "parcels": 3000,
                    "parcels_cpu_s": 30.0, "parcels_gb": 0.6}  # fmt: skip


def test_hospitals_are_of_very_different_sizes() -> None:
    made = sorted(plan.sizes(51, 1))
    assert made[0] >= 60
    assert made[-1] > 10 * made[0]
    assert sum(made[-10:]) > sum(made) / 3, "a few hold most of the patients"
    assert plan.sizes(51, 1) == plan.sizes(51, 1)

"""Memory with real processes: the federation's while it averages, the site's while it answers (VmHWM)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from corsia.bench_arrays import bench_aggregation, bench_serialisation
from corsia.bench_wall_centre import BenchCentre, Program, peak_mb

# What a process that averages takes besides models: libraries loaded on the way, the database, buffers.
FIXED_MB = 40


def test_memory_does_not_grow_with_the_number_of_sites() -> None:
    """16 answers of 9.4 MB, which held together would be 150 MB; with moments, which are two models more."""
    made = bench_aggregation(sites=16, hidden=(1536, 1536), strategy="fedadam")
    assert made["rounds"] == 2
    assert 9 < made["model_mb"] < 10
    assert made["peak_mb_above_idle"] < 4 * made["model_mb"] + FIXED_MB


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedprox", "fedadam", "fedadagrad", "fedyogi"])
def test_a_model_of_100_mb_from_8_sites_takes_at_most_4_model_sizes(strategy: str) -> None:
    made = bench_aggregation(sites=8, hidden=(4096, 4096, 2048), strategy=strategy)
    assert made["model_mb"] > 100
    assert made["model_sizes"] <= 4


@pytest.mark.full
def test_the_benchmark_of_serialisation_compares_the_same_record() -> None:
    made = bench_serialisation(4, repeats=1)
    assert made["bytes_above_arrays"] < 200
    assert min(made["out_mib_s"], made["in_mib_s"], made["flower_out_mib_s"], made["flower_in_mib_s"]) > 0


def site(folder: Path, *hidden: int) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.site_memory", str(folder), *map(str, hidden)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=600)
    return {name: int(value) for name, value in json.loads(done.stdout).items()}


def agent_sizes(made: dict[str, int], fixed_mb: int = 0) -> float:
    """Model sizes that the agent takes above its idle self, beyond what is fixed."""
    above = (made["agent_peak_kib"] - made["agent_kib"]) * 1024
    return (above - fixed_mb * 10**6) / made["model_bytes"]


def test_a_sites_agent_holds_question_and_answer_once(tmp_path: Path) -> None:
    assert agent_sizes(site(tmp_path, 2048, 2048), fixed_mb=20) < 2.2


@pytest.mark.full
def test_a_sites_agent_holds_question_and_answer_of_100_mb_once(tmp_path: Path) -> None:
    made = site(tmp_path, 4096, 4096, 2048)
    assert made["model_bytes"] > 10**8
    assert agent_sizes(made) < 2.3


def crossing(folder: Path, size_bytes: int) -> dict[str, float]:
    """MB above its idle self that a parcel of this size costs each side, from payload to verified receipt."""
    with BenchCentre(folder / "centre", ("site-00",)) as centre:
        site = Program("corsia.bench_wall_site", str(centre.site("site-00")))
        try:
            assert site.ask("ready") == {"sites": 1}
            pids = {"site": site.pid, "gateway": centre.processes["gateway"].pid}
            idle = {}
            for name, pid in pids.items():
                Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew at what is resident now
                idle[name] = peak_mb(pid)
            assert site.ask("hold", bytes=1 << 20, count=1, pieces=size_bytes >> 20)["failed"] == []
            assert site.ask("deliver")["count"] == 1
            (landed,) = centre.landing.glob("*.parcel")
            assert landed.stat().st_size > size_bytes
            return {name: peak_mb(pid) - idle[name] for name, pid in pids.items()}
        finally:
            site.close()


def test_a_parcel_of_200_mb_costs_neither_side_its_size(tmp_path: Path) -> None:
    assert max(crossing(tmp_path, 200 << 20).values()) < 120


@pytest.mark.full
def test_a_parcel_of_5_gb_costs_neither_side_200_mb(tmp_path: Path) -> None:
    assert max(crossing(tmp_path, 5 << 30).values()) < 200

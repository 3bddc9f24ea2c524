"""Memory with real processes: the federation's while it averages, the site's while it answers (VmHWM)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from corsia.bench_arrays import bench_aggregation, bench_serialisation

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

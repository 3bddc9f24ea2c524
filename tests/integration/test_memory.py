"""Memory with real processes: the federation's while it averages, the site's while it answers (VmHWM)."""

from __future__ import annotations

import pytest

from corsia.bench_arrays import bench_aggregation, bench_serialisation

# What a process that averages takes besides models: libraries loaded on the way, the database, buffers of 16 MiB.
FIXED_MB = 70


def test_memory_does_not_grow_with_the_number_of_sites() -> None:
    """12 answers of 16.8 MB, which held together would be above 200 MB."""
    made = bench_aggregation(sites=12, hidden=(2048, 2048), rounds=1)
    assert made["rounds"] == 1
    assert 16 < made["model_mb"] < 18
    assert made["peak_mb_above_idle"] < 4 * made["model_mb"] + FIXED_MB


@pytest.mark.full
def test_a_model_of_100_mb_from_8_sites_takes_at_most_4_model_sizes() -> None:
    made = bench_aggregation(sites=8, hidden=(4096, 4096, 2048))
    assert made["model_mb"] > 100
    assert made["model_sizes"] <= 4


def test_the_benchmark_of_serialisation_compares_the_same_record() -> None:
    made = bench_serialisation(4, repeats=1)
    assert made["bytes_above_arrays"] < 200
    assert min(made["out_mib_s"], made["in_mib_s"], made["flower_out_mib_s"], made["flower_in_mib_s"]) > 0

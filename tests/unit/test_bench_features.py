"""`corsia bench features` on a small image: the tools agree, and what is not there is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from corsia import bench_features, bench_genomics
from corsia.cli.bench import app


def test_image_is_the_one_told() -> None:
    voxels, region = bench_features.image()
    assert voxels.dtype == np.int16
    assert int(region.sum()) == 267_761
    assert voxels[region].min() < 0
    assert np.array_equal(bench_features.image(24)[0], bench_features.image(24)[0])


@pytest.mark.slow
def test_radiomics_part_without_peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench_features, "bench_vcf", lambda repeats: {"repeats": repeats})
    result = bench_features.bench_features(size=24, repeats=1, peers=tmp_path, data=tmp_path)
    found = result["radiomics"]
    assert found["ours_107_s"] > 0
    assert found["ours_full_s"] > 0
    assert found["peak_rss_mb"] > 50
    assert found["phantom"] is None
    assert {"mirp", "phantom", "gwas"} <= set(result["missing"])
    if "pyradiomics" not in result["missing"]:
        assert found["compared"] == 98
        assert found["max_rel_diff"] < 1e-6
        assert len(found["other_definition"]) == 9
    json.dumps(result)


def test_phantom_is_counted(shared_data: Path) -> None:
    missing: dict[str, str] = {}
    assert bench_features._phantom(shared_data, missing) == "482/482"
    assert not missing


def test_variant_file_reads_the_same() -> None:
    pytest.importorskip("cyvcf2")
    found = bench_genomics.bench_vcf(1, samples=20, variants=30)
    assert found["max_abs_diff"] == 0
    assert found["of_ceiling"] > 0


def test_association_is_that_of_plink2(shared_data: Path) -> None:
    pytest.importorskip("torch")
    found = bench_genomics.bench_gwas(shared_data / "regenie_example", 1)
    assert found["linear"]["max_abs_diff_to_plink2"] <= 1e-5
    assert found["logistic"]["max_abs_diff_to_plink2"] <= 1e-4
    assert found["linear"]["shown"] == found["logistic"]["shown"] == 1000


def test_peer_that_fails_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert bench_features._run(broken, "mirp", tmp_path / "image.npz", 60) == {"error": "CalledProcessError"}


def test_command_prints_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"radiomics": {"phantom": "482/482"}, "vcf": None, "gwas": None, "missing": {"mirp": "not there"}}
    monkeypatch.setattr(bench_features, "bench_features", lambda *_args, **_more: told)
    done = CliRunner().invoke(app, ["features", "--json"])
    assert json.loads(done.stdout) == told
    plain = CliRunner().invoke(app, ["features"])
    assert "mirp did not run: not there" in plain.stdout

"""The demo's genotypes: files as PLINK means them, one population over all hospitals, effects that can be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corsia.genomes import BUILD, EFFECTS, VARIANTS, draw_trait, write_genotypes
from pipelines.features.genomics.genotypes import Options, read

PEOPLE = [f"P{i}" for i in range(401)]  # no multiple of four: the last byte of a variant is not full


def dosages(folder: Path) -> tuple[tuple[str, ...], list[str], np.ndarray]:
    files = {suffix: (folder / f"cohort.{suffix}").read_bytes() for suffix in ("bed", "bim", "fam")}
    with read(files, Options(build=BUILD)) as opened:
        blocks = list(opened.blocks())
        return opened.samples, [n for b in blocks for n in b.variants.ids], np.hstack([b.dosages for b in blocks])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    copies = write_genotypes(tmp_path, PEOPLE, "site-a")
    samples, names, found = dosages(tmp_path)
    assert samples == tuple(PEOPLE)
    assert names == [entry.split(":")[4] for entry in VARIANTS]
    np.testing.assert_array_equal(found, copies)


def test_plink_files_are_those_of_another_reader(tmp_path: Path) -> None:
    bed_reader = pytest.importorskip("bed_reader", reason="bed-reader is not installed")
    copies = write_genotypes(tmp_path, PEOPLE, "site-a")
    with bed_reader.open_bed(tmp_path / "cohort.bed") as opened:
        np.testing.assert_array_equal(opened.read(), copies)
        assert list(opened.allele_1) == [entry.split(":")[3] for entry in VARIANTS]


def test_hospitals_are_other_persons_of_one_population(tmp_path: Path) -> None:
    a, b = (write_genotypes(tmp_path / name, PEOPLE, name) for name in ("site-a", "site-b"))
    assert (a != b).any()
    np.testing.assert_array_equal(a, write_genotypes(tmp_path / "again", PEOPLE, "site-a"))
    assert float(np.abs(a.mean(0) - b.mean(0)).max()) < 0.25
    near, far = (np.corrcoef(a[:, 10], a[:, other])[0, 1] for other in (11, 60))
    assert near > 0.3 > abs(far)


def test_the_planted_effects_are_in_the_trait(tmp_path: Path) -> None:
    copies = write_genotypes(tmp_path, PEOPLE * 5, "site-a")
    ages = np.random.default_rng(1).uniform(40, 80, len(copies))
    planted = [next(i for i, entry in enumerate(VARIANTS) if entry.endswith(name)) for name in EFFECTS]
    design = np.column_stack([np.ones(len(copies)), ages, copies[:, planted]])
    found = np.linalg.lstsq(design, draw_trait(copies, ages, "site-a"), rcond=None)[0]
    np.testing.assert_allclose(found[2:], list(EFFECTS.values()), atol=4)

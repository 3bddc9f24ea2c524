"""`corsia bench features`, genomics: reading VCF beside bare cyvcf2, and a federated GWAS beside plink2's results.

The VCF is made in the run. The association is over three sites in this process, by the sums that would travel; the
peer for time is one least squares or Newton fit a variant over the pooled rows in numpy.
"""

from __future__ import annotations

import gzip
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipelines.features.genomics.genotypes import Dosages
    from pipelines.features.genomics.variants import Variants
    from pipelines.features.gwas.plan import Plan
    from pipelines.features.gwas.result import Estimates

__all__ = ["bench_gwas", "bench_vcf", "medians"]

Floats = NDArray[np.float64]
SITES = 3
_COVARIATES = ("V1", "V2", "V3")
_TRUTH = {"linear": ("regq.Y1.glm.linear", "T_STAT"), "logistic": ("reg.Y1.glm.logistic.hybrid", "Z_STAT")}
_PHENOTYPES = {"linear": "phenotype.txt", "logistic": "phenotype_bin.txt"}


def bench_vcf(repeats: int = 5, *, samples: int = 2000, variants: int = 2000) -> dict[str, Any]:
    """Seconds to read every dosage of one .vcf.gz, through our reader and through cyvcf2 alone."""
    random = np.random.default_rng(20261122)
    truth = random.binomial(2, random.uniform(0.05, 0.5, variants)[:, None], (variants, samples)).astype(np.int8)
    with TemporaryDirectory() as folder:
        path = Path(folder, "made.vcf.gz")
        _write(path, truth)
        tools: dict[str, Callable[[], Dosages]] = {"cyvcf2": lambda: _bare(path), "ours": lambda: _read_vcf(path)}
        found = {name: tool() for name, tool in tools.items()}
        times = medians(tools, repeats)
    return {
        "samples": samples,
        "variants": variants,
        "ours_s": round(times["ours"], 3),
        "cyvcf2_s": round(times["cyvcf2"], 3),
        "of_ceiling": round(times["cyvcf2"] / times["ours"], 2),
        "variants_per_s": round(variants / times["ours"]),
        "max_abs_diff": float(max(np.abs(part - truth.T).max() for part in found.values())),
    }


def bench_gwas(folder: Path, repeats: int = 5) -> dict[str, Any]:
    """Three sites against the pooled results of plink2, and seconds against one fit a variant in numpy.

    Args:
        folder: regenie's example with plink2's results beside it.
        repeats: how often each runs (the loops over variants once).
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the peer; on a busy machine a second thread waits longer than it works
    try:
        return _associate(folder, repeats)
    finally:
        torch.set_num_threads(threads)


def _associate(folder: Path, repeats: int) -> dict[str, Any]:
    listed, dosages, samples = _genotypes(folder)
    out: dict[str, Any] = {"threads": 1, "sites": SITES, "variants": len(listed), "persons": len(samples)}
    for trait, slow in (("linear", _least_squares), ("logistic", _newton)):
        outcome, covariates = _table(folder, _PHENOTYPES[trait], samples)
        design = np.column_stack([np.ones(len(outcome)), covariates])
        plan = _plan(listed, trait)
        fit = _linear if trait == "linear" else _logistic
        ours = fit(plan, dosages, outcome, covariates)
        seconds = medians({"ours": lambda f=fit, p=plan, y=outcome, c=covariates: f(p, dosages, y, c)}, repeats)["ours"]  # type: ignore[misc]
        start = time.perf_counter()
        plain = slow(design, dosages.astype(np.float64), outcome)
        loop = time.perf_counter() - start
        name, column = _TRUTH[trait]
        truth = _column(folder / name, column)
        shown = ours.status == "ok"
        statistic = np.where(shown, ours.beta / np.where(shown, ours.se, 1.0), np.nan)
        out[trait] = {
            "shown": int(shown.sum()),
            "max_abs_diff_to_plink2": float(f"{np.nanmax(np.abs(statistic - truth)):.3g}"),
            "max_abs_diff_to_numpy": float(f"{np.nanmax(np.abs(statistic - plain)):.3g}"),
            "ours_s": round(seconds, 3),
            "numpy_s": round(loop, 3),
            "ratio_to_numpy": round(loop / seconds, 2),
        }
    return out


def medians(tools: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each tool, the tools taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    for _ in range(repeats):
        for name, tool in tools.items():
            start = time.perf_counter()
            tool()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


# -- variant files


def _write(path: Path, truth: NDArray[np.int8]) -> None:
    names = "\t".join(f"S{index}" for index in range(truth.shape[1]))
    calls = np.array(["0/0", "0/1", "1/1"])
    with gzip.open(path, "wt", compresslevel=1, encoding="ascii") as file:
        file.write("##fileformat=VCFv4.2\n##reference=GRCh38\n##contig=<ID=1,length=248956422,assembly=GRCh38>\n")
        file.write('##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n')
        file.write(f"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t{names}\n")
        for index, row in enumerate(truth):
            file.write(f"1\t{1000 * index + 1}\tv{index}\tA\tC\t.\tPASS\t.\tGT\t" + "\t".join(calls[row]) + "\n")


def _bare(path: Path) -> Dosages:
    from cyvcf2 import VCF

    file = VCF(str(path), gts012=True)
    return np.array([variant.gt_types.astype(np.float32) for variant in file]).T


def _read_vcf(path: Path) -> Dosages:
    from pipelines.features.genomics.genotypes import Options, read

    with read({"vcf.gz": path}, Options(build="GRCh38")) as genotypes:
        return np.concatenate([block.dosages for block in genotypes.blocks()], axis=1)


# -- association


def _genotypes(folder: Path) -> tuple[Variants, Dosages, tuple[str, ...]]:
    from functools import reduce

    from pipelines.features.genomics.genotypes import Options, read

    parts = {suffix: folder / f"example.{suffix}" for suffix in ("bed", "bim", "fam")}
    with read(parts, Options(build="GRCh37")) as genotypes:
        blocks = list(genotypes.blocks())
        listed = reduce(lambda one, two: one.joined(two), (block.variants for block in blocks))
        return listed, np.concatenate([block.dosages for block in blocks], axis=1), genotypes.samples


def _table(folder: Path, name: str, samples: tuple[str, ...]) -> tuple[Floats, Floats]:
    import pandas as pd

    frames = [
        pd.read_csv(folder / file, sep=r"\s+", dtype={"FID": str, "IID": str}).set_index("IID").loc[list(samples)]
        for file in (name, "covariates.txt")
    ]
    return frames[0]["Y1"].to_numpy(np.float64), frames[1][list(_COVARIATES)].to_numpy(np.float64)


def _column(path: Path, column: str) -> Floats:
    import pandas as pd

    values: Floats = pd.read_csv(path, sep="\t")[column].to_numpy(np.float64)
    return values


def _plan(listed: Variants, trait: str) -> Plan:
    from pipelines.features.gwas.plan import Guard, Plan

    kind: Literal["linear", "logistic"] = "linear" if trait == "linear" else "logistic"
    guard = Guard(persons=10, minor=3, cases=3, controls=3)
    return Plan(variants=listed, covariates=_COVARIATES, trait=kind, guard=guard)


def _people(plan: Plan, outcome: Floats, covariates: Floats) -> list[Any]:
    from pipelines.features.gwas.cohort import cohort

    rows = np.arange(len(outcome))
    return [cohort(plan, rows[i::SITES], outcome[i::SITES], covariates[i::SITES]) for i in range(SITES)]


def _linear(plan: Plan, dosages: Dosages, outcome: Floats, covariates: Floats) -> Estimates:
    from pipelines.features.gwas import linear, solve

    blocks = [(np.arange(dosages.shape[1]), dosages)]
    people = _people(plan, outcome, covariates)
    return solve.linear(linear.add([linear.sums(blocks, site, plan, on="cpu") for site in people]), plan)


def _logistic(plan: Plan, dosages: Dosages, outcome: Floats, covariates: Floats) -> Estimates:
    from pipelines.features.gwas import logistic
    from pipelines.features.gwas.newton import Newton

    blocks = [(np.arange(dosages.shape[1]), dosages)]
    people = _people(plan, outcome, covariates)
    rounds = Newton(plan)
    more = True
    while more:
        request = rounds.request()
        more = rounds.advance(logistic.add([logistic.sums(blocks, s, plan, request, on="cpu") for s in people]))
    return rounds.estimates()


def _least_squares(design: Floats, dosages: Floats, outcome: Floats) -> Floats:
    """t of each dosage, one fit a variant."""
    found = np.empty(dosages.shape[1])
    for index, column in enumerate(dosages.T):
        x = np.column_stack([design, column])
        beta, residual, *_ = np.linalg.lstsq(x, outcome, rcond=None)
        variance = residual[0] / (len(x) - x.shape[1]) * np.linalg.inv(x.T @ x)[-1, -1]
        found[index] = beta[-1] / np.sqrt(variance)
    return found


def _newton(design: Floats, dosages: Floats, outcome: Floats) -> Floats:
    """z of each dosage, one fit a variant."""
    found = np.empty(dosages.shape[1])
    for index, column in enumerate(dosages.T):
        x = np.column_stack([design, column])
        beta = np.zeros(x.shape[1])
        for _ in range(25):
            chance = 1 / (1 + np.exp(-x @ beta))
            covariance = np.linalg.inv((x.T * (chance * (1 - chance))) @ x)
            step = covariance @ (x.T @ (outcome - chance))
            beta += step
            if np.abs(step).max() < 1e-8:
                break
        found[index] = beta[-1] / np.sqrt(covariance[-1, -1])
    return found

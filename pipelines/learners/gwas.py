"""Genome-wide association as a federated study: sums from the sites, estimates as on pooled rows.

    prepare: how many persons          each round: a site's guarded sums at the shared coefficients -> Newton's step

A linear trait needs one round, a binary one as many as Newton's method takes. What crosses the wall has a shape that
follows from the study alone. The table holds phenotype and covariates; genotypes come as the dataset's documents,
joined by the patient's id. Nothing per person leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines import SourceFile
from pipelines.compute import Compute
from pipelines.features.genomics.alleles import Agreement, Panel, aligned, chosen
from pipelines.features.genomics.datasets import grouped, together
from pipelines.features.genomics.genotypes import Options, normalise
from pipelines.features.genomics.variants import Variants
from pipelines.features.gwas import linear, logistic
from pipelines.features.gwas.cohort import Cohort, cohort
from pipelines.features.gwas.newton import Newton
from pipelines.features.gwas.plan import Guard, Plan
from pipelines.features.gwas.result import Estimates, lambda_gc
from pipelines.features.gwas.solve import linear as solved
from pipelines.learners import Arrays, Documents, Files, Shapes, columns
from protocol.errors import InputError
from protocol.study import Study
from protocol.validation import first_fault

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Gwas", "GwasRows", "Settings"]

_ESTIMATES = ("persons", "sites", "copies", "freedom", "beta", "se", "status")
_STATUSES = ("ok", "guard", "few", "constant", "collinear", "exact-fit")


class Guards(BaseModel):
    """Smallest counts per variant at one site (`pipelines.features.gwas.plan.Guard`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    persons: Annotated[int, Field(ge=3, le=10**6)] = 10
    minor: Annotated[int, Field(ge=3, le=10**6)] = 10
    cases: Annotated[int, Field(ge=3, le=10**6)] = 10
    controls: Annotated[int, Field(ge=3, le=10**6)] = 10
    missing: Annotated[int, Field(ge=1, le=10**6)] = 3


class Settings(BaseModel):
    """`[pipeline.parameters]` of a study with this learner.

    Attributes:
        variants: `chrom:pos:ref:alt`, or with a name `chrom:pos:ref:alt:rs1`; `alt` is the effect allele.
        build: of the positions.
        trait: `linear` for a quantity, `logistic` for 0/1.
        missing: `drop` leaves out persons without the genotype, `impute` gives them the site's mean dosage.
        pool: `all` tests a variant only where every site passed the guard, `any` where one did.
        ambiguous: A/T and C/G variants: `exclude`, or `forward` when all files are on the forward strand.
        swapped_indels: accept an indel whose reference and alternative are exchanged (PLINK files without a build).
        field: hard calls or imputed dosages (VCF).
        device: `auto` uses a GPU where there is one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    variants: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(min_length=1, max_length=100_000)]
    build: Literal["GRCh37", "GRCh38"]
    trait: Literal["linear", "logistic"] = "linear"
    missing: Literal["drop", "impute"] = "drop"
    pool: Literal["all", "any"] = "all"
    ambiguous: Literal["exclude", "forward"] = "exclude"
    swapped_indels: bool = False
    field: Literal["GT", "DS"] = "GT"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    guard: Guards = Guards()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GwasRows:
    """One site's persons and their dosages of the study's variants.

    Attributes:
        people: complete persons; their `rows` point into the dosages.
        blocks: (index in the plan's variants, float32 dosages [samples, b]).
        dropped: persons of the table without phenotype, covariate or genotypes.
    """

    people: Cohort
    blocks: tuple[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]], ...]
    dropped: int

    @property
    def count(self) -> int:
        """How many persons take part."""
        return len(self.people.rows)


class Gwas:
    """Linear and logistic association. See `pipelines.learners.Learner` for the methods' contract."""

    name = "gwas"
    version = "1"
    strategies = frozenset({"newton"})
    noised: frozenset[str] = frozenset()
    schedule = None
    outputs: tuple[str, ...] = ()
    crossed = "Sums over persons, per variant (products of design, phenotype and dosage; counts),"
    notes = (
        "Estimates are those of pooled rows; a variant that a site's guard held back is not tested there.",
        "`table.csv` beside the model holds one row a variant.",
    )
    measured = "Counts of variants, and the genomic inflation factor (lambda GC)."

    def __init__(
        self,
        *,
        features: tuple[str, ...],
        settings: Mapping[str, Any],
        outcome: tuple[str, ...] = ("",),
        rounds: int = 25,
    ) -> None:
        if len(outcome) != 1 or set(outcome) & set(features):
            raise InputError(
                "input.study", "training: give outcome = [phenotype], apart from the features (covariates)"
            )
        try:
            self.settings = Settings.model_validate(dict(settings))
        except ValidationError as error:
            raise InputError("input.study", first_fault(error, "pipeline", "parameters")) from None
        self.features, self._outcome, self._rounds = features, outcome[0], rounds
        s = self.settings
        self.plan = Plan(
            variants=_variants(s),
            covariates=features,
            trait=s.trait,
            missing=s.missing,
            pool=s.pool,
            guard=Guard(**s.guard.model_dump()),
        )

    @classmethod
    def from_study(cls, study: Study) -> Gwas:
        """The learner with a study's settings.

        Raises:
            InputError: `input.study`.
        """
        t = study.training
        if t is None or not study.dataset.genotypes:
            raise InputError("input.study", "dataset.genotypes: learner 'gwas' needs genotypes")
        return cls(features=t.features, settings=study.pipeline.parameters, outcome=t.outcome, rounds=t.rounds)

    # -- at a site -------------------------------------------------------------------------------------------------

    def rows(
        self, frame: pd.DataFrame, documents: Documents | None = None, patient: str | None = None,
        files: Files | None = None,
    ) -> GwasRows:  # fmt: skip
        """Phenotype and covariates of the table beside the genotypes of the same persons.

        Raises:
            InputError: `input.column-missing`, `input.table`, `input.genotypes`, `input.documents`.
        """
        if documents is None or patient is None or patient not in frame.columns:
            raise InputError("input.documents", "learner 'gwas' needs genotypes and the patient's column")
        counts: Counter[str] = Counter()
        ids = frame[patient].astype(str).str.strip()
        if ids.duplicated().any():
            raise InputError("input.table", "a person has two rows of phenotypes")
        samples, blocks = self._dosages(documents("genotypes"), counts)
        at = {sample: row for row, sample in enumerate(samples)}
        known = ids.isin(at).to_numpy()
        table = frame[known]
        values = [columns.numbers(table, name) for name in (self._outcome, *self.features)]
        people = cohort(
            self.plan,
            [at[i] for i in ids[known]],
            values[0],
            np.column_stack(values[1:]) if self.features else np.zeros((len(table), 0)),
        )
        return GwasRows(people=people, blocks=tuple(blocks), dropped=int((~known).sum()) + people.dropped)

    def _dosages(
        self, files: Iterable[SourceFile], counts: Counter[str]
    ) -> tuple[tuple[str, ...], list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]]:
        """Samples, and dosages of the plan's variants in blocks; a set of files a chromosome is one data set."""
        s = self.settings
        options = Options(build=s.build, field=s.field, chosen=chosen(self.plan.variants))
        agreement = Agreement(ambiguous=s.ambiguous, swapped_indels=s.swapped_indels)
        with together(grouped((file.name, file.data) for file in files), options) as genotypes:
            return genotypes.samples, list(aligned(genotypes, Panel(self.plan.variants), agreement, counts))

    def preparation(self) -> Shapes:
        """float64 (1,): rows."""
        return {"rows": ("float64", (1,))}

    def sums(self, rows: GwasRows, least: int) -> Arrays:
        """The number of persons."""
        del least
        return {"rows": np.array([float(rows.count)])}

    def plausible(self, sums: Arrays, examples: int) -> bool:
        """Whether the count is that of the message."""
        return bool(sums["rows"][0] == examples)

    def warm(self, compute: Compute | None = None) -> None:
        """Import torch."""
        import torch

        torch.set_num_threads(1)

    def update(self, model: Arrays) -> Shapes:
        """The plan's shapes, float64."""
        del model
        return {name: ("float64", shape) for name, shape in self.plan.shapes().items()}

    def fit(self, model: Arrays, preprocessing: Arrays, rows: GwasRows, seed: int) -> Arrays:
        """This site's guarded sums."""
        del preprocessing, seed
        device = self.settings.device
        if self.plan.trait == "linear":
            return dict(linear.sums(rows.blocks, rows.people, self.plan, on=device).to_arrays())
        request = {name: model[name] for name in ("coefficients", "active")}
        return dict(logistic.sums(rows.blocks, rows.people, self.plan, request, on=device).to_arrays())

    # -- at the centre ---------------------------------------------------------------------------------------------

    def agree(self, sums: Arrays) -> Arrays:
        """Nothing is to be agreed on beyond the study."""
        return {"rows": sums["rows"]}

    def initial(self, sums: Arrays, preprocessing: Arrays) -> Arrays:
        """Before the first round."""
        del sums, preprocessing
        if self.plan.trait == "logistic":
            return Newton(self.plan, self._rounds).to_arrays()
        zeros = np.zeros(len(self.plan.variants))
        return {**{name: zeros.copy() for name in _ESTIMATES}, "round": np.zeros(1)}

    def combine(self, model: Arrays, update: Arrays) -> Arrays:
        """The estimates after the sites' summed answers.

        Raises:
            InputError: `input.message` for sums that are not the plan's.
        """
        if self.plan.trait == "logistic":
            newton = Newton.from_arrays(self.plan, model, self._rounds)
            newton.advance(logistic.LogisticSums.from_arrays(update, self.plan))
            return newton.to_arrays()
        found = solved(linear.LinearSums.from_arrays(update, self.plan), self.plan)
        made = {name: np.nan_to_num(getattr(found, name), nan=0.0) for name in _ESTIMATES[:-1]}
        codes = np.array([_STATUSES.index(str(status)) for status in found.status], np.float64)
        return {**made, "status": codes, "round": model["round"] + 1}

    def settled(self, model: Arrays) -> bool:
        """After one round of a linear trait; when no variant is active any more of a binary one."""
        if self.plan.trait == "logistic":
            return not (model["active"] > 0).any()
        return bool(model["round"][0] >= 1)

    def scoring(self) -> Shapes:
        """The sites are not asked."""
        return {}

    def score(self, model: Arrays, preprocessing: Arrays, rows: GwasRows) -> Arrays:
        """Never asked for."""
        del model, preprocessing, rows
        return {}

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """From the model: variants with an estimate, held back by a guard, still on their way; lambda GC."""
        frame = self.table(sums, {})
        told = {"tested": float((frame["status"] == "ok").sum()), "guarded": float((frame["status"] == "guard").sum())}
        told["unconverged"] = float((frame["status"] == "unconverged").sum())
        factor = lambda_gc(frame["log10_p"].to_numpy(np.float64)) if told["tested"] else float("nan")
        return told | ({"lambda-gc": float(factor)} if np.isfinite(factor) else {})

    def table(self, model: Arrays, preprocessing: Arrays) -> pd.DataFrame:
        """One row a variant (`Estimates.frame`)."""
        del preprocessing
        return self._estimates(model).frame()

    def predict(self, model: Arrays, preprocessing: Arrays, frame: pd.DataFrame) -> pd.DataFrame:
        """An association study predicts nothing.

        Raises:
            InputError: `input.usage`.
        """
        raise InputError("input.usage", "an association study predicts nothing; read its table")

    def _estimates(self, model: Arrays) -> Estimates:
        if self.plan.trait == "logistic":
            return Newton.from_arrays(self.plan, model, self._rounds).estimates()
        found = Estimates.empty(self.plan, model["persons"], model["sites"], model["copies"])
        found.freedom[:] = model["freedom"]
        found.status[:] = [_STATUSES[int(code)] for code in model["status"]]
        ok = found.status == "ok"
        found.beta[ok], found.se[ok] = model["beta"][ok], model["se"][ok]
        return found


def _variants(settings: Settings) -> Variants:
    """The study's list in normal form.

    Raises:
        InputError: `input.study` naming the entry that is not one.
    """
    rows = []
    for number, entry in enumerate(settings.variants):
        parts = entry.split(":")
        if len(parts) not in (4, 5) or not parts[1].isdigit():
            raise InputError("input.study", f"pipeline.parameters.variants.{number}: chrom:pos:ref:alt")
        chrom, pos, ref, alt = parts[:4]
        try:
            made = normalise(chrom, int(pos), ref, alt, settings.build, Options(build=settings.build), False)
        except InputError:
            made = "outside"
        if isinstance(made, str):
            raise InputError("input.study", f"pipeline.parameters.variants.{number}: {made}")
        rows.append((*made, parts[4] if len(parts) == 5 else ""))
    try:
        return Variants.of(rows, settings.build)
    except InputError as error:
        raise InputError("input.study", f"pipeline.parameters.variants: {error.message}") from None

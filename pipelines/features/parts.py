"""The parts of a feature row that come from the dataset's documents: histories, scores, gene sets, contexts.

Each function gives a frame whose index is the study pseudonym. Only persons of the dataset's table are used where
there is one: others may not have consented, and even a mean over them would be a use. Nothing here knows the gate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import StringIO
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipelines import SourceFile
from pipelines.features import context, fhir, history, omop, questionnaires, wearables
from pipelines.features.events import Events, Findings, when
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.features.genomics.genotypes import Block, Genotypes

__all__ = [
    "Burden",
    "Context",
    "Genomics",
    "Matrix",
    "contexts",
    "genotypes",
    "histories",
    "index_of",
    "matrix",
    "only",
    "weeks",
]

Text = Annotated[str, Field(min_length=1, max_length=250_000)]
Person = Callable[[str], str]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Burden(_Model):
    """Counts of rare alleles by gene.

    Attributes:
        genes: text of a BED file, or of a table chrom, start, end, gene.
        annotation: text of a table chrom, pos, ref, alt, gene, consequence; needed by `consequences`.
        consequences, maf, cap: see `pipelines.features.genomics.burden.Mask`.
    """

    genes: Text
    annotation: Text | None = None
    consequences: tuple[str, ...] = ()
    maf: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    cap: Annotated[int, Field(ge=0, le=1000)] = 0


class Genomics(_Model):
    """What is made of genotypes.

    Attributes:
        build: of score files and genes; files of another build are refused.
        scores: name -> text of a file in PGS Catalog format.
    """

    build: Literal["GRCh37", "GRCh38"]
    scores: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,48}$")], Text] = Field(default_factory=dict)
    burden: Burden | None = None


class Matrix(_Model):
    """What is made of an omics matrix: scores of gene sets or panels.

    Attributes:
        sets: text of a GMT file.
        kind: counts become log counts per million, an abundance log2 centred.
        method: see `pipelines.features.omics.genesets`.
    """

    sets: Text
    kind: Literal["counts", "abundance"] = "counts"
    method: Literal["mean_z", "rank"] = "mean_z"


class Context(_Model):
    """What is joined by coarse area and day.

    Attributes:
        table: the centre's table as CSV text: area, day, population and the columns.
        area: the site's column that holds the area's code.
        join: see `pipelines.features.context.Parameters`.
    """

    table: Text
    area: Annotated[str, Field(min_length=1, max_length=128)]
    join: context.Parameters


# -- histories: FHIR, OMOP, answers


def histories(
    parameters: Mapping[str, Any],
    answers: Collection[str],
    files: Mapping[str, Iterable[SourceFile]],
    recorded: Sequence[Events] = (),
    *,
    person: Person,
    patient_system: str | None,
    index_days: Mapping[str, int],
    findings: Findings,
) -> pd.DataFrame:
    """One row a patient of clinical history (`pipelines.features.history`).

    Args:
        parameters: of the history extractor.
        answers: questionnaires to be scored from FHIR answers first (system `questionnaire`).
        files: `fhir` and `omop` documents.
        recorded: events of the dataset's table.
        index_days: pseudonym -> index date of the dataset's table, in days from 1970-01-01.

    Raises:
        InputError: `input.study`, `input.usage`, `input.omop`.
    """
    wanted = history.parameters_of(parameters)
    parts: list[Events] = list(recorded)
    if found := list(files.get("fhir", ())):
        told = fhir.read(found, person=person, patient_system=patient_system)
        parts += [told, *(questionnaires.from_events(told, questionnaires.instrument(name)) for name in answers)]
    if found := list(files.get("omop", ())):
        parts.append(omop.read(found, person=person, ancestors=history.ancestors(wanted)))
    if not parts:
        raise InputError(
            "input.documents", "the study asks for histories; the dataset has neither FHIR, OMOP nor events"
        )
    events = parts[0].joined(*parts[1:])
    if index_days:
        events = replace(events, index_days={**events.index_days, **index_days})
    frame = history.extract(events, wanted)
    findings.counts.update(events.findings.counts)
    findings.errors += events.findings.errors
    return frame


def weeks(
    table: pd.DataFrame,
    parameters: wearables.Parameters,
    *,
    person: Person,
    index_days: Mapping[str, int],
    findings: Findings,
) -> pd.DataFrame:
    """Weekly summaries of a wearable's days: the dataset's table with columns person and day and the signals."""
    return wearables.weekly(table, index_days, parameters, person=person, findings=findings)


def contexts(
    parameters: Context,
    areas: Mapping[str, object],
    *,
    person: Person,
    index_days: Mapping[str, int],
    findings: Findings,
) -> pd.DataFrame:
    """Weather, sociodemographic or mobility figures of each patient's coarse area; no area leaves."""
    import pandas as pd

    table = pd.read_csv(StringIO(parameters.table), dtype={"area": "str", "day": "str"})
    return context.join(table, areas, index_days, parameters.join, person=person, findings=findings)


def index_of(table: pd.DataFrame, patient: str, column: str, person: Person) -> dict[str, int]:
    """Each patient's earliest day in a date column, in days from 1970-01-01."""
    found: dict[str, int] = {}
    for who, cell in zip(table[patient].astype(str), table[column], strict=True):
        moment = when(str(cell)[:10])
        if moment is not None and moment.day is not None:
            key = person(who)
            found[key] = min(found.get(key, moment.day), moment.day)
    return found


# -- genotypes


def genotypes(
    parameters: Genomics,
    files: Iterable[SourceFile],
    *,
    ids: Collection[str] | None,
    person: Person,
    counts: Counter[str],
) -> pd.DataFrame:
    """Polygenic scores and gene burdens; a set of files a chromosome is one data set.

    Args:
        ids: who may be used; None = all samples.

    Raises:
        InputError: `input.genotypes`, `input.variants`.
        DisclosureRefused: `gate.genotype`.
    """
    import pandas as pd

    from pipelines.features.genomics import burden, scores
    from pipelines.features.genomics.alleles import chosen
    from pipelines.features.genomics.datasets import grouped, together
    from pipelines.features.genomics.genotypes import Options
    from pipelines.features.genomics.scorefile import parse

    sets = grouped((file.name, file.data) for file in files)
    columns: list[pd.Series[Any] | pd.DataFrame] = []
    for name, text in parameters.scores.items():
        score = parse(text.encode(), parameters.build, name=name)
        with together(sets, Options(build=parameters.build, chosen=chosen(score.variants))) as opened:
            made, told = scores.compute(only(opened, ids), score)
        columns.append(made)
        counts.update({f"score-{key}": number for key, number in told.items()})
    if (asked := parameters.burden) is not None:
        genes = burden.intervals(asked.genes.encode())
        effects = burden.annotation(asked.annotation.encode()) if asked.annotation else None
        mask = burden.Mask(consequences=frozenset(asked.consequences), maf=asked.maf, cap=asked.cap)
        with together(sets, Options(build=parameters.build)) as opened:
            frame, told = burden.compute(only(opened, ids), genes, mask, effects)
        columns.append(frame)
        counts.update({f"burden-{key}": number for key, number in told.items()})
    if not columns:
        raise InputError("input.study", "pipeline.parameters.genomics: give scores or burden")
    joined = pd.concat(columns, axis=1)
    joined.index = pd.Index([person(str(sample)) for sample in joined.index], dtype="str")
    return joined.sort_index()


def only(opened: Genotypes, ids: Collection[str] | None) -> Genotypes:
    """The samples that may be used, before anything is computed.

    Raises:
        InputError: `input.genotypes` when none is there.
    """
    from pipelines.features.genomics.genotypes import Genotypes

    if ids is None:
        return opened
    allowed = {str(one).strip() for one in ids}
    kept = [sample for sample in opened.samples if sample in allowed]
    if not kept:
        raise InputError("input.genotypes", "the genotype files hold nobody of the dataset's table")
    return Genotypes(tuple(kept), opened.build, _Subset(opened, kept))


class _Subset:
    """A reader of some samples of an open data set."""

    def __init__(self, opened: Genotypes, samples: list[str]) -> None:
        self.samples, self.build = tuple(samples), opened.build
        self._opened, self._rows = opened, opened.rows(samples)

    def blocks(self, counts: Counter[str]) -> Iterator[Block]:
        from pipelines.features.genomics.genotypes import Block

        for block in self._opened.blocks():
            yield Block(block.variants, block.dosages[self._rows])
        counts.update({key: number for key, number in self._opened.counts.items() if key != "kept"})


# -- omics matrices


def matrix(
    parameters: Matrix,
    files: Iterable[SourceFile],
    *,
    ids: Collection[str] | None,
    person: Person,
    counts: Counter[str],
) -> pd.DataFrame:
    """Scores of gene sets, standardised over the persons who may be used.

    Raises:
        InputError: `input.matrix`, `input.variants`.
        DisclosureRefused: `gate.genotype`.
    """
    import pandas as pd

    from pipelines.features.omics import genesets, normalise
    from pipelines.features.omics.matrix import Options, read

    found = list(files)
    if len(found) != 1:
        raise InputError("input.matrix", f"{len(found)} matrices; gene-set scores need exactly one")
    known = () if ids is None else tuple(str(one).strip() for one in ids)
    made = read(found[0].data, Options(kind=parameters.kind, known=known))
    keep = [row for row, sample in enumerate(made.samples) if ids is None or sample in set(known)]
    if not keep:
        raise InputError("input.matrix", "the matrix holds nobody of the dataset's table")
    made = replace(
        made,
        samples=tuple(made.samples[row] for row in keep),
        **{name: getattr(made, name)[keep] for name in ("values", "states", "limits")},
    )
    values = normalise.log_cpm(made) if parameters.kind == "counts" else normalise.abundance(made)
    options = genesets.Options(method=parameters.method)
    scored, told = genesets.score(made.samples, made.features, values, genesets.gmt(parameters.sets.encode()), options)
    counts.update({f"matrix-{key}": number for key, number in told.items()})
    scored.index = pd.Index([person(str(sample)) for sample in scored.index], dtype="str")
    return scored.sort_index()

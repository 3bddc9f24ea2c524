"""Scoring files of the PGS Catalog (format 2.0, also harmonised), into effect alleles and weights.

Every row becomes three weights, for 0, 1 and 2 copies of the effect allele, so that additive, dominant, recessive
and dosage-specific rows are one thing. Interactions, haplotypes and diplotypes cannot be had from dosages: a score
with such a row is refused, for leaving it out would make another score under the same name.
Source: https://www.pgscatalog.org/downloads/ (scoring file format).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.features.files import Content
from pipelines.features.genomics.builds import AUTOSOMES, LENGTHS, chromosome
from pipelines.features.genomics.variants import Reference, Variants, left_align, sequence, trim
from pipelines.features.text import decode
from protocol.errors import InputError

__all__ = ["Score", "parse"]

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_BUILDS = {"grch37": "GRCh37", "hg19": "GRCh37", "grch38": "GRCh38", "hg38": "GRCh38"}
_MISSING = frozenset(("", "NA", "NR", "None", "nan", "."))
_TRUE = frozenset(("true", "1", "yes", "t"))
_REFUSED = ("is_interaction", "is_haplotype", "is_diplotype")


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """A score of one build.

    Attributes:
        name: its id in the catalogue.
        variants: `alt` is the effect allele, `ref` the other ("" = not told).
        weights: for 0, 1 and 2 copies of the effect allele, float64 [m, 3].
        total: rows of the file, also those without a usable place.
        counts: rows left out, by reason.
    """

    name: str
    variants: Variants
    weights: NDArray[np.float64]
    total: int
    counts: Mapping[str, int]


def parse(data: Content, build: str, *, name: str | None = None, reference: Reference | None = None) -> Score:
    """Read a scoring file for genotypes of one build.

    Args:
        data: the file, plain or gzipped.
        build: of the genotypes: harmonised columns are taken when they are of it, else the author's.
        name: instead of the header's `pgs_id`.
        reference: for left-alignment of indels; the same as for the genotypes.

    Raises:
        InputError: `input.variants`: no scoring file, another build, a row that makes no sense.
    """
    header, names, rows = _table(decode(data, "input.variants"))
    name = name or header.get("pgs_id", "")
    if not _NAME.fullmatch(name):
        raise InputError("input.variants", "the score has no usable pgs_id: give it a name")
    chrom, pos = _places(header, names, build)
    entries: list[tuple[str, int, str, str, str]] = []
    weights: list[tuple[float, float, float]] = []
    counts: Counter[str] = Counter()
    for row in rows:
        values = dict(zip(names, row, strict=True))
        if any(values.get(column, "").lower() in _TRUE for column in _REFUSED):
            raise InputError("input.variants", "the score has interactions or haplotypes: not to be had from dosages")
        weight = _weights(values)
        entry = _entry(values, chrom, pos, build, reference)
        if isinstance(entry, str):
            counts[entry] += 1
            continue
        entries.append(entry)
        weights.append(weight)
    if len({entry[:4] for entry in entries}) != len(entries):
        raise InputError("input.variants", "the score lists a variant and effect allele twice")
    variants = Variants.of(entries, build, reference is not None)
    return Score(name, variants, np.array(weights, np.float64).reshape(-1, 3), len(rows), dict(counts))


def _table(text: str) -> tuple[dict[str, str], list[str], list[list[str]]]:
    header: dict[str, str] = {}
    lines = [line.rstrip("\r") for line in text.split("\n")]
    body = []
    for line in lines:
        if line.startswith("#"):
            key, equals, value = line.lstrip("#").partition("=")
            if equals:
                header[key.strip()] = value.strip()
        elif line.strip():
            body.append(line.split("\t"))
    if len(body) < 2 or not {"effect_allele"} <= set(body[0]):
        raise InputError("input.variants", "not a scoring file of the PGS Catalog: no column effect_allele, or no row")
    names, rows = body[0], body[1:]
    if len(set(names)) != len(names):
        raise InputError("input.variants", "a column of the scoring file is there twice")
    for row in rows:
        row.extend([""] * (len(names) - len(row)))  # some writers drop empty fields at the end
        if len(row) != len(names):
            raise InputError("input.variants", "a row of the scoring file has too many fields")
    return header, names, rows


def _places(header: Mapping[str, str], names: list[str], build: str) -> tuple[str, str]:
    """The two columns that hold places of this build."""
    columns = set(names)
    harmonised = _BUILDS.get(header.get("HmPOS_build", "").lower())
    if {"hm_chr", "hm_pos"} <= columns and harmonised == build:
        return "hm_chr", "hm_pos"
    if {"chr_name", "chr_position"} <= columns and _BUILDS.get(header.get("genome_build", "").lower()) == build:
        return "chr_name", "chr_position"
    raise InputError("input.variants", f"the score has no places of build {build}: take its harmonised file")


def _weights(values: Mapping[str, str]) -> tuple[float, float, float]:
    by_dosage = [values.get(f"dosage_{copies}_weight", "") for copies in range(3)]
    try:
        if all(text not in _MISSING for text in by_dosage):
            first, second, third = (float(text) for text in by_dosage)
        else:
            weight = float(values["effect_weight"])
            dominant = values.get("is_dominant", "").lower() in _TRUE
            recessive = values.get("is_recessive", "").lower() in _TRUE
            first, second = 0.0, 0.0 if recessive else weight
            third = weight if dominant or recessive else 2 * weight
    except (KeyError, ValueError):
        raise InputError("input.variants", "a row of the scoring file has no weight") from None
    if not np.isfinite([first, second, third]).all():
        raise InputError("input.variants", "a weight of the scoring file is not finite")
    return first, second, third


def _entry(
    values: Mapping[str, str], chrom: str, pos: str, build: str, reference: Reference | None
) -> tuple[str, int, str, str, str] | str:
    """The row's variant in normal form, or why it has none."""
    name = chromosome(values[chrom])
    if values[chrom] in _MISSING or not values[pos].isdigit():
        return "no-place"
    if name not in AUTOSOMES:
        return "not-autosomal"
    place = int(values[pos])
    if not 0 < place <= LENGTHS[build][name]:
        raise InputError("input.variants", f"a position of the score lies outside chromosome {name} of {build}")
    effect = values["effect_allele"].upper()
    other = values.get("other_allele", "").upper()
    if other in _MISSING or not other:
        other = values.get("hm_inferOtherAllele", "").upper()
    if not sequence(effect):
        return "allele-code"
    if other in _MISSING or not sequence(other):
        other = ""
    if other == effect:
        raise InputError("input.variants", "effect and other allele of a row are the same")
    if other:
        align = left_align(name, place, other, effect, reference) if reference else trim(place, other, effect)
        place, other, effect = align
    return name, place, other, effect, values.get("rsID", "")

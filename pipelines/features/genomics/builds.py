"""Genome builds: chromosome names, lengths, and which build a file's header speaks of.

A file of the wrong build is the quietest of all errors, for every position exists in both: so an unknown build is
refused unless the site names it, and a named one must not contradict the header or the positions.
Source of the lengths: Genome Reference Consortium, GRCh37 and GRCh38 primary assemblies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from protocol.errors import InputError

__all__ = ["AUTOSOMES", "BUILDS", "LENGTHS", "chromosome", "contigs", "settle"]

AUTOSOMES = frozenset(str(number) for number in range(1, 23))
_NAMES = (*(str(number) for number in range(1, 23)), "X", "Y")
_37 = """249250621 243199373 198022430 191154276 180915260 171115067 159138663 146364022 141213431 135534747 135006516
133851895 115169878 107349540 102531392 90354753 81195210 78077248 59128983 63025520 48129895 51304566 155270560
59373566"""
_38 = """248956422 242193529 198295559 190214555 181538259 170805979 159345973 145138636 138394717 133797422 135086622
133275309 114364328 107043718 101991189 90338345 83257441 80373285 58617616 64444167 46709983 50818468 156040895
57227415"""
#: Build -> chromosome -> length in bases.
LENGTHS: dict[str, dict[str, int]] = {
    build: dict(zip(_NAMES, map(int, text.split()), strict=True)) for build, text in (("GRCh37", _37), ("GRCh38", _38))
}
BUILDS = tuple(LENGTHS)

_ALIASES = {"23": "X", "24": "Y", "25": "XY", "26": "MT", "M": "MT"}
_HINTS = (
    ("GRCh37", re.compile(r"grch37|hg19|hs37|\bb37\b|human_g1k_v37", re.IGNORECASE)),
    ("GRCh38", re.compile(r"grch38|hg38|hs38|\bb38\b", re.IGNORECASE)),
)
_CONTIG = re.compile(r"^##contig=<(.*)>\s*$", re.MULTILINE)
_FIELD = re.compile(r'(ID|length)=("[^"]*"|[^,>]*)')
_REFSEQ = re.compile(r"^NC_0000(\d\d)\.\d+$")


@lru_cache(maxsize=4096)
def chromosome(name: str) -> str:
    """The plain name: `chr1`, `CHR01`, `NC_000001.11` -> `1`; `chrM`, `26` -> `MT`. Anything else stays as it is."""
    if refseq := _REFSEQ.match(name):
        name = refseq.group(1)
    bare = name[3:] if name[:3].lower() == "chr" else name
    bare = bare.upper() if len(bare) <= 2 else bare
    if bare.isdigit():
        bare = str(int(bare))
    return _ALIASES.get(bare, bare)


def contigs(header: str) -> dict[str, int]:
    """Lengths by plain chromosome name, from `##contig` lines of a VCF or .pvar header."""
    found: dict[str, int] = {}
    for line in _CONTIG.findall(header):
        fields = dict(_FIELD.findall(line))
        length = fields.get("length", "").strip('"')
        if "ID" in fields and length.isdigit() and len(length) < 12:
            found[chromosome(fields["ID"].strip('"'))] = int(length)
    return found


def _by_lengths(lengths: Mapping[str, int]) -> str | None:
    """The build these lengths are of; None when no chromosome of ours is among them."""
    known = {name: length for name, length in lengths.items() if name in _NAMES}
    if not known:
        return None
    matches = {build: sum(table[name] == length for name, length in known.items()) for build, table in LENGTHS.items()}
    best = max(matches, key=lambda build: matches[build])
    if matches[best] != len(known):
        raise InputError("input.genotypes", "the header's contig lengths are of neither GRCh37 nor GRCh38")
    return best


def _by_hints(lines: Iterable[str]) -> str | None:
    found = {build for line in lines for build, pattern in _HINTS if pattern.search(line)}
    return found.pop() if len(found) == 1 else None


def settle(header: str, configured: str | None) -> str:
    """The build of a file, from its header and what the site configured.

    Args:
        header: the `##` lines; empty for formats without (PLINK 1).
        configured: one of `BUILDS`, or None.

    Raises:
        InputError: `input.genotypes` when both are silent, when they disagree, or when the lengths fit no build.
            `input.usage` for a build that is not known here.
    """
    if configured is not None and configured not in BUILDS:
        raise InputError("input.usage", f"build must be one of {', '.join(BUILDS)}")
    told = _by_lengths(contigs(header))
    if told is None:
        told = _by_hints(
            line for line in header.splitlines() if line.startswith(("##reference", "##contig", "##assembly"))
        )
    if told is None and configured is None:
        raise InputError("input.genotypes", "the file does not tell its genome build: configure it")
    if told is not None and configured is not None and told != configured:
        raise InputError("input.genotypes", f"the file is of build {told}, not {configured}")
    return told or str(configured)

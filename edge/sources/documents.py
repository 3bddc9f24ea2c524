"""What a dataset has besides its table and its images: FHIR, genotypes, an omics matrix, an OMOP database.

Used by `DatasetSource` alone. Files go on under counters: `00000003.bed`, `.bim` and `.fam` are one set. FHIR passes
resource by resource (`fhir`); the other kinds hold many persons a file and pass whole, so a lane takes from them only
the persons of the table it was given. Nothing here logs or keeps a name.
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from edge.sources.folder import MAX_FILE_BYTES, open_inside, walk
from pipelines import DOCUMENT_KINDS, SourceFile
from protocol.errors import InputError

__all__ = ["find", "read", "served"]

CODE = "input.documents"
TOO_LARGE = "too-large"
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_SUFFIXES = {
    "fhir": (".json", ".ndjson", ".jsonl", ".json.gz", ".ndjson.gz", ".jsonl.gz"),
    "genotypes": tuple(
        ".vcf .vcf.gz .vcf.bgz .bcf .vcf.gz.tbi .vcf.gz.csi .vcf.bgz.tbi .vcf.bgz.csi .bcf.csi"
        " .bed .bim .fam .pgen .pvar .pvar.zst .psam".split()
    ),
    "matrix": (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".parquet"),
    "omop": (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".zip"),
}
# Tables of the OMOP common data model 5.4: a file of another name is no part of it.
_OMOP = frozenset(
    "person observation_period visit_occurrence visit_detail condition_occurrence drug_exposure procedure_occurrence"
    " device_exposure measurement observation death note note_nlp specimen fact_relationship location care_site"
    " provider payer_plan_period cost drug_era dose_era condition_era episode episode_event metadata cdm_source"
    " concept vocabulary domain concept_class concept_relationship relationship concept_synonym concept_ancestor"
    " source_to_concept_map drug_strength cohort cohort_definition".split()
)


def find(kind: str, root: Path, withheld: Counter[str]) -> Iterator[tuple[Path, str]]:
    """Files of a kind below a folder, or the one file that is named, each with its lower-case suffix.

    Files of other suffixes are counted as unreadable.

    Raises:
        InputError: `input.documents` when `root` is neither, or `input.usage` for a kind there is not.
        StorageError: `storage.failed`.
    """
    if kind not in DOCUMENT_KINDS:
        raise InputError("input.usage", "no such kind of documents")
    for path in [root] if root.is_file() else walk(root, withheld, code=CODE):
        name = path.name.lower()
        suffix = max((s for s in _SUFFIXES[kind] if name.endswith(s)), key=len, default="")
        if suffix:
            yield path, suffix
        else:
            withheld["unreadable"] += 1


def read(root: Path, path: Path) -> bytes | None:
    """The bytes of a file that lies below `root`; None when it cannot be read or is larger than an item may be."""
    try:
        with open_inside(root if root.is_dir() else root.parent, path) as file:
            size = MAX_FILE_BYTES + 1 if file is None else os.fstat(file.fileno()).st_size
            return None if file is None or size > MAX_FILE_BYTES else file.read(size)
    except OSError:
        return None


def served(
    kind: str, root: Path, withheld: Counter[str], *, verdict: Callable[[str], str] | None, system: str | None
) -> Iterator[SourceFile]:
    """The documents of a kind, in a fixed order.

    Args:
        kind: one of `pipelines.DOCUMENT_KINDS`.
        root: file or folder.
        withheld: counts what is held back, by reason.
        verdict: for a patient id "" (may pass), the reason why not, or `consent.UNSELECTED`; asked for FHIR alone.
            None lets all pass.
        system: `Identifier.system` of the patient ids in FHIR.

    Raises:
        InputError, StorageError: as `find`.
    """
    if kind == "fhir":
        from edge.sources.fhir import Records

        yield from Records(root, verdict, system).files(withheld)
    elif kind == "omop" and root.is_dir():
        yield from _database(root, withheld)
    else:
        yield from _sets(kind, root, withheld)


def _sets(kind: str, root: Path, withheld: Counter[str]) -> Iterator[SourceFile]:
    """Files that share folder and stem share a counter; a set of which one cannot be read is withheld whole."""
    sets: dict[tuple[Path, str], list[tuple[str, Path]]] = {}
    for path, suffix in find(kind, root, withheld):
        stem = path.name[: len(path.name) - len(suffix)]
        sets.setdefault((path.parent, stem), []).append((suffix, path))
    for number, members in enumerate(sets.values(), 1):
        parts: list[SourceFile] = []
        for suffix, path in sorted(members):
            data = read(root, path)
            if data is None or not data or _is_cut(data):
                withheld["unreadable"] += 1
                break
            if sum(len(part.data) for part in parts) + len(data) > MAX_FILE_BYTES:
                withheld[TOO_LARGE] += 1
                break
            parts.append(SourceFile(f"{number:08d}{suffix}", data))
        else:
            yield from parts


def _is_cut(data: bytes) -> bool:
    """Whether blocked gzip (VCF, BCF) ends before its end marker: SAM specification 4.1.2."""
    blocked = data[:4] == b"\x1f\x8b\x08\x04" and data[12:14] == b"BC"
    return blocked and not data.endswith(_BGZF_END)


def _database(root: Path, withheld: Counter[str]) -> Iterator[SourceFile]:
    """A folder of OMOP tables as one archive; archives in the folder go on as they are."""
    target, size, names = BytesIO(), 0, set[str]()
    number = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for path, suffix in find("omop", root, withheld):
            data = read(root, path)
            table = path.name[: len(path.name) - len(suffix)].lower()
            if suffix == ".zip" and data is not None:
                number += 1
                yield SourceFile(f"{number:08d}{suffix}", data)
            elif data is None or table not in _OMOP or table in names:
                withheld["unreadable"] += 1
            elif size + len(data) > MAX_FILE_BYTES - (1 << 20):
                withheld[TOO_LARGE] += 1
            else:
                names.add(table)
                size += len(data)
                archive.writestr(zipfile.ZipInfo(f"{table}{suffix}"), data)
    if names:
        yield SourceFile(f"{number + 1:08d}.zip", target.getvalue())

"""Counting what a dataset's files hold, for the site's catalogue: nothing but numbers and sets of ids in memory.

Reads headers where they tell enough. Nothing here logs or keeps an id.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from edge.sources import dicom, documents, folder, instance
from edge.sources.turns import reading_pulled
from privacy.deid.pseudonym import normalise_id

__all__ = ["Census", "dicom_census", "fhir_census", "files_census", "imaged_persons"]

_HEADER_BYTES = 64 << 20
_BROKEN = (OSError, EOFError, zlib.error, ValueError, RecursionError)


@dataclass(slots=True, kw_only=True)
class Census:
    """What a folder of DICOM holds.

    Attributes:
        persons: normalised patient ids.
    """

    counts: dict[str, int] = field(default_factory=dict)
    persons: set[str] = field(default_factory=set, repr=False)
    isolated: Counter[str] = field(default_factory=Counter)


def dicom_census(root: Path, *, pulled: bool = False) -> Census:
    """Count patients, studies, series and instances by modality; what cannot be used by its reason.

    Raises:
        InputError: `input.dicom`; UnavailableError: `unavailable.source`; StorageError.
    """
    import pydicom

    made, studies, series, modalities = Census(), set[str](), set[str](), Counter[str]()
    with reading_pulled(root, pulled=pulled):
        for path in folder.walk(root, made.isolated):
            data, patient = dicom.read(root, path)
            reason = instance.UNREADABLE if data is None else instance.judge(data)
            if data is None or reason:
                made.isolated[reason] += 1
                continue
            tags = ["StudyInstanceUID", "SeriesInstanceUID", "Modality"]
            one = pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=True, specific_tags=tags)
            studies.add(str(one.get("StudyInstanceUID", "")))
            series.add(str(one.get("SeriesInstanceUID", "")))
            modalities[str(one.get("Modality", "") or "unstated").upper()] += 1
            made.persons.add(normalise_id(patient))
    made.persons.discard("")
    made.counts = {"imaged persons": len(made.persons), "studies": len(studies), "series": len(series)}
    made.counts |= {f"instances {name}": count for name, count in sorted(modalities.items())}
    return made


def imaged_persons(root: Path, *, pulled: bool = False) -> int:
    """How many patients a folder of DICOM names; reads headers alone, and raises as `dicom_census`."""
    persons = set[str]()
    with reading_pulled(root, pulled=pulled):
        for path in folder.walk(root, Counter()):
            with folder.open_inside(root, path) as file:
                patient = None if file is None else dicom.patient_of(file)
            persons.add(normalise_id(patient or ""))
    return len(persons - {""})


def fhir_census(root: Path, *, pulled: bool = False) -> tuple[Counter[str], Counter[str]]:
    """Resources by type; files and lines that cannot be read.

    Raises:
        InputError: `input.documents`; UnavailableError: `unavailable.source`; StorageError.
    """
    counts, isolated = Counter[str](), Counter[str]()
    with reading_pulled(root, pulled=pulled):
        for path, suffix in documents.find("fhir", root, isolated):
            try:
                data = documents.read(root, path) or b""
                data = gzip.decompress(data) if suffix.endswith(".gz") else data
            except _BROKEN:
                isolated["unreadable"] += 1
                continue
            whole = suffix.startswith(".json") and not suffix.startswith(".jsonl")
            for piece in [data] if whole else [line for line in data.split(b"\n") if line.strip()]:
                _count(piece, counts, isolated)
    return counts, isolated


def _count(piece: bytes, counts: Counter[str], isolated: Counter[str]) -> None:
    try:
        value = json.loads(piece.decode("utf-8-sig"))
        entries = value.get("entry", []) if value["resourceType"] == "Bundle" else [{"resource": value}]
        kinds = [entry["resource"]["resourceType"] for entry in entries]
    except (*_BROKEN, AttributeError, KeyError, TypeError):
        isolated["unreadable"] += 1
        return
    counts.update(kind for kind in kinds if isinstance(kind, str) and len(kind) <= 64 and kind.isalpha())


def files_census(kind: str, root: Path) -> tuple[dict[str, int], Counter[str]]:
    """Files of a kind by their suffix, samples of genotypes and rows of loose tables.

    Raises:
        InputError: `input.documents`; StorageError.
    """
    isolated, files, samples = Counter[str](), Counter[str](), 0
    for path, suffix in documents.find(kind, root, isolated):
        files[suffix] += 1
        if kind == "genotypes":
            samples = max(samples, _samples(documents.read(root, path) or b"", suffix, isolated))
    counts = {f"{kind} {suffix}": count for suffix, count in sorted(files.items())}
    return counts | ({"samples": samples} if samples else {}), isolated


def _samples(data: bytes, suffix: str, isolated: Counter[str]) -> int:
    """How many samples a file of genotypes names; 0 where it names none."""
    try:
        if suffix in (".fam", ".psam"):
            return sum(1 for line in data.splitlines() if line.strip() and not line.startswith(b"#"))
        if not suffix.endswith((".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")):
            return 0
        with gzip.open(BytesIO(data)) if data[:2] == b"\x1f\x8b" else BytesIO(data) as file:
            head = file.read(9)
            lines = [head, *file.read(_HEADER_BYTES).split(b"\n")] if head[:3] == b"BCF" else None
            lines = lines or (head + file.read(_HEADER_BYTES)).split(b"\n")
        named = next(line for line in lines if line.startswith(b"#CHROM"))
        return max(0, len(named.rstrip(b"\0").split(b"\t")) - 9)
    except (*_BROKEN, StopIteration):
        isolated["unreadable"] += 1
        return 0

"""FHIR as files: one resource or bundle a file, or NDJSON line by line; names that tell nothing; quarantine.

    report = run(Path("export"), Path("clean"), engine, quarantine=Path("back"))

All files are read twice: first to learn who is who in the whole batch, then to be rewritten. A file passes whole or not
at all; what stands in one that does not pass is still learned. The report holds numbers and codes only. Not here: what
is done to a resource (`fhir`).

Source: HL7 FHIR R4 JSON (2.6.2); FHIR Bulk Data Access (NDJSON); RFC 8259.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from gzip import GzipFile
from io import BufferedReader
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from privacy.deid.fhir_r4 import is_resource
from privacy.deid.folders import check_places, make_folder, write_private
from protocol.errors import CorsiaError, DisclosureRefused, InputError

if TYPE_CHECKING:
    from privacy.deid.fhir import FhirEngine
    from privacy.deid.fhir_scope import Known

__all__ = ["deidentify_lines", "parse", "render", "run", "target_name"]

MAX_BYTES = 1 << 29
MAX_LINE_BYTES = 1 << 27
_CHUNK = 1 << 20
# What hostile input may find in any of the code below: the file is not passed, the batch goes on.
_UNFORESEEN = (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError)
_FORMATS = frozenset({".json", ".ndjson", ".xml", ".jsonl"})
_SURROGATE = re.compile(rb"\\u[dD][89abAB-Fc-f]")


def parse(data: bytes | str) -> dict[str, Any]:
    """Read one resource.

    Raises:
        InputError: `input.fhir` for anything but one JSON object with a resourceType, and for what readers understand
            in different ways: a name twice in one object, NaN, half a surrogate pair. Nothing is quoted.
    """
    if len(data) > MAX_BYTES:
        raise InputError("input.fhir", "too large")
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    try:
        value = json.loads(raw, object_pairs_hook=_object, parse_constant=_constant)
        if _SURROGATE.search(raw) or b"\xed" in raw:
            render(value).encode()
    except (ValueError, RecursionError):
        raise InputError("input.fhir", "not JSON, or nested too deep") from None
    if not isinstance(value, dict) or not isinstance(value.get("resourceType"), str):
        raise InputError("input.fhir", "no resourceType")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name twice")
    return value


def _constant(name: str) -> Any:
    raise ValueError(name)


def render(resource: dict[str, Any], indent: int | None = None) -> str:
    """Valid JSON, the same for the same resource."""
    return json.dumps(resource, ensure_ascii=False, allow_nan=False, indent=indent)


def deidentify_lines(lines: Iterable[bytes | str], engine: FhirEngine, known: Known = ()) -> Iterator[str]:
    """De-identify NDJSON, one resource a line, in constant memory; learn who is who first (`engine.learn`).

    Yields:
        One line for each that is not blank, without its line end.

    Raises:
        InputError: `input.fhir` at the first line that is no resource.
        DisclosureRefused: `gate.residual`.
    """
    for line in lines:
        if line.strip():
            yield render(engine.deidentify(parse(line), known))


def target_name(name: str, engine: FhirEngine, resource: dict[str, Any] | None = None) -> str:
    """A name for the de-identified file: `Observation.ndjson` stays, a bundle is named by its patient's pseudonym."""
    path = PurePath(name)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    lines = bool({".ndjson", ".jsonl"} & set(suffixes))
    suffix = ".ndjson" if lines else ".json"
    stem = path.name.split(".")[0]
    part = re.fullmatch(r"([A-Za-z]+)((?:[._-]?\d{1,3})?)", path.name.removesuffix(".gz").rpartition(".")[0])
    if part and is_resource(part[1]) and (lines or not part[2]):  # a number of one resource may be its id
        return f"{part[1]}{part[2]}{suffix}"
    pseudonym = engine.pseudonym(resource) if resource is not None else None
    return f"{pseudonym or engine.label(stem)}{suffix}"


# -- a batch


def run(source: Path, target: Path, engine: FhirEngine, *, quarantine: Path | None = None) -> dict[str, Any]:
    """De-identify a file or a folder.

    Args:
        source: file or folder; symbolic links are not followed.
        target: folder for what passes.
        engine: of the study; it has learned nothing of another batch.
        quarantine: folder for copies of what does not pass, under their number and reason.

    Returns:
        The report: counts, reasons by code, kinds by fixed words; no values, no names.

    Raises:
        InputError: `input.usage` for a source that is neither, or folders that lie in each other.
        StorageError: `storage.full`, `storage.failed`; what was done stays.
    """
    check_places(source, target, quarantine)
    paths, ignored = _files(source)
    for folder in (target, quarantine):
        if folder is not None:
            make_folder(folder)
    failed = {number: error for number, path in enumerate(paths, 1) if (error := _learn(path, engine)) is not None}
    taken: set[str] = set()
    reasons: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for number, path in enumerate(paths, 1):
        error = failed.get(number) or _pass(path, target, engine, taken)
        if error is not None:
            reasons[error.code] += 1
            kinds[error.message or error.code] += 1
            if quarantine is not None:
                _copy(path, quarantine / f"{number:08d}-{error.code}{''.join(_formats(path)) or '.json'}")
    return {
        "files": len(paths),
        "passed": len(taken),
        "quarantined": sum(reasons.values()),
        "ignored": ignored,
        "reasons": dict(sorted(reasons.items())),
        "kinds": dict(sorted(kinds.items())),
        "done": dict(sorted(engine.counts.items())),
    }


def _files(source: Path) -> tuple[list[Path], int]:
    """Files of FHIR in a fixed order, and how many others there are."""
    if source.is_file():
        return [source], 0
    met = [path for path in source.rglob("*") if path.is_symlink() or not path.is_dir()]
    found = sorted(path for path in met if _formats(path) and path.is_file() and not path.is_symlink())
    return found, len(met) - len(found)


def _formats(path: Path) -> list[str]:
    """The suffixes that say how a file is written."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return [suffix for suffix in suffixes if suffix in _FORMATS or suffix == ".gz"] if _FORMATS & set(suffixes) else []


def _resources(path: Path) -> Iterator[dict[str, Any] | CorsiaError]:
    """The resources of a file; for one that cannot be read, why."""
    lines = _lines(path) if {".ndjson", ".jsonl"} & set(_formats(path)) else iter([None])
    while True:
        try:
            line = next(lines, b"")
            if line == b"":
                return
            if line is None or line.strip():
                yield parse(_whole(path) if line is None else line)
        except InputError as error:
            yield error


def _learn(path: Path, engine: FhirEngine) -> CorsiaError | None:
    """Learn from all that can be read; why the file cannot pass, None when nothing is known against it."""
    failed = None
    for resource in _resources(path):
        try:
            if isinstance(resource, CorsiaError):
                raise resource
            engine.learn(resource)
        except InputError as error:
            failed = failed or error
        except _UNFORESEEN:
            failed = failed or InputError("input.fhir", "cannot be treated")
    return failed


def _pass(path: Path, target: Path, engine: FhirEngine, taken: set[str]) -> CorsiaError | None:
    """De-identify one file; why it did not pass, None when it did. Nothing is left in the target when it did not."""
    lines = bool({".ndjson", ".jsonl"} & set(_formats(path)))
    try:
        resource = None if lines else parse(_whole(path))
        name = _free_name(target_name(path.name, engine, resource), taken)
        clean = (
            deidentify_lines(_lines(path), engine)
            if resource is None
            else iter([render(engine.deidentify(resource), indent=1)])
        )
        write_private(target / name, (f"{line}\n".encode() for line in clean))
    except (InputError, DisclosureRefused) as error:
        return error
    except _UNFORESEEN:
        return InputError("input.fhir", "cannot be treated")
    taken.add(name)
    return None


def _free_name(name: str, taken: set[str]) -> str:
    stem, _, suffix = name.rpartition(".")
    number = 1
    while name in taken:
        number += 1
        name = f"{stem}-{number}.{suffix}"
    return name


# -- bytes


@contextmanager
def _opened(path: Path) -> Iterator[GzipFile | BufferedReader]:
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file
    except (OSError, EOFError, zlib.error):
        raise InputError("input.fhir", "cannot be read") from None


def _whole(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read(MAX_BYTES + 1)  # `parse` refuses more


def _lines(path: Path) -> Iterator[bytes]:
    with _opened(path) as file:
        while line := file.readline(MAX_LINE_BYTES):
            if len(line) == MAX_LINE_BYTES:
                raise InputError("input.fhir", "too large")
            yield line


def _copy(path: Path, place: Path) -> None:
    """Set a file aside as it is, if it can be read."""
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        write_private(place, iter(lambda: file.read(_CHUNK), b""))

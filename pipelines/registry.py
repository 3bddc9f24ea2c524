"""What is installed here: the lanes by name and version, and the digest of the code that would run.

A study names a pipeline; the site runs it only if this table has it and the site has approved this very digest. The
centre can never send code. This module hashes files and loads the five built-in lanes; it knows no policy.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, util
from pathlib import Path
from typing import cast

from pipelines import Lane
from protocol.errors import ConfigurationError, PolicyRefused
from protocol.parcel import canonical_json

__all__ = [
    "DISTRIBUTION",
    "INSTALLED",
    "PACKAGES",
    "Installed",
    "code_digest",
    "code_manifest",
    "file_digest",
    "load",
    "manifest_of",
    "required",
    "versions_of",
]

DISTRIBUTION = "corsia"
PACKAGES = ("protocol", "privacy", "pipelines", "edge", "central", "corsia")
_REQUIREMENT = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_EXTRA = re.compile(r"\bextra\s*==\s*['\"]([^'\"]+)['\"]")
_UNUSED_EXTRAS = frozenset({"dev"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One lane that this installation can run. `target` is `module:function`."""

    name: str
    version: str
    lane: str
    target: str


INSTALLED: dict[str, Installed] = {
    name: Installed(name=name, version="1", lane=name, target=f"pipelines.{name}:run")
    for name in ("harvest", "anonymize", "extract", "train", "infer")
} | {
    "aggregate": Installed(name="aggregate", version="1", lane="extract", target="pipelines.aggregate:run"),
}


def load(name: str) -> Lane:
    """Import the lane called `name`.

    Raises:
        PolicyRefused: `policy.pipeline` when this installation has no such lane.
        ConfigurationError: `config.extra-missing` when a library that the lane needs is not installed.
    """
    entry = INSTALLED.get(name)
    if entry is None:
        raise PolicyRefused("policy.pipeline", "no pipeline of this name is installed")
    module, _, function = entry.target.partition(":")
    try:
        return cast(Lane, getattr(importlib.import_module(module), function))
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "config.extra-missing", f"pipeline {name!r} needs the module {error.name!r}"
        ) from error


def code_digest() -> str:
    """SHA-256 (hex) of all files of the installed packages and the versions of all dependencies.

    Every call looks at the files again; contents are read only when a size, a time or an inode has changed, so
    that a daemon which outlives an upgrade notices it.
    """
    looks: list[tuple[str | int, ...]] = []
    for name in PACKAGES:
        if (root := _root(name)) is not None:
            _look(str(root), looks)
    return _digest_at(tuple(looks), _search_state())


def _look(folder: str, looks: list[tuple[str | int, ...]]) -> None:
    """Add what changes when a file of `_files` does, as cheaply as can be: it is asked before every job."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    _look(entry.path, looks)
            elif not entry.name.endswith((".pyc", ".pyo")):
                state = entry.stat()
                looks.append((entry.path, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))


@lru_cache(maxsize=2)
def _digest_at(looks: object, search: object) -> str:
    """The digest of what has just been looked at: worked out again only where that has changed."""
    del looks, search  # only the cache's key
    return hashlib.sha256(canonical_json(code_manifest())).hexdigest()


def code_manifest() -> dict[str, str]:
    """The parts of the digest: `file:<path>` -> SHA-256 and `dependency:<name>` -> version.

    Two manifests tell a steward what an upgrade changed.
    """
    roots = {name: _root(name) for name in PACKAGES}
    return manifest_of({k: v for k, v in roots.items() if v is not None}, _versions(_search_state()))


def manifest_of(roots: Mapping[str, Path], versions: Mapping[str, str]) -> dict[str, str]:
    """The manifest of package folders `roots` (import name -> folder) with dependencies at `versions`."""
    files = {
        f"file:{name}/{os.path.relpath(path, root)}": _digest(path, _state(path))
        for name, root in roots.items()
        for path in _files(root)
    }
    return dict(sorted(files.items())) | {f"dependency:{k}": v for k, v in sorted(versions.items())}


def _root(name: str) -> Path | None:
    spec = util.find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _files(root: Path) -> Iterator[str]:
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if n != "__pycache__")
        for file in sorted(files):
            if not file.endswith((".pyc", ".pyo")):
                yield f"{folder}/{file}"


def file_digest(path: str | Path) -> str:
    """SHA-256 (hex) of a file's content, which is read only when size, times or inode have changed."""
    return _digest(str(path), _state(str(path)))


def _state(path: str) -> tuple[int, int, int, int]:
    state = os.stat(path)
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


@lru_cache(maxsize=4096)
def _digest(path: str, state: tuple[int, int, int, int]) -> str:
    del state  # only a part of the cache's key
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _search_state() -> tuple[tuple[str, int], ...]:
    """Installing or removing a distribution changes the time of a folder on the search path."""
    found = []
    for entry in filter(None, sys.path):
        with suppress(OSError):
            state = os.stat(entry)
            if stat.S_ISDIR(state.st_mode):
                found.append((entry, state.st_mtime_ns))
    return tuple(found)


@lru_cache(maxsize=2)
def _versions(state: tuple[tuple[str, int], ...]) -> dict[str, str]:
    """Versions of the distribution's dependencies and of theirs; what is not installed is `absent`."""
    del state
    try:
        return versions_of(_names(metadata.requires(DISTRIBUTION) or (), extras=True))
    except metadata.PackageNotFoundError:
        raise ConfigurationError("config.invalid", f"distribution {DISTRIBUTION!r} is not installed") from None


def versions_of(names: Iterable[str]) -> dict[str, str]:
    """Versions of these distributions and of what they need; what is not installed is `absent`."""
    todo, found = list(names), dict[str, str]()
    while todo:
        name = todo.pop()
        if name in found or name == DISTRIBUTION:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
            continue
        found[name] = distribution.version
        todo.extend(_names(distribution.requires or (), extras=False))
    return found


def required(requirements: Iterable[str]) -> list[str]:
    """Normalised names of a distribution's requirements, without those of its extras."""
    return list(_names(requirements, extras=False))


def _names(requirements: Iterable[str], *, extras: bool) -> Iterator[str]:
    """Normalised names; requirements of an extra only where `extras`, and never those for development."""
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        extra = _EXTRA.search(requirement)
        if match is None or (extra is not None and (not extras or extra[1] in _UNUSED_EXTRAS)):
            continue
        yield re.sub(r"[-_.]+", "-", match[1]).lower()

"""A researcher's own torch model: a distribution that a site has put beside Corsia, never into its environment.

    plug-ins' folder / any name / what `pip install --no-deps --target` made        one folder a plug-in
    study `[pipeline] plugin = "name==version"` + policy `plugins` + approval -> worker -> `load` -> learner

Looking (`found`, `manifest`) reads files and runs nothing: a distribution in Corsia's own environment could run code
in each of its processes (`.pth` files), one in such a folder cannot. `load` alone imports, in a process that has no
network, no keys and no files but its own (`edge/confined.py`, `pipelines/learners/described.py`).
"""

from __future__ import annotations

import hashlib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.registry import file_digest, required, versions_of
from protocol.errors import InputError, PolicyRefused
from protocol.parcel import canonical_json

__all__ = ["GROUP", "Plugin", "digest", "found", "is_loaded", "learner", "load", "manifest"]

GROUP = "corsia.learners"
MAX_FILES = 10_000
MAX_FILE_BYTES = 1 << 30
# What a plug-in may say of itself; everything else is the base class's, on both sides of the wall.
_OWN = frozenset({"build", "loss", "transform", "notes"})
_loaded: dict[str, Plugin] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """One distribution with learners.

    Attributes:
        key: `name==version`, as studies and policies write it.
        folder: everything in it is part of the plug-in.
        learners: name of the learner -> `module:class`.
        requires: names of distributions that it needs.
    """

    key: str
    folder: Path
    learners: Mapping[str, str]
    requires: tuple[str, ...]


def found(root: Path | None) -> dict[str, Plugin]:
    """The plug-ins below a folder by `name==version`; one that is there twice, or is malformed, is not there."""
    made: dict[str, Plugin | None] = {}
    for folder in sorted(root.iterdir()) if root is not None and root.is_dir() else ():
        if folder.is_dir():
            for one in _in(folder):
                made[one.key] = None if one.key in made else one
    return {key: one for key, one in made.items() if one is not None}


def _in(folder: Path) -> Iterator[Plugin]:
    for distribution in metadata.Distribution.discover(path=[str(folder)]):
        try:
            name = re.sub(r"[-_.]+", "-", str(distribution.metadata["Name"])).lower()
            points = {p.name: p.value for p in distribution.entry_points if p.group == GROUP}
            key = f"{name}=={distribution.version}"
            requires = tuple(required(distribution.requires or ()))
        except Exception:  # metadata are another's: what they make the parser raise means that it is not there
            points = {}
        if points:
            yield Plugin(key=key, folder=folder, learners=points, requires=requires)


def manifest(plugin: Plugin) -> dict[str, str]:
    """`plugin:<key>/<path>` -> SHA-256 of every file of its folder, and `dependency:<name>` -> version.

    Raises:
        PolicyRefused: `policy.plugin` for links, too many or too large files, or none that can be read.
    """
    files: dict[str, str] = {}
    try:
        for path in sorted(plugin.folder.rglob("*")):
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise PolicyRefused("policy.plugin", "a plug-in's folder holds a link")
            if path.is_file():
                if len(files) >= MAX_FILES or path.stat().st_size > MAX_FILE_BYTES:
                    raise PolicyRefused("policy.plugin", "a plug-in's folder is too large")
                files[f"plugin:{plugin.key}/{path.relative_to(plugin.folder).as_posix()}"] = file_digest(path)
    except OSError:
        raise PolicyRefused("policy.plugin", "a plug-in's folder cannot be read") from None
    return files | {f"dependency:{name}": version for name, version in versions_of(plugin.requires).items()}


def digest(plugin: Plugin) -> str:
    """SHA-256 (hex) of the manifest."""
    return hashlib.sha256(canonical_json(manifest(plugin))).hexdigest()


def load(root: Path, key: str, expected: str) -> Plugin:
    """Let this process import a plug-in, if it is still the approved one.

    Raises:
        PolicyRefused: `policy.plugin`.
    """
    plugin = found(root).get(key)
    if plugin is None or digest(plugin) != expected:
        raise PolicyRefused("policy.plugin", "the plug-in is not the one that was approved")
    sys.dont_write_bytecode = True  # a compiled file would be one more
    sys.path.append(str(plugin.folder))  # last: it shadows nothing
    _loaded[key] = plugin
    return plugin


def is_loaded(key: str) -> bool:
    """Whether this process may import the plug-in."""
    return key in _loaded


def learner(key: str, name: str) -> Any:
    """The class of a loaded plug-in's learner.

    Raises:
        PolicyRefused: `policy.plugin` when it is not loaded in this process.
        InputError: `input.study` when it has no such learner, or one that is not built on our base classes.
    """
    from pipelines.learners.imaging import ImageLearner
    from pipelines.learners.torchmodel import TorchLearner

    plugin = _loaded.get(key)
    if plugin is None:
        raise PolicyRefused("policy.plugin", f"plug-in {key!r} is not loaded in this process")
    module, _, attribute = plugin.learners.get(name, "").partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise InputError("input.study", f"the plug-in has no learner {name!r} ({type(error).__name__})") from None
    base = next((b for b in (TorchLearner, ImageLearner) if isinstance(made, type) and issubclass(made, b)), None)
    if base is None:
        raise InputError("input.study", "a plug-in's learner must inherit TorchLearner or ImageLearner")
    for part in made.__mro__[: made.__mro__.index(base)]:
        taken = {one for one in vars(part) if hasattr(base, one) and not one.startswith("__")} - _OWN
        if taken or "__init__" in vars(part):
            raise InputError("input.study", f"a plug-in may not say of itself: {', '.join(sorted(taken))}")
    return made

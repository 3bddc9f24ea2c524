"""A hook of MkDocs: patterns in `nav` stand for the pages that no other entry names, in the order of their names."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

__all__ = ["expand", "on_config"]


def on_config(config: Any) -> Any:
    """Replace the patterns."""
    folder = Path(config["docs_dir"])
    pages = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.md"))
    config["nav"] = expand(config["nav"], pages)
    return config


def expand(nav: list[Any], pages: list[str]) -> list[Any]:
    """The entries with each pattern replaced; a section that comes out empty is left out."""
    left = [page for page in pages if page not in set(_named(nav))]
    return _expanded(nav, left)


def _named(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [] if "*" in nav else [nav]
    inner = nav.values() if isinstance(nav, dict) else nav
    return [name for one in inner for name in _named(one)]


def _expanded(nav: list[Any], left: list[str]) -> list[Any]:
    made: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            ((title, inner),) = entry.items()
            value = _expanded(inner, left) if isinstance(inner, list) else inner
            made += [{title: value}] if value else []
        elif "*" in entry:
            found = [page for page in left if fnmatch(page, entry) and page.count("/") == entry.count("/")]
            made += found
            left[:] = [page for page in left if page not in found]
        else:
            made.append(entry)
    return made

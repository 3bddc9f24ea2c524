"""Documentation that cannot rot: files, tests and commands that the pages name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from corsia.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_GROUPS = ("demo", "init", "doctor", "central", "edge", "study", "deid", "extract", "parcel", "log", "model", "bench")


def tokens(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    names = {p.name for p in ROOT.rglob("*.py") if ".venv" not in p.parts}
    missing = []
    for token in tokens(page):
        if not re.fullmatch(r"[A-Za-z0-9_./*-]+", token) or "NAME" in token:
            continue
        if token.endswith(".py"):
            found = list(ROOT.glob(token)) if "/" in token else [n for n in names if n == token]
            if not found:
                missing.append(token)
        elif token.startswith(("tests/", "docs/", "notebooks/")) and not list(ROOT.glob(token)):
            missing.append(token)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_pages_resolve(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_that_a_page_names_exist(page: Path) -> None:
    root = typer.main.get_command(app)
    unknown = []
    for noun, verb in re.findall(r"\bcorsia ([a-z]+)(?: ([a-z]+(?:-[a-z]+)*))?", page.read_text()):
        if noun not in _GROUPS:
            continue
        command = root.get_command(None, noun)  # type: ignore[attr-defined]
        if command is None or (verb and hasattr(command, "commands") and verb not in command.commands):
            unknown.append(f"{noun} {verb}")
    assert unknown == []


def test_the_names_people_rely_on_are_all_there() -> None:
    root = typer.main.get_command(app)
    assert set(root.list_commands(None)) >= set(_GROUPS)  # type: ignore[attr-defined, arg-type]

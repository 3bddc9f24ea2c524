"""Documentation that cannot rot: files, tests and commands that the pages name exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from corsia.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_GROUPS = tuple("account demo init doctor central edge study deid extract parcel log model bench".split())


@cache
def scripts() -> set[str]:
    """Names of the project's Python files, wherever they lie."""
    folders = [folder for folder in ROOT.iterdir() if folder.is_dir() and folder.name not in (".venv", "build")]
    return {path.name for folder in folders for path in folder.rglob("*.py")}


def tokens(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    missing = []
    for token in tokens(page):
        if not re.fullmatch(r"[A-Za-z0-9_./*-]+", token) or "NAME" in token:
            continue
        if token.endswith(".py"):
            found = list(ROOT.glob(token)) if "/" in token else token in scripts()
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


@cache
def named(noun: str) -> Any:
    return typer.main.get_command(app).get_command(None, noun)  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_that_a_page_names_exist(page: Path) -> None:
    unknown = []
    for noun, verb in re.findall(r"\bcorsia ([a-z]+)(?: ([a-z]+(?:-[a-z]+)*))?", page.read_text()):
        if noun not in _GROUPS:
            continue
        command = named(noun)
        if command is None or (verb and hasattr(command, "commands") and verb not in command.commands):
            unknown.append(f"{noun} {verb}")
    assert unknown == []


@cache
def called(*words: str) -> Any:
    """The command or group of these words after `corsia`; None where there is none."""
    if not words:
        return typer.main.get_command(app)
    above = called(*words[:-1])
    return above.get_command(click.Context(above), words[-1]) if isinstance(above, click.Group) else None


def options(page: Path) -> list[tuple[str, str]]:
    """(`corsia` and its words, option) of each call that a page shows, in a line or between backticks."""
    found = []
    for call in re.findall(r"\bcorsia ((?:[a-z]+(?:-[a-z]+)* ?){1,3}[^`\n]*)", page.read_text()):
        words: tuple[str, ...] = ()
        for word in re.split(r"[|;&#]|\$\(", call)[0].split():
            if name := re.match(r"--[a-z-]+", word):
                known = {opt for param in called(*words).params for opt in (*param.opts, *param.secondary_opts)}
                if name[0] not in known | {"--help"}:
                    found.append((" ".join(("corsia", *words)), name[0]))
            elif called(*words, word):
                words = *words, word
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_options_that_a_page_names_exist(page: Path) -> None:
    assert options(page) == []


def test_an_option_that_is_none_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`corsia edge status --nonsense` and\n\n    sudo corsia init edge --out x --state x | grep --quiet y\n"
    )
    assert options(page) == [("corsia edge status", "--nonsense"), ("corsia init edge", "--state")]


def test_each_arrow_of_the_threat_model_has_its_letters_and_its_tests() -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text()
    table = page.partition("## Arrows")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if " -> " in line]
    assert len(rows) >= 30
    for arrow, letters, *rest in rows:
        assert len(rest) == 3, arrow
        assert re.fullmatch(r"[STRIDE](?: [STRIDE]){0,5}", letters), arrow
        assert sorted(letters.split(), key="STRIDE".index) == letters.split(), arrow
        named = re.findall(r"`(tests/[^`]+)`", rest[2])
        assert named, arrow
        assert all((ROOT / name).exists() for name in named), arrow
    assert {letter for row in rows for letter in row[1].split()} == set("STRIDE")


def test_each_arrow_of_the_diagram_is_in_the_threat_model() -> None:
    """The boxes between which arrows run in docs/architecture.md; what is drawn there is judged here."""
    drawn = (ROOT / "docs" / "architecture.md").read_text().partition("```")[2].partition("```")[0]
    judged = (ROOT / "docs" / "threat-model.md").read_text()
    boxes = {"sources": "sources", "worker": "source -> worker -> gate", "spool": "gate -> spool -> wire",
             "landing zone": "gateway -> vault", "lake": "vault -> lake -> analysis",
             "federation": "federation -> site",
             "MLflow": "federation -> MLflow", "signer": "-> signer", "web": "-> web", "Merkle log": "centre -> log",
             "ledger, journal": "ledger, journal", "published models": "centre -> site: published model"}  # fmt: skip
    for box, arrow in boxes.items():
        assert box in drawn, f"the diagram has changed: {box}"
        assert arrow in judged, arrow


def test_the_names_people_rely_on_are_all_there() -> None:
    root = typer.main.get_command(app)
    assert set(root.list_commands(None)) >= set(_GROUPS)  # type: ignore[attr-defined, arg-type]

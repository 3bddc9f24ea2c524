"""Every command, setting, error code and metric is documented, and the site of the pages builds strictly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from corsia.cli import app
from protocol.errors import CODES
from protocol.study import Study
from tests.releasekit import PACKAGES, ROOT, program
from tests.unit.test_supply import loaded

DOCS = ROOT / "docs"
READ = {".py", ".sh", ".yaml", ".Dockerfile"}


@pytest.mark.parametrize("page", ["commands", "settings"])
def test_a_page_of_reference_is_current(page: str) -> None:
    reference = loaded("docs/reference.py")
    assert (DOCS / "reference" / f"{page}.md").read_text() == reference.PAGES[page](), "run `python docs/reference.py`"


def test_every_command_says_what_it_does_by_example() -> None:
    reference = loaded("docs/reference.py")
    found = dict(reference.leaves("corsia", typer.main.get_command(app)))
    assert len(found) > 60
    assert [words for words, one in found.items() if not (one.help or "").strip()] == []
    assert [words for words, one in found.items() if f"Example: {words}" not in (one.help or "")] == []


def test_a_setting_without_a_word_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = loaded("docs/reference.py")
    monkeypatch.setattr(reference, "MEANINGS", {})
    with pytest.raises(ValueError, match=r"edge\.toml: site, .*central\.toml: web\.host"):
        reference.settings()


def test_every_error_code_is_on_its_page() -> None:
    told = set(re.findall(r"^\| `([a-z.-]+)` \|", (DOCS / "errors.md").read_text(), re.M))
    assert told == set(CODES)


def test_every_metric_is_documented() -> None:
    """Names that the code gives its numbers; a page may shorten a name's last word (`corsia_a_b`, `_c`)."""
    code = [f.read_text() for part in ("protocol", "edge", "central") for f in (ROOT / part).rglob("*metrics*.py")]
    names = {name for text in code for name in re.findall(r'"(corsia_[a-z_]+)"', text)}
    page = DOCS / "metrics.md"
    assert bool(names) is page.exists()
    told: set[str] = set()
    for line in page.read_text().splitlines() if names else []:
        last = ""
        for word in re.findall(r"`(\w+?)(?:\{[^`]*\})?`", line):
            if word.startswith("corsia_"):
                last = word
                told.add(word)
            elif word.startswith("_") and last:
                told.add(last.rpartition("_")[0] + word)
    assert {name for name in names if not {name, f"{name}_total"} & told} == set()  # a counter's name ends so


def test_every_field_of_a_study_is_on_its_page() -> None:
    page = (DOCS / "spec" / "study.md").read_text()
    shown = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    prose = re.sub(r"^```.*?^```", "", page, flags=re.M | re.S)
    told = set(re.findall(r"\w+", " ".join([*shown, *re.findall(r"`([^`]+)`", prose)])))
    fields = [(path, field.alias or path.rpartition(".")[2]) for path, field, _said in
              loaded("docs/reference.py").fields(Study)]  # fmt: skip
    assert len(fields) > 80
    assert [path for path, name in fields if name not in told] == []


def test_every_variable_of_the_environment_is_documented() -> None:
    """Those that product or deployment read by a name of ours; tests' own fault points are no setting."""
    read = [*(f for part in (*PACKAGES, "deploy") for f in (ROOT / part).rglob("*") if f.suffix in READ)]
    names = {name for file in read for name in re.findall(r"\bCORSIA_[A-Z_]+\b", file.read_text())}
    assert len(names) > 30
    pages = [*DOCS.rglob("*.md"), *(ROOT / "deploy").rglob("README.md")]
    told = {name for page in pages for name in re.findall(r"`(CORSIA_[A-Z_]+)`", page.read_text())}
    assert names - told == {"CORSIA_FAULTS"}


def test_every_page_is_reached_from_the_site_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    navigation = loaded("docs/navigation.py")
    reached = navigation._named(navigation.expand(nav, pages))
    assert sorted(reached) == pages
    more = navigation.expand(
        [{"A": ["a.md"]}, {"B": ["x/*.md"]}, {"C": ["*.md"]}], ["a.md", "b.md", "x/y.md", "x/z.md"]
    )
    assert more == [{"A": ["a.md"]}, {"B": ["x/y.md", "x/z.md"]}, {"C": ["b.md"]}]
    assert navigation.expand([{"A": ["a.md"]}, {"C": ["*.md"]}], ["a.md"]) == [{"A": ["a.md"]}]


@pytest.mark.slow
def test_the_site_builds_strictly_and_asks_nobody(tmp_path: Path) -> None:
    command = [program("mkdocs"), "build", "--strict", "--site-dir", str(tmp_path / "site")]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": path, "NO_MKDOCS_2_WARNING": "1"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]  # not with --quiet: warnings that are not told are not counted
    assert "WARNING" not in done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        loads = re.findall(r'<(?:script|img|iframe|source)[^>]*\ssrc="(https?:[^"]+)"', page.read_text())
        loads += re.findall(r'<link[^>]*rel="(?:stylesheet|preload|icon)"[^>]*href="(https?:[^"]+)"', page.read_text())
        assert loads == [], page.name
    python = (tmp_path / "site" / "reference" / "python.html").read_text()
    assert "corsia.client.Hub" in python
    assert "pipelines.Gate" in python

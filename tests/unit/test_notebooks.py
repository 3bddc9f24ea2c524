"""The notebooks as they lie in the repository: clean, in words, with pictures. They run in tests/e2e/test_demo.py."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def test_all_five_are_there() -> None:
    names = {path.stem for path in NOTEBOOKS}
    assert {"01-four-lanes", "02-features", "03-genomics", "04-training", "05-inference"} <= names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_clean(path: Path) -> None:
    """No output of somebody's run, which could hold rows or a token; nothing that only one machine has."""
    for cell in cells(path, "code"):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        ast.parse("".join(cell["source"]))
    text = path.read_text(encoding="utf-8")
    assert not [word for word in ("/home/", "/work/", "/tmp/", "/Users/") if word in text]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_tells_what_it_does_and_shows_it(path: Path) -> None:
    words = ["".join(cell["source"]) for cell in cells(path, "markdown")]
    assert words[0].startswith("# ")
    assert "`corsia " in words[0], "how to have what it runs against"
    assert sum(one.startswith("## ") for one in words) >= 3
    code = "\n".join("".join(cell["source"]) for cell in cells(path, "code"))
    assert any(word in code for word in (".plot(", "plt.show()", "plot.barh(")), "a picture"

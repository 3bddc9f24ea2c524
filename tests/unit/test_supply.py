"""Licences and advisories: the page is current, an unknown licence stops, a vulnerable pin is found offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def loaded(path: str) -> ModuleType:
    spec = spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_page_of_licences_is_current() -> None:
    licences = loaded("docs/licences.py")
    assert (ROOT / "docs" / "licences.md").read_text() == licences.render(), "run `python docs/licences.py`"
    rows = [line for line in (ROOT / "docs" / "licences.md").read_text().splitlines() if "| product |" in line]
    assert len(rows) > 100
    assert not [row for row in rows if "GPL" in row and "LGPL" not in row]


def test_an_unknown_or_forbidden_licence_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    licences = loaded("docs/licences.py")
    monkeypatch.setattr(licences, "SAID", {})
    with pytest.raises(ValueError, match=r"text-unidecode: licence .*GPL"):
        licences.render()
    with pytest.raises(ValueError, match="bed-reader: licence ''"):
        licences.licence("bed-reader")


def advisory(name: str, events: list[dict[str, str]], **affected: Any) -> dict[str, Any]:
    package = {"ecosystem": "PyPI", "name": name}
    return {"id": "X-1", "affected": [{"package": package, "ranges": [{"type": "ECOSYSTEM", "events": events}],
                                       **affected}]}  # fmt: skip


@pytest.mark.parametrize(
    ("one", "hit"),
    [
        (advisory("Some_Thing", [{"introduced": "0"}]), True),
        (advisory("some-thing", [{"introduced": "0"}, {"fixed": "1.2"}]), False),
        (advisory("some-thing", [{"introduced": "0"}, {"fixed": "1.2.1"}]), True),
        (advisory("some-thing", [{"introduced": "2"}]), False),
        (advisory("some-thing", [{"introduced": "1"}, {"last_affected": "1.1"}]), False),
        (advisory("some-thing", [{"introduced": "0"}, {"fixed": "1"}, {"introduced": "1.2"}]), True),
        (advisory("some-thing", [], versions=["1.2"]), True),
        (advisory("another", [{"introduced": "0"}]), False),
        (advisory("some-thing", [{"introduced": "not a version"}]), True),
    ],
)
def test_an_advisory_hits_the_versions_that_it_names(one: dict[str, Any], hit: bool) -> None:
    assert bool(list(loaded(".ci/audit.py").hits([one], {"some-thing": Version("1.2")}))) is hit


def audit(**environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("CORSIA_AUDIT", "CORSIA_ADVISORIES")}
    command = [sys.executable, str(ROOT / ".ci" / "audit.py")]
    return subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_vulnerable_pin_fails_and_no_source_is_said_plainly(tmp_path: Path) -> None:
    none = audit()
    assert (none.returncode, "did not run" in none.stdout) == (0, True)
    path = tmp_path / "advisories.json"
    path.write_text(json.dumps([advisory("cryptography", [{"introduced": "0"}]), advisory("nobody", [])]))
    found = audit(CORSIA_ADVISORIES=str(path))
    assert found.returncode == 1
    assert "X-1: cryptography" in found.stdout
    path.write_text("[]")
    assert audit(CORSIA_ADVISORIES=str(path)).returncode == 0
    for text in ("", "{}x", "[3]", '["x"]', '[{"affected": 1}]'):
        path.write_text(text)
        damaged = audit(CORSIA_ADVISORIES=str(path))
        assert damaged.returncode == 1
        assert damaged.stdout.startswith("audit: did not run: ")
        assert not damaged.stderr


@pytest.mark.slow
def test_a_service_that_cannot_be_asked_is_said_in_a_line() -> None:
    nowhere = "http://127.0.0.1:9"  # nobody listens: no registry is asked
    done = audit(CORSIA_AUDIT="online", HTTPS_PROXY=nowhere, https_proxy=nowhere, NO_PROXY="", no_proxy="")
    assert done.returncode == 1
    assert done.stdout.startswith("audit: did not run: pip-audit could not ask its service: ")
    assert (done.stdout.count("\n"), done.stderr) == (1, "")

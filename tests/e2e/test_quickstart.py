"""The quickstart as it stands, from nothing to the first approved study: small always, whole in `make test-full`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.quickstart import blocks
from tests.e2e.running import isolated
from tests.releasekit import ROOT, SMALL, interpreter, tree, wheelhouse

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]
PAGE = ROOT / "docs" / "quickstart.md"
BYTES = 4_000_000_000  # the hospital that the page promises to be enough


def carried_out(folder: Path, hospital: dict[str, str]) -> dict[str, Any]:
    """Both seats; the centre always with what it stands on from the environment at hand."""
    python = interpreter(folder)
    python.rename(folder / "python3")
    centre = SMALL | {"PATH": f"{folder}/centre/.venv/bin:{folder}:{os.environ['PATH']}"}
    for name, env in (("centre", centre), ("hospital", hospital)):
        tree(folder / name)
        (folder / f"{name}.json").write_text(json.dumps(env))
    command = [*isolated(), sys.executable, "-m", "tests.e2e.quickstart", str(PAGE), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def check(made: dict[str, Any], folder: Path) -> None:
    hospital = made["hospital"]
    print(f"\nfirst approved study: {hospital['seconds']} s and {hospital['peak_mb']} MB at the hospital")  # noqa: T201
    assert "done" in made["last"]
    assert "rows=40" in made["last"]
    assert hospital["peak_mb"] * 1e6 < BYTES
    journal = (folder / "hospital" / "state" / "journal.jsonl").read_text()
    for event in ("site.enrolled", "study.approved", "gate.passed", "parcel.delivered"):
        assert event in journal, event


def test_a_hospital_takes_three_steps() -> None:
    found = [block for seat, block in blocks(PAGE.read_text()) if seat == "hospital"]
    verbs = ("pip install", "corsia init edge", "corsia edge enroll", "corsia edge run")
    at = [next(i for i, block in enumerate(found) if verb in block) for verb in verbs]
    assert at == sorted(at)
    assert "sudo" not in "".join(found)
    assert "docker" not in "".join(found)


def test_the_quickstart_as_written(tmp_path: Path) -> None:
    hospital = SMALL | {"PATH": f"{tmp_path}/hospital/.venv/bin:{tmp_path}:{os.environ['PATH']}"}
    check(carried_out(tmp_path, hospital), tmp_path)


@pytest.mark.full
def test_the_quickstart_from_nothing_without_an_index(tmp_path: Path) -> None:
    """The hospital begins with a bare Python: every wheel comes out of a wheelhouse, and nothing else."""
    house = wheelhouse(ROOT, tmp_path / "house", "edge")
    base = Path(sys.base_prefix) / "bin"
    subprocess.run([str(base / "python3"), "-m", "venv", str(tmp_path / "env")], check=True)
    by_hash = ["--no-index", "--find-links", str(house), "--require-hashes", "-r", str(house / "requirements.txt")]
    subprocess.run([*isolated(), str(tmp_path / "env" / "bin" / "pip"), "install", "-q", *by_hash], check=True)
    subprocess.run([str(tmp_path / "env" / "bin" / "pip"), "check"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "-w", str(house), "hatchling==1.33.0"], check=True)
    hospital = {"PATH": f"{tmp_path}/hospital/.venv/bin:{base}:/usr/bin:/bin", "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": str(house), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}  # fmt: skip
    check(carried_out(tmp_path, hospital), tmp_path)
    installed = subprocess.run([f"{tmp_path}/hospital/.venv/bin/pip", "list", "--format=freeze"],
                               capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert not {"torch", "mlflow", "flwr"} & {line.partition("==")[0] for line in installed.splitlines()}

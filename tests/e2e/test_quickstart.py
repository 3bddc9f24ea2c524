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
# pip as on a machine that knows no index and no other folder of wheels, whatever this one's files say.
ALONE = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
BYTES = 4_000_000_000  # the hospital that the page promises to be enough


def here(folder: Path, seat: str) -> dict[str, str]:
    """An environment of this source for a seat, with what it stands on from the one at hand."""
    interpreter(folder).rename(folder / "python3")
    tree(folder / seat)
    return SMALL | {"PATH": f"{folder}/{seat}/.venv/bin:{folder}:{os.environ['PATH']}"}


def carried_out(folder: Path, centre: dict[str, str], hospital: dict[str, str]) -> dict[str, Any]:
    """Both seats, each in its environment."""
    for name, env in (("centre", centre), ("hospital", hospital)):
        (folder / name).mkdir(exist_ok=True)
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
    check(carried_out(tmp_path, here(tmp_path, "centre"), here(tmp_path, "hospital")), tmp_path)


@pytest.mark.full
def test_the_quickstart_from_nothing_without_an_index(tmp_path: Path) -> None:
    """The hospital begins with a bare Python: every wheel comes out of a wheelhouse, and nothing else."""
    house = wheelhouse(ROOT, tmp_path / "house", "edge")
    base = Path(sys.base_prefix) / "bin"
    subprocess.run([str(base / "python3"), "-m", "venv", str(tmp_path / "env")], check=True)
    by_hash = ["--no-index", "--find-links", str(house), "--require-hashes", "-r", str(house / "requirements.txt")]
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | ALONE
    pip = str(tmp_path / "env" / "bin" / "pip")
    subprocess.run([*isolated(), pip, "install", "-q", *by_hash], env=bare, check=True)
    subprocess.run([pip, "check"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "-w", str(house), "hatchling==1.33.0"], check=True)
    tree(tmp_path / "hospital")
    hospital = ALONE | {"PATH": f"{tmp_path}/hospital/.venv/bin:{base}:/usr/bin:/bin", "PIP_FIND_LINKS": str(house),
                        "PIP_CONSTRAINT": "", "PIP_EXTRA_INDEX_URL": ""}  # fmt: skip
    check(carried_out(tmp_path, here(tmp_path, "centre"), hospital), tmp_path)
    installed = subprocess.run([f"{tmp_path}/hospital/.venv/bin/pip", "list", "--format=freeze"],
                               capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert not {"torch", "mlflow", "flwr"} & {line.partition("==")[0] for line in installed.splitlines()}

"""Upgrade and roll-back of a hospital's release, by the script that IT runs, with parcels under way.

From wheelhouses with no index. Small: what Corsia stands on is taken from the environment at hand. Whole, in
`make test-full`: every wheel, into an environment that has nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corsia.cli.edge_status import site_status
from edge.config import load
from edge.journal import Journal
from tests.gatewaykit import eventually
from tests.releasekit import SMALL, interpreter, tree, wheelhouse
from tests.wardkit import Ward

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two releases: this one, and one in which a lane's code has changed."""
    folder = tmp_path_factory.mktemp("houses")
    made = {}
    for name in ("old", "new"):
        source = tree(folder / f"{name}-tree")
        if name == "new":
            project = source / "pyproject.toml"
            project.write_text(re.sub(r'^version = ".*"', 'version = "99.0.0"', project.read_text(), flags=re.M))
            with (source / "pipelines" / "harvest.py").open("a") as file:
                file.write("\n# changed\n")
        made[name] = wheelhouse(source, folder / name, "edge", **SMALL)
    return made


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    made = Ward(tmp_path_factory.mktemp("ward"))
    made.corsia = [str(made.folder / "opt" / "current" / "bin" / "corsia")]
    text = made.edge.read_text().replace('approve = "auto"', 'approve = "manual"')
    made.edge.write_text(text + '\n[delivery]\nquiet_hours = ["00:00-12:00", "12:00-00:00"]\n')
    made.start("corsia-central")
    try:
        yield made
    finally:
        for name in ("corsia-edge", "corsia-central"):
            made.stop(name)


def install(ward: Ward, house: Path, verb: str = "install", ok: bool = True) -> str:
    """Run the script as root of a machine would, with its folders below the test's."""
    who = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    given = {
        "CORSIA_PREFIX": str(ward.folder / "opt"), "CORSIA_ETC": str(ward.folder / "etc"), "CORSIA_USER": who,
        "CORSIA_STATE": str(ward.edge.parent / "state"), "CORSIA_CONFIG": str(ward.edge),
        "CORSIA_BACKUPS": str(ward.folder / "backups"), "CORSIA_PYTHON": str(interpreter(ward.folder)),
        "SERVICES": str(ward.services), "PATH": f"{ward.services}:{os.environ['PATH']}", **SMALL,
    }  # fmt: skip
    done = subprocess.run(
        ["sh", str(house / "install.sh"), "edge", verb], env=os.environ | given, capture_output=True, text=True
    )
    assert (done.returncode == 0) is ok, done.stderr
    return done.stderr


def status(ward: Ward) -> dict[str, Any]:
    return site_status(load(ward.edge))


def approval(ward: Ward) -> str:
    """As the release that runs sees it, by its own code digest."""
    done = subprocess.run([*ward.corsia, "edge", "status", "--config", str(ward.edge), "--json"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    (study,) = json.loads(done.stdout.splitlines()[-1])["studies"]
    return str(study["approval"])


def waits_in(ward: Ward, state: str) -> None:
    eventually(lambda: [s["state"] for s in status(ward)["studies"]] == [state], 60)


def kept(ward: Ward) -> dict[str, Any]:
    """What must be the same after a change: parcels to the byte, what is spent, whose site it is."""
    state, now = ward.edge.parent / "state", status(ward)
    parcels = {p.name: p.read_bytes() for p in (state / "spool").rglob("*") if p.is_file() and p.stat().st_size}
    keys = {p.name: p.read_bytes() for p in state.glob("*.key") if p.name != "tls.key"}
    return {"parcels": parcels, "keys": keys} | {k: now[k] for k in ("ledger_head", "fingerprint", "spool_parcels")}


def journal(ward: Ward) -> list[str]:
    path = ward.edge.parent / "state" / "journal.jsonl"
    Journal(path, readonly=True).verify()
    return path.read_text().splitlines()


def test_upgrade_and_rollback_keep_spool_journal_and_ledger(ward: Ward, houses: dict[str, Path]) -> None:
    install(ward, houses["old"])
    recovery = ward.folder / "safe" / "recovery"
    recovery.parent.mkdir()
    ward.shell('corsia central invite "$SITE" --config "$CENTRAL" > code.txt')
    ward.shell('corsia edge enroll --config "$EDGE" --code - < code.txt')
    ward.shell('corsia edge recovery-key --out "$KEY" --config "$EDGE"', KEY=str(recovery))
    ward.start("corsia-edge")
    ward.send("first")
    waits_in(ward, "pending")
    ward.shell('"$CORSIA" edge approve first --config "$EDGE"', CORSIA=ward.corsia[0])  # of the code that is installed
    waits_in(ward, "delivering")

    before, lines = kept(ward), journal(ward)
    assert before["spool_parcels"] == 1
    assert before["ledger_head"]
    said = install(ward, houses["new"])
    assert "runs 99.0.0-" in said
    assert kept(ward) == before
    assert journal(ward)[: len(lines)] == lines
    assert approval(ward) == "suspended", "other code, another approval"
    (backup,) = (ward.folder / "backups").iterdir()
    ward.shell('corsia edge verify "$FILE" --key "$KEY"', FILE=str(backup), KEY=str(recovery))

    lines = journal(ward)
    install(ward, houses["new"], "rollback")
    assert kept(ward) == before
    assert journal(ward)[: len(lines)] == lines
    assert approval(ward) == "approved"

    # A release that does not start is taken back, and what waited is delivered once.
    broken = (ward.folder / "opt" / "previous").resolve() / "bin" / "corsia"
    broken.write_text("#!/bin/sh\nexit 70\n")
    ward.edge.write_text(ward.edge.read_text().partition("\n[delivery]")[0] + "\n")
    said = install(ward, houses["old"], "rollback", ok=False)
    assert "did not start" in said
    assert ward.word("first") == "done"
    assert journal(ward)[: len(lines)] == lines
    waits_in(ward, "done")


def test_a_wheelhouse_that_was_changed_installs_nothing(ward: Ward, houses: dict[str, Path], tmp_path: Path) -> None:
    for name, harm in (("bytes", "requirements.txt"), ("wheel", "corsia-*.whl")):
        copy = shutil.copytree(houses["new"], tmp_path / name)
        (victim,) = copy.glob(harm)
        with victim.open("ab") as file:
            file.write(b"\n")
        before = sorted((ward.folder / "opt" / "releases").iterdir())
        assert "damaged or was changed" in install(ward, copy, ok=False)
        assert sorted((ward.folder / "opt" / "releases").iterdir()) == before


def test_a_wrong_call_of_the_wheelhouse_says_what_there_is(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "deploy" / "wheelhouse.py"
    done = subprocess.run(
        [sys.executable, str(script), "edge,nonsense", str(tmp_path / "x")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "imaging" in done.stderr
    assert not (tmp_path / "x").exists()

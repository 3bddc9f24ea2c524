"""Upgrade and roll-back of a release at a hospital and at the centre, by the script that IT runs, with work under way.

From wheelhouses with no index. Small: what Corsia stands on is taken from the environment at hand. Whole, in
`make test-full`: every wheel, into an environment that has nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from central.config import load_config
from central.store.schema import REVISIONS
from corsia.cli.edge_status import site_status
from edge.config import load
from edge.journal import Journal
from tests.gatewaykit import eventually
from tests.releasekit import ROOT, SMALL, interpreter, tree, wheelhouse
from tests.wardkit import Ward

pytestmark = pytest.mark.timeout(1500)
PAGE = ROOT / "docs" / "deploy.md"
_MAJOR, _MINOR = version("corsia").split(".")[:2]
NEXT = f"{_MAJOR}.{int(_MINOR) + 1}.0"  # a centre serves agents of the minor version before its own
_STEP = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{before}"


def upgrade() -> None:
    op.add_column("studies", sa.Column("note", sa.String(), nullable=True))
"""


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two releases for both seats: this one, and the next, in which a lane's code and the centre's tables changed."""
    folder = tmp_path_factory.mktemp("houses")
    made = {}
    for name in ("old", "new"):
        source = tree(folder / f"{name}-tree")
        if name == "new":
            project = source / "pyproject.toml"
            project.write_text(re.sub(r'^version = ".*"', f'version = "{NEXT}"', project.read_text(), flags=re.M))
            with (source / "pipelines" / "harvest.py").open("a") as file:
                file.write("\n# changed\n")
            schema = source / "central" / "store" / "schema.py"
            schema.write_text(re.sub(r"^(REVISIONS = .*)\)$", r'\1, "9999")', schema.read_text(), flags=re.M))
            (source / "central" / "store" / "migrations" / "versions" / "9999_next.py").write_text(
                _STEP.format(before=REVISIONS[-1])
            )
        made[name] = wheelhouse(source, folder / name, "edge,central", **SMALL)
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


def machine(ward: Ward, seat: str) -> dict[str, str]:
    """What tells the script of the test's folders instead of a machine's."""
    config = ward.edge if seat == "edge" else ward.central
    who = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "CORSIA_PREFIX": str(ward.folder / "opt"), "CORSIA_ETC": str(ward.folder / "etc"), "CORSIA_USER": who,
        "CORSIA_STATE": str(config.parent / "state"), "CORSIA_CONFIG": str(config),
        "CORSIA_BACKUPS": str(ward.folder / "backups"), "CORSIA_PYTHON": str(interpreter(ward.folder)),
        "SERVICES": str(ward.services), "PATH": f"{ward.services}:{os.environ['PATH']}", **SMALL,
    }  # fmt: skip


def install(ward: Ward, house: Path, verb: str = "install", ok: bool = True, seat: str = "edge") -> str:
    """Run the script as root of a machine would, with its folders below the test's."""
    command = ["sh", str(house / "install.sh"), seat, verb]
    done = subprocess.run(command, env=os.environ | machine(ward, seat), capture_output=True, text=True)
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
    eventually(lambda: [s["state"] for s in status(ward)["studies"]] == [state], 300)


def kept(ward: Ward) -> dict[str, Any]:
    """What must be the same after a change: parcels to the byte, what is spent, whose site it is."""
    state, now = ward.edge.parent / "state", status(ward)
    parcels = {p.name: p.read_bytes() for p in (state / "spool").rglob("*") if p.is_file() and p.stat().st_size}
    keys = {p.name: p.read_bytes() for p in state.glob("*.key") if p.name != "tls.key"}
    told = ("ledger_head", "fingerprint", "spool_parcels", "fleet")
    return {"parcels": parcels, "keys": keys} | {name: now[name] for name in told}


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
    assert before["fleet"].endswith(tuple("0123456789"))
    said = install(ward, houses["new"])
    assert f"runs {NEXT}-" in said
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


@pytest.fixture
def centre(tmp_path: Path, houses: dict[str, Path]) -> Iterator[Ward]:
    """A centre that was installed by the script, and a hospital that sends to it."""
    made = Ward(tmp_path)
    install(made, houses["old"], seat="central")
    made.python = [str(tmp_path / "opt" / "current" / "bin" / "python"), "-P"]
    made.start("corsia-central")
    try:
        made.shell('corsia central invite "$SITE" --config "$CENTRAL" > code.txt')
        made.shell('corsia edge enroll --config "$EDGE" --code - < code.txt')
        made.start("corsia-edge")
        yield made
    finally:
        for name in ("corsia-edge", "corsia-central"):
            made.stop(name)


def held(ward: Ward) -> dict[str, Any]:
    """What a release must leave alone: rows, the log, parcels, lake, blobs and keys, to the byte."""
    state = load_config(ward.central).state_dir
    quiet = ("studies", "assignments", "parcels", "log", "curated", "certificates")  # those that no heartbeat changes
    with closing(sqlite3.connect(state / "corsia.db")) as database:
        rows = {n: database.execute(f"SELECT * FROM {n}").fetchall() for n in quiet}  # noqa: S608  (names of ours)
    passing, working = {"logs", "run", "newer"}, (".lock", ".db", ".db-wal", ".db-shm")
    files = {
        path.relative_to(state): path.read_bytes()
        for path in state.rglob("*")
        if path.is_file() and path.suffix not in working and path.relative_to(state).parts[0] not in passing
    }
    return {"rows": rows, "files": files}


def at_rest(rows: dict[str, list[Any]]) -> bool:
    """Whether the centre has done all that it had to do with what landed."""
    done = [row[-1] for row in rows["studies"]] == ["done"]
    return done and bool(rows["curated"]) and all("opened" in row for row in rows["parcels"])


def tables(ward: Ward) -> str:
    with closing(sqlite3.connect(load_config(ward.central).state_dir / "corsia.db")) as database:
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])


@pytest.mark.full  # the way of a site always runs, above
def test_upgrade_and_rollback_of_the_centre_over_a_change_of_its_tables(centre: Ward, houses: dict[str, Path]) -> None:
    state, recovery = load_config(centre.central).state_dir, centre.folder / "recovery"
    centre.shell('corsia central recovery-key --out "$KEY" --config "$CENTRAL"', KEY=str(recovery))
    assert centre.submit("first") == "done"
    eventually(lambda: at_rest(held(centre)["rows"]), 300)
    before = held(centre)
    assert all(before["rows"][name] for name in ("studies", "assignments", "parcels", "log", "curated"))

    # Forward: a sealed backup by the old release, a copy of the database by the new one.
    said = install(centre, houses["new"], seat="central")
    assert f"runs {NEXT}-" in said
    assert tables(centre) == "9999"
    after = held(centre)
    assert after["files"] == before["files"]
    for name, rows in before["rows"].items():
        assert [row[: len(rows[0])] for row in after["rows"][name]] == rows, name
    (backup,) = (centre.folder / "backups").iterdir()
    centre.shell('corsia central verify "$FILE" --key "$KEY"', FILE=str(backup), KEY=str(recovery))
    (copy,) = state.glob("before-9999-*.db")

    # Back: the old release does not know these tables, says so, touches nothing; the new one goes on.
    said = install(centre, houses["new"], "rollback", ok=False, seat="central")
    assert "did not start" in said
    assert "storage.newer" in said
    assert "storage.newer" in (centre.folder / "corsia-central.err").read_text()
    assert held(centre) == after
    assert (centre.folder / "opt" / "current").readlink().name.startswith(f"{NEXT}-")

    # Back all the same, with the copy, as the page says.
    (block,) = re.findall(r"^```sh\n(systemctl stop corsia-central\n.*?)^```", PAGE.read_text(), re.M | re.S)
    block = block.replace("/var/lib/corsia-central", str(state)).replace("/root/wheelhouse-central", str(houses["new"]))
    centre.shell(block, **machine(centre, "central"))
    assert tables(centre) == REVISIONS[-1]
    assert held(centre) == before
    assert copy.exists()

    # The hospital sees one log that goes on, and new work passes.
    assert centre.submit("second") == "done"
    centre.shell('corsia edge journal --verify --config "$EDGE"')
    centre.shell('corsia log verify --state "$STATE"')
    assert held(centre)["rows"]["log"][: len(before["rows"]["log"])] == before["rows"]["log"]


def test_a_wheelhouse_that_was_changed_installs_nothing(ward: Ward, houses: dict[str, Path], tmp_path: Path) -> None:
    for name, harm in (("bytes", "requirements.txt"), ("wheel", "corsia-*.whl")):
        copy = shutil.copytree(houses["new"], tmp_path / name)
        (victim,) = copy.glob(harm)
        with victim.open("ab") as file:
            file.write(b"\n")
        before = sorted((ward.folder / "opt").glob("releases/*"))
        assert "damaged or was changed" in install(ward, copy, ok=False)
        assert sorted((ward.folder / "opt").glob("releases/*")) == before


def test_a_wrong_call_of_the_wheelhouse_says_what_there_is(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "deploy" / "wheelhouse.py"
    done = subprocess.run(
        [sys.executable, str(script), "edge,nonsense", str(tmp_path / "x")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert "imaging" in done.stderr
    assert not (tmp_path / "x").exists()

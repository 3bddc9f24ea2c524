"""Each runbook as it stands on its page: its commands in their order, then a study that has to go through.

One of them always; those that stop the centre in `make test-full` (what they stand on: `tests/unit/test_rotation.py`).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from central.config import load_config
from tests.wardkit import Ward

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
PAGES = Path(__file__).parents[2] / "docs" / "runbooks"


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    made = Ward(tmp_path_factory.mktemp("ward"))
    made.start("corsia-central")
    made.shell('corsia central invite "$SITE" --config "$CENTRAL" > code.txt')
    made.shell('corsia edge enroll --config "$EDGE" --code - < code.txt')
    made.start("corsia-edge")
    try:
        assert made.submit("before-all") == "done"
        yield made
    finally:
        for name in ("corsia-edge", "corsia-central"):
            if name in made.running:
                made.stop(name)


def steps(page: str) -> list[str]:
    found = re.findall(r"^```bash\n(.*?)^```", (PAGES / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return [str(block) for block in found]


def carry_out(ward: Ward, page: str, **more: str) -> str:
    return "".join(ward.shell(block, **more) for block in steps(page))


def fingerprint(ward: Ward) -> str:
    (site,) = ward.status()["sites"]
    return str(site["fingerprint"])


def test_every_page_is_listed_and_rehearsed() -> None:
    pages = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert pages == set(re.findall(r"\]\(([a-z-]+)\.md\)", (PAGES / "README.md").read_text()))
    assert pages == {"lost-site-key", "compromised-gateway", "compromised-vault", "compromised-ca"}


def test_a_lost_site_key(ward: Ward) -> None:
    before = fingerprint(ward)
    ledger = (ward.edge.parent / "state" / "ledger.db").stat().st_ino
    carry_out(ward, "lost-site-key")
    assert fingerprint(ward) != before
    assert ward.submit("after-a-lost-key") == "done"
    assert (ward.edge.parent / "state" / "ledger.db").stat().st_ino == ledger, "what was spent stays spent"


@pytest.mark.full
def test_a_compromised_gateway(ward: Ward) -> None:
    state = load_config(ward.central).state_dir
    keys = [state / "gateway" / "log.pub", state / "signer" / "ca.pem"]
    before, who = [key.read_bytes() for key in keys], fingerprint(ward)
    carry_out(ward, "compromised-gateway")
    assert not set(before) & {key.read_bytes() for key in keys}
    assert fingerprint(ward) == who, "the identity stays"
    assert ward.submit("after-the-gateway") == "done"
    (last,) = (state / "retired").glob("log-*/last.checkpoint")
    assert last.read_text().startswith("corsia/")


@pytest.mark.full
def test_a_compromised_vault(ward: Ward) -> None:
    state = load_config(ward.central).state_dir
    old = (state / "vault" / "keys" / "before-all.key").read_bytes()
    carry_out(ward, "compromised-vault", STUDY="before-all")
    assert ward.submit("after-the-vault") == "done"
    fresh = [path.read_bytes() for path in (state / "vault" / "keys").glob("*.key")]
    assert len(fresh) == 1
    assert old not in fresh


@pytest.mark.full
def test_a_compromised_ca(ward: Ward) -> None:
    state = load_config(ward.central).state_dir
    keys = [state / "signer" / name for name in ("ca.pem", "ca.key", "study.key")]
    before = [key.read_bytes() for key in keys]
    said = carry_out(ward, "compromised-ca")
    assert '"before-all"' in said, "the studies to be looked through are listed"
    assert not set(before) & {key.read_bytes() for key in keys}
    assert ward.submit("after-the-ca") == "done"
    journal = ward.shell('corsia edge journal --verify --config "$EDGE" --json')
    assert json.loads(journal)["verified"] is True


def test_a_running_centre_replaces_no_key(ward: Ward) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "corsia", "central", "rotate", "log", "--config", str(ward.central), "--json"],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "conflict.running"

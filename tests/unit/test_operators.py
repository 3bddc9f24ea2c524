"""The register of operators: what is in it after a power cut."""

from __future__ import annotations

from pathlib import Path

from central.config import CentralConfig
from central.operators import Operators
from tests.fault.seam import Seam


def test_a_power_cut_brings_no_removed_operator_back(tmp_path: Path) -> None:
    config = CentralConfig(name="c", state_dir=tmp_path / "state")
    config.state_dir.mkdir()
    config.token_path.write_text("a" * 40)
    config.token_path.chmod(0o600)
    operators = Operators(config)
    for name in ("alice", "bob"):
        operators.add(name)
    with Seam(config.state_dir) as seam:
        operators.remove("bob")
    seam.lose()
    assert Operators(config).get("alice") is not None
    assert Operators(config).get("bob") is None

"""What `corsia doctor` says of a site's keys and certificate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from corsia.doctor import _centre, _certificate, _is_centre, _isolation, _site
from privacy.envelope import SecretKey, write_key
from privacy.folders import make_recovery_key


def findings(path: Path) -> dict[str, Any]:
    return {finding.check: finding for finding in _site(path)}


def test_open_and_plain_key_files_are_named(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text('site = "site-a"\nstate_dir = "elsewhere"\n')
    state = tmp_path / "elsewhere"
    state.mkdir()
    write_key(state / "identity.key", SecretKey.generate())
    found = findings(config)
    assert found["key files"].ok
    assert found["keys at rest"].found == "plain: identity.key"
    assert "auth.not-enrolled" in found["site"].found
    (state / "identity.key").chmod(0o640)
    assert (findings(config)["key files"].ok, findings(config)["key files"].found) == (False, "identity.key")


def test_no_recovery_key_is_told(tmp_path: Path) -> None:
    edge, central = tmp_path / "edge.toml", tmp_path / "central.toml"
    edge.write_text('site = "site-a"\nstate_dir = "site"\n')
    central.write_text('name = "consortium"\nstate_dir = "centre"\n')
    assert (_is_centre(edge), _is_centre(central), _is_centre(tmp_path / "none")) == (False, True, False)
    for look, config, folder, command in (
        (_site, edge, "site", "corsia edge"),
        (_centre, central, "centre", "corsia central"),
    ):
        state = tmp_path / folder
        state.mkdir()
        before = {finding.check: finding.found for finding in look(config)}
        assert before["recovery key"] == f"none, so there is no backup: {command} recovery-key --out K"
        write_key(state / "backup.key", SecretKey.generate())
        make_recovery_key(tmp_path / f"{folder}.K", state / "recovery.pub", SecretKey.generate().public)
        after = {finding.check: finding for finding in look(config)}
        assert (after["recovery key"].found, after["key files"].ok) == ("there", True)
    (tmp_path / "centre" / "backup.key").chmod(0o640)
    assert not next(finding for finding in _centre(central) if finding.check == "key files").ok


@dataclass
class Known:
    """As much of an identity as is asked for."""

    not_before: datetime
    not_after: datetime

    def remaining_s(self) -> float:
        return (self.not_after - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize(("left", "ok"), [(6.0, True), (2.0, True), (1.0, False), (-1.0, False)])
def test_a_certificate_that_should_have_been_renewed_is_told(left: float, ok: bool) -> None:
    end = datetime.now(UTC) + timedelta(days=left)
    assert _certificate(Known(end - timedelta(days=7), end)).ok is ok  # type: ignore[arg-type]


def test_what_this_kernel_keeps_a_worker_from_is_told() -> None:
    found = _isolation()
    assert found.check == "worker isolation"
    assert found.found.startswith("workers ")
    assert found.advice

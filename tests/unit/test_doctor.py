"""What `corsia doctor` says of a site's keys and certificate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from corsia.doctor import _certificate, _isolation, _site
from privacy.envelope import SecretKey, write_key


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

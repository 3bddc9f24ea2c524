"""What `corsia doctor` says of a site's keys and certificate."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from central.config import load_config
from corsia import machine
from corsia.cli.doctor import app
from corsia.doctor import _centre, _certificate, _is_centre, _isolation, _site
from privacy.envelope import SecretKey, write_key
from privacy.folders import make_recovery_key
from protocol.errors import ConfigurationError


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


def test_a_port_that_another_program_holds_is_told() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        number = held.getsockname()[1]
        taken = machine.port("web", "127.0.0.1", number, is_ours=lambda: False)
        assert (taken.ok, str(number) in taken.advice) == (False, True)
        assert machine.port("web", "127.0.0.1", number, is_ours=lambda: True).ok
    assert machine.port("web", "127.0.0.1", number, is_ours=lambda: False).ok


def test_a_proxy_is_told_without_its_credentials() -> None:
    found = machine.proxy({"https_proxy": "http://user:secret@proxy.example:3128"})
    assert (found.ok, found.found) == (True, "https_proxy proxy.example:3128")
    for wrong in ("proxy.example", "http://", "http://[::1", "http://h:99999"):
        told = machine.proxy({"HTTP_PROXY": wrong})
        assert not told.ok, wrong
        assert "http_proxy" in told.advice
    assert machine.proxy({}).ok


def test_a_state_folder_that_others_read_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert not machine.private(tmp_path).ok
    tmp_path.chmod(0o700)
    assert machine.private(tmp_path).ok
    assert machine.private(tmp_path / "none").ok


def test_a_device_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.gpu().ok
    assert not machine.gpu("cuda:0").ok
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho 'A100'\n")
    fake.chmod(0o755)
    told = machine.gpu("cuda:0")
    assert "A100" in told.found
    assert told.ok is ("+cpu" not in metadata.version("torch"))


def test_a_centre_is_looked_at_with_its_ports_and_its_provider(tmp_path: Path) -> None:
    from corsia.doctor import examine

    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        config = tmp_path / "central.toml"
        config.write_text(
            f'name = "c"\n[gateway]\nport = {held.getsockname()[1]}\n[identity]\nissuer = "http://127.0.0.1:1"\n'
            'client_id = "c"\nredirect_uri = "https://c.example/auth/callback"\n'
        )
        found = {finding.check: finding for finding in examine(config)}
    assert not found["port gateway"].ok
    assert found["port web"].check == "port web"
    assert (found["identity"].ok, "unavailable.provider" in found["identity"].found) == (False, True)
    assert found["state folder"].ok
    assert {"clock", "disk", "proxy", "worker isolation", "packages", "python"} <= set(found)


def test_what_is_well_has_no_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"http_proxy": "nothing"}
    monkeypatch.setattr("corsia.doctor.examine", lambda _config: [machine.proxy({}), machine.proxy(wrong)])
    said = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert [(one["ok"], bool(one["advice"])) for one in said["checks"]] == [(True, False), (False, True)]


def test_a_configuration_that_is_no_utf8_is_there_and_invalid(tmp_path: Path) -> None:
    (tmp_path / "central.toml").write_bytes('name = "Niccolò"'.encode("latin-1"))
    with pytest.raises(ConfigurationError) as caught:
        load_config(tmp_path / "central.toml")
    assert caught.value.code == "config.invalid"

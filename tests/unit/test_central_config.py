"""central.toml, the operator's token, and what `corsia init central` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from central.config import load_config, operator_token
from corsia.cli.init_central import init_central
from protocol.errors import AuthenticationError, ConfigurationError, ConflictError


def test_the_written_example_reads_back_with_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "central.toml"
    init_central(path, as_json=True)
    value = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert value["token_file"].endswith("operator.token")
    config = load_config(path)
    assert config.state_dir == tmp_path / "new" / "state"
    assert config.state_dir.stat().st_mode & 0o777 == 0o700
    assert config.token_path.stat().st_mode & 0o777 == 0o600
    assert config.gateway.fleet_address == "127.0.0.1:7443"
    assert config.socket("vault") == config.state_dir / "run" / "vault.sock"
    token = operator_token(config)
    with pytest.raises(ConflictError):
        init_central(path)
    init_central(path, force=True, as_json=True)
    assert operator_token(config) == token
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("new/central.toml")).state_dir.is_absolute()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("", "name"),
        ('name = "A B"', "name"),
        ('name = "a"\nother = 1', "other"),
        ('name = "a"\n[gateway]\nport = 0', "gateway.port"),
        ('name = "a"\n[gateway]\nport = 7444', "gateway"),
        ('name = "a"\n[gateway]\nnames = []', "gateway.names"),
        ('name = "a"\n[gateway]\ncertificate_days = 400', "gateway.certificate_days"),
        ('name = "a"\n[sites]\n"Site A" = "x"', "sites"),
        ("name = ", "not"),
    ],
)
def test_what_is_not_valid_is_refused_with_its_field(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "central.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"config\.invalid") as caught:
        load_config(path)
    assert field in str(caught.value) or field == "not"


def test_a_missing_file_and_a_missing_or_open_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"config\.missing"):
        load_config(tmp_path / "none.toml")
    path = tmp_path / "central.toml"
    path.write_text('name = "a"\nstate_dir = "s"')
    config = load_config(path)
    with pytest.raises(AuthenticationError, match=r"auth\.token"):
        operator_token(config)
    config.state_dir.mkdir()
    config.token_path.write_text("x" * 40)
    config.token_path.chmod(0o644)
    with pytest.raises(AuthenticationError, match="readable"):
        operator_token(config)
    config.token_path.chmod(0o600)
    assert operator_token(config) == "x" * 40


def test_ipv6_names_go_into_join_codes_with_brackets(tmp_path: Path) -> None:
    path = tmp_path / "central.toml"
    path.write_text('name = "a"\n[gateway]\nnames = ["::1"]'.replace("::1", "fd00::1"))
    assert load_config(path).gateway.fleet_address == "[fd00::1]:7443"

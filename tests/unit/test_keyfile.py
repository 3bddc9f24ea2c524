"""Key files: their mode, the passphrase that locks them, and every file of the product that holds a key."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from central.config import load_config
from central.federation.keys import RunKeys
from central.gateway.receipts import open_log_key
from central.signer.authority import Authority
from central.vault.keys import StudyKeys
from corsia.cli.central import app as central_app
from corsia.cli.edge import app as edge_app
from corsia.cli.init_central import init_central
from edge.config import load
from edge.lane import job_key
from edge.memory import Release, admitted
from privacy.disclosure.traps import Traps
from privacy.envelope import SecretKey, read_key, write_key
from privacy.envelope.keyfile import CREDENTIAL, at_rest, guard, passphrase_of, read_secret
from privacy.envelope.locked import MAX_SECRET_BYTES, is_locked, lock, unlock
from protocol.errors import ConfigurationError, ConflictError

PASSPHRASE = b"correct horse battery staple"
LOCKED = lock(b"s" * 32, PASSPHRASE, work=14)
Opening = Callable[[Path], object]


def refused(call: Callable[[], object], code: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert caught.value.code == code


@pytest.fixture
def passphrase(tmp_path: Path) -> Iterator[Path]:
    """A passphrase file that guards the state folder `tmp_path/state`."""
    file, folder = tmp_path / "passphrase", tmp_path / "state"
    file.write_bytes(PASSPHRASE + b"\n")
    file.chmod(0o600)
    folder.mkdir(mode=0o700)
    guard(folder, file)
    yield file
    guard(folder, None)


def test_a_locked_secret_opens_with_its_passphrase_alone() -> None:
    assert unlock(LOCKED, PASSPHRASE) == b"s" * 32
    assert is_locked(LOCKED)
    assert not is_locked(b"corsiakf" + bytes(24))  # 32 bytes are always a plain key
    refused(lambda: unlock(LOCKED, PASSPHRASE + b" "), "config.passphrase")
    again = lock(b"s" * 32, PASSPHRASE, work=14)
    assert again[12:28] == LOCKED[12:28]  # one scrypt for all, a key of its own for each
    assert again[28:60] != LOCKED[28:60]
    for size in (1, MAX_SECRET_BYTES):
        assert unlock(lock(b"x" * size, PASSPHRASE, work=14), PASSPHRASE) == b"x" * size
    for secret, work in ((b"", 14), (b"x" * (MAX_SECRET_BYTES + 1), 14), (b"x", 13), (b"x", 21)):
        with pytest.raises(ValueError, match="size"):
            lock(secret, PASSPHRASE, work=work)


@pytest.mark.parametrize("at", [*range(9), *range(12, len(LOCKED), 7), len(LOCKED) - 1])
def test_every_changed_byte_is_found(at: int) -> None:
    raw = bytearray(LOCKED)
    raw[at] ^= 1
    refused(lambda: unlock(bytes(raw), PASSPHRASE), "config.passphrase")


@pytest.mark.parametrize(
    ("work", "block", "lanes"),
    [(13, 8, 1), (21, 8, 1), (40, 8, 1), (14, 0, 1), (14, 9, 1), (14, 8, 0), (14, 8, 5)],
)
def test_work_is_bounded_before_it_is_done(work: int, block: int, lanes: int) -> None:
    raw = LOCKED[:9] + struct.pack("3B", work, block, lanes) + LOCKED[12:]
    refused(lambda: unlock(raw, PASSPHRASE), "config.passphrase")


@settings(max_examples=500, deadline=None)
@given(raw=st.binary(max_size=200), size=st.integers(0, len(LOCKED)))
def test_any_bytes_are_refused_with_the_code(raw: bytes, size: int) -> None:
    for made in (raw, b"corsiakf" + raw, LOCKED[:size] + raw[: len(raw) % 3], LOCKED + raw[:1] + b"x"):
        if made != LOCKED:
            refused(lambda made=made: unlock(made, PASSPHRASE), "config.passphrase")  # type: ignore[misc]


def test_the_passphrase_is_looked_for_in_three_places(
    tmp_path: Path, passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "state" / "deep" / "k.key"
    assert passphrase_of(key) == PASSPHRASE
    assert passphrase_of(tmp_path / "elsewhere") is None
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / CREDENTIAL).write_bytes(b"from systemd, twelve")
    (credentials / CREDENTIAL).chmod(0o440)  # systemd's folder is what guards it
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert passphrase_of(tmp_path / "elsewhere") == b"from systemd, twelve"
    assert passphrase_of(key) == PASSPHRASE
    other = tmp_path / "other"
    other.write_bytes(b"from the environment\r\n")
    other.chmod(0o400)
    monkeypatch.setenv("CORSIA_PASSPHRASE_FILE", str(other))
    assert passphrase_of(key) == b"from the environment"
    other.unlink()
    refused(lambda: passphrase_of(key), "config.passphrase")  # not the next best one


@pytest.mark.parametrize(
    ("text", "mode", "code"),
    [
        (b"x" * 11, 0o600, "config.passphrase"),
        (b"", 0o600, "config.passphrase"),
        (b"x" * 4097, 0o600, "config.passphrase"),
        (PASSPHRASE, 0o640, "config.key-mode"),
    ],
)
def test_a_passphrase_file_that_will_not_do(passphrase: Path, text: bytes, mode: int, code: str) -> None:
    passphrase.write_bytes(text)
    passphrase.chmod(mode)
    refused(lambda: at_rest(passphrase.parent / "state" / "k.key", b"x"), code)


def test_a_key_that_is_written_where_a_passphrase_is_set_is_locked(tmp_path: Path, passphrase: Path) -> None:
    key, path = SecretKey.generate(), tmp_path / "state" / "k.key"
    write_key(path, key)
    assert is_locked(path.read_bytes())
    assert key.to_bytes() not in path.read_bytes()
    assert read_key(path).public == key.public
    write_key(tmp_path / "state" / "plain.key", key, plain=True)
    assert (tmp_path / "state" / "plain.key").read_bytes() == key.to_bytes()
    assert read_key(tmp_path / "state" / "plain.key").public == key.public
    passphrase.write_bytes(b"another passphrase")
    refused(lambda: read_key(path), "config.passphrase")
    guard(tmp_path / "state", None)
    refused(lambda: read_key(path), "config.passphrase")
    path.chmod(0o644)
    refused(lambda: read_key(path), "config.key-mode")


def remembers(folder: Path) -> object:
    release = Release(cohorts={"all": tuple(str(n) for n in range(20))}, numbers={"age": 1}, minimum=5, traps=Traps())
    known = folder / "memory"
    before = known.read_bytes() if known.exists() else None
    known.write_bytes(admitted(folder, "release", release)(before))
    return known


EVERY = {
    "pseudonym.key": lambda folder: job_key(folder, "ab" * 32),
    "memory.key": remembers,
    "signer/ca.key": lambda folder: Authority(folder / "signer", "c"),
    "signer/study.key": lambda folder: Authority(folder / "signer", "c"),
    "signer/publication.key": lambda folder: Authority(folder / "signer", "c"),
    "gateway/log.key": lambda folder: open_log_key(folder / "gateway"),
    "vault/s.key": lambda folder: StudyKeys(folder / "vault").create("s"),
    "federation/s.key": lambda folder: RunKeys(folder / "federation").public("s"),
}  # the identity and the channel key: tests/integration/test_edge_identity.py


@pytest.mark.parametrize("name", EVERY)
def test_every_key_is_private_locked_and_refused_otherwise(tmp_path: Path, passphrase: Path, name: str) -> None:
    folder, opening = tmp_path / "state", EVERY[name]
    opening(folder)
    path = folder / name
    assert path.stat().st_mode & 0o777 == 0o600
    assert is_locked(path.read_bytes())
    opening(folder)
    path.chmod(0o640)
    refused(lambda: opening(folder), "config.key-mode")
    path.chmod(0o600)
    before = {file: file.read_bytes() for file in folder.rglob("*.key")}
    guard(folder, None)
    refused(lambda: opening(folder), "config.passphrase")
    assert {file: file.read_bytes() for file in folder.rglob("*.key")} == before


def test_the_commands_lock_and_unlock_a_centre(tmp_path: Path) -> None:
    config = tmp_path / "central.toml"
    init_central(config, as_json=True)
    state = load_config(config).state_dir
    ca = Authority(state / "signer", "c").ca_pem
    StudyKeys(state / "vault" / "keys").create("lung")
    passphrase = tmp_path / "p"
    passphrase.write_bytes(PASSPHRASE)
    passphrase.chmod(0o600)

    def run(verb: str, *more: str) -> dict[str, object]:
        done = CliRunner().invoke(central_app, ["keys", verb, "--config", str(config), "--json", *more])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return dict(json.loads(done.stdout))

    refused(lambda: run("protect"), "config.passphrase")
    assert run("protect", "--passphrase-file", str(passphrase)) == {"changed": 4, "keys": "locked"}
    assert run("protect", "--passphrase-file", str(passphrase)) == {"changed": 0, "keys": "locked"}
    assert {row["locked"] for row in run("ls")["keys"]} == {True}  # type: ignore[attr-defined]
    refused(lambda: Authority(state / "signer", "c"), "config.passphrase")
    with config.open("a") as file:
        file.write('\n[keys]\npassphrase_file = "p"\n')
    load_config(config)
    assert Authority(state / "signer", "c").ca_pem == ca
    write_key(state / "signer" / "later.key", SecretKey.generate(), plain=True)  # as if it had been cut short
    passphrase.write_bytes(b"another passphrase")
    refused(lambda: run("protect"), "config.passphrase")  # never some under one, some under another
    refused(lambda: run("unprotect"), "config.passphrase")
    passphrase.write_bytes(PASSPHRASE)
    assert run("protect") == {"changed": 1, "keys": "locked"}
    from central import ipc

    with ipc.sole(state / "signer" / "signer.lock"), pytest.raises(ConflictError):
        run("unprotect")
    assert run("unprotect") == {"changed": 5, "keys": "unlocked"}
    assert [p for p in state.rglob("*.part")] == []
    assert {p.stat().st_mode & 0o777 for p in state.rglob("*.key")} == {0o600}
    load_config(config)
    assert Authority(state / "signer", "c").ca_pem == ca


def test_the_commands_lock_a_site(tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text('site = "site-a"\n[keys]\npassphrase_file = "p"\n')
    (tmp_path / "p").write_bytes(PASSPHRASE)
    (tmp_path / "p").chmod(0o600)
    state = load(config).state_dir
    state.mkdir()
    guard(state, None)
    write_key(state / "identity.key", SecretKey.from_bytes(b"i" * 32))
    done = CliRunner().invoke(edge_app, ["keys", "protect", "--config", str(config), "--json"])
    assert json.loads(done.stdout) == {"changed": 1, "keys": "locked"}
    assert is_locked((state / "identity.key").read_bytes())
    assert read_secret(state / "identity.key") == b"i" * 32
    os.symlink(state / "identity.key", state / "link.key")
    done = CliRunner().invoke(edge_app, ["keys", "ls", "--config", str(config), "--json"])
    assert json.loads(done.stdout) == {"keys": [{"file": "identity.key", "locked": True}]}

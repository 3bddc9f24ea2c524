"""Who was in what left: the key of the record lies as every other key of the site."""

from __future__ import annotations

from pathlib import Path

from edge.released import Released
from privacy.envelope.keyfile import guard, kept_secret
from privacy.envelope.locked import is_locked


def test_of_processes_that_make_the_key_at_once_one_wins(tmp_path: Path) -> None:
    """A reading command beside a daemon's very first start: both must have the key that lies there."""
    path, other = tmp_path / "released.key", b"\x02" * 32

    def made() -> bytes:
        if not path.exists():
            assert kept_secret(path, lambda: other) == other  # the other process is faster
        return b"\x01" * 32

    assert kept_secret(path, made) == other == path.read_bytes()
    assert [one.name for one in tmp_path.iterdir()] == ["released.key"]


def test_its_key_lies_locked_where_a_passphrase_is_set(tmp_path: Path) -> None:
    secret = tmp_path / "passphrase"
    secret.write_bytes(b"a passphrase of a site\n")
    secret.chmod(0o600)
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    guard(state, secret)
    try:
        first = Released(state)
        first.note("d" * 64, "a" * 32, "p" * 32, ["P1"])
        first.close()
        assert is_locked((state / "released.key").read_bytes())
        again = Released(state)
        found = again.among("d" * 64, ["P1"])
        again.close()
        assert list(found) == ["p" * 32]
    finally:
        guard(state, None)

"""A site's backup: taken beside the daemon, opened by the recovery key alone, put back whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corsia.cli import main
from edge.backup import backup, recovery_key, restore, verify
from edge.config import EdgeConfig
from edge.hold import is_held
from edge.journal import Journal
from edge.ledger import Ledger
from edge.site import is_paused
from edge.snapshot import take
from edge.spool import ParcelMeta, Spool
from edge.state import SiteState
from privacy.archive import Head, opened, sealed
from privacy.envelope import PublicKey, SecretKey, read_key, read_public
from protocol.errors import AuthenticationError, CorsiaError, IntegrityError, Paused
from tests.agentkit import Office, enrolled, running, site_config, study


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> tuple[EdgeConfig, Office]:
    """A site that has delivered a study; read alone by the tests of this module."""
    folder = tmp_path_factory.mktemp("used")
    config = site_config(folder)
    office = enrolled(config)
    asked = office.submit(study())
    with running(config, office):
        office.wait(asked)
    spool = Spool(config.state_dir / "spool", 10**9)
    meta = ParcelMeta(
        parcel_id="a" * 32, assignment_id="later", study_digest=asked.study_digest, content_type="records"
    )
    spool.hold(meta, lambda target: _write(target, b"ciphertext"))
    spool.release("later")
    recovery_key(config.state_dir, folder / "K")
    return config, office


def _write(target: Any, data: bytes) -> str:
    import hashlib

    target.write(data)
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def made(used: tuple[EdgeConfig, Office], tmp_path: Path) -> tuple[Path, SecretKey, PublicKey]:
    config, _office = used
    backup(config.site, config.state_dir, tmp_path / "b")
    keys = config.state_dir.parent
    return tmp_path / "b", read_key(keys / "K"), read_public(keys / "K.sender")


def files(folder: Path) -> dict[str, bytes]:
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.endswith(("-wal", "-shm", "lock"))}


def refused(call: Callable[[], object], error: type[CorsiaError], code: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.code == code


def test_what_is_put_back_is_what_was_there(
    used: tuple[EdgeConfig, Office], made: tuple[Path, SecretKey, PublicKey], tmp_path: Path
) -> None:
    config, _office = used
    archive, key, sender = made
    said = verify(archive, key, sender)
    there = tmp_path / "there"
    there.mkdir(mode=0o755)
    assert restore(archive, config.site, there, key, sender) == said
    assert said.parcels == 1
    assert said.journal_lines > 8
    assert said.ledger_rows == 2
    assert Ledger(there / "ledger.db").spends() == Ledger(config.state_dir / "ledger.db").spends()
    assert [line.event for line in Journal(there / "journal.jsonl", readonly=True).tail(1)] == ["backup.restored"]
    old, new = SiteState(config.state_dir / "state.db"), SiteState(there / "state.db")
    assert new.studies() == old.studies()
    digest = old.studies()[0].assignment.study_digest
    assert new.approval(digest) == old.approval(digest) != None  # noqa: E711
    before, after = files(config.state_dir), files(there)
    same = [name for name in before if name in after and not name.endswith((".db", "journal.jsonl"))]
    assert all(before[name] == after[name] for name in same)
    assert {"identity.key", "tls.key", "tls.pem", "trust.json", "pseudonym.key"} <= set(
        same
    ) or "pseudonym.key" not in before
    assert set(before) - set(after) <= {"log.jsonl"} | {n for n in before if n.startswith(("work/", ".tmp-"))}
    modes = {stat.S_IMODE(p.stat().st_mode) for p in [there, *there.rglob("*")] if not p.name.startswith("ledger.db-")}
    assert modes <= {0o600, 0o700}, [oct(m) for m in modes]
    assert is_held(there)
    assert is_paused(there)
    assert Spool(there / "spool", 10**9).verify() == []


def test_only_the_recovery_key_opens_it_and_only_the_site_can_have_made_it(
    made: tuple[Path, SecretKey, PublicKey], used: tuple[EdgeConfig, Office], tmp_path: Path
) -> None:
    archive, key, sender = made
    config, _office = used
    site = read_key(config.state_dir / "identity.key")
    refused(lambda: verify(archive, SecretKey.generate(), sender), IntegrityError, "parcel.key")
    refused(lambda: verify(archive, site, sender), IntegrityError, "parcel.key")
    refused(lambda: verify(archive, key, SecretKey.generate().public), IntegrityError, "parcel.signature")
    raw = archive.read_bytes()
    for at in (10, len(raw) // 2, len(raw) - 10):
        (tmp_path / "changed").write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(IntegrityError):
            restore(tmp_path / "changed", config.site, tmp_path / "there", key, sender)
    (tmp_path / "cut").write_bytes(raw[:-1])
    refused(lambda: verify(tmp_path / "cut", key, sender), IntegrityError, "parcel.truncated")
    refused(
        lambda: restore(archive, "site-b", tmp_path / "there", key, sender), AuthenticationError, "auth.certificate"
    )
    assert not (tmp_path / "there").exists()
    assert not list(tmp_path.glob(".tmp-*"))
    for secret in ("identity.key", "tls.key", "pseudonym.key", "memory.key"):
        path = config.state_dir / secret
        assert not path.exists() or path.read_bytes() not in raw


def test_verification_finds_what_was_wrong_before(made: tuple[Path, SecretKey, PublicKey], tmp_path: Path) -> None:
    """A forged backup by the site's own key: each chain is looked at, and paths stay within."""
    archive, key, _sender = made
    signer = SecretKey.generate()
    folder = tmp_path / "unpacked"
    head, _members = opened(archive, kind="edge", key=key, sender=_sender, keep=lambda name: folder / name)

    def forged(name: str, change: Callable[[], None], code: str) -> None:
        shutil.copytree(folder, tmp_path / name)
        os.chdir(tmp_path / name)
        change()
        sealed(tmp_path / name, tmp_path / f"{name}.out", head, recipient=key.public, signer=signer)
        with pytest.raises(CorsiaError) as caught:
            verify(tmp_path / f"{name}.out", key, signer.public)
        assert caught.value.code == code
        shutil.rmtree(tmp_path / name)

    def sql(text: str) -> Callable[[], None]:
        def run() -> None:
            with sqlite3.connect("ledger.db") as db:
                db.execute(text)
            db.close()

        return run

    def cut() -> None:
        lines = Path("journal.jsonl").read_bytes().splitlines(keepends=True)
        Path("journal.jsonl").write_bytes(b"".join(lines[:2]))

    def swap() -> None:
        lines = Path("journal.jsonl").read_bytes().splitlines(keepends=True)
        lines[1] = lines[1].replace(b'"at":1', b'"at":2')
        Path("journal.jsonl").write_bytes(b"".join(lines))

    here = Path.cwd()
    try:
        forged("spent", sql("UPDATE ledger SET bytes = 1 WHERE seq = 1"), "budget.ledger")
        forged("shorter", sql("DELETE FROM ledger WHERE seq = 2"), "budget.ledger")
        forged("cut", cut, "journal.chain")
        forged("swap", swap, "journal.chain")
        forged("parcel", lambda: next(Path("spool/new").iterdir()).write_bytes(b"other"), "backup.format")
    finally:
        os.chdir(here)
    sealed(folder, tmp_path / "kind", Head(kind="central", name="site-a", at=0.0, version="1"), recipient=key.public,
           signer=signer)  # fmt: skip
    refused(lambda: verify(tmp_path / "kind", key, signer.public), IntegrityError, "backup.format")


def test_of_a_damaged_journal_there_is_no_backup(used: tuple[EdgeConfig, Office], tmp_path: Path) -> None:
    """None of it would verify: what is refused leaves no file that looks like one."""
    config, _office = used
    state = tmp_path / "state"
    shutil.copytree(config.state_dir, state, ignore=shutil.ignore_patterns("*.sock"))
    with (state / "journal.jsonl").open("ab") as journal:
        journal.write(b"junk\n")
    refused(lambda: backup(config.site, state, tmp_path / "b"), IntegrityError, "journal.chain")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


class _Stop(OSError):
    pass


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[list[str]]:
    """The `step`-th of the file operations that change something fails, as a full disk does."""
    seen: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("open", "link", "rename", "fsync", "mkdir"):
            real = getattr(os, name)

            def counted(*args: Any, _real: Any = real, _name: str = name, **more: Any) -> Any:
                if _name == "open" and not (len(args) > 1 and args[1] & os.O_CREAT):
                    return _real(*args, **more)
                if _name == "mkdir" and Path(args[0]).is_dir():
                    return _real(*args, **more)
                seen.append(_name)
                if len(seen) == step:
                    raise _Stop(28, "no space left")
                return _real(*args, **more)

            patch.setattr(os, name, counted)
        yield seen


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.full)])
def test_a_failure_at_any_step_leaves_nothing_half(
    used: tuple[EdgeConfig, Office],
    made: tuple[Path, SecretKey, PublicKey],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stride: int,
) -> None:
    config, _office = used
    archive, key, sender = made
    out, there = tmp_path / "o" / "b", tmp_path / "t" / "state"
    out.parent.mkdir()
    there.parent.mkdir()

    def every(call: Callable[[], object], clean: Callable[[], bool]) -> int:
        for step in range(1, 500, stride):
            with failing(monkeypatch, step) as seen:
                try:
                    call()
                except (CorsiaError, OSError):
                    assert len(seen) >= step, "it failed by itself"
                    assert clean(), (step, seen[-1])
                    continue
            if len(seen) < step:
                return step
            assert seen[step - 1] == "link", seen  # what cannot be linked is copied
            clean()
        raise AssertionError("no end")

    def no_backup() -> bool:
        whole = not out.exists() or verify(out, key, sender).files > 0  # the last step is the folder's fsync
        out.unlink(missing_ok=True)
        return whole and not list(out.parent.iterdir()) and not (config.state_dir / ".tmp-backup").exists()

    def no_state() -> bool:
        whole = not there.exists() or is_held(there)
        shutil.rmtree(there, ignore_errors=True)
        return whole and not list(there.parent.iterdir())

    journal = (config.state_dir / "journal.jsonl").read_bytes()
    assert every(lambda: backup(config.site, config.state_dir, out), no_backup) > 20
    assert (config.state_dir / "journal.jsonl").read_bytes().startswith(journal)
    assert every(lambda: restore(archive, config.site, there, key, sender), no_state) > 20
    assert verify(out, key, sender).files
    assert is_held(there)


def test_a_folder_that_is_in_use_is_not_touched(
    used: tuple[EdgeConfig, Office], made: tuple[Path, SecretKey, PublicKey], tmp_path: Path
) -> None:
    config, _office = used
    archive, key, sender = made
    before = files(config.state_dir)
    refused(lambda: restore(archive, config.site, config.state_dir, key, sender), CorsiaError, "conflict.exists")
    assert files(config.state_dir) == before
    refused(lambda: backup(config.site, config.state_dir, archive), CorsiaError, "conflict.exists")
    (tmp_path / ".tmp-state").mkdir()
    (tmp_path / ".tmp-state" / "identity.key").write_bytes(b"half")  # of a process that was killed
    restore(archive, config.site, tmp_path / "state", key, sender)
    assert not (tmp_path / ".tmp-state").exists()
    assert len((tmp_path / "state" / "identity.key").read_bytes()) == 32


def test_whatever_else_lies_in_the_folder_is_taken(tmp_path: Path) -> None:
    """What a later version keeps there too; not logs, scratch, results and what another process is writing."""
    state, into = tmp_path / "state", tmp_path / "into"
    into.mkdir()
    kept = ("later.key", "evidence/fork.json", "draws/x.sealed")
    left = ("work/scratch", "results/rows.parquet", "log.jsonl", ".tmp-half", "draws/.tmp-half", "lock", "later.db-wal")
    for name in (*kept, *left):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_bytes(name.encode())
    with sqlite3.connect(state / "later.db") as later:
        later.execute("CREATE TABLE kept (a)")
    later.close()
    take(state, into)
    assert set(files(into)) == {*kept, "later.db"}


def test_the_command_line_backs_up_and_puts_back(
    used: tuple[EdgeConfig, Office], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _office = used
    shutil.copytree(config.state_dir, tmp_path / "state")
    shutil.copytree(config.state_dir.parent / "data", tmp_path / "data")
    shutil.copy(config.state_dir.parent / "edge.toml", tmp_path / "edge.toml")
    toml, key, out = str(tmp_path / "edge.toml"), str(tmp_path / "R"), str(tmp_path / "b")

    def run(*argv: str) -> tuple[int, dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            main(["edge", *argv, "--json"])
        return int(str(ended.value.code)), json.loads(capsys.readouterr().out)

    assert run("recovery-key", "--out", key, "--config", toml)[0] == 0
    assert run("recovery-key", "--out", key, "--config", toml)[1]["error"]["code"] == "conflict.exists"
    status, said = run("backup", out, "--config", toml)
    assert (status, stat.S_IMODE((tmp_path / "b").stat().st_mode)) == (0, 0o600)
    status, checked = run("verify", out, "--key", key)
    assert (status, checked["files"], checked["site"]) == (0, said["files"], config.site)
    assert run("restore", out, "--key", key, "--config", toml)[1]["error"]["code"] == "conflict.exists"
    shutil.rmtree(tmp_path / "state")
    assert run("restore", out, "--key", key, "--config", toml) == (0, checked)
    status, said = run("resume", "--config", toml)
    assert (status, said["error"]["code"]) == (Paused.exit_status, "paused.restored")
    assert run("status", "--config", toml)[1]["restored"] is True

"""A key of the centre is replaced: the log goes on, forged studies are not blessed, and a rewritten log stops it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path

import pytest
from sqlalchemy import select

from central import ipc
from central.config import CentralConfig
from central.gateway.receipts import Log, open_log_key
from central.rotation import rotate
from central.signer.authority import Authority
from central.store import Store
from central.store.models import CheckpointRow, LogRow, StudyRow, WitnessedRow
from central.succession import finish
from privacy.envelope import PublicKey, SecretKey, read_key, read_public
from privacy.envelope.locked import is_locked
from privacy.transparency import Tree, open_checkpoint, verify_consistency
from protocol.errors import ConflictError, CorsiaError, InputError, IntegrityError
from protocol.trust import Purpose
from tests.fault.seam import PowerCut, Seam


@pytest.fixture
def config(tmp_path: Path) -> CentralConfig:
    return CentralConfig(name="c", state_dir=tmp_path / "state")


def begun(config: CentralConfig) -> Store:
    """A centre that has run once: keys, and a log of three leaves under a checkpoint."""
    config.state_dir.mkdir(parents=True)
    Authority(config.state_dir / "signer", config.name)
    store = Store(config.state_dir)
    with store.begin() as session:
        for n in range(3):
            store.append_leaf(session, {"kind": "study", "id": f"{n:032x}", "sha256": "ab" * 32})
    Log(store, open_log_key(config.state_dir / "gateway"), config.log_origin)
    return store


def refused(config: CentralConfig, kind: str, error: type[CorsiaError], code: str) -> None:
    with pytest.raises(error) as caught:
        rotate(config, kind)
    assert caught.value.code == code


def checkpoint(store: Store) -> str:
    with store.read() as session:
        return session.query(CheckpointRow).order_by(CheckpointRow.size.desc()).first().text  # type: ignore[union-attr]


def test_a_new_log_key_goes_on_with_the_same_tree(config: CentralConfig) -> None:
    store, folder = begun(config), config.state_dir / "gateway"
    old = read_key(folder / "log.key")
    seen = open_checkpoint(checkpoint(store), old.public, config.log_origin)
    with store.begin() as session:
        session.add(WitnessedRow(size=seen.size, text=checkpoint(store)))
    said = rotate(config, "log")
    with store.read() as session:
        assert not session.query(WitnessedRow).count(), "the old key's word is given to nobody"
    fresh = read_key(folder / "log.key")
    assert fresh.public.fingerprint == said["fingerprint"] != old.public.fingerprint
    assert (folder / "log.key").stat().st_mode & 0o777 == 0o600
    retired = Path(str(said["retired"]))
    assert read_key(retired / "log.key").public == old.public
    last = open_checkpoint((retired / "last.checkpoint").read_text(), old.public, config.log_origin)
    now = open_checkpoint(checkpoint(store), fresh.public, config.log_origin)
    assert (last.size, last.root) == (now.size, now.root) == (4, now.root)
    tree = Tree()
    with store.read() as session:
        rows = [row.leaf for row in session.query(LogRow).order_by(LogRow.index)]
    for leaf in rows:
        tree.append(leaf)
    verify_consistency(seen.size, now.size, seen.root, now.root, tree.consistency(seen.size))
    assert json.loads(rows[-1])["kind"] == "key"
    assert json.loads(rows[-1])["sha256"] == said["fingerprint"]
    Log(store, open_log_key(folder), config.log_origin)  # the gateway starts


def test_a_new_log_key_is_locked_where_a_passphrase_is_set(
    config: CentralConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(config)
    (tmp_path / "passphrase").write_text("correct horse battery staple\n")
    (tmp_path / "passphrase").chmod(0o600)
    monkeypatch.setenv("CORSIA_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    said = rotate(config, "log")
    path = config.state_dir / "gateway" / "log.key"
    assert is_locked(path.read_bytes())
    assert read_key(path).public.fingerprint == said["fingerprint"]


def test_a_rewritten_log_stops_before_anything_is_replaced(config: CentralConfig) -> None:
    store, path = begun(config), config.state_dir / "gateway" / "log.key"
    before = path.read_bytes()
    with store.begin() as session:
        row = session.get(LogRow, 1)
        assert row is not None
        row.leaf = b'{"id":"00","kind":"study","sha256":"00"}'
    refused(config, "log", IntegrityError, "log.proof")
    assert path.read_bytes() == before
    assert not (config.state_dir / "retired").exists()


def test_the_new_key_signs_only_what_the_old_one_had_signed(config: CentralConfig) -> None:
    store, signer = begun(config), config.state_dir / "signer"
    old, thief = read_key(signer / "study.key"), SecretKey.generate()
    with store.begin() as session:
        for name, key in (("good", old), ("forged", thief)):
            document = f"id = '{name}'".encode()
            session.add(StudyRow(id=name, digest=name * 8, lane="harvest", title="t", document=document,
                                 signature=key.sign(Purpose.STUDY, document), created_at=time.time()))  # fmt: skip
    said = rotate(config, "study-signing")
    assert said["studies"] == ["good"]
    public = read_key(signer / "study.key").public
    assert public.fingerprint == said["fingerprint"] != old.public.fingerprint
    with store.read() as session:
        good, forged = session.get(StudyRow, "good"), session.get(StudyRow, "forged")
        assert good is not None
        assert forged is not None
        public.verify(Purpose.STUDY, good.document, good.signature)
        with pytest.raises(IntegrityError):
            public.verify(Purpose.STUDY, forged.document, forged.signature)


def settled(config: CentralConfig, kind: str, old: PublicKey) -> bool:
    """A start after a cut: the key that lies there is the one that the database knows. Whether it is the new one."""
    store = Store(config.state_dir)
    folder = config.state_dir / ("gateway" if kind == "log" else "signer")
    finish(config.state_dir, folder, store)
    assert not [path for path in folder.iterdir() if path.is_dir()], "nothing half made stays"
    with store.read() as session:
        told = [json.loads(leaf) for leaf in session.scalars(select(LogRow.leaf)) if b'"key"' in leaf]
        good = session.get(StudyRow, "good")
        assert good is not None
    if kind == "log":
        key = open_log_key(folder)
        Log(store, key, config.log_origin)  # else `log.proof`
    else:
        key = Authority(folder, config.name).study_key
        key.public.verify(Purpose.STUDY, good.document, good.signature)
    store.engine.dispose()
    name = "log" if kind == "log" else "study"
    assert read_public(folder / f"{name}.pub") == key.public
    assert [leaf["sha256"] for leaf in told] == ([] if key.public == old else [key.public.fingerprint])
    if key.public != old:
        (retired,) = (config.state_dir / "retired").iterdir()
        assert read_key(retired / f"{name}.key").public == old
        assert (retired / "last.checkpoint").is_file() is (kind == "log")
    return key.public != old


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["study-signing", "log"])
def test_a_power_cut_at_any_step_leaves_one_key_and_its_signatures(tmp_path: Path, kind: str) -> None:
    before = CentralConfig(name="c", state_dir=tmp_path / "before")
    store = begun(before)
    name = "gateway/log.key" if kind == "log" else "signer/study.key"
    document = b"id = 'good'"
    signature = read_key(before.state_dir / "signer/study.key").sign(Purpose.STUDY, document)
    with store.begin() as session:
        session.add(StudyRow(id="good", digest="ab" * 32, lane="harvest", title="t", document=document,
                             signature=signature, created_at=time.time()))  # fmt: skip
    store.engine.dispose()
    old, ends, at = read_key(before.state_dir / name).public, [], 0
    while True:
        at += 1
        config = CentralConfig(name="c", state_dir=tmp_path / "now" / "state")
        shutil.copytree(before.state_dir, config.state_dir)
        seam = Seam(tmp_path / "now", at=at)
        with contextlib.suppress(PowerCut), seam:
            rotate(config, kind)
        if seam.dead:
            seam.lose()
        ends.append(settled(config, kind, old))
        shutil.rmtree(tmp_path / "now")
        if not seam.dead:
            break
    assert at > 20, seam.steps
    assert ends == sorted(ends), "from one step on it is the new key"
    assert ends[0] is not ends[-1]
    assert ends.count(True) > 4, "cuts after the commit too"


@pytest.mark.parametrize("lock", ["run/supervisor.lock", "signer/signer.lock", "gateway/gateway.lock", "vault/lock"])
def test_no_key_is_replaced_under_a_running_process(config: CentralConfig, lock: str) -> None:
    begun(config)
    with ipc.sole(config.state_dir / lock):
        refused(config, "study-signing", ConflictError, "conflict.running")


def test_what_cannot_be_replaced(config: CentralConfig, tmp_path: Path) -> None:
    begun(config)
    refused(config, "publication", InputError, "input.usage")
    refused(CentralConfig(name="d", state_dir=tmp_path / "new"), "ca", ConflictError, "conflict.state")
    before = (config.state_dir / "signer" / "ca.pem").read_bytes()
    assert rotate(config, "ca")["fingerprint"]
    assert (config.state_dir / "signer" / "ca.pem").read_bytes() != before

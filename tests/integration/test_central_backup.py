"""The centre's data and its keys, each off the machine by its own way, and back together."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from central.backup import backup, is_held, recovery_key, restore, verify
from central.config import load_config
from central.escrow import MAX_CUSTODIANS, Share, escrow, open_share
from central.escrow import restore as keys_restore
from central.identity.access import Access, Account
from central.lapsed import Lapsed
from central.operators import Operators
from central.signer.invites import Invites
from central.store import Store
from central.store.models import AccessRow, AccountRow, CuratedRow, EntitlementRow, ModelRow
from central.store.schema import REVISIONS
from central.supervisor import Supervisor
from central.vault import StudyKeys
from corsia.cli import main
from privacy.archive import opened, sealed
from privacy.envelope import PublicKey, SecretKey, read_key, read_public, write_key, write_public
from privacy.folders import copy_database
from protocol.errors import ConfigurationError, ConflictError, CorsiaError, InputError, IntegrityError
from tests.gatewaykit import Centre, Site
from tests.identitykit import ISSUER, identity


@dataclass
class Made:
    """A centre with every kind of key, a landed parcel, a lake and a model; and its backup."""

    root: Path
    centre: Centre
    site: Site
    archive: Path
    key: SecretKey
    sender: PublicKey

    @property
    def state(self) -> Path:
        return self.centre.config.state_dir

    def secrets(self) -> dict[str, bytes]:
        found = [*self.state.rglob("*.key"), self.state / "operator.token"]
        return {str(path.relative_to(self.state)): path.read_bytes().strip() for path in found}


def let_in(centre: Centre, digest: str) -> None:
    """People with a session, a token and a reader's right, an invited site, and a second operator."""
    access = Access(centre.store, identity())
    for name in ("anna", "bruno"):
        session = access.login(Account(issuer=ISSUER, subject=name, name=name, groups=("researcher",)))
        owner = access.find(session)
        access.make_token(owner, "program", ["log:read"], 1)
        with centre.store.begin() as database:
            giver = database.query(AccountRow).filter(AccountRow.subject == "anna").one().id
            database.add(EntitlementRow(study_digest=digest, account=owner.account, given_by=giver, given_at=1.0))
    Invites(centre.config.state_dir / "signer" / "invites.db").make("site-b")
    Operators(centre.config).add("carla")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("centre")
    centre = Centre(root)
    centre.start()
    try:
        site = centre.enrol("site-a")
        digest = centre.submit()
        assignment = site.first()
        for name in ("vault/keys", "vault/lake-keys", "federation/keys"):
            StudyKeys(centre.config.state_dir / name).create("lung")
        lake = centre.config.state_dir / "vault" / "lake" / "lung" / "batch"
        lake.mkdir(parents=True)
        (lake / "table.parquet").write_bytes(b"ciphertext of the lake")
        (lake.parent / "half.abcd.tmp").mkdir()
        (lake.parent / "half.abcd.tmp" / "x.parquet").write_bytes(b"half")
        (centre.config.state_dir / "vault" / "keys" / "gone.erased").touch()
        blob = centre.store.put_blob("weights", b"weights")
        with centre.store.begin() as session:
            session.add(CuratedRow(batch_id="b", study_digest=digest, site="site-a", parcel_id="p", part=0, last=True,
                                   path="lung/batch", rows=1, files=0, persons=1, created_at=1.0))  # fmt: skip
            session.add(ModelRow(name="m", version=1, alias="candidate", serial=1, study_digest=digest,
                                 manifest=blob.digest, manifest_size=7, weights=blob.digest, weights_size=7,
                                 created_at=1.0))  # fmt: skip
        site.deliver(site.parcel(digest, centre.keys["lung"]), assignment.id)
        let_in(centre, digest)
        recovery_key(centre.config.state_dir, root / "K")
        backup(centre.config, centre.path, root / "b")  # while the gateway runs
        key, sender = read_key(root / "K"), read_public(root / "K.sender")
        return Made(root, centre, site, root / "b", key, sender)
    finally:
        centre.close()


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}


def refused(call: Callable[[], object], error: type[CorsiaError], code: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.code == code


def test_a_backup_holds_no_secret_key(made: Made, tmp_path: Path) -> None:
    """Every byte of the opened backup is searched for every key of the centre, raw and as text."""
    secrets = made.secrets()
    kinds = {f"{folder}/lung.key" for folder in ("vault/keys", "vault/lake-keys", "federation/keys")}
    kinds |= {f"signer/{name}.key" for name in ("ca", "study", "publication")}
    kinds |= {"gateway/log.key", "backup.key", "operator.token"}
    assert kinds <= set(secrets)
    opened(made.archive, kind="central", key=made.key, sender=made.sender, keep=lambda name: tmp_path / name)
    whole = b"\n".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"ciphertext of the lake" in whole
    assert b"half" not in whole
    for name, secret in secrets.items():
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
            assert form not in whole, name
    assert not list(tmp_path.rglob("*.key"))


def test_data_and_keys_come_back_by_two_ways(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    custodians = [SecretKey.generate() for _ in range(3)]
    assert escrow("consortium", made.state, [one.public for one in custodians], 2, tmp_path / "e") == 7
    raw = b"".join(path.read_bytes() for path in (tmp_path / "e").iterdir())
    assert not any(secret in raw for secret in made.secrets().values())
    place = tmp_path / "new"
    place.mkdir()
    said = restore(made.archive, place / "central.toml", None, made.key, made.sender)
    assert said == verify(made.archive, made.key, made.sender)
    assert (said.log_size, said.parcels, said.revision) == (2, 1, REVISIONS[-1])
    config = load_config(place / "central.toml")
    assert modes(config.state_dir) <= {0o600, 0o700}
    assert is_held(config.state_dir)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    refused(lambda: Supervisor(place / "central.toml").run(), ConfigurationError, "config.missing")
    shares = [open_share(tmp_path / "e" / f"share-{n}.sealed", tmp_path / "e" / "escrow.pub", custodians[n - 1])
              for n in (1, 3)]  # fmt: skip
    (config.state_dir / "federation" / "keys").mkdir(parents=True)
    (config.state_dir / "federation" / "keys" / "lung.erased").touch()
    assert keys_restore(tmp_path / "e", shares, config.state_dir) == 6  # an erased study's key does not come back
    assert not is_held(config.state_dir)
    for name in ("vault/keys/lung.key", "signer/ca.key", "signer/study.key", "gateway/log.key"):
        assert (config.state_dir / name).read_bytes() == (made.state / name).read_bytes()
        assert stat.S_IMODE((config.state_dir / name).stat().st_mode) == 0o600
    assert keys_restore(tmp_path / "e", shares, config.state_dir) == 0
    (config.state_dir / "signer" / "study.key").write_bytes(bytes(32))
    refused(lambda: keys_restore(tmp_path / "e", shares, config.state_dir), ConflictError, "conflict.exists")
    store = Store(config.state_dir)
    site = store.site("site-a")
    assert site is not None
    assert PublicKey.from_base64(site.identity) == made.site.key.public


def test_what_may_have_been_taken_back_since_does_not_come_back(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens, sessions, a reader's right, a join code; who submitted a study still reads it."""
    toml = tmp_path / "central.toml"
    held = Lapsed(tokens=2, sessions=2, readers=1, invites=1, operators=("carla",))
    assert verify(made.archive, made.key, made.sender).lapsed == held
    with pytest.raises(SystemExit) as status:
        main(["central", "restore", str(made.archive), "--key", str(made.root / "K"), "--config", str(toml)])
    assert status.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "not brought back: 2 API tokens, 2 sessions, 1 readers' rights, 1 unused join codes" in said
    assert "operators who are in again: carla" in said
    state = load_config(toml).state_dir
    with Store(state).read() as session:
        assert session.query(AccessRow).count() == 0
        assert session.query(AccountRow).count() == 2
        assert [row.account == row.given_by for row in session.query(EntitlementRow)] == [True]
    with closing(sqlite3.connect(state / "signer" / "invites.db")) as database:
        assert database.execute("SELECT COUNT(*) FROM invites WHERE used_at IS NULL").fetchone() == (0,)
    with made.centre.store.read() as session:
        assert session.query(AccessRow).count() == 4, "the centre that was backed up goes on"


def test_no_escrow_brings_a_destroyed_or_a_replaced_key_back(made: Made, tmp_path: Path) -> None:
    custodians = [SecretKey.generate() for _ in range(2)]
    escrow("consortium", made.state, [one.public for one in custodians], 2, tmp_path / "e")
    public = tmp_path / "e" / "escrow.pub"
    shares = [open_share(tmp_path / "e" / f"share-{n + 1}.sealed", public, one) for n, one in enumerate(custodians)]
    restore(made.archive, tmp_path / "central.toml", None, made.key, made.sender)
    state = load_config(tmp_path / "central.toml").state_dir
    for name in ("signer/study.pub", "gateway/log.pub"):
        whole = (state / name).read_bytes()
        (state / name).unlink()
        write_public(state / name, SecretKey.generate().public)
        refused(lambda: keys_restore(tmp_path / "e", shares, state), ConflictError, "conflict.exists")
        (state / name).write_bytes(whole)
    assert is_held(state)
    with closing(sqlite3.connect(state / "corsia.db")) as database, database:
        database.execute("UPDATE studies SET state = 'erased'")
    assert keys_restore(tmp_path / "e", shares, state) == 4  # the signer's three and the log's
    assert not list(state.rglob("lung.key"))


def test_data_of_another_folder_are_not_put_where_no_process_looks(made: Made, tmp_path: Path) -> None:
    folder, signer, place = tmp_path / "u", SecretKey.generate(), tmp_path / "new" / "central.toml"
    head, _ = opened(made.archive, kind="central", key=made.key, sender=made.sender, keep=lambda name: folder / name)
    (folder / "config" / "central.toml").write_text(f'name = "consortium"\nstate_dir = "{tmp_path / "elsewhere"}"\n')
    sealed(folder, tmp_path / "out", head, recipient=made.key.public, signer=signer)
    place.parent.mkdir()
    refused(
        lambda: restore(tmp_path / "out", place, None, made.key, signer.public), ConfigurationError, "config.invalid"
    )
    assert list(place.parent.iterdir()) == []


def test_an_erasure_during_a_backup_has_its_mark_in_it(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = made.state / "vault" / "lake-keys" / "late.erased"

    def copied(source: Path, target: Path) -> None:
        copy_database(source, target)
        mark.touch()

    monkeypatch.setattr("central.backup.copy_database", copied)
    try:
        backup(made.centre.config, made.centre.path, tmp_path / "b")
    finally:
        mark.unlink()
    _, members = opened(tmp_path / "b", kind="central", key=made.key, sender=made.sender, keep=lambda _: None)
    assert {"vault/lake-keys/late.erased", "vault/keys/gone.erased"} <= {member.name for member in members}


def test_a_restored_centre_goes_on_where_it_was(made: Made, tmp_path: Path) -> None:
    """The same site, certificate and log: its next parcel's receipt is of the log that it knows."""
    custodians = [SecretKey.generate() for _ in range(2)]
    escrow("consortium", made.state, [one.public for one in custodians], 2, tmp_path / "e")
    restore(made.archive, tmp_path / "central.toml", None, made.key, made.sender)
    public = tmp_path / "e" / "escrow.pub"
    shares = [open_share(tmp_path / "e" / f"share-{n + 1}.sealed", public, one) for n, one in enumerate(custodians)]
    config = load_config(tmp_path / "central.toml")
    keys_restore(tmp_path / "e", shares, config.state_dir)
    again = Centre(tmp_path, fresh=False)
    try:
        again.start()
        site = made.site.connect(again.config.gateway.fleet_address)
        assignment = site.first()
        receipt = site.deliver(site.parcel(assignment.study_digest, made.centre.keys["lung"]), assignment.id)
        assert receipt.index == 2
        site.close()
    finally:
        again.close()


def test_fewer_custodians_than_needed_learn_nothing(made: Made, tmp_path: Path) -> None:
    custodians = [SecretKey.generate() for _ in range(3)]
    keys = [one.public for one in custodians]
    escrow("consortium", made.state, keys, 3, tmp_path / "e")
    public = tmp_path / "e" / "escrow.pub"
    shares = [open_share(tmp_path / "e" / f"share-{n + 1}.sealed", public, one) for n, one in enumerate(custodians)]
    target = tmp_path / "state"
    target.mkdir()
    refused(lambda: keys_restore(tmp_path / "e", shares[:2], target), InputError, "input.usage")
    refused(lambda: keys_restore(tmp_path / "e", [*shares[:2], shares[1]], target), InputError, "input.usage")
    lied = [*shares[:2], Share(escrow=shares[2].escrow, needed=3, of=3, point=3, share=shares[1].share)]
    refused(lambda: keys_restore(tmp_path / "e", lied, target), IntegrityError, "backup.shares")
    fewer = [Share(escrow=one.escrow, needed=2, of=3, point=one.point, share=one.share) for one in shares[:2]]
    refused(lambda: keys_restore(tmp_path / "e", fewer, target), IntegrityError, "backup.shares")
    escrow("consortium", made.state, keys, 2, tmp_path / "other")
    refused(
        lambda: open_share(tmp_path / "other" / "share-1.sealed", public, custodians[0]),
        IntegrityError, "parcel.signature",
    )  # fmt: skip
    refused(lambda: open_share(tmp_path / "e" / "share-1.sealed", public, custodians[1]), IntegrityError, "parcel.key")
    assert list(target.iterdir()) == []
    for chosen, needed in ((keys, 1), (keys, 4), ([keys[0]], 2), ([keys[0], keys[0]], 2)):
        refused(
            lambda c=chosen, k=needed: escrow("consortium", made.state, c, k, tmp_path / "x"), InputError, "input.usage"
        )
    refused(lambda: escrow("consortium", made.state, keys, 2, tmp_path / "e"), ConflictError, "conflict.exists")
    assert Share.from_bytes(shares[0].to_bytes()) == shares[0]
    refused(lambda: Share.from_bytes(b"{}"), IntegrityError, "backup.shares")
    far = replace(shares[0], point=MAX_CUSTODIANS + 1)  # one modulus away from another, it could not be combined
    refused(lambda: Share.from_bytes(far.to_bytes()), IntegrityError, "backup.shares")


def test_a_key_that_others_can_read_is_not_escrowed(made: Made, tmp_path: Path) -> None:
    path = made.state / "vault" / "keys" / "lung.key"
    path.chmod(0o640)
    keys = [SecretKey.generate().public for _ in range(2)]
    try:
        refused(
            lambda: escrow("consortium", made.state, keys, 2, tmp_path / "e"), ConfigurationError, "config.key-mode"
        )
    finally:
        path.chmod(0o600)
    assert list(tmp_path.iterdir()) == []


def test_verification_looks_into_database_and_log(made: Made, tmp_path: Path) -> None:
    signer = SecretKey.generate()
    folder = tmp_path / "u"
    head, _ = opened(made.archive, kind="central", key=made.key, sender=made.sender, keep=lambda name: folder / name)

    def sql(text: str) -> Callable[[Path], None]:
        def run(place: Path) -> None:
            with closing(sqlite3.connect(place / "corsia.db")) as database, database:
                database.execute(text)

        return run

    def lose(pattern: str) -> Callable[[Path], None]:
        return lambda place: next(iter(place.glob(pattern))).unlink()

    for number, (change, code) in enumerate(
        (
            (sql("UPDATE log SET leaf = x'00' WHERE \"index\" = 1"), "log.proof"),
            (sql('DELETE FROM log WHERE "index" = 0'), "log.proof"),
            (sql("UPDATE parcels SET digest = 'x'"), "backup.format"),
            (sql("UPDATE parcels SET digest = 'x', state = 'opened'"), "log.proof"),
            (sql("UPDATE alembic_version SET version_num = '9999'"), "storage.newer"),
            (lose("landing/*.parcel"), "backup.format"),
            (lose("vault/lake/lung/batch/*"), "backup.format"),
            (lose("blobs/*"), "backup.format"),
            (lose("gateway/log.pub"), "backup.format"),
        )
    ):
        place = tmp_path / str(number)
        shutil.copytree(folder, place)
        change(place)
        sealed(place, tmp_path / f"{number}.out", head, recipient=made.key.public, signer=signer)
        refused(lambda n=number: verify(tmp_path / f"{n}.out", made.key, signer.public), CorsiaError, code)
        shutil.rmtree(place)


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.full)])
def test_a_failure_at_any_step_leaves_nothing_half(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stride: int
) -> None:
    from tests.integration.test_edge_backup import failing

    out, toml = tmp_path / "o" / "b", tmp_path / "c" / "central.toml"
    out.parent.mkdir()
    toml.parent.mkdir()

    def put_back() -> object:
        return restore(made.archive, toml, None, made.key, made.sender)

    steps = [
        (lambda: backup(made.centre.config, made.centre.path, out), out.parent),
        (put_back, toml.parent),
        (lambda: escrow("consortium", made.state, [made.key.public, made.sender], 2, out.parent / "e"), out.parent),
    ]
    for call, place in steps:
        for step in range(1, 300, stride):
            with failing(monkeypatch, step) as seen:
                try:
                    call()
                except (CorsiaError, OSError):
                    left = [path.name for path in place.iterdir()]
                    assert left == [] or seen[-1] == "fsync", (left, seen[-1])  # the last: that of the folder above
                else:
                    assert len(seen) < step or seen[step - 1] == "link"
                finished = len(seen) < step
            for path in place.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if finished:
                break
        assert step > 10
    assert not (made.state / ".tmp-backup").exists()
    assert os.path.exists(made.archive)


def test_the_command_line(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*argv: object) -> tuple[int, dict[str, Any]]:
        with pytest.raises(SystemExit) as ended:
            main(["central", *map(str, argv), "--json"])
        return int(str(ended.value.code)), json.loads(capsys.readouterr().out)

    toml, key, out, place = made.centre.path, tmp_path / "R", tmp_path / "b", tmp_path / "new" / "central.toml"
    place.parent.mkdir()
    assert run("recovery-key", "--out", key, "--config", toml)[0] == 0
    assert run("backup", out, "--config", toml)[0] == 0
    status, said = run("verify", out, "--key", key)
    assert (status, said["log_size"]) == (0, 2)
    assert run("verify", out, "--key", made.root / "K")[1]["error"]["code"] == "parcel.key"
    assert run("restore", out, "--key", key, "--config", place) == (0, said)
    assert run("restore", out, "--key", key, "--config", place)[1]["error"]["code"] == "conflict.exists"
    to: list[object] = []
    for name in ("anna", "bruno", "carla"):
        one = SecretKey.generate()
        write_key(tmp_path / name, one)
        write_public(tmp_path / f"{name}.pub", one.public)
        to += ["--to", tmp_path / f"{name}.pub"]
    escrowed = tmp_path / "e"
    status, said = run("keys", "escrow", escrowed, *to, "-k", 2, "--config", toml)
    assert (status, said["shares"], said["needed"]) == (0, 3, 2)
    shares: list[object] = []
    for number, name in ((1, "anna"), (3, "carla")):
        sealed_share, opened_share = escrowed / f"share-{number}.sealed", tmp_path / f"share-{number}"
        assert run("keys", "share", sealed_share, opened_share, "--key", tmp_path / name,
                   "--escrow", escrowed / "escrow.pub")[0] == 0  # fmt: skip
        shares += ["--share", opened_share]
    assert run("keys", "restore", escrowed, *shares[:2], "--config", place)[1]["error"]["code"] == "input.usage"
    assert run("keys", "restore", escrowed, *shares, "--config", place) == (0, {"keys": 7})


def test_what_a_restore_and_a_custodian_write_survives_a_power_cut(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[int] = set()
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    place, anna = tmp_path / "new", SecretKey.generate()
    place.mkdir()
    restore(made.archive, place / "central.toml", None, made.key, made.sender)
    assert {path.stat().st_ino for path in (place / "central.toml", place)} <= synced
    escrow("consortium", made.state, [anna.public, SecretKey.generate().public], 2, tmp_path / "e")
    write_key(tmp_path / "anna.key", anna)
    (tmp_path / "out").mkdir()
    command = ["central", "keys", "share", str(tmp_path / "e" / "share-1.sealed"), str(tmp_path / "out" / "share")]
    for status in (0, ConflictError.exit_status):
        with pytest.raises(SystemExit) as caught:
            main([*command, "--key", str(tmp_path / "anna.key"), "--escrow", str(tmp_path / "e" / "escrow.pub")])
        assert caught.value.code == status
    assert {path.stat().st_ino for path in (tmp_path / "out" / "share", tmp_path / "out")} <= synced
    assert stat.S_IMODE((tmp_path / "out" / "share").stat().st_mode) == 0o600

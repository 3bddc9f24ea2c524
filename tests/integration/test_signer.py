"""The signer over its socket: operator's token, studies, manifests, keys; what it must never sign."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from central import ipc
from central.config import load_config, operator_token
from central.signer import Signer
from central.store.models import AssignmentRow, CertificateRow, LogRow, ModelRow, PromotionRow, SiteRow, StudyRow
from privacy.envelope import PublicKey, SecretKey, read_key, read_public
from protocol.errors import (
    AuthenticationError,
    ConfigurationError,
    InputError,
    IntegrityError,
    PermissionRefused,
    StudyRefused,
    UnavailableError,
)
from protocol.parcel import canonical_json
from protocol.study import parse_study, study_digest
from protocol.trust import JoinCode, Purpose
from tests.gatewaykit import TRAINING, Centre, draft, running


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with running(tmp_path, gateway=False) as made:
        with made.store.begin() as session:
            for name in ("site-a", "site-b"):
                key = SecretKey.generate().public.to_base64()
                session.add(SiteRow(name=name, identity=key, enrolled_at=1.0))
        yield made


def row(centre: Centre, study: str) -> StudyRow:
    with centre.store.read() as session:
        found = session.get(StudyRow, study)
    assert found is not None
    return found


def public(centre: Centre, name: str) -> PublicKey:
    return read_public(centre.config.state_dir / "signer" / f"{name}.pub")


@pytest.mark.parametrize("method", ["invite", "revoke", "submit", "propose", "approve"])
@pytest.mark.parametrize("token", [None, "", "x" * 43, 7])
def test_an_operator_is_asked_for_the_token(centre: Centre, method: str, token: object) -> None:
    with pytest.raises(AuthenticationError, match=r"auth\.token"):
        ipc.call(centre.config.socket("signer"), method, site="site-a", draft=draft(), token=token)


def test_a_submitted_study_is_complete_signed_assigned_and_logged(centre: Centre) -> None:
    digest = centre.submit(draft(sites=["site-b", "site-a"]))
    stored = row(centre, "lung")
    public(centre, "study").verify(Purpose.STUDY, stored.document, stored.signature)
    assert study_digest(stored.document) == digest == stored.digest
    study = parse_study(stored.document)
    assert study.recipient("vault") == centre.keys["lung"].public.to_base64()
    with centre.store.read() as session:
        sites = {s.name: PublicKey.from_base64(s.identity).fingerprint for s in session.query(SiteRow)}
        assert study.roster == sites
        assigned = session.query(AssignmentRow).filter_by(study_digest=digest).all()
        assert {a.site for a in assigned} == {"site-a", "site-b"}
        assert all((a.document, a.signature, a.kind) == (stored.document, stored.signature, "study") for a in assigned)
        leaves = [json.loads(leaf.leaf) for leaf in session.query(LogRow)]
    assert [leaf["sha256"] for leaf in leaves] == [digest]
    assert set(leaves[0]) == {"kind", "id", "sha256"}


def test_again_is_the_same_and_other_content_is_refused(centre: Centre) -> None:
    first = centre.submit()
    assert centre.submit() == first
    with pytest.raises(StudyRefused, match=r"study\.exists"):
        centre.submit(draft(title="Other"))
    with centre.store.read() as session:
        assert session.query(AssignmentRow).count() == 1
        assert session.query(LogRow).count() == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (draft(recipients=[{"role": "vault", "key": "x"}]), InputError),
        (draft(roster={"site-a": "x"}), InputError),
        (draft().replace("2099", "2020"), StudyRefused),
        (draft(sites=["site-a", "site-z"]), PermissionRefused),
        (draft(unknown=1), InputError),
        ("x" * 300_000, InputError),
    ],
    ids=["recipients", "roster", "expired", "not-enrolled", "unknown-field", "too-large"],
)
def test_drafts_that_are_not_signed(centre: Centre, text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        centre.submit(text)
    with centre.store.read() as session:
        assert session.query(StudyRow).count() == session.query(LogRow).count() == 0


def test_a_study_for_a_revoked_site_is_not_signed(centre: Centre) -> None:
    centre.ask("revoke", site="site-a")
    with pytest.raises(PermissionRefused, match="site-a"):
        centre.submit()


def test_without_the_key_holder_nothing_is_signed(tmp_path: Path) -> None:
    from corsia.cli.init_central import init_central

    init_central(tmp_path / "central.toml", as_json=True)
    config = load_config(tmp_path / "central.toml")
    signer = Signer(config)
    with signer._store.begin() as session:
        session.add(SiteRow(name="site-a", identity=SecretKey.generate().public.to_base64(), enrolled_at=1.0))
    with pytest.raises(UnavailableError):
        signer.handlers["submit"]({"draft": draft(), "token": operator_token(config)})
    assert signer._store.site("site-a") is not None
    signer._store.engine.dispose()


def test_a_training_study_is_sealed_to_the_federation(centre: Centre) -> None:
    centre.submit(draft(id="fl", **TRAINING))
    study = parse_study(row(centre, "fl").document)
    assert study.recipient("federation") == centre.keys["fl"].public.to_base64()
    assert study.recipient("vault") is None


def manifest(centre: Centre, **changes: object) -> str:
    digest = row(centre, "fl").digest
    return json.dumps(
        {"name": "lung-model", "alias": "candidate", "serial": 1, "version": 1, "study": digest} | changes
    )


def sign(centre: Centre, text: str, digest: str | None = None) -> bytes:
    digest = digest or row(centre, "fl").digest
    reply = ipc.call(centre.config.socket("signer"), "sign_manifest", study_digest=digest, manifest=text)
    return base64.b64decode(reply["signature"])


def test_a_manifest_is_signed_only_for_what_its_study_publishes(centre: Centre) -> None:
    centre.submit(draft(id="fl", **TRAINING))
    centre.submit()
    text = manifest(centre)
    public(centre, "publication").verify(Purpose.MANIFEST, canonical_json(json.loads(text)), sign(centre, text))
    back = {"promotion": {"rollback": True, "approved_by": "nobody"}}
    for changes in ({"name": "other"}, {"alias": "production"}, {"alias": "champion"}, {"study": "0" * 64}, back):
        with pytest.raises(PermissionRefused):
            sign(centre, manifest(centre, **changes))
    with pytest.raises(PermissionRefused):
        sign(centre, text, row(centre, "lung").digest)
    with pytest.raises(StudyRefused, match=r"study\.unknown"):
        sign(centre, text, "0" * 64)
    for bad in ("", "[]", "{", '{"serial": NaN}', manifest(centre, serial=0), manifest(centre, serial="1")):
        with pytest.raises((InputError, PermissionRefused)):
            sign(centre, bad)


def test_a_study_that_the_signer_did_not_sign_gets_no_manifest(centre: Centre) -> None:
    centre.submit(draft(id="fl", **TRAINING))
    with centre.store.begin() as session:
        session.get(StudyRow, "fl").signature = bytes(3373)  # type: ignore[union-attr]
    with pytest.raises(StudyRefused, match=r"study\.signature"):
        sign(centre, manifest(centre))


def test_models_only_move_forward_and_an_inference_study_names_the_newest(centre: Centre) -> None:
    with pytest.raises(InputError, match="no published model"):
        centre.submit(draft(id="use", lane="infer", model={"name": "lung-model"}))
    centre.submit(draft(id="fl", **TRAINING))
    with centre.store.begin() as session:
        for version in (1, 2):
            session.add(
                ModelRow(
                    name="lung-model",
                    version=version,
                    alias="champion",
                    serial=version,
                    study_digest="0" * 64,
                    manifest=f"{version}" * 64,
                    manifest_size=1,
                    weights="f" * 64,
                    weights_size=2,
                    created_at=1.0,
                )
            )
    for serial in (1, 2):
        with pytest.raises(IntegrityError, match=r"model\.rollback"):
            sign(centre, manifest(centre, serial=serial))
    sign(centre, manifest(centre, serial=3))
    with centre.store.begin() as session:  # an alias that two persons have given is no study's any more
        session.add(
            PromotionRow(
                id="p", name="lung-model", version=1, alias="candidate", rollback=False, statement=b"", signature=b"",
                proposed_by="a", approved_by="b", proposed_at=1.0, state="approved",
            )
        )  # fmt: skip
    with pytest.raises(PermissionRefused):
        sign(centre, manifest(centre, serial=4))
    digest = centre.submit(draft(id="use", lane="infer", model={"name": "lung-model"}))
    assert parse_study(row(centre, "use").document).recipients == ()
    with centre.store.read() as session:
        blobs = session.query(AssignmentRow).filter_by(study_digest=digest).one().blobs
    assert [(b["name"], b["digest"][0], b["size_bytes"]) for b in blobs] == [
        ("manifest.json", "2", 1),
        ("model.safetensors", "f", 2),
    ]


def test_keys_are_private_stable_and_the_join_code_pins_them(centre: Centre) -> None:
    folder = centre.config.state_dir / "signer"
    assert all(p.stat().st_mode & 0o077 == 0 for p in folder.iterdir() if p.suffix != ".pub")
    code = JoinCode.decode(centre.ask("invite", site="site-c")["code"])
    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    assert code.ca == ca.fingerprint(ca.signature_hash_algorithm)  # type: ignore[arg-type]
    assert code.study_key.hex() == read_key(folder / "study.key").public.fingerprint
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert (basic.value.ca, basic.value.path_length) == (True, 0)
    again = Signer(centre.config)
    assert again._authority.ca_fingerprint == code.ca
    assert code.secret.hex() not in (folder / "invites.db").read_bytes().hex()
    (folder / "ca.key").chmod(0o640)
    with pytest.raises(ConfigurationError, match=r"config\.key-mode"):
        Signer(centre.config)
    again._store.engine.dispose()


def test_two_with_the_same_code_at_once_one_gets_in(centre: Centre) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from central.signer.invites import Invites

    invites = Invites(centre.config.state_dir / "signer" / "invites.db")
    secret = invites.make("site-c")

    def attempt(_: int) -> bool:
        try:
            invites.spend("site-c", secret)
        except AuthenticationError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(16))) == 1


def test_an_invite_runs_out(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    from central.signer import invites as module

    invites = module.Invites(centre.config.state_dir / "signer" / "invites.db")
    secret = invites.make("site-c")
    now = module.time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 7 * 86_400 + 1)
    with pytest.raises(AuthenticationError):
        invites.spend("site-c", secret)


@pytest.mark.parametrize("site", ["Site", "a b", "", "-a", "a\n", "../x", None, 5])
def test_names_that_are_no_site(centre: Centre, site: object) -> None:
    with pytest.raises(PermissionRefused):
        centre.ask("invite", site=site)


def test_renewal_needs_the_registered_identity(centre: Centre) -> None:
    from tests.gatewaykit import Site

    site = Site("site-a")
    with centre.store.begin() as session:
        session.get(SiteRow, "site-a").identity = site.key.public.to_base64()  # type: ignore[union-attr]
    csr = site.csr()

    def renew(name: str, signature: bytes) -> str:
        params = {"site": name, "csr_der": ipc.text(csr), "signature": ipc.text(signature)}
        return str(ipc.call(centre.config.socket("signer"), "renew", **params)["certificate_pem"])

    leaf = x509.load_pem_x509_certificates(renew("site-a", site.key.sign(Purpose.RENEW, csr)).encode())[0]
    with centre.store.read() as session:
        certificate = session.get(CertificateRow, f"{leaf.serial_number:x}")
        assert certificate is not None
        assert certificate.site == "site-a"
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    for name, signature in (
        ("site-a", site.key.sign(Purpose.ENROL, csr)),
        ("site-b", site.key.sign(Purpose.RENEW, csr)),
        ("site-z", site.key.sign(Purpose.RENEW, csr)),
    ):
        with pytest.raises(AuthenticationError):
            renew(name, signature)
    centre.ask("revoke", site="site-a")
    with pytest.raises(AuthenticationError, match=r"auth\.revoked"):
        renew("site-a", site.key.sign(Purpose.RENEW, csr))

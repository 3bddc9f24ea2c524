"""Who this site is, and whom it trusts: keys, certificate and pinned keys in the site's state folder.

Place in the flow: `enrol` turns a join code into files, once; `Identity.load` reads and re-verifies them at each
start; `renew` replaces the certificate. Secret keys are made here and never leave the folder. Nothing is trusted on
first use: the join code pins the CA and the study-signing key, and everything else hangs from these two.

    identity.key     long-term identity, 32 bytes; survives every failed or repeated enrolment
    tls.key tls.pem  channel key (ECDSA P-256) and its certificate chain, leaf first (tls.next.key while replaced)
    trust.json       the centre's public keys and CA as signed, with trust.sig by the study-signing key
    enrolment.json   site, addresses and pins; written last: a site is enrolled when it is there
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge.channel import enrol_call
from edge.handshake import presented_certificates
from edge.heads import Heads
from edge.route import DIRECT, Route
from edge.storage import named_errors, read_json, sync_folder, write_file
from privacy.certificates import MALFORMED
from privacy.envelope import PublicKey, SecretKey, read_key
from privacy.envelope.keyfile import at_rest, read_secret
from protocol.errors import AuthenticationError, ConflictError, InputError, IntegrityError
from protocol.parcel import canonical_json
from protocol.trust import JoinCode, Purpose, TrustBundle, site_uri

__all__ = ["Identity", "enrol", "renew"]

_SITE = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}\Z")
_CLOCK_SKEW = timedelta(minutes=5)
_FILES = ("trust.json", "trust.sig", "tls.pem")
_NO_TRUST: tuple[type[Exception], ...] = (InputError, *MALFORMED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An enrolled site, verified.

    Attributes:
        site: its name, as its certificate has it.
        key: the long-term identity key: signs parcels and CSRs.
        trust: the centre's keys, verified against the pinned study-signing key.
        fleet: `host:port` of the mutual-TLS port.
        enrolment: `host:port` of the enrolment port.
        certificate_pem: chain of the channel certificate, leaf first.
        tls_key: its private key, PEM.
        not_before: start of its validity (UTC).
        not_after: end of its validity (UTC).
    """

    site: str
    state_dir: Path
    key: SecretKey = field(repr=False)
    trust: TrustBundle = field(repr=False)
    fleet: str
    enrolment: str
    certificate_pem: bytes = field(repr=False)
    tls_key: bytes = field(repr=False)
    serial: str
    not_before: datetime
    not_after: datetime

    @property
    def ca_pem(self) -> bytes:
        """The pinned CA certificate."""
        return self.trust.ca_pem.encode("ascii")

    @property
    def study_key(self) -> PublicKey:
        """The pinned study-signing key."""
        return PublicKey.from_base64(self.trust.study_key)

    @property
    def publication_key(self) -> PublicKey:
        """The key that signs published models."""
        return PublicKey.from_base64(self.trust.publication_key)

    @property
    def log_key(self) -> PublicKey:
        """The key that signs the log's checkpoints."""
        return PublicKey.from_base64(self.trust.log_key)

    @property
    def certificate_path(self) -> Path:
        """The chain's file."""
        return self.state_dir / "tls.pem"

    @property
    def tls_key_path(self) -> Path:
        """The channel key's file."""
        return self.state_dir / "tls.key"

    def needs_renewal(self, now: datetime | None = None) -> bool:
        """Whether two thirds of the certificate's life are over."""
        life = self.not_after - self.not_before
        return (now or datetime.now(UTC)) >= self.not_before + life * 2 / 3

    def remaining_s(self, now: datetime | None = None) -> float:
        """Seconds until the certificate expires; negative after."""
        return (self.not_after - (now or datetime.now(UTC))).total_seconds()

    @classmethod
    def load(cls, state_dir: Path, now: datetime | None = None, *, offline: bool = False) -> Identity:
        """Read and verify what enrolment stored.

        Args:
            state_dir: the site's folder.
            now: the present when None.
            offline: the channel certificate may have run out, since nothing is to be connected.

        Raises:
            AuthenticationError: `auth.not-enrolled`; `auth.expired`; `auth.clock` when the certificate is not valid
                yet; `auth.certificate` when it is foreign or not for our key; `auth.fingerprint` when the trust
                bundle is not what the pinned key signed.
            ConfigurationError: `config.key-mode`, `config.passphrase`.
            StorageError: `storage.failed`.
        """
        value = read_json(state_dir / "enrolment.json")
        if not value or not all((state_dir / name).is_file() for name in (*_FILES, "identity.key")):
            raise AuthenticationError("auth.not-enrolled")
        key = read_key(state_dir / "identity.key")
        try:
            site, fleet, enrolment = (str(value[name]) for name in ("site", "fleet", "enrolment"))
            pins = bytes.fromhex(value["ca"]), bytes.fromhex(value["study_key"])
        except (KeyError, TypeError, ValueError):
            raise AuthenticationError("auth.not-enrolled", "enrolment.json is damaged") from None
        with named_errors():
            raw, signature, chain = ((state_dir / name).read_bytes() for name in _FILES)
            trust = _verified_trust(raw, signature, *pins)
            tls_key = _channel_key(state_dir, chain)
        at = None if offline else now or datetime.now(UTC)
        leaf = _verified_leaf(chain, trust, site, _public(tls_key), at)
        return cls(
            site=site,
            state_dir=state_dir,
            key=key,
            trust=trust,
            fleet=fleet,
            enrolment=enrolment,
            certificate_pem=chain,
            tls_key=tls_key,
            serial=f"{leaf.serial_number:x}",
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )


def enrol(
    site: str, state_dir: Path, code: str, timeout_s: float = 30.0, *, force: bool = False, route: Route = DIRECT
) -> Identity:
    """Enrol a site with a join code. After a failure at any step the identity key stays, and it can be run again.

    Args:
        site: this site's configured name.
        state_dir: made with mode 0700 when absent.
        code: what `corsia central invite SITE` printed.
        timeout_s: of each of the two connections.
        force: enrol anew although the site is enrolled; the identity key is kept. One whose certificate has expired,
            or is damaged, needs no force.
        route: by what way.

    Raises:
        InputError: `input.usage` for a mistyped code.
        AuthenticationError: `auth.join-code` (also for a code of another site), `auth.fingerprint` when the centre
            is not the one pinned, `auth.certificate` when it returns a certificate that is not ours.
        ConflictError: `conflict.exists` when enrolled already.
        UnavailableError: `unavailable.centre`.
        StorageError: nothing is enrolled.
    """
    join = JoinCode.decode(code)
    if join.site != site or not _SITE.match(site):
        raise AuthenticationError("auth.join-code", f"the join code is for another site than {site!r}")
    if not force and _stands(state_dir):
        raise ConflictError("conflict.exists", "this site is enrolled already; --force enrols it anew")
    with named_errors():
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        state_dir.chmod(0o700)
    key = _identity_key(state_dir / "identity.key", site)
    tls_key = _new_channel_key()
    csr = _csr(tls_key, site)
    ca_pem = _pinned_ca(presented_certificates(join.enrolment, timeout_s, route), join.ca)
    chain, raw, signature = enrol_call(
        join.enrolment,
        ca_pem,
        site=site,
        secret=join.secret,
        csr_der=csr,
        identity_public=key.public.to_bytes(),
        signature=key.sign(Purpose.ENROL, csr),
        timeout_s=timeout_s,
        route=route,
    )
    trust = _verified_trust(raw, signature, join.ca, join.study_key)
    _verified_leaf(chain, trust, site, _public(tls_key), datetime.now(UTC))
    with named_errors():
        (state_dir / "enrolment.json").unlink(missing_ok=True)
        write_file(state_dir / "trust.json", raw)
        write_file(state_dir / "trust.sig", signature)
        _store_certificate(state_dir, tls_key, chain)
        write_file(
            state_dir / "enrolment.json",
            canonical_json(
                {
                    "site": site,
                    "fleet": join.fleet,
                    "enrolment": join.enrolment,
                    "ca": join.ca.hex(),
                    "study_key": join.study_key.hex(),
                }
            ),
        )
    return Identity.load(state_dir)


def renew(identity: Identity, ask: Callable[[bytes, bytes], bytes], now: datetime | None = None) -> Identity:
    """Replace the channel key and certificate; the old pair stays in force until the new one is durable.

    Args:
        identity: the present one.
        ask: `Uplink.renew`: (CSR in DER, signature by the identity key) -> PEM chain.
        now: the time by the centre's clock, where it is known: this machine's may be wrong.

    Raises:
        AuthenticationError: `auth.certificate` when the new certificate is not ours; nothing changed.
        CorsiaError: what `ask` raises.
    """
    with named_errors():
        if read_secret(identity.tls_key_path) != identity.tls_key:  # a renewal was cut short: finish it first
            write_file(identity.tls_key_path, at_rest(identity.tls_key_path, identity.tls_key))
    tls_key = _new_channel_key()
    csr = _csr(tls_key, identity.site)
    chain = ask(csr, identity.key.sign(Purpose.RENEW, csr))
    _verified_leaf(chain, identity.trust, identity.site, _public(tls_key), now or datetime.now(UTC))
    with named_errors():
        _store_certificate(identity.state_dir, tls_key, chain)
    return Identity.load(identity.state_dir, now)


def _stands(state_dir: Path) -> bool:
    """Whether an enrolment is here that may still be used."""
    try:
        Identity.load(state_dir)
    except AuthenticationError:
        return False
    return True


def _identity_key(path: Path, site: str) -> SecretKey:
    if not path.exists():
        fresh = SecretKey.generate()
        Heads(path.parent).succeed(site, fresh)  # first: only a key that is just made may vouch for the one before it
        with named_errors():
            write_file(path, at_rest(path, fresh.to_bytes()))  # whole or absent, whenever the machine stops
    return read_key(path)


def _new_channel_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public(tls_key: bytes) -> bytes:
    key = serialization.load_pem_private_key(tls_key, None)
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _csr(tls_key: bytes, site: str) -> bytes:
    key = serialization.load_pem_private_key(tls_key, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise AssertionError("the channel key is ECDSA")
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(site_uri(site))])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(names, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _pinned_ca(presented: list[bytes], pin: bytes) -> bytes:
    for der in presented:
        if hashlib.sha256(der).digest() == pin:
            try:
                certificate = x509.load_der_x509_certificate(der)
            except MALFORMED:
                break
            return certificate.public_bytes(serialization.Encoding.PEM)
    raise AuthenticationError("auth.fingerprint", "the server does not present the CA that the join code pins")


def _verified_trust(raw: bytes, signature: bytes, ca_pin: bytes, study_pin: bytes) -> TrustBundle:
    """The bundle, when the study-signing key of the pinned fingerprint signed it and its CA is the pinned one."""
    try:
        trust = TrustBundle.from_bytes(raw)
        study_key = PublicKey.from_base64(trust.study_key)
        if bytes.fromhex(study_key.fingerprint) != study_pin:
            raise AuthenticationError("auth.fingerprint", "another study-signing key than the one pinned")
        study_key.verify(Purpose.TRUST, raw, signature)
        PublicKey.from_base64(trust.publication_key)
        PublicKey.from_base64(trust.log_key)
        ca = x509.load_pem_x509_certificate(trust.ca_pem.encode("ascii"))
        if ca.fingerprint(hashes.SHA256()) != ca_pin:
            raise AuthenticationError("auth.fingerprint", "another CA than the one pinned")
    except IntegrityError:
        raise AuthenticationError("auth.fingerprint", "the trust bundle's signature does not verify") from None
    except _NO_TRUST:
        raise AuthenticationError("auth.fingerprint", "the trust bundle is malformed") from None
    return trust


def _verified_leaf(
    chain: bytes, trust: TrustBundle, site: str, public: bytes, now: datetime | None
) -> x509.Certificate:
    """The chain's first certificate, when it is ours: our key, exactly our name, from the pinned CA, valid now."""
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        ca = x509.load_pem_x509_certificate(trust.ca_pem.encode("ascii"))
        leaf.verify_directly_issued_by(ca)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        spki = leaf.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except MALFORMED:
        raise AuthenticationError("auth.certificate", "the certificate is malformed or of another CA") from None
    if names.get_values_for_type(x509.UniformResourceIdentifier) != [site_uri(site)] or spki != public:
        raise AuthenticationError("auth.certificate", "the certificate is not for this site's name and key")
    if now is None:
        return leaf
    if leaf.not_valid_before_utc > now + _CLOCK_SKEW:
        raise AuthenticationError("auth.clock", "the certificate is not valid yet by this machine's clock")
    if leaf.not_valid_after_utc <= now:
        raise AuthenticationError("auth.expired", f"the certificate expired on {leaf.not_valid_after_utc:%F %R} UTC")
    return leaf


def _store_certificate(state_dir: Path, tls_key: bytes, chain: bytes) -> None:
    """Key and chain are two files: between the renames the next key is the one that fits (see `_channel_key`)."""
    write_file(state_dir / "tls.next.key", at_rest(state_dir, tls_key))
    write_file(state_dir / "tls.pem", chain)
    os.rename(state_dir / "tls.next.key", state_dir / "tls.key")
    sync_folder(state_dir)


def _channel_key(state_dir: Path, chain: bytes) -> bytes:
    """The stored key that fits the certificate, of `tls.key` and `tls.next.key`."""
    try:
        spki = (
            x509.load_pem_x509_certificates(chain)[0]
            .public_key()
            .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        for name in ("tls.key", "tls.next.key"):
            path = state_dir / name
            if path.is_file() and _public(raw := read_secret(path)) == spki:
                return raw
    except MALFORMED:
        raise AuthenticationError("auth.certificate", "the stored certificate or its key is damaged") from None
    raise AuthenticationError("auth.certificate", "no stored key fits the certificate")

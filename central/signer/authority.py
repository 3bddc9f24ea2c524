"""The consortium's keys: certificate authority, study-signing key and publication key.

Only the signer process holds these files. What is certified is decided by the caller (an invite, an identity
signature); from a CSR nothing but its public key is taken.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy.certificates import MALFORMED
from privacy.envelope import SecretKey, read_key, write_key, write_public
from privacy.envelope.keyfile import at_rest, read_secret
from protocol.durable import sync_folder
from protocol.errors import AuthenticationError, ConfigurationError
from protocol.trust import site_uri

__all__ = ["Authority", "SiteCertificate", "make_ca"]

MAX_CSR_BYTES = 16_384
CA_DAYS = 3650
SERVER_DAYS = 30
CLOCK_SLACK = timedelta(hours=1)  # hospital clocks run late


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteCertificate:
    """A certificate for a site: PEM of leaf and CA, serial (hex), end of life (Unix seconds)."""

    pem: bytes
    serial: str
    not_after: float


class Authority:
    """Opens, or makes at the first start, the keys under `folder` (mode 0700).

    Attributes:
        study_key: signs studies and the trust bundle.
        publication_key: signs model manifests.
    """

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._ca_key, self._ca = _open_ca(folder, name)
        self.study_key = _open_key(folder / "study.key")
        self.publication_key = _open_key(folder / "publication.key")

    @property
    def ca_pem(self) -> bytes:
        """The CA certificate."""
        return self._ca.public_bytes(Encoding.PEM)

    @property
    def ca_fingerprint(self) -> bytes:
        """SHA-256 of the CA certificate's DER, 32 bytes."""
        return self._ca.fingerprint(hashes.SHA256())

    def certify_site(self, csr_der: bytes, site: str, days: int) -> SiteCertificate:
        """A client certificate whose URI SAN names `site`.

        Raises:
            AuthenticationError: `auth.certificate` for anything but a self-signed CSR of a P-256 or P-384 key.
        """
        leaf = self._issue(
            csr_der,
            name=site,
            names=x509.SubjectAlternativeName([x509.UniformResourceIdentifier(site_uri(site))]),
            usage=ExtendedKeyUsageOID.CLIENT_AUTH,
            days=days,
        )
        return SiteCertificate(
            pem=leaf.public_bytes(Encoding.PEM) + self.ca_pem,
            serial=f"{leaf.serial_number:x}",
            not_after=leaf.not_valid_after_utc.timestamp(),
        )

    def certify_server(self, csr_der: bytes, names: tuple[str, ...]) -> bytes:
        """The gateway's server certificate and the CA, as PEM; names come from the configuration, never the CSR.

        Raises:
            AuthenticationError: `auth.certificate`.
        """
        leaf = self._issue(
            csr_der,
            name=names[0],
            names=x509.SubjectAlternativeName([_general_name(name) for name in names]),
            usage=ExtendedKeyUsageOID.SERVER_AUTH,
            days=SERVER_DAYS,
        )
        return leaf.public_bytes(Encoding.PEM) + self.ca_pem

    def _issue(
        self,
        csr_der: bytes,
        *,
        name: str,
        names: x509.SubjectAlternativeName,
        usage: x509.ObjectIdentifier,
        days: int,
    ) -> x509.Certificate:
        key = _csr_key(csr_der)
        now = datetime.now(UTC)
        end = min(now + timedelta(days=days), self._ca.not_valid_after_utc)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])]))
            .issuer_name(self._ca.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(max(now - CLOCK_SLACK, self._ca.not_valid_before_utc))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(names, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._ca_key.public_key()), critical=False
            )
            .sign(self._ca_key, hashes.SHA256())
        )


def _csr_key(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    try:
        if len(csr_der) > MAX_CSR_BYTES:
            raise ValueError("too large")
        csr = x509.load_der_x509_csr(csr_der)
        key = csr.public_key()
        if not csr.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("signature or kind of key")
        if not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
            raise ValueError("curve")
        return key
    except MALFORMED:
        raise AuthenticationError("auth.certificate", "the certificate request is not valid") from None


def _open_key(path: Path) -> SecretKey:
    if not path.exists():
        write_key(path, SecretKey.generate())
    key, public = read_key(path), path.with_suffix(".pub")
    if not public.exists():
        write_public(public, key.public)
    return key


def _open_ca(folder: Path, name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key_path, certificate_path = folder / "ca.key", folder / "ca.pem"
    if not certificate_path.exists():  # written last: without it nothing was ever certified
        make_ca(folder, name)
    key = load_pem_private_key(read_secret(key_path), password=None)
    certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConfigurationError("config.invalid", "signer/ca.key and signer/ca.pem do not belong together")
    return key, certificate


def make_ca(folder: Path, name: str) -> str:
    """Write `ca.key` and `ca.pem` of a new CA, durably; returns its fingerprint (SHA-256 of the DER, hex)."""
    key_path, certificate_path = folder / "ca.key", folder / "ca.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Corsia CA {name}"[:64])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signature=False), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_path.unlink(missing_ok=True)
    _write(key_path, at_rest(key_path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())))
    _write(certificate_path, certificate.public_bytes(Encoding.PEM))
    sync_folder(folder)
    return certificate.fingerprint(hashes.SHA256()).hex()


def _write(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(part, path)


def _key_usage(*, signature: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signature,
        crl_sign=not signature,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)

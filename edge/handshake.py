"""One TLS handshake, to see which certificates a server presents before anything is trusted.

Place in the flow: enrolment, where the join code pins the CA by its fingerprint and `edge/identity.py` compares; and
after a connection that did not verify, to tell who answers there instead. Nothing is sent over this connection and
nothing else may use it.
"""

from __future__ import annotations

import ipaddress
import ssl
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from edge.route import DIRECT, Route, is_loopback, place_of
from privacy.certificates import MALFORMED
from protocol.errors import AuthenticationError, UnavailableError

__all__ = ["check_answers", "is_loopback", "presented_certificates"]

MAX_CHAIN = 10


def presented_certificates(
    address: str, timeout_s: float, route: Route = DIRECT, *, oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> list[bytes]:
    """The chain (DER, leaf first) that the server at `host:port` presents in a TLS handshake; not verified.

    Raises:
        InputError: `input.usage` when the address is not `host:port`.
        UnavailableError: `unavailable.centre` when nothing answers.
        AuthenticationError: `auth.tls-version` when the server does not speak TLS 1.3 (or what `oldest` says),
            `auth.proxy` when the site's proxy does not let it through.
    """
    host, _port = place_of(address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # compared with the pinned fingerprint by the caller
    context.minimum_version = oldest
    context.set_alpn_protocols(["h2"])
    try:
        with (
            route.connected(address, timeout_s) as raw,
            context.wrap_socket(raw, server_hostname=host) as secure,
        ):
            return _chain(secure)[:MAX_CHAIN]
    except ssl.SSLError as error:
        if error.reason and ("PROTOCOL_VERSION" in error.reason or "UNSUPPORTED_PROTOCOL" in error.reason):
            raise AuthenticationError("auth.tls-version") from error
        raise UnavailableError("unavailable.centre", "the TLS handshake failed") from error
    except OSError as error:
        raise UnavailableError("unavailable.centre") from error


def check_answers(address: str, ca_pem: bytes, route: Route, timeout_s: float) -> None:
    """Look whether somebody else answers in the centre's name: that is what a proxy does that opens TLS.

    Args:
        address: `host:port` that was dialled.
        ca_pem: the pinned CA.
        route: the way it was dialled by.
        timeout_s: of connection and handshake each.

    Raises:
        AuthenticationError: `auth.intercepted` when the certificate is for the centre's name but of another CA.
        AuthenticationError, UnavailableError: as `presented_certificates`.
    """
    chain = presented_certificates(address, timeout_s, route, oldest=ssl.TLSVersion.TLSv1_2)
    if not chain:
        return
    host = place_of(address)[0]
    try:
        leaf = x509.load_der_x509_certificate(chain[0])
    except MALFORMED:  # the channel itself refuses it
        return
    if _names(leaf, host) and not _issued_by(leaf, x509.load_pem_x509_certificate(ca_pem)):
        found = leaf.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
        issuer = str(found[0].value)[:64] if found else "unnamed"
        raise AuthenticationError(
            "auth.intercepted", f"TLS to {address} is opened on the way, by a certificate of {issuer!r}"
        )


def _names(leaf: x509.Certificate, host: str) -> bool:
    """Whether a certificate is for a host, as TLS clients judge it (RFC 9525: a wildcard is one whole label)."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except MALFORMED:
        return False
    try:
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        wild = "*." + host.partition(".")[2]
        return any(name.lower() in (host.lower(), wild.lower()) for name in names.get_values_for_type(x509.DNSName))


def _issued_by(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except MALFORMED:
        return False
    return True


def _chain(secure: ssl.SSLSocket) -> list[bytes]:
    public: Any = getattr(secure, "get_unverified_chain", None)
    if public is not None:  # Python 3.13 and later
        return [bytes(der) for der in public()]
    import _ssl

    inner: Any = getattr(secure, "_sslobj")  # noqa: B009 - private before 3.13
    encoding = _ssl.ENCODING_DER
    return [bytes(certificate.public_bytes(encoding)) for certificate in inner.get_unverified_chain() or ()]

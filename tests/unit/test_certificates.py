"""Certificates and requests of strangers that read well and say what nothing may: refused by code, everywhere."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from central.gateway import admission
from central.signer.authority import Authority
from edge import identity
from protocol.errors import AuthenticationError
from tests.uplinkkit import Authority as Issuer

_CERTIFICATE, _REQUEST = b"\xa0\x03\x02\x01\x02", b"\x02\x01\x00"  # the version fields


def damaged(der: bytes, field: bytes) -> bytes:
    """With a version that X.509 does not have; the library has an error of its own for it, which is no ValueError."""
    assert field in der[:16]
    return der.replace(field, field[:-1] + b"\x6a", 1)


@pytest.fixture
def leaf() -> bytes:
    pem = Issuer().site("site-a", ec.generate_private_key(ec.SECP256R1()).public_key())
    der = damaged(x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER), _CERTIFICATE)
    with pytest.raises(x509.InvalidVersion):
        x509.load_der_x509_certificate(der)
    return der


def test_a_request_of_no_version(tmp_path: Path) -> None:
    key = identity._new_channel_key()
    der = identity._csr(key, "site-a")
    signer = Authority(tmp_path, "centre")
    assert signer.certify_site(der, "site-a", 7)
    with pytest.raises(AuthenticationError, match=r"auth\.certificate"):
        signer.certify_site(damaged(der, _REQUEST), "site-a", 7)


def test_an_authority_of_no_version(leaf: bytes) -> None:
    with pytest.raises(AuthenticationError, match=r"auth\.fingerprint"):
        identity._pinned_ca([leaf], hashlib.sha256(leaf).digest())


def test_a_peer_of_no_version(leaf: bytes) -> None:
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(leaf) + b"-----END CERTIFICATE-----\n"
    with pytest.raises(AuthenticationError, match=r"auth\.certificate"):
        admission._read_certificate(pem)

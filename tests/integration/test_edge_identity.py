"""Enrolment over real TLS: what is pinned, what is refused, and what a crash leaves behind."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge.handshake import is_loopback, presented_certificates
from edge.identity import Identity, enrol, renew
from edge.storage import write_file
from edge.uplink import Uplink
from privacy.envelope import SecretKey, read_key
from privacy.envelope.keyfile import guard
from privacy.envelope.locked import is_locked
from protocol.errors import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    CorsiaError,
    InputError,
    UnavailableError,
)
from protocol.trust import JoinCode
from tests.uplinkkit import Authority, Centre


@pytest.fixture
def centre() -> Iterator[Centre]:
    made = Centre().start()
    yield made
    made.stop()


def refused(call: Any, error: type[CorsiaError], code: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.code == code


def test_enrol_stores_what_load_verifies(centre: Centre, tmp_path: Path) -> None:
    state = tmp_path / "state"
    made = enrol("site-a", state, centre.code())
    loaded = Identity.load(state)
    assert loaded == replace(made, key=loaded.key)
    assert (loaded.site, loaded.fleet, loaded.trust) == ("site-a", centre.fleet, centre.bundle())
    assert loaded.key.public.to_bytes() == centre.enrolled[0].identity_public
    assert loaded.study_key.fingerprint == centre.study_key.public.fingerprint
    assert loaded.log_key.fingerprint == loaded.publication_key.fingerprint == centre.other_key.public.fingerprint
    assert loaded.ca_pem == centre.authority.pem
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    names = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
    assert names == dict.fromkeys(
        ["identity.key", "tls.key", "tls.pem", "trust.json", "trust.sig", "enrolment.json"], 0o600
    )
    for secret in (loaded.key.to_bytes().hex(), loaded.tls_key.decode().splitlines()[1]):
        assert secret not in repr(loaded)
    uplink = Uplink(loaded)
    assert list(uplink.watch()) == []
    uplink.close()


def test_a_site_enrols_once_and_again_only_by_force(centre: Centre, tmp_path: Path) -> None:
    enrol("site-a", tmp_path, centre.code())
    key = read_key(tmp_path / "identity.key").to_bytes()
    refused(lambda: enrol("site-a", tmp_path, centre.code()), ConflictError, "conflict.exists")
    again = enrol("site-a", tmp_path, centre.code(), force=True)
    assert again.key.to_bytes() == key
    assert len(centre.enrolled) == 2


def test_the_code_must_be_ours(centre: Centre, tmp_path: Path) -> None:
    refused(lambda: enrol("site-b", tmp_path, centre.code()), AuthenticationError, "auth.join-code")
    refused(lambda: enrol("site-a", tmp_path, centre.code()[:-4]), InputError, "input.usage")
    refused(lambda: enrol("../x", tmp_path, centre.code("../x")), AuthenticationError, "auth.join-code")
    used = centre.code(secret=b"u" * 24)
    refused(lambda: enrol("site-a", tmp_path, used), AuthenticationError, "auth.join-code")
    assert centre.enrolled == []


def test_another_ca_than_the_pinned_one_never_sees_the_secret(centre: Centre, tmp_path: Path) -> None:
    code = centre.code(ca=Authority().pin)
    refused(lambda: enrol("site-a", tmp_path, code), AuthenticationError, "auth.fingerprint")
    assert centre.enrolled == []
    refused(lambda: Identity.load(tmp_path), AuthenticationError, "auth.not-enrolled")


def test_presenting_the_pinned_ca_without_its_key_does_not_help(centre: Centre, tmp_path: Path) -> None:
    rogue = Centre(authority=Authority(), study_key=centre.study_key)
    rogue.authority.pem = centre.authority.pem  # it appends the true CA to its own server's chain
    rogue.start()
    code = JoinCode.decode(centre.code())
    code = replace(code, enrolment=rogue.enrolment)
    refused(lambda: enrol("site-a", tmp_path, code.encode()), AuthenticationError, "auth.fingerprint")
    assert rogue.enrolled == []
    rogue.stop()


@pytest.mark.parametrize(
    ("hostile", "code"),
    [
        ({"trust-signer": SecretKey.generate()}, "auth.fingerprint"),
        ({"trust": b"{}"}, "auth.fingerprint"),
        ({"trust": b"\xff"}, "auth.fingerprint"),
        ({"leaf-key": ec.generate_private_key(ec.SECP256R1()).public_key()}, "auth.certificate"),
        ({"leaf-site": "site-b"}, "auth.certificate"),
        ({"leaf-ca": Authority()}, "auth.certificate"),
        ({"chain": b""}, "auth.certificate"),
        ({"chain": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "auth.certificate"),
    ],
)
def test_every_part_of_the_reply_is_checked(centre: Centre, tmp_path: Path, hostile: dict[str, Any], code: str) -> None:
    centre.hostile = hostile
    refused(lambda: enrol("site-a", tmp_path, centre.code()), AuthenticationError, code)
    refused(lambda: Identity.load(tmp_path), AuthenticationError, "auth.not-enrolled")
    key = read_key(tmp_path / "identity.key").to_bytes()
    centre.hostile = {}
    assert enrol("site-a", tmp_path, centre.code()).key.to_bytes() == key


@pytest.mark.parametrize("field", ["study_key", "ca_pem"])
def test_a_bundle_of_other_keys_is_refused(centre: Centre, tmp_path: Path, field: str) -> None:
    other = SecretKey.generate()
    value = {"study_key": other.public.to_base64(), "ca_pem": Authority().pem.decode()}[field]
    centre.hostile = {"trust": replace(centre.bundle(), **{field: value}).to_bytes()}
    if field == "study_key":
        centre.hostile["trust-signer"] = other
    refused(lambda: enrol("site-a", tmp_path, centre.code()), AuthenticationError, "auth.fingerprint")


@pytest.mark.parametrize(("days", "code"), [(8, "auth.expired"), (-1, "auth.clock")])
def test_an_expired_or_future_certificate_is_refused(centre: Centre, tmp_path: Path, days: int, code: str) -> None:
    centre.ago, centre.life = timedelta(days=days), timedelta(days=7)
    refused(lambda: enrol("site-a", tmp_path, centre.code()), AuthenticationError, code)


def test_a_site_whose_certificate_expired_comes_back_by_a_new_code(centre: Centre, tmp_path: Path) -> None:
    made = enrol("site-a", tmp_path, centre.code())
    key = load_pem_private_key(made.tls_key, None).public_key()
    old = centre.authority.site("site-a", key, life=timedelta(days=7), ago=timedelta(days=8))
    write_file(tmp_path / "tls.pem", old)
    with pytest.raises(AuthenticationError, match=r"auth\.expired") as caught:
        Identity.load(tmp_path)
    assert "enroll" in caught.value.hint
    again = enrol("site-a", tmp_path, centre.code())  # without force: there is nothing to overwrite
    assert again.key.to_bytes() == made.key.to_bytes()
    assert Identity.load(tmp_path).serial == again.serial != made.serial


@pytest.mark.parametrize(("days", "life"), [(40, 30), (-2, 30)])
def test_a_centre_whose_certificate_is_untimely_is_a_matter_of_clocks_not_of_trust(
    centre: Centre, tmp_path: Path, days: int, life: int
) -> None:
    identity = enrol("site-a", tmp_path, centre.code())
    untimely = centre.authority.server(life=timedelta(days=life), ago=timedelta(days=days))
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([untimely], identity.ca_pem, True))
    server.start()
    uplink = Uplink(identity, f"127.0.0.1:{port}")
    try:
        refused(lambda: uplink.renew(b"", b""), AuthenticationError, "auth.clock")
    finally:
        uplink.close()
        server.stop(0)


def test_load_refuses_what_was_changed(centre: Centre, tmp_path: Path) -> None:
    refused(lambda: Identity.load(tmp_path / "nowhere"), AuthenticationError, "auth.not-enrolled")
    made = enrol("site-a", tmp_path, centre.code())
    late = made.not_after + timedelta(seconds=1)
    refused(lambda: Identity.load(tmp_path, now=late), AuthenticationError, "auth.expired")

    def changed(name: str, data: bytes, code: str) -> None:
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data)
        refused(lambda: Identity.load(tmp_path), AuthenticationError, code)
        (tmp_path / name).write_bytes(kept)

    changed("trust.json", replace(centre.bundle(), log_origin="other").to_bytes(), "auth.fingerprint")
    changed("trust.sig", bytes(3373), "auth.fingerprint")
    changed("enrolment.json", b"{", "auth.not-enrolled")
    changed("enrolment.json", b'{"site": "site-a"}', "auth.not-enrolled")
    changed("tls.pem", b"", "auth.certificate")
    changed("tls.key", b"x", "auth.certificate")
    Identity.load(tmp_path)
    for name in ("identity.key", "tls.key"):
        (tmp_path / name).chmod(0o644)
        refused(lambda: Identity.load(tmp_path), ConfigurationError, "config.key-mode")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "trust.sig").unlink()
    refused(lambda: Identity.load(tmp_path), AuthenticationError, "auth.not-enrolled")


def test_renewal_at_two_thirds_of_life(centre: Centre, tmp_path: Path) -> None:
    made = enrol("site-a", tmp_path, centre.code())
    life = made.not_after - made.not_before
    assert not made.needs_renewal()
    assert not made.needs_renewal(made.not_before + life * 0.66)
    assert made.needs_renewal(made.not_before + life * 0.67)
    assert made.remaining_s(made.not_after) == 0
    uplink = Uplink(made)
    renewed = renew(made, uplink.renew)
    assert renewed.serial != made.serial
    assert renewed.tls_key != made.tls_key
    assert renewed.key.to_bytes() == made.key.to_bytes()
    assert not (tmp_path / "tls.next.key").exists()
    centre.hostile = {"leaf-site": "site-b"}
    refused(lambda: renew(renewed, uplink.renew), AuthenticationError, "auth.certificate")
    uplink.close()
    assert Identity.load(tmp_path).serial == renewed.serial


def test_a_crash_between_the_two_files_of_a_renewal_is_survived(centre: Centre, tmp_path: Path) -> None:
    made = enrol("site-a", tmp_path, centre.code())
    old = made.tls_key
    renewed = renew(made, Uplink(made).renew)
    write_file(tmp_path / "tls.next.key", renewed.tls_key)  # the certificate is new, the rename did not come
    write_file(tmp_path / "tls.key", old)
    assert Identity.load(tmp_path).tls_key == renewed.tls_key
    (tmp_path / "tls.pem").write_bytes(made.certificate_pem)  # the next key is there, the certificate is old
    assert Identity.load(tmp_path).tls_key == old


def test_a_renewal_after_such_a_crash_keeps_a_pair_that_fits(centre: Centre, tmp_path: Path) -> None:
    made = enrol("site-a", tmp_path, centre.code())
    renewed = renew(made, Uplink(made).renew)
    os.rename(tmp_path / "tls.key", tmp_path / "tls.next.key")
    write_file(tmp_path / "tls.key", made.tls_key)
    loaded = Identity.load(tmp_path)
    assert loaded.serial == renewed.serial

    def fails(_csr: bytes, _signature: bytes) -> bytes:
        raise UnavailableError("unavailable.centre")

    refused(lambda: renew(loaded, fails), UnavailableError, "unavailable.centre")
    assert (tmp_path / "tls.key").read_bytes() == renewed.tls_key  # before the next key may be overwritten
    assert Identity.load(tmp_path).serial == renewed.serial


def test_identity_and_channel_key_lie_locked_where_a_passphrase_is_set(centre: Centre, tmp_path: Path) -> None:
    state = tmp_path / "state"
    write_file(tmp_path / "passphrase", b"a passphrase of a site\n")
    guard(state, tmp_path / "passphrase")
    try:
        made = enrol("site-a", state, centre.code())
        renewed = renew(made, Uplink(made).renew)
        for name in ("identity.key", "tls.key"):
            assert is_locked((state / name).read_bytes()), name
        assert Identity.load(state).serial == renewed.serial
        guard(state, None)
        refused(lambda: Identity.load(state), ConfigurationError, "config.passphrase")
    finally:
        guard(state, None)


# --- the unverified handshake


def test_handshake_names_what_is_wrong(centre: Centre) -> None:
    assert len(presented_certificates(centre.enrolment, 60)) == 2
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        refused(lambda: presented_certificates(address, 60), UnavailableError, "unavailable.centre")
    for bad in ("", "host", "host:", "host:0", "host:x", "host:70000"):
        refused(lambda bad=bad: presented_certificates(bad, 1), InputError, "input.usage")


def _serve(answer: Any) -> tuple[socket.socket, str]:
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                answer(connection)

    threading.Thread(target=run, daemon=True).start()
    return listener, f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_server_that_speaks_no_tls(tmp_path: Path) -> None:
    listener, address = _serve(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    refused(lambda: presented_certificates(address, 60), UnavailableError, "unavailable.centre")
    listener.close()


def test_a_server_of_an_older_tls_is_named(centre: Centre, tmp_path: Path) -> None:
    key, chain = centre.authority.server()
    (tmp_path / "k.pem").write_bytes(key)
    (tmp_path / "c.pem").write_bytes(chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def answer(connection: socket.socket) -> None:
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            pass

    listener, address = _serve(answer)
    refused(lambda: presented_certificates(address, 60), AuthenticationError, "auth.tls-version")
    listener.close()


def test_a_proxy_is_used_as_grpc_uses_it(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        asked.append(connection.recv(4096))
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

    listener, address = _serve(proxy)
    for name in ("grpc_proxy", "http_proxy", "no_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", f"http://us%40er:pw@{address}")
    assert len(presented_certificates(centre.enrolment, 60)) == 2  # loopback: no proxy
    assert asked == []
    refused(lambda: presented_certificates("centre.invalid:7444", 60), AuthenticationError, "auth.proxy")
    assert asked[0].startswith(b"CONNECT centre.invalid:7444 ")
    assert b"Proxy-Authorization: Basic dXNAZXI6cHc=" in asked[0]
    listener.close()


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("10.0.0.1:1", False),
        ("localhost.example.org:1", False),
        ("127.0.0.1.example.org:1", False),
    ],
)
def test_loopback_by_name_alone(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_now_defaults_to_the_clock(centre: Centre, tmp_path: Path) -> None:
    made, before = enrol("site-a", tmp_path, centre.code()), datetime.now(UTC)
    assert 0 < made.remaining_s() <= (made.not_after - before).total_seconds()

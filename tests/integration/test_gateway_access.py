"""Who gets in at the gateway: join codes, certificates, revocation, TLS versions, limits, garbage."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from central.gateway.__main__ import ASK_S, SWEEP_S
from central.gateway.quota import Rate
from central.signer.authority import Authority
from protocol.errors import UnavailableError
from protocol.trust import site_uri
from protocol.v1 import fleet_pb2 as pb
from protocol.v1 import fleet_pb2_grpc as rpc
from tests.gatewaykit import Centre, Site, code_of, draft, eventually, running


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    with running(tmp_path_factory.mktemp("centre")) as made:
        made.enrol("site-a")
        made.submit()
        yield made


def refused(code: str, status: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED):  # type: ignore[no-untyped-def]
    return pytest.raises(grpc.RpcError, check=lambda e: code_of(e) == code and e.code() is status)


def heartbeat(site: Site) -> float:
    return float(site.assignments.Report(pb.SiteReport(version="1"), timeout=60).server_time)


def test_a_join_code_works_once_for_its_site_and_only_with_its_secret(centre: Centre) -> None:
    code = centre.invite("site-j")
    with refused("auth.join-code"):
        centre.enrol("site-k", code)
    with refused("auth.join-code"):
        centre.enrol("site-j", code, secret=bytes(24))
    heartbeat(centre.enrol("site-j", code))
    with refused("auth.join-code"):
        centre.enrol("site-j", code)


def test_a_newer_invite_replaces_the_older(centre: Centre) -> None:
    old = centre.invite("site-n")
    new = centre.invite("site-n")
    with refused("auth.join-code"):
        centre.enrol("site-n", old)
    centre.enrol("site-n", new)


def test_a_request_that_the_identity_did_not_sign_does_not_spend_the_code(centre: Centre) -> None:
    code = centre.invite("site-s")
    with refused("auth.certificate"):
        centre.enrol("site-s", code, signature=b"x" * 3373)
    with refused("auth.certificate"):
        centre.enrol("site-s", code, csr_der=b"not a request")
    heartbeat(centre.enrol("site-s", code))


def test_a_foreign_certificate_and_none_do_not_connect(centre: Centre, tmp_path: Path) -> None:
    stranger = Site("site-a", ca=(centre.config.state_dir / "signer" / "ca.pem").read_bytes())
    stranger.chain = Authority(tmp_path / "other", "other").certify_site(stranger.csr(), "site-a", 7).pem
    stranger.connect(centre.config.gateway.fleet_address)
    with pytest.raises(grpc.RpcError, check=lambda e: e.code() is grpc.StatusCode.UNAVAILABLE):
        heartbeat(stranger)
    stranger.close()
    with (
        grpc.secure_channel(centre.config.gateway.fleet_address, grpc.ssl_channel_credentials(stranger.ca)) as channel,
        pytest.raises(grpc.RpcError, check=lambda e: e.code() is grpc.StatusCode.UNAVAILABLE),
    ):
        rpc.AssignmentsStub(channel).Report(pb.SiteReport(), timeout=60)


def certified(centre: Centre, names: list[str], days: int = 1, usage: Any = None) -> Site:
    """A certificate by the right CA that the signer never issued."""
    folder = centre.config.state_dir / "signer"
    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    key: Any = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    site, now = Site("x", ca=ca.public_bytes(Encoding.PEM)), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "x")]))
        .issuer_name(ca.subject)
        .public_key(site.tls.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
    )
    if names:
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(n) for n in names])
        builder = builder.add_extension(san, critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    leaf = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    site.chain = leaf + site.ca
    return site.connect(centre.config.gateway.fleet_address)


@pytest.mark.parametrize(
    "names",
    [[], ["https://site-a"], [site_uri("site-a"), site_uri("site-b")], [site_uri("site-a")], ["corsia:site:"]],
    ids=["none", "foreign", "two", "not-in-the-register", "empty"],
)
def test_a_certificate_that_names_no_registered_site_is_refused(centre: Centre, names: list[str]) -> None:
    with refused("auth.certificate"):
        heartbeat(certified(centre, names))


def test_a_server_certificate_is_no_client_certificate(centre: Centre) -> None:
    site = certified(centre, [site_uri("site-a")], usage=x509.oid.ExtendedKeyUsageOID.SERVER_AUTH)
    with pytest.raises(grpc.RpcError, check=lambda e: e.code() is grpc.StatusCode.UNAVAILABLE):
        heartbeat(site)
    site.close()


def test_revocation_ends_open_streams_within_a_second_and_a_new_invite_readmits(centre: Centre) -> None:
    """The second is how often the gateway looks; how long this machine takes to be heard is no measure of it."""
    assert SWEEP_S + ASK_S < 1.0
    site = centre.enrol("site-r")
    call = site.watch()
    held = site.delivery.Upload.future(iter_forever(), timeout=120)
    eventually(lambda: "site-r" in centre_status(centre))
    centre.ask("revoke", site="site-r")
    with refused("auth.revoked"):
        next(call)
    with pytest.raises(grpc.RpcError):
        held.result(timeout=60)
    with refused("auth.revoked"):
        heartbeat(site)
    again = centre.enrol("site-r")
    heartbeat(again)
    with refused("auth.revoked"):
        heartbeat(site)


def iter_forever() -> Iterator[pb.Chunk]:
    time.sleep(2)
    yield pb.Chunk()


def centre_status(centre: Centre) -> list[str]:
    from central import ipc

    return list(ipc.call(centre.config.socket("gateway"), "status")["connected"])


def test_enrolling_anew_ends_the_old_certificates(centre: Centre) -> None:
    old = centre.enrol("site-o")
    new = centre.enrol("site-o")
    heartbeat(new)
    with refused("auth.revoked"):
        heartbeat(old)


def test_streams_of_one_site_are_bounded_and_the_newest_wins(centre: Centre) -> None:
    site = centre.enrol("site-w")
    centre.submit(draft(id="watched", sites=["site-w"]))
    calls = []
    for _ in range(3):  # one after the other
        calls.append(site.watch())
        next(calls[-1])
    with refused("unavailable.centre", grpc.StatusCode.UNAVAILABLE):
        next(calls[0])
    for call in calls:
        call.cancel()
    eventually(lambda: "site-w" not in centre_status(centre))


def test_tls_1_2_is_refused(centre: Centre) -> None:
    site = centre.enrol("site-t")
    assert b"auth.tls-version" in raw_call(centre, site, ssl.TLSVersion.TLSv1_2)
    assert b"auth." not in raw_call(centre, site, ssl.TLSVersion.TLSv1_3)


def raw_call(centre: Centre, site: Site, version: ssl.TLSVersion) -> bytes:
    """`Assignments.Report` of an empty message by hand-made HTTP/2 over a chosen TLS version; all that comes back."""
    folder = centre.path.parent
    (folder / "t.key").write_bytes(site.tls_key())
    (folder / "t.pem").write_bytes(site.chain)
    context = ssl.create_default_context(cadata=site.ca.decode())
    context.load_cert_chain(folder / "t.pem", folder / "t.key")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])

    def frame(kind: int, flags: int, stream: int, data: bytes) -> bytes:
        return struct.pack(">I", len(data))[1:] + struct.pack(">BBI", kind, flags, stream) + data

    def header(name: str, value: str) -> bytes:
        return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    headers = b"".join(
        header(*pair)
        for pair in (
            (":method", "POST"),
            (":scheme", "https"),
            (":path", "/corsia.v1.Assignments/Report"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        )
    )
    got = b""
    with socket.create_connection(("127.0.0.1", centre.config.gateway.port), 60) as plain:
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls:
            assert tls.version() == ("TLSv1.2" if version is ssl.TLSVersion.TLSv1_2 else "TLSv1.3")
            tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
            tls.sendall(frame(1, 4, 1, headers) + frame(0, 1, 1, bytes(5)))
            tls.settimeout(60)
            while b"grpc-status" not in got and (data := tls.recv(65_536)):
                got += data
            tls.settimeout(0.3)
            try:
                got += tls.recv(65_536)
            except TimeoutError:
                pass
    return got


def test_attempts_to_enrol_are_rate_limited_per_peer() -> None:
    rate = Rate(burst=3, per_s=0.0, peers=2)
    for _ in range(3):
        rate.take("ipv4:10.0.0.1")
    with pytest.raises(UnavailableError):
        rate.take("ipv4:10.0.0.1")
    rate.take("ipv4:10.0.0.2")
    rate.take("ipv4:10.0.0.3")
    assert len(rate._buckets) == 2


GARBAGE = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
TEXT = st.one_of(st.text(max_size=80), st.sampled_from(["", "0" * 32, "f" * 64, "../../etc/passwd", "a\x00b"]))
NUMBER = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**63, 2**64 - 1]))


@pytest.fixture(scope="module")
def hostile(centre: Centre) -> Site:
    return centre.enrol("site-a")


def survives(call: Any) -> None:
    """Whatever it is, it ends in a status with one of our codes, or in an answer."""
    try:
        reply = call()
        list(reply) if hasattr(reply, "__iter__") else None
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.INTERNAL or not code_of(error):  # type: ignore[attr-defined]
            raise


@GARBAGE
@given(ids=st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT), size=NUMBER)
def test_garbage_in_open_and_commit(hostile: Site, ids: tuple[str, ...], size: int) -> None:
    parcel, study, content, digest, assignment = ids
    request = pb.OpenRequest(
        parcel_id=parcel, study_digest=study, content_type=content, size_bytes=size, digest=digest,
        assignment_id=assignment,
    )  # fmt: skip
    survives(lambda: hostile.delivery.Open(request, timeout=60))
    survives(lambda: hostile.delivery.Commit(pb.CommitRequest(parcel_id=parcel), timeout=60))


@GARBAGE
@given(chunks=st.lists(st.tuples(TEXT, NUMBER, st.binary(max_size=50)), max_size=3))
def test_garbage_in_upload(hostile: Site, chunks: list[tuple[str, int, bytes]]) -> None:
    messages = [pb.Chunk(parcel_id=i, offset=o, data=d) for i, o, d in chunks]
    survives(lambda: hostile.delivery.Upload(iter(messages), timeout=60))


@GARBAGE
@given(texts=st.tuples(TEXT, TEXT, TEXT, TEXT, TEXT, TEXT), state=st.integers(-(2**31), 2**31 - 1), number=NUMBER,
       counts=st.dictionaries(TEXT, st.integers(-(2**63), 2**63 - 1), max_size=3))  # fmt: skip
def test_garbage_in_report(
    hostile: Site, texts: tuple[str, ...], state: int, number: int, counts: dict[str, int]
) -> None:
    version, ledger, journal, assignment, code, error_id = texts
    request = pb.SiteReport(
        version=version, ledger_head=ledger, journal_head=journal, assignment_id=assignment, code=code,
        error_id=error_id, state=state, spool_parcels=number, spool_bytes=number, counts=counts,
    )  # type: ignore[arg-type]  # fmt: skip
    survives(lambda: hostile.assignments.Report(request, timeout=60))


@GARBAGE
@given(digest=TEXT, offset=NUMBER, raw=st.binary(max_size=200))
def test_garbage_in_fetch_and_renew(hostile: Site, digest: str, offset: int, raw: bytes) -> None:
    survives(lambda: hostile.models.Fetch(pb.FetchRequest(digest=digest, offset=offset), timeout=60))
    survives(lambda: hostile.assignments.Renew(pb.RenewRequest(csr_der=raw, signature=raw), timeout=60))


@GARBAGE
@given(raw=st.binary(min_size=1, max_size=100))
def test_bytes_that_are_no_message(hostile: Site, raw: bytes) -> None:
    assert hostile.channel is not None
    for method in ("Delivery/Open", "Delivery/Commit", "Assignments/Report", "Assignments/Renew"):
        survives(lambda m=method: hostile.channel.unary_unary(f"/corsia.v1.{m}")(raw, timeout=60))  # type: ignore[union-attr]
    survives(lambda: hostile.channel.stream_unary("/corsia.v1.Delivery/Upload")(iter([raw]), timeout=60))  # type: ignore[union-attr]
    survives(lambda: hostile.channel.unary_stream("/corsia.v1.Models/Fetch")(raw, timeout=60))  # type: ignore[union-attr]


def test_a_message_that_does_not_parse_has_our_code(hostile: Site) -> None:
    assert hostile.channel is not None
    with refused("input.message", grpc.StatusCode.INVALID_ARGUMENT):
        hostile.channel.unary_unary("/corsia.v1.Delivery/Open")(b"\xff\xff\xff", timeout=60)


def test_garbage_in_enrolment(centre: Centre) -> None:
    address, ca = centre.config.gateway.enrolment_address, (centre.config.state_dir / "signer" / "ca.pem").read_bytes()
    with grpc.secure_channel(address, grpc.ssl_channel_credentials(ca)) as channel:
        stub = rpc.EnrolmentStub(channel)
        for values in (
            {},
            {"site": "Site A"},
            {"site": "site-a", "secret": b"x" * 24, "csr_der": b"x", "identity_public": b"x", "signature": b"x"},
            {"site": "site-a", "secret": b"x" * 25, "csr_der": b"x", "identity_public": b"x", "signature": b"x"},
            {"site": "site-a\n", "secret": b"x" * 24, "csr_der": b"x" * 20_000},
        ):
            survives(lambda v=values: stub.Enrol(pb.EnrolRequest(**v), timeout=60))
        for method in ("Delivery/Open", "Assignments/Report"):  # the enrolment port offers nothing else
            with pytest.raises(grpc.RpcError, check=lambda e: e.code() is grpc.StatusCode.UNIMPLEMENTED):
                channel.unary_unary(f"/corsia.v1.{method}")(b"", timeout=60)

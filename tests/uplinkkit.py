"""A small centre for tests of the uplink: real TLS, real gRPC, the four servicers, and ways to misbehave."""

from __future__ import annotations

import hashlib
import ipaddress
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge.identity import Identity, enrol
from edge.spool import SpoolEntry
from privacy.envelope import PublicKey, SecretKey
from protocol.trust import JoinCode, Purpose, TrustBundle, site_uri
from protocol.v1 import fleet_pb2 as pb
from protocol.v1 import fleet_pb2_grpc as rpc

PEM = serialization.Encoding.PEM
DER = serialization.Encoding.DER
STUDY = "ab" * 32


class Authority:
    """A certificate authority with the lives of its certificates as the test wants them."""

    def __init__(self, name: str = "test CA") -> None:
        self.name = name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = self._issue(name, self.key.public_key(), [], ca=True)
        self.pem = self.certificate.public_bytes(PEM)
        self.pin = hashlib.sha256(self.certificate.public_bytes(DER)).digest()

    def server(self, **life: timedelta) -> tuple[bytes, bytes]:
        """(key, chain with the CA) for 127.0.0.1 and localhost."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
        return _pem(key), self._issue("server", key.public_key(), names, **life).public_bytes(PEM) + self.pem

    def site(self, site: str, public: Any, life: timedelta = timedelta(days=7), ago: timedelta | None = None) -> bytes:
        """A site's chain, leaf first."""
        names = [x509.UniformResourceIdentifier(site_uri(site))]
        return self._issue(site, public, names, life=life, ago=ago).public_bytes(PEM) + self.pem

    def _issue(
        self,
        name: str,
        public: Any,
        names: list[Any],
        *,
        ca: bool = False,
        life: timedelta = timedelta(days=7),
        ago: timedelta | None = None,
    ) -> x509.Certificate:
        start = datetime.now(UTC) - (ago or timedelta(minutes=1))
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        subject = issuer if ca else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().issuer_name(issuer).subject_name(subject).public_key(public)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
        builder = builder.not_valid_after(start + life)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


@dataclass
class Parcel:
    """A parcel as the fake centre has it."""

    request: pb.OpenRequest
    data: bytearray = field(default_factory=bytearray)
    index: int | None = None


@dataclass
class Centre:
    """State and misbehaviour of a test centre. `hostile` maps a place to what happens there."""

    authority: Authority = field(default_factory=Authority)
    study_key: SecretKey = field(default_factory=SecretKey.generate)
    other_key: SecretKey = field(default_factory=SecretKey.generate)
    secret: bytes = b"s" * 24
    parcels: dict[str, Parcel] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    assignments: list[pb.Assignment] = field(default_factory=list)
    reports: list[pb.SiteReport] = field(default_factory=list)
    enrolled: list[pb.EnrolRequest] = field(default_factory=list)
    uploads: list[int] = field(default_factory=list)  # offset at which each upload began
    commits: int = 0
    hostile: dict[str, Any] = field(default_factory=dict)
    hold_open: bool = False
    servers: list[grpc.Server] = field(default_factory=list)
    fleet: str = ""
    enrolment: str = ""
    life: timedelta = timedelta(days=7)
    ago: timedelta | None = None

    def start(self, port: int = 0) -> Centre:
        key, chain = self.authority.server()
        credentials = grpc.ssl_server_credentials(((key, chain),), self.authority.pem, require_client_auth=True)
        server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        rpc.add_AssignmentsServicer_to_server(_Assignments(self), server)
        rpc.add_DeliveryServicer_to_server(_Delivery(self), server)
        rpc.add_ModelsServicer_to_server(_Models(self), server)
        self.fleet = f"127.0.0.1:{server.add_secure_port(f'127.0.0.1:{port}', credentials)}"
        server.start()
        door = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        rpc.add_EnrolmentServicer_to_server(_Enrolment(self), door)
        plain = grpc.ssl_server_credentials(((key, chain),))
        self.enrolment = f"127.0.0.1:{door.add_secure_port('127.0.0.1:0', plain)}"
        door.start()
        self.servers = [server, door]
        return self

    def stop(self) -> None:
        self.hold_open = False
        for server in self.servers:
            server.stop(grace=0).wait()

    def code(self, site: str = "site-a", **changes: Any) -> str:
        value = {
            "site": site,
            "ca": self.authority.pin,
            "study_key": bytes.fromhex(self.study_key.public.fingerprint),
            "secret": self.secret,
            "enrolment": self.enrolment,
            "fleet": self.fleet,
        }
        return JoinCode(**{**value, **changes}).encode()

    def bundle(self) -> TrustBundle:
        other = self.other_key.public.to_base64()
        return TrustBundle(
            ca_pem=self.authority.pem.decode(),
            study_key=self.study_key.public.to_base64(),
            publication_key=other,
            log_key=other,
            log_origin="test/log",
        )

    def enrol(self, state_dir: Path, site: str = "site-a") -> Identity:
        return enrol(site, state_dir, self.code(site))


def _abort(context: grpc.ServicerContext, code: str, status: grpc.StatusCode) -> None:
    context.set_trailing_metadata((("corsia-code", code),))
    context.abort(status, "refused")


class _Enrolment(rpc.EnrolmentServicer):
    def __init__(self, centre: Centre) -> None:
        self.centre = centre

    def Enrol(self, request: pb.EnrolRequest, context: grpc.ServicerContext) -> pb.EnrolReply:
        centre = self.centre
        if request.secret != centre.secret:
            _abort(context, "auth.join-code", grpc.StatusCode.UNAUTHENTICATED)
        PublicKey.from_bytes(request.identity_public).verify(Purpose.ENROL, request.csr_der, request.signature)
        csr = x509.load_der_x509_csr(request.csr_der)
        assert csr.is_signature_valid
        centre.enrolled.append(request)
        public = centre.hostile.get("leaf-key", csr.public_key())
        authority = centre.hostile.get("leaf-ca", centre.authority)
        chain = authority.site(centre.hostile.get("leaf-site", request.site), public, centre.life, centre.ago)
        trust = centre.hostile.get("trust", centre.bundle().to_bytes())
        signer = centre.hostile.get("trust-signer", centre.study_key)
        return pb.EnrolReply(
            certificate_pem=centre.hostile.get("chain", chain),
            trust=trust,
            trust_signature=signer.sign(Purpose.TRUST, trust),
        )


class _Assignments(rpc.AssignmentsServicer):
    def __init__(self, centre: Centre) -> None:
        self.centre = centre

    def Watch(self, request: pb.WatchRequest, context: grpc.ServicerContext) -> Iterator[pb.Assignment]:
        if "watch" in self.centre.hostile:
            _abort(context, *self.centre.hostile["watch"])
        yield from list(self.centre.assignments)
        while self.centre.hold_open and context.is_active():
            time.sleep(0.01)

    def Report(self, request: pb.SiteReport, context: grpc.ServicerContext) -> pb.ReportReply:
        if "report" in self.centre.hostile:
            self.centre.hostile["report"](context)
        self.centre.reports.append(request)
        return pb.ReportReply(server_time=1234.5)

    def Renew(self, request: pb.RenewRequest, context: grpc.ServicerContext) -> pb.RenewReply:
        key = PublicKey.from_bytes(self.centre.enrolled[-1].identity_public)
        key.verify(Purpose.RENEW, request.csr_der, request.signature)
        csr = x509.load_der_x509_csr(request.csr_der)
        site = self.centre.hostile.get("leaf-site", self.centre.enrolled[-1].site)
        return pb.RenewReply(certificate_pem=self.centre.authority.site(site, csr.public_key()))


class _Delivery(rpc.DeliveryServicer):
    def __init__(self, centre: Centre) -> None:
        self.centre = centre
        self.lock = threading.Lock()

    def Landed(self, request: pb.LandedRequest, context: grpc.ServicerContext) -> pb.LandedReply:
        """As a centre of an earlier version, which says nothing of its log at heartbeats either."""
        if "landed" not in self.centre.hostile:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "")
        return self.centre.hostile["landed"]

    def Open(self, request: pb.OpenRequest, context: grpc.ServicerContext) -> pb.OpenReply:
        if "open" in self.centre.hostile:
            return self.centre.hostile["open"](request, context)
        parcel = self.centre.parcels.setdefault(request.parcel_id, Parcel(request))
        return pb.OpenReply(offset=len(parcel.data), committed=parcel.index is not None)

    def Upload(self, messages: Iterator[pb.Chunk], context: grpc.ServicerContext) -> pb.UploadReply:
        parcel: Parcel | None = None
        for message in messages:
            if parcel is None:
                parcel = self.centre.parcels[message.parcel_id]
                self.centre.uploads.append(message.offset)
            assert message.offset == len(parcel.data)
            assert len(message.data) <= 1 << 20
            parcel.data += message.data
            if "upload" in self.centre.hostile:
                self.centre.hostile["upload"](parcel, context)
        return pb.UploadReply(offset=len(parcel.data) if parcel else 0)

    def Commit(self, request: pb.CommitRequest, context: grpc.ServicerContext) -> pb.CommitReply:
        parcel = self.centre.parcels[request.parcel_id]
        digest = hashlib.sha256(parcel.data).hexdigest()
        with self.lock:
            self.centre.commits += 1
            if digest != parcel.request.digest:
                _abort(context, "parcel.truncated", grpc.StatusCode.DATA_LOSS)
            if parcel.index is None:
                parcel.index = sum(p.index is not None for p in self.centre.parcels.values())
        reply = pb.CommitReply(
            parcel_id=request.parcel_id, digest=digest, index=parcel.index, proof=["00" * 32], checkpoint="checkpoint"
        )
        change: Callable[[pb.CommitReply], pb.CommitReply] = self.centre.hostile.get("commit", lambda reply: reply)
        return change(reply)


class _Models(rpc.ModelsServicer):
    def __init__(self, centre: Centre) -> None:
        self.centre = centre

    def Fetch(self, request: pb.FetchRequest, context: grpc.ServicerContext) -> Iterator[pb.Chunk]:
        if "fetch" in self.centre.hostile:
            yield from self.centre.hostile["fetch"](request, context)
            return
        data = self.centre.blobs.get(request.digest)
        if data is None:
            _abort(context, "blob.digest", grpc.StatusCode.NOT_FOUND)
            return
        for at in range(request.offset, len(data), 1 << 20):
            yield pb.Chunk(offset=at, data=data[at : at + (1 << 20)])


def entry(data: bytes, folder: Path, name: str = "0") -> SpoolEntry:
    """A parcel's file as the spool would hand it over (the uplink does not look inside)."""
    path = folder / f"{name}.parcel"
    path.write_bytes(data)
    return SpoolEntry(
        parcel_id=hashlib.sha256(name.encode()).hexdigest()[:32],
        sequence=1,
        assignment_id="assignment-1",
        study_digest=STUDY,
        content_type="records",
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        path=path,
    )


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not repeat within a parcel."""
    block = b"".join(hashlib.sha256(f"{seed}.{i}".encode()).digest() for i in range(-(-size // 32)))
    return block[:size]

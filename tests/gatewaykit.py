"""A centre for tests of gateway and signer: real TLS and gRPC on loopback, with the test holding the study keys."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from central import ipc
from central.config import CentralConfig, load_config, operator_token
from central.gateway.__main__ import Gateway
from central.signer import Signer
from central.store import Store
from corsia.cli.init_central import init_central
from corsia.fleet import free_port
from edge.uplink import Uplink
from privacy.envelope import ParcelInfo, SecretKey, new_parcel_id, seal
from protocol.assignment import Assignment
from protocol.errors import UnavailableError
from protocol.parcel import Receipt
from protocol.trust import JoinCode, Purpose
from protocol.v1 import fleet_pb2 as pb
from protocol.v1 import fleet_pb2_grpc as rpc

STUDY = {
    "schema": 1,
    "id": "lung",
    "title": "Lung features",
    "lane": "extract",
    "purpose": "research",
    "legal_basis": "consent",
    "controller": "A hospital",
    "ethics_reference": "EC 1",
    "sites": ["site-a"],
    "dataset": {"name": "lung", "columns": ["age"]},
    "pipeline": {"name": "extract"},
    "output": {"columns": [{"name": "age", "dtype": "int"}]},
}


def draft(**changes: Any) -> str:
    """A study's TOML as a researcher writes it."""
    return "expires = 2099-01-01T00:00:00Z\n" + tomli_w.dumps(STUDY | changes)


TRAINING = {
    "lane": "train",
    "pipeline": {"name": "train"},
    "training": {"learner": "survival", "features": ["age"], "outcome": ["time"], "publish": {"model": "lung-model"}},
}


def eventually(check: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Poll until `check` gives something true. The bound is no measure: the machine may be busy."""
    until = time.monotonic() + timeout_s
    while not (value := check()):
        assert time.monotonic() < until, "not in time"
        time.sleep(0.01)
    return value


def at_free_ports(path: Path) -> None:
    """Give a centre's configuration free ports, all at once: one may have the digits of another's default in it."""
    text = re.sub(r"(?<=port = )(7443|7444|7480)\b", lambda _default: str(free_port()), path.read_text())
    path.write_text(text)


def first(uplink: Uplink) -> Assignment:
    """The first assignment of a hospital's own uplink; a machine with much else to do may need a while to connect."""
    until = time.monotonic() + 60
    while True:
        try:
            stream = uplink.watch()
            assignment = next(stream)
            stream.close()  # type: ignore[attr-defined]
            return assignment
        except UnavailableError:
            assert time.monotonic() < until, "not in time"


def code_of(error: grpc.RpcError) -> str:
    return next((str(m.value) for m in error.trailing_metadata() or () if m.key == "corsia-code"), "")


@dataclass
class Site:
    """A hospital's side, reduced to keys and stubs."""

    name: str
    key: SecretKey = field(default_factory=SecretKey.generate)
    tls: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    chain: bytes = b""
    ca: bytes = b""
    channel: grpc.Channel | None = None
    timeout_s: float = 60.0  # of a short call; twice as long where bytes are moved or verified

    def csr(self) -> bytes:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        return (
            x509.CertificateSigningRequestBuilder().subject_name(name).sign(self.tls, hashes.SHA256())
        ).public_bytes(Encoding.DER)

    def tls_key(self) -> bytes:
        return self.tls.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def connect(self, address: str) -> Site:
        credentials = grpc.ssl_channel_credentials(self.ca, self.tls_key(), self.chain)
        self.channel = grpc.secure_channel(
            address, credentials, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        )
        self.assignments = rpc.AssignmentsStub(self.channel)
        self.delivery = rpc.DeliveryStub(self.channel)
        self.models = rpc.ModelsStub(self.channel)
        return self

    def close(self) -> None:
        if self.channel is not None:
            self.channel.close()

    def watch(self) -> Any:
        return self.assignments.Watch(pb.WatchRequest(version="1"), timeout=120)

    def first(self) -> pb.Assignment:
        """The first assignment of a new stream."""
        call = self.watch()
        try:
            return next(call)
        finally:
            call.cancel()

    def parcel(
        self, study: str, recipient: SecretKey, data: bytes = b"payload", content_type: str = "features", **info: Any
    ) -> Parcel:
        values = {"parcel_id": new_parcel_id(), "study": study, "site": self.name, "content_type": content_type}
        target = io.BytesIO()
        made = ParcelInfo(**(values | info))
        seal([data], target, info=made, recipients=[recipient.public], signer=self.key)
        return Parcel(made.parcel_id, study, content_type, target.getvalue())

    def open(self, parcel: Parcel, assignment: str, **changes: Any) -> pb.OpenReply:
        values = {
            "parcel_id": parcel.id,
            "study_digest": parcel.study,
            "content_type": parcel.content_type,
            "size_bytes": len(parcel.raw),
            "digest": parcel.digest,
            "assignment_id": assignment,
        }
        return self.delivery.Open(pb.OpenRequest(**(values | changes)), timeout=self.timeout_s)

    def upload(self, parcel: Parcel, offset: int = 0, until: int | None = None, step: int = 1 << 20) -> pb.UploadReply:
        end = len(parcel.raw) if until is None else until

        def chunks() -> Iterator[pb.Chunk]:
            for at in range(offset, end, step):
                yield pb.Chunk(parcel_id=parcel.id, offset=at, data=parcel.raw[at : min(end, at + step)])

        return self.delivery.Upload(chunks(), timeout=2 * self.timeout_s)

    def commit(self, parcel: Parcel) -> Receipt:
        reply = self.delivery.Commit(pb.CommitRequest(parcel_id=parcel.id), timeout=2 * self.timeout_s)
        return Receipt(
            parcel_id=reply.parcel_id,
            digest=reply.digest,
            index=reply.index,
            proof=tuple(reply.proof),
            checkpoint=reply.checkpoint,
        )

    def deliver(self, parcel: Parcel, assignment: str) -> Receipt:
        opened = self.open(parcel, assignment)
        if not opened.committed and opened.offset < len(parcel.raw):
            self.upload(parcel, opened.offset)
        return self.commit(parcel)


@dataclass
class Parcel:
    id: str
    study: str
    content_type: str
    raw: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()


class Centre:
    """Signer and key holders in this process; the gateway here or as a process of its own."""

    def __init__(self, root: Path, *, fresh: bool = True) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.path = root / "central.toml"
        if fresh:
            init_central(self.path, as_json=True)
            at_free_ports(self.path)
        self.config: CentralConfig = load_config(self.path)
        self.keys: dict[str, SecretKey] = {}
        self.store = Store(self.config.state_dir)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._gateway_stop = threading.Event()
        self._gateway: threading.Thread | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._serve("signer", Signer(self.config).handlers)
        for role, method in (("vault", "new_study_key"), ("federation", "new_run_key")):
            self._serve(role, {method: lambda p: {"key": self._key(p["study"]).public.to_base64()}})

    def _key(self, study: str) -> SecretKey:
        return self.keys.setdefault(study, SecretKey.generate())

    def _serve(self, name: str, handlers: dict[str, ipc.Handler]) -> None:
        path = self.config.socket(name)
        thread = threading.Thread(target=ipc.serve, args=(path, handlers, self._stop), daemon=True)
        thread.start()
        self._threads.append(thread)
        eventually(lambda: self._up(name))

    def _up(self, name: str) -> bool:
        try:
            return bool(ipc.call(self.config.socket(name), "ping", timeout_s=1.0))
        except Exception:
            return False

    # --- the gateway

    def start(self) -> Centre:
        """Run the gateway in this process."""
        self._gateway_stop = threading.Event()
        self.gateway = Gateway(self.config, self._gateway_stop)
        self._gateway = threading.Thread(target=self.gateway.run, daemon=True)
        self._gateway.start()
        eventually(lambda: self._up("gateway"))
        return self

    def stop(self) -> None:
        """Stop the gateway."""
        self._gateway_stop.set()
        if self._gateway is not None:
            self._gateway.join(60)
            self._gateway = None

    def spawn(self, faults: str = "") -> subprocess.Popen[bytes]:
        """Run the gateway as a process; returns when it answers."""
        environment = {k: v for k, v in os.environ.items() if k != "CORSIA_FAULTS"}
        command = [sys.executable, "-m", "central.gateway", "--config", str(self.path)]
        extra = {"CORSIA_FAULTS": faults} if faults else {}
        self.process = subprocess.Popen(command, env=environment | extra)
        eventually(lambda: self._up("gateway"), 120)
        return self.process

    def close(self) -> None:
        self.stop()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        self.store.engine.dispose()

    # --- what an operator does

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return ipc.call(self.config.socket("signer"), method, 60.0, token=operator_token(self.config), **params)

    def invite(self, site: str) -> JoinCode:
        return JoinCode.decode(self.ask("invite", site=site)["code"])

    def submit(self, text: str | None = None) -> str:
        return str(self.ask("submit", draft=text or draft())["digest"])

    def enrol(self, name: str, code: JoinCode | None = None, **changes: Any) -> Site:
        """Enrol over the enrolment port and connect to the fleet port."""
        code = code or self.invite(name)
        site = Site(name, ca=(self.config.state_dir / "signer" / "ca.pem").read_bytes())
        csr = site.csr()
        values = {
            "site": name,
            "secret": code.secret,
            "csr_der": csr,
            "identity_public": site.key.public.to_bytes(),
            "signature": site.key.sign(Purpose.ENROL, csr),
        }
        with grpc.secure_channel(code.enrolment, grpc.ssl_channel_credentials(site.ca)) as channel:
            reply = rpc.EnrolmentStub(channel).Enrol(pb.EnrolRequest(**(values | changes)), timeout=60)
        site.chain = reply.certificate_pem
        self.trust, self.trust_signature = reply.trust, reply.trust_signature
        return site.connect(self.config.gateway.fleet_address)


@contextmanager
def running(root: Path, *, gateway: bool = True) -> Iterator[Centre]:
    centre = Centre(root)
    try:
        yield centre.start() if gateway else centre
    finally:
        centre.close()

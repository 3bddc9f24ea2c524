"""Records what an agent of this version says on the wire: `python -m tests.vectors.make_wire VERSION`.

Run once for each minor release, from the release itself, and never again: `tests/integration/test_recorded_agent.py`
replays the bytes to every later gateway. The keys are of no site and of no use.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from google.protobuf.message import Message

from privacy.envelope import ParcelInfo, SecretKey, seal
from protocol.study import parse_study, study_digest
from protocol.trust import Purpose
from protocol.v1 import fleet_pb2 as pb
from tests.gatewaykit import draft

SITE = "site-a"
ASSIGNMENT = "a" * 32


def text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def recording(version: str) -> dict[str, object]:
    identity, study_key = SecretKey.generate(), SecretKey.generate()
    tls = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, SITE)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(tls, hashes.SHA256())
    der, secret, blob = csr.public_bytes(Encoding.DER), b"recorded-secret-24-bytes", b"a round's message"
    document = (draft() + f'\n[[recipients]]\nrole = "vault"\nkey = "{study_key.public.to_base64()}"\n').encode()
    assert parse_study(document)
    digest, parcels = study_digest(document), []
    for number in (1, 2):
        target = io.BytesIO()
        info = ParcelInfo(parcel_id=f"{number}" * 32, study=digest, site=SITE, content_type="features")
        seal([b"rows" * 100], target, info=info, recipients=[study_key.public], signer=identity)
        parcels.append(target.getvalue())

    def announced(number: int, data: bytes = b"") -> pb.OpenRequest:
        raw = parcels[number - 1]
        return pb.OpenRequest(
            parcel_id=f"{number}" * 32, study_digest=digest, content_type="features", size_bytes=len(raw),
            digest=hashlib.sha256(raw).hexdigest(), assignment_id=ASSIGNMENT, data=data,
        )  # fmt: skip

    half = len(parcels[1]) // 2
    beat = {"version": version, "spool_parcels": 2, "spool_bytes": 9000, "ledger_head": "b" * 64,
            "journal_head": "c" * 64}  # fmt: skip
    renewal = pb.RenewRequest(csr_der=der, signature=identity.sign(Purpose.RENEW, der))
    steps: list[tuple[str, list[Message], str]] = [
        ("Assignments/Watch", [pb.WatchRequest(version=version)], "Assignment"),
        ("Assignments/Report", [pb.SiteReport(**beat)], "ReportReply"),
        (
            "Assignments/Report",
            [pb.SiteReport(**beat, assignment_id=ASSIGNMENT, state=pb.STATE_RUNNING, counts={"rows": 7})],
            "ReportReply",
        ),
        ("Models/Fetch", [pb.FetchRequest(digest=hashlib.sha256(blob).hexdigest(), offset=2)], "Chunk"),
        ("Delivery/Open", [announced(1, parcels[0])], "OpenReply"),
        ("Delivery/Open", [announced(2)], "OpenReply"),
        (
            "Delivery/Upload",
            [
                pb.Chunk(parcel_id="2" * 32, offset=0, data=parcels[1][:half]),
                pb.Chunk(offset=half, data=parcels[1][half:]),
            ],
            "UploadReply",
        ),
        ("Delivery/Commit", [pb.CommitRequest(parcel_id="2" * 32)], "CommitReply"),
        ("Models/Prove", [pb.ProveRequest(index=0, size=1)], "ProveReply"),
        (
            "Assignments/Report",
            [pb.SiteReport(**beat, assignment_id=ASSIGNMENT, state=pb.STATE_DONE, code="study.late", error_id="ab12")],
            "ReportReply",
        ),
        ("Assignments/Renew", [renewal], "RenewReply"),
    ]
    enrol = pb.EnrolRequest(
        site=SITE, secret=secret, csr_der=der, identity_public=identity.public.to_bytes(),
        signature=identity.sign(Purpose.ENROL, der),
    )  # fmt: skip
    key = tls.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return {
        "version": version,
        "descriptor": text(pb.DESCRIPTOR.serialized_pb),
        "tls_key": text(key),
        "secret": text(secret),
        "enrol": text(enrol.SerializeToString()),
        "study": text(document),
        "assignment": ASSIGNMENT,
        "blob": text(blob),
        "steps": [
            {"method": method, "requests": [text(one.SerializeToString()) for one in requests], "reply": reply}
            for method, requests, reply in steps
        ],
    }


if __name__ == "__main__":
    place = Path(__file__).parent / "wire" / f"{sys.argv[1]}.json"
    with place.open("x") as file:
        json.dump(recording(sys.argv[1]), file, indent=1)

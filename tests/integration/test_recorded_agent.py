"""An agent of an earlier minor version keeps working: its recorded bytes against this gateway, the replies read by its
own recorded schema. What is recorded is never made again (`tests/vectors/make_wire.py`)."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from central.gateway.versions import check_agent
from central.store.models import AssignmentRow, ParcelRow, SiteRow, StudyRow
from privacy.envelope import PublicKey
from privacy.transparency import verify_receipt
from protocol.errors import AuthenticationError
from protocol.parcel import Receipt
from protocol.study import parse_study, study_digest
from protocol.v1 import fleet_pb2 as pb
from tests.gatewaykit import Centre, code_of, running

RECORDINGS = sorted((Path(__file__).parents[1] / "vectors" / "wire").glob("*.json"))
Recording = dict[str, Any]


def raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


@pytest.fixture(params=RECORDINGS, ids=lambda path: path.stem)
def recorded(request: pytest.FixtureRequest) -> Recording:
    return dict(json.loads(request.param.read_text()))


def schema(recorded: Recording) -> descriptor_pb2.FileDescriptorProto:
    return descriptor_pb2.FileDescriptorProto.FromString(raw(recorded["descriptor"]))


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with running(tmp_path / "centre") as made:
        yield made


class OldAgent:
    """Says recorded bytes; knows no message but by its recorded schema."""

    def __init__(self, recorded: Recording) -> None:
        pool = descriptor_pool.DescriptorPool()
        pool.Add(schema(recorded))
        self._pool = pool

    def read(self, name: str, data: bytes) -> Any:
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(f"corsia.v1.{name}")).FromString(data)

    def say(self, channel: grpc.Channel, method: str, requests: list[bytes], reply: str) -> Any:
        """The first reply."""
        path = f"/corsia.v1.{method}"
        if method in ("Assignments/Watch", "Models/Fetch"):
            call = channel.unary_stream(path)(requests[0], timeout=60)
            data = next(call)
            call.cancel()
        elif method == "Delivery/Upload":
            data = channel.stream_unary(path)(iter(requests), timeout=60)
        else:
            data = channel.unary_unary(path)(requests[0], timeout=60)
        return self.read(reply, data)


def prepare(centre: Centre, recorded: Recording) -> None:
    """A centre that has invited the recorded site and assigned it the recorded study."""
    state, document, now = centre.config.state_dir, raw(recorded["study"]), time.time()
    with closing(sqlite3.connect(state / "signer" / "invites.db")) as invites, invites:
        secret = hashlib.sha256(raw(recorded["secret"])).hexdigest()
        invites.execute("INSERT INTO invites VALUES (?, 'site-a', ?, ?, NULL)", (secret, now, now + 600))
    blob, study = centre.store.put_blob("message.bin", raw(recorded["blob"])), parse_study(document)
    named = [{"name": blob.name, "digest": blob.digest, "size_bytes": blob.size_bytes}]
    with centre.store.begin() as session:
        session.add(StudyRow(id=study.id, digest=study_digest(document), lane=study.lane.value, title=study.title,
                             document=document, signature=b"s", created_at=now))  # fmt: skip
        session.flush()
        session.add(AssignmentRow(id=recorded["assignment"], site="site-a", kind="study", created_at=now, blobs=named,
                                  study_digest=study_digest(document), document=document, signature=b"s",
                                  updated_at=now))  # fmt: skip


def connected(centre: Centre, recorded: Recording, agent: OldAgent) -> tuple[grpc.Channel, Any]:
    ca = (centre.config.state_dir / "signer" / "ca.pem").read_bytes()
    local = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(
        centre.config.gateway.enrolment_address, grpc.ssl_channel_credentials(ca), local
    ) as channel:
        enrolled = agent.say(channel, "Enrolment/Enrol", [raw(recorded["enrol"])], "EnrolReply")
    credentials = grpc.ssl_channel_credentials(ca, raw(recorded["tls_key"]), enrolled.certificate_pem)
    return grpc.secure_channel(centre.config.gateway.fleet_address, credentials, local), enrolled


def test_the_recorded_agent_enrols_watches_reports_and_delivers(centre: Centre, recorded: Recording) -> None:
    agent = OldAgent(recorded)
    prepare(centre, recorded)
    channel, enrolled = connected(centre, recorded, agent)
    trust = json.loads(enrolled.trust)
    said = [
        agent.say(channel, step["method"], [raw(one) for one in step["requests"]], step["reply"])
        for step in recorded["steps"]
    ]
    channel.close()
    watched, beat, _running, chunk, whole, opened, uploaded, committed, proved, _done, renewed = said
    assert (watched.id, watched.document) == (recorded["assignment"], raw(recorded["study"]))
    assert abs(beat.server_time - time.time()) < 60
    assert chunk.data == raw(recorded["blob"])[2:]
    assert whole.committed
    assert (opened.offset, opened.committed) == (0, False)
    assert uploaded.offset > 0
    for reply in (whole.receipt, committed):
        receipt = Receipt(parcel_id=reply.parcel_id, digest=reply.digest, index=reply.index, proof=tuple(reply.proof),
                          checkpoint=reply.checkpoint)  # fmt: skip
        verify_receipt(receipt, PublicKey.from_base64(trust["log_key"]), trust["log_origin"])
    assert proved.checkpoint
    assert b"BEGIN CERTIFICATE" in renewed.certificate_pem
    with centre.store.read() as session:
        assert {row.id for row in session.query(ParcelRow)} == {"1" * 32, "2" * 32}
        row = session.query(AssignmentRow).one()
        assert (row.state, row.code, row.error_id, row.counts) == ("done", "study.late", "ab12", {"rows": 7})
        site = session.get(SiteRow, "site-a")
        assert site is not None
        assert (site.version, site.spool_bytes, site.ledger_head) == (recorded["version"], 9000, "b" * 64)


def test_an_agent_that_is_too_old_is_told_so(
    centre: Centre, recorded: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = OldAgent(recorded)
    prepare(centre, recorded)
    channel, _enrolled = connected(centre, recorded, agent)
    major, minor = (int(number) for number in recorded["version"].split(".")[:2])
    monkeypatch.setattr("central.gateway.versions.installed", lambda _name: f"{major}.{minor + 2}.0")
    with pytest.raises(grpc.RpcError) as caught:
        agent.say(channel, "Assignments/Watch", [raw(recorded["steps"][0]["requests"][0])], "Assignment")
    assert code_of(caught.value) == "auth.version"
    site = centre.store.site("site-a")
    assert site is not None
    assert site.version == recorded["version"]
    monkeypatch.setattr("central.gateway.versions.installed", lambda _name: f"{major}.{minor + 1}.9")
    agent.say(channel, "Assignments/Watch", [raw(recorded["steps"][0]["requests"][0])], "Assignment")
    channel.close()


def test_fields_are_only_ever_added(recorded: Recording) -> None:
    """No field, enum value or method of an earlier schema is renumbered, retyped, renamed or gone."""
    old, new = schema(recorded), descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(new)

    def flat(proto: descriptor_pb2.FileDescriptorProto) -> set[tuple[object, ...]]:
        found: set[tuple[object, ...]] = set()
        messages = [(message.name, message) for message in proto.message_type]
        messages += [(f"{outer.name}.{inner.name}", inner) for outer in proto.message_type
                     for inner in outer.nested_type]  # fmt: skip
        for name, message in messages:
            found |= {(name, f.name, f.number, f.type, f.label, f.type_name, f.proto3_optional) for f in message.field}
        for enum in proto.enum_type:
            found |= {(enum.name, value.name, value.number) for value in enum.value}
        for service in proto.service:
            found |= {
                (service.name, m.name, m.input_type, m.output_type, m.client_streaming, m.server_streaming)
                for m in service.method
            }
        return found

    assert flat(old)
    assert flat(old) - flat(new) == set()


@pytest.mark.parametrize(
    ("said", "own", "refused"),
    [
        ("0.1.0", "0.1.0", False),
        ("0.1.0", "0.2.7", False),
        ("0.1.9", "0.3.0", True),
        ("0.9.0", "0.10.0", False),
        ("0.8.5", "0.10.0", True),
        ("1.4.0", "2.0.0", True),
        ("2.0.0", "1.9.0", False),
        ("0.3.0", "0.1.0", False),
        ("1", "0.9.0", False),
        ("", "0.9.0", False),
        ("0.2.0.dev3+g1", "0.3.0", False),
        ("0.1rc1", "0.3.0", True),
    ],
)
def test_one_minor_version_older_is_not_too_old(said: str, own: str, refused: bool) -> None:
    if refused:
        with pytest.raises(AuthenticationError) as caught:
            check_agent(said, own)
        assert caught.value.code == "auth.version"
    else:
        check_agent(said, own)

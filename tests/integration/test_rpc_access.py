"""Every call of fleet.proto against everybody who may not make it: a new call without an entry here fails.

The certificate alone says who calls. For each call: no certificate, another CA's, a revoked one, one that the centre's
own CA made and the signer's register does not have; then an honest neighbour who names what is another site's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from central.signer.authority import Authority
from central.store.models import AssignmentRow, ParcelRow
from protocol.trust import Purpose, site_uri
from protocol.v1 import fleet_pb2 as pb
from protocol.v1 import fleet_pb2_grpc as rpc
from tests.gatewaykit import Centre, Parcel, Site, code_of, draft, running
from tests.integration.test_gateway_access import certified


@dataclass
class World:
    """A centre with two honest sites; `own` is site-a's: a study, its assignment, two parcels, a blob."""

    centre: Centre
    a: Site
    b: Site
    study: str
    assignment: str
    open: Parcel
    landed: Parcel
    blob: str
    theirs: str  # site-b's own assignment, of a study of its own
    their_study: str
    strangers: dict[str, Site]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(tmp_path_factory.mktemp("centre")) as centre:
        a, b = centre.enrol("site-a"), centre.enrol("site-b")
        study, other = centre.submit(), centre.submit(draft(id="other", sites=["site-b"]))
        assignment = a.first().id
        parcels = [a.parcel(study, centre.keys["lung"]) for _ in range(2)]
        a.deliver(parcels[0], assignment)
        a.open(parcels[1], assignment)
        a.upload(parcels[1], until=100)
        blob = centre.store.put_blob("message.bin", b"m" * 100)
        with centre.store.begin() as session:
            values = {"document": b"", "signature": b"", "created_at": 0.0, "updated_at": 0.0, "study_digest": study}
            blobs = [{"name": blob.name, "digest": blob.digest, "size_bytes": blob.size_bytes}]
            session.add(AssignmentRow(id="f" * 32, site="site-a", kind="round", blobs=blobs, **values))
        yield World(
            centre, a, b, study, assignment, parcels[1], parcels[0], blob.digest, b.first().id, other, strangers(centre)
        )


def strangers(centre: Centre) -> dict[str, Site]:
    """Who may make no call at all, whatever they ask for."""
    ca, folder = (centre.config.state_dir / "signer" / "ca.pem").read_bytes(), centre.path.parent
    foreign, nobody = Site("site-a", ca=ca), Site("site-a", ca=ca)
    foreign.chain = Authority(folder / "foreign", "other").certify_site(foreign.csr(), "site-a", 7).pem
    nobody.channel = grpc.secure_channel(
        centre.config.gateway.fleet_address, grpc.ssl_channel_credentials(ca), [("grpc.enable_http_proxy", 0)]
    )
    revoked = centre.enrol("site-r")
    centre.ask("revoke", site="site-r")
    return {
        "no certificate": nobody,
        "another CA": foreign.connect(centre.config.gateway.fleet_address),
        "revoked": revoked,
        "the centre's CA, another site's name": certified(centre, [site_uri("site-a")]),
        "the centre's CA, a name of nobody": certified(centre, [site_uri("site-x")]),
        "the centre's CA, no name": certified(centre, []),
        "the centre's CA, two names": certified(centre, [site_uri("site-a"), site_uri("site-b")]),
    }


REFUSED = {
    "no certificate": "",  # TLS ends before a word
    "another CA": "",
    "revoked": "auth.revoked",
}


def opening(world: World, parcel: Parcel, assignment: str = "", **changes: Any) -> pb.OpenRequest:
    values = {
        "parcel_id": parcel.id, "study_digest": parcel.study, "content_type": parcel.content_type,
        "size_bytes": len(parcel.raw), "digest": parcel.digest, "assignment_id": assignment or world.assignment,
    }  # fmt: skip
    return pb.OpenRequest(**(values | changes))


def mine(world: World, **info: Any) -> Parcel:
    """A parcel that site-b made itself."""
    return world.b.parcel(info.pop("study", world.study), world.centre.keys["lung"], **info)


def renewal(world: World, signer: Site) -> pb.RenewRequest:
    csr = world.b.csr()
    return pb.RenewRequest(csr_der=csr, signature=signer.key.sign(Purpose.RENEW, csr))


def opens(world: World, along: bool) -> Iterator[tuple[str, pb.OpenRequest, str]]:
    """What site-b may not announce, in parts or whole."""
    cases = [
        ("another's assignment", mine(world), world.assignment, "permission.site"),
        ("own assignment of another study", mine(world), world.theirs, "permission.site"),
        ("another's study", mine(world, study=world.their_study), world.assignment, "permission.site"),
        ("no study", mine(world, study="0" * 64), world.theirs, "study.unknown"),
        ("another's open parcel", replace(mine(world), id=world.open.id), world.assignment, "permission.site"),
        ("another's landed parcel", replace(mine(world), id=world.landed.id), world.assignment, "permission.site"),
        ("another's landed parcel, as it is", world.landed, world.assignment, "permission.site"),
    ]
    for name, parcel, assignment, code in cases:
        more = {"data": parcel.raw} if along else {}
        yield name, opening(world, parcel, assignment, **more), code


def carries(world: World) -> Iterator[tuple[str, Any, str]]:
    for name, request, code in opens(world, along=True):
        yield name, pb.CarryRequest(parcels=[request]), code


def chunks(parcel: Parcel) -> Iterator[pb.Chunk]:
    return iter([pb.Chunk(parcel_id=parcel.id, offset=0, data=parcel.raw)])


# What an honest neighbour may not ask: (what, request, code). The reason stands where anybody enrolled may ask.
Cases = Callable[[World], Iterator[tuple[str, Any, str]]]
ACCESS: dict[str, Cases | str] = {
    "Enrolment/Enrol": "on a port of its own, for whoever has a join code: see below",
    "Assignments/Watch": "shows the caller's own: see below",
    "Assignments/Report": lambda w: iter(
        [
            ("another's assignment", pb.SiteReport(assignment_id=w.assignment, state=pb.STATE_DONE), "permission.site"),
            ("no assignment", pb.SiteReport(assignment_id="0" * 32, state=pb.STATE_DONE), "permission.site"),
        ]
    ),
    "Assignments/Renew": lambda w: iter([("by another's identity", renewal(w, w.a), "auth.certificate")]),
    "Delivery/Open": lambda w: iter([*opens(w, along=False), *opens(w, along=True)]),
    "Delivery/Carry": carries,
    "Delivery/Landed": "what is asked for is a place in the log: rows are the caller's own, by its certificate",
    "Delivery/Upload": lambda w: iter(
        [
            ("another's open parcel", chunks(w.open), "permission.site"),
            ("another's landed parcel", chunks(w.landed), "conflict.state"),  # no more open: nothing to write to
        ]
    ),
    "Delivery/Commit": lambda w: iter(
        [
            ("another's open parcel", pb.CommitRequest(parcel_id=w.open.id), "permission.site"),
            ("another's landed parcel", pb.CommitRequest(parcel_id=w.landed.id), "permission.site"),
        ]
    ),
    "Models/Fetch": lambda w: iter(
        [
            ("another's object", pb.FetchRequest(digest=w.blob), "permission.site"),
            ("no object", pb.FetchRequest(digest="0" * 64), "permission.site"),
        ]
    ),
    "Models/Prove": "leaves are random ids and digests of ciphertext; the log is for every site to check",
}
SERVICES = pb.DESCRIPTOR.services_by_name
METHODS = {
    f"{name}/{method.name}": method for name, service in SERVICES.items() for method in service.methods
}  # as the .proto has them


def test_every_call_has_an_entry() -> None:
    assert METHODS.keys() == ACCESS.keys()


def call(channel: grpc.Channel, name: str, request: Any) -> Any:
    """The answer, whole, of a call by its name."""
    method = METHODS[name]
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    types = (lambda m: m.SerializeToString(), getattr(pb, method.output_type.name).FromString)
    answer = getattr(channel, kind)(f"/corsia.v1.{name}", *types)(request, timeout=60)
    return list(answer) if method.server_streaming else answer


def empty(name: str) -> Any:
    method = METHODS[name]
    message = getattr(pb, method.input_type.name)()
    return iter([message]) if method.client_streaming else message


def failed(make: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        make()
    return caught.value


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"Enrolment/Enrol"}))
def test_nobody_without_a_registered_certificate_makes_a_call(world: World, name: str) -> None:
    for who, site in world.strangers.items():
        assert site.channel is not None
        error = failed(lambda site=site: call(site.channel, name, empty(name)))  # type: ignore[misc]
        code = REFUSED.get(who, "auth.certificate")
        expected = grpc.StatusCode.UNAUTHENTICATED if code else grpc.StatusCode.UNAVAILABLE
        assert (who, code_of(error), error.code()) == (who, code, expected)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_each_port_offers_its_own_calls_alone(world: World, name: str) -> None:
    """With the right certificate on the wrong port there is nothing to call."""
    gateway, ca = world.centre.config.gateway, grpc.ssl_channel_credentials(world.a.ca)
    if name == "Enrolment/Enrol":
        error = failed(lambda: call(world.a.channel, name, empty(name)))  # type: ignore[arg-type]
    else:
        with grpc.secure_channel(gateway.enrolment_address, ca, [("grpc.enable_http_proxy", 0)]) as channel:
            error = failed(lambda: call(channel, name, empty(name)))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", sorted(name for name, cases in ACCESS.items() if not isinstance(cases, str)))
def test_a_neighbour_gets_nothing_of_another_site(world: World, name: str) -> None:
    cases = ACCESS[name]
    assert not isinstance(cases, str)
    before = state(world)
    for what, request, code in cases(world):
        if name == "Delivery/Carry":
            (outcome,) = call(world.b.channel, name, request).parcels  # type: ignore[arg-type]
            assert (what, outcome.code, outcome.HasField("receipt")) == (what, code, False)
        else:
            error = failed(lambda request=request: call(world.b.channel, name, request))  # type: ignore[misc,arg-type]
            assert (what, code_of(error)) == (what, code)
        assert state(world) == before, what


def state(world: World) -> Any:
    """What of site-a's a neighbour could have touched."""
    folder = world.centre.config.state_dir / "landing" / "partial"
    with world.centre.store.read() as session:
        rows = [(row.id, row.state, row.site) for row in session.query(AssignmentRow)]
        landed = [row.id for row in session.query(ParcelRow)]
    return rows, landed, {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stream_shows_the_callers_own_assignments(world: World) -> None:
    stream = world.b.watch()
    assert next(stream).id == world.theirs
    world.centre.submit(draft(id=f"a-{secrets.token_hex(4)}"))  # for site-a alone
    own = world.centre.submit(draft(id=f"b-{secrets.token_hex(4)}", sites=["site-b"]))
    assert next(stream).study_digest == own
    stream.cancel()


def test_an_enrolment_is_for_the_site_that_the_code_names(world: World, tmp_path: Path) -> None:
    code = world.centre.invite("site-n")
    for site, changes, expected in (
        ("site-a", {}, "auth.join-code"),  # a code for another name does not take an enrolled site over
        ("site-n", {"secret": bytes(24)}, "auth.join-code"),
        ("site-n", {"signature": bytes(3373)}, "auth.certificate"),
    ):
        error = failed(lambda site=site, changes=changes: world.centre.enrol(site, code, **changes))  # type: ignore[misc]
        assert code_of(error) == expected
    rpc.AssignmentsStub(world.a.channel).Report(pb.SiteReport(version="1"), timeout=60)  # type: ignore[arg-type]
    assert world.centre.store.site("site-n") is None

"""The hospital's own uplink against the real gateway and signer: both ends of the wire together."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from central.store.models import AssignmentRow
from edge.identity import Identity, enrol, renew
from edge.spool import SpoolEntry
from edge.uplink import Uplink
from privacy.envelope import PublicKey
from privacy.inclusion import Seen, hashes, verify_published
from privacy.transparency import open_checkpoint, verify_consistency, verify_inclusion, verify_receipt
from protocol.assignment import SiteReport, State
from protocol.errors import AuthenticationError, InputError, IntegrityError, PermissionRefused, UnavailableError
from protocol.parcel import Receipt
from protocol.trust import JoinCode, Purpose
from tests.gatewaykit import Centre, Parcel, Site, draft, eventually, first, running


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with running(tmp_path / "centre") as made:
        yield made


def enrolled(centre: Centre, folder: Path) -> Identity:
    return enrol("site-a", folder, centre.ask("invite", site="site-a")["code"])


def entry(parcel: Parcel, assignment: str) -> SpoolEntry:
    return SpoolEntry(
        parcel_id=parcel.id,
        sequence=1,
        assignment_id=assignment,
        study_digest=parcel.study,
        content_type=parcel.content_type,
        digest=parcel.digest,
        size_bytes=len(parcel.raw),
        path=Path("unused"),
    )


def report(**values: object) -> SiteReport:
    return SiteReport(  # type: ignore[arg-type]
        version="0.1.0", paused=False, spool_parcels=0, spool_bytes=0, ledger_head="", journal_head="a" * 64, **values
    )


def test_the_whole_way(centre: Centre, tmp_path: Path) -> None:
    identity = enrolled(centre, tmp_path / "edge")
    centre.submit()
    uplink = Uplink(identity)
    assignment = first(uplink)
    PublicKey.from_base64(identity.trust.study_key).verify(Purpose.STUDY, assignment.document, assignment.signature)
    site = Site("site-a", key=identity.key)
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"], b"x" * 5_000_000)
    sent = entry(parcel, assignment.id)
    receipt = uplink.deliver(sent, io.BytesIO(parcel.raw), lambda: False)
    verify_receipt(receipt, PublicKey.from_base64(identity.trust.log_key), identity.trust.log_origin)
    assert uplink.deliver(sent, io.BytesIO(parcel.raw), lambda: False).index == receipt.index
    with pytest.raises(PermissionRefused):
        uplink.report(report(assignment_id="0" * 32, state=State.DONE))
    assert uplink.report(
        report(assignment_id=assignment.id, state=State.DONE, counts={"withheld_small-class": 2})
    ).server_time
    with centre.store.read() as session:
        assert session.query(AssignmentRow).one().state == "done"
    bad = site.parcel(assignment.study_digest, centre.keys["lung"])
    bad.raw = bad.raw[:-1] + b"?"
    with pytest.raises(IntegrityError, match=r"parcel\.signature"):
        uplink.deliver(entry(bad, assignment.id), io.BytesIO(bad.raw), lambda: False)
    uplink.close()


def test_objects_renewal_and_revocation(centre: Centre, tmp_path: Path) -> None:
    identity = enrolled(centre, tmp_path / "edge")
    digest = centre.submit()
    blob = centre.store.put_blob("message.bin", b"m" * 3_000_000)
    with centre.store.begin() as session:
        values = {"document": b"", "signature": b"", "created_at": 0.0, "updated_at": 0.0, "study_digest": digest}
        blobs = [{"name": blob.name, "digest": blob.digest, "size_bytes": blob.size_bytes}]
        session.add(AssignmentRow(id="f" * 32, site="site-a", kind="round", blobs=blobs, **values))
    uplink = Uplink(identity)
    assert uplink.fetch(blob) == b"m" * 3_000_000
    renewed = renew(identity, uplink.renew)
    assert renewed.serial != identity.serial
    uplink.close()
    uplink = Uplink(renewed)
    ended: list[Exception] = []

    def watch() -> None:
        try:
            for _ in uplink.watch():
                pass
        except AuthenticationError as error:
            ended.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    eventually(lambda: bool(centre.store.site("site-a").last_seen))  # type: ignore[union-attr]
    centre.ask("revoke", site="site-a")
    thread.join(60)
    assert [e.code for e in ended] == ["auth.revoked"]  # type: ignore[attr-defined]
    with pytest.raises(AuthenticationError, match=r"auth\.revoked"):
        uplink.report(report())
    uplink.close()


def test_join_codes_at_the_edge(centre: Centre, tmp_path: Path) -> None:
    code = centre.ask("invite", site="site-a")["code"]
    enrol("site-a", tmp_path / "one", code)
    with pytest.raises(AuthenticationError, match=r"auth\.join-code"):
        enrol("site-a", tmp_path / "two", code)
    value = JoinCode.decode(centre.ask("invite", site="site-a")["code"])
    fields = {name: getattr(value, name) for name in value.__slots__}
    for pinned in ("ca", "study_key"):
        wrong = JoinCode(**{**fields, pinned: bytes(32)}).encode()
        with pytest.raises(AuthenticationError, match=r"auth\.fingerprint"):
            enrol("site-a", tmp_path / pinned, wrong)


def test_a_restarted_gateway_is_found_again(centre: Centre, tmp_path: Path) -> None:
    identity = enrolled(centre, tmp_path / "edge")
    centre.submit()
    uplink = Uplink(identity)
    assert first(uplink)
    stream = uplink.watch()
    next(stream)
    centre.stop()
    with pytest.raises(UnavailableError):
        next(stream)
    centre.start()
    later = centre.submit(draft(id="later"))

    def again() -> bool:
        try:
            stream = uplink.watch()
            return later in {next(stream).study_digest, next(stream).study_digest}
        except UnavailableError:
            return False

    eventually(again)
    uplink.close()


def test_a_site_gets_proofs_of_what_is_in_the_log_and_of_its_growth(centre: Centre, tmp_path: Path) -> None:
    identity = enrolled(centre, tmp_path / "edge")
    centre.submit()
    uplink = Uplink(identity)
    with centre.store.begin() as session:  # as the signer and the federation append: without a checkpoint
        model = centre.store.append_leaf(session, b"a model")
    key, origin = identity.log_key, identity.trust.log_origin
    first_seen = verify_published(uplink.prove(model, 0), b"a model", model, None, key, origin)
    with centre.store.begin() as session:
        for _ in range(20):
            centre.store.append_leaf(session, b"more")
        last = centre.store.append_leaf(session, b"another")
    seen = Seen(size=first_seen.size, root=first_seen.root)
    newest = verify_published(uplink.prove(last, seen.size), b"another", last, seen, key, origin)
    assert newest.size == last + 1 > seen.size
    grown = uplink.prove(0, seen.size, newest.size)
    assert (grown.checkpoint, grown.inclusion) == ("", ())
    verify_consistency(seen.size, newest.size, seen.root, newest.root, hashes(grown.consistency))
    for index, size, to in ((last + 1, 0, 0), (0, last + 2, 0), (0, 0, last + 2), (0, 5, 4)):
        with pytest.raises(IntegrityError, match=r"log\.proof"):
            uplink.prove(index, size, to)
    with pytest.raises(InputError):
        uplink.prove(2**63, 0)
    uplink.close()


def test_what_has_landed_is_told_to_its_site_alone(
    centre: Centre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages with proofs, signed documents and the last heads; what a site on hold says does not erase these."""
    identity = enrolled(centre, tmp_path / "edge")
    other = centre.enrol("site-b")
    centre.submit(draft(sites=["site-a", "site-b"]))
    uplink, site = Uplink(identity), Site("site-a", key=identity.key)
    assignment = first(uplink)
    uplink.report(replace(report(), ledger_head="b" * 64))
    theirs = other.first()
    other.deliver(other.parcel(theirs.study_digest, centre.keys["lung"]), theirs.id)
    sent = []
    for _ in range(3):
        parcel = site.parcel(assignment.study_digest, centre.keys["lung"])
        uplink.deliver(entry(parcel, assignment.id), io.BytesIO(parcel.raw), lambda: False)
        sent.append(parcel)
    uplink.report(report(assignment_id=assignment.id, state=State.DONE))
    uplink.report(replace(report(), ledger_head="", journal_head=""))
    monkeypatch.setattr("central.gateway.landed.PAGE", 2)
    pages = [uplink.landed(0)]
    while pages[-1].more:
        pages.append(uplink.landed(pages[-1].parcels[-1].index + 1))
    assert [len(page.parcels) for page in pages] == [2, 1]
    found = [parcel for page in pages for parcel in page.parcels]
    assert [(p.parcel_id, p.digest, p.size_bytes) for p in found] == [(p.id, p.digest, len(p.raw)) for p in sent]
    assert all((p.assignment_id, p.content_type, p.done) == (assignment.id, "features", True) for p in found)
    for page in pages:
        shown = open_checkpoint(page.checkpoint, identity.log_key, identity.trust.log_origin)
        for one in page.parcels:
            leaf = Receipt.leaf(one.parcel_id, one.digest)
            verify_inclusion(leaf, one.index, shown.size, hashes(one.proof), shown.root)
        assert [(a.id, a.document, a.signature) for a in page.assignments] == [
            (assignment.id, assignment.document, assignment.signature)
        ]
        assert (page.ledger_head, page.journal_head) == ("b" * 64, "a" * 64)
    beyond = uplink.landed(1 << 53)
    assert (beyond.parcels, beyond.checkpoint, beyond.more) == ((), "", False)
    assert beyond.ledger_head == "b" * 64
    uplink.close()
    other.close()

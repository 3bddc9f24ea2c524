"""The hospital's own uplink against the real gateway and signer: both ends of the wire together."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from central.store.models import AssignmentRow
from edge.identity import Identity, enrol, renew
from edge.spool import SpoolEntry
from edge.uplink import Uplink
from privacy.envelope import PublicKey
from privacy.transparency import verify_receipt
from protocol.assignment import Assignment, SiteReport, State
from protocol.errors import AuthenticationError, IntegrityError, PermissionRefused, UnavailableError
from protocol.trust import JoinCode, Purpose
from tests.gatewaykit import Centre, Parcel, Site, draft, eventually, running


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with running(tmp_path / "centre") as made:
        yield made


def enrolled(centre: Centre, folder: Path) -> Identity:
    return enrol("site-a", folder, centre.ask("invite", site="site-a")["code"])


def first(uplink: Uplink) -> Assignment:
    stream = uplink.watch()
    try:
        return next(stream)
    finally:
        stream.close()  # type: ignore[attr-defined]


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
    assert uplink.report(report(assignment_id=assignment.id, state=State.DONE, counts={"withheld_small-class": 2})) > 0
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
    thread.join(3)
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

    eventually(again, 15)
    uplink.close()

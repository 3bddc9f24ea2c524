"""The gateway over real mutual TLS: enrol, watch, deliver, receipt; and everything that must be refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import grpc
import pytest

from central.store.models import AssignmentRow, CheckpointRow, EventRow, LogRow, ParcelRow, SiteRow, StudyRow
from privacy.envelope import PublicKey, SecretKey
from privacy.transparency import Tree, open_checkpoint, verify_receipt
from protocol.parcel import Receipt
from protocol.trust import Purpose, TrustBundle
from protocol.v1 import fleet_pb2 as pb
from tests.gatewaykit import TRAINING, Centre, Parcel, Site, code_of, draft, eventually, running


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    with running(tmp_path_factory.mktemp("centre")) as made:
        made.enrol("site-a"), made.enrol("site-b")
        made.submit()
        yield made


@pytest.fixture
def site(centre: Centre) -> Site:
    return centre.enrol("site-a")


def trust(centre: Centre) -> TrustBundle:
    return TrustBundle.from_bytes(centre.trust)


def refused(code: str, status: grpc.StatusCode | None = None):  # type: ignore[no-untyped-def]
    return pytest.raises(grpc.RpcError, check=lambda e: code_of(e) == code and status in (None, e.code()))


def test_enrol_watch_deliver_and_the_receipt_verifies(centre: Centre, site: Site) -> None:
    bundle = trust(centre)
    PublicKey.from_base64(bundle.study_key).verify(Purpose.TRUST, centre.trust, centre.trust_signature)
    assignment = site.first()
    PublicKey.from_base64(bundle.study_key).verify(Purpose.STUDY, assignment.document, assignment.signature)
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"], b"x" * 3_000_000)
    receipt = site.deliver(parcel, assignment.id)
    assert (receipt.parcel_id, receipt.digest) == (parcel.id, parcel.digest)
    assert verify_receipt(receipt, PublicKey.from_base64(bundle.log_key), bundle.log_origin).size > receipt.index
    landed = centre.config.state_dir / "landing" / f"{parcel.id}.parcel"
    assert landed.read_bytes() == parcel.raw
    assert landed.stat().st_mode & 0o077 == 0
    assert list((centre.config.state_dir / "landing" / "partial").iterdir()) == []
    again = site.deliver(parcel, assignment.id)
    assert (again.index, again.digest) == (receipt.index, receipt.digest)
    with centre.store.read() as session:
        row = session.get(ParcelRow, parcel.id)
        assert row is not None
        assert (row.site, row.state, row.content_type) == ("site-a", "landed", "features")


def test_an_assignment_made_later_arrives_on_the_open_stream(centre: Centre, site: Site) -> None:
    call = site.watch()
    first = next(call)
    digest = centre.submit(draft(id="later"))
    second = next(call)
    assert second.study_digest == digest != first.study_digest
    call.cancel()


def test_a_small_parcel_is_one_call_and_a_repeat_gives_the_same_receipt(centre: Centre, site: Site) -> None:
    bundle, assignment = trust(centre), site.first()
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"], b"small")
    opened = site.open(parcel, assignment.id, data=parcel.raw)
    assert (opened.committed, opened.offset) == (True, len(parcel.raw))
    assert (opened.receipt.parcel_id, opened.receipt.digest) == (parcel.id, parcel.digest)
    assert opened.receipt.index == site.commit(parcel).index
    again = site.open(parcel, assignment.id, data=parcel.raw)
    assert (again.committed, again.receipt.index) == (True, opened.receipt.index)
    receipt = Receipt(
        parcel_id=parcel.id, digest=parcel.digest, index=opened.receipt.index, proof=tuple(opened.receipt.proof),
        checkpoint=opened.receipt.checkpoint,
    )  # fmt: skip
    assert verify_receipt(receipt, PublicKey.from_base64(bundle.log_key), bundle.log_origin).size > receipt.index
    assert (centre.config.state_dir / "landing" / f"{parcel.id}.parcel").read_bytes() == parcel.raw


def test_a_parcel_that_comes_along_is_checked_like_any_other(centre: Centre, site: Site) -> None:
    assignment = site.first()
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"], b"small")
    with refused("input.message"):
        site.open(parcel, assignment.id, data=parcel.raw[:-1])
    with refused("parcel.chunk"):
        site.open(parcel, assignment.id, data=parcel.raw[:-1] + bytes([parcel.raw[-1] ^ 1]))
    assert not site.open(parcel, assignment.id).committed
    assert site.deliver(parcel, assignment.id).parcel_id == parcel.id


def test_what_was_sent_in_parts_before_is_completed_by_the_whole(centre: Centre, site: Site) -> None:
    assignment = site.first()
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"], b"begun" * 1000)
    assert site.open(parcel, assignment.id).offset == 0
    part = centre.config.state_dir / "landing" / "partial" / f"{parcel.id}.part"
    part.write_bytes(parcel.raw[:700])
    opened = site.open(parcel, assignment.id, data=parcel.raw)
    assert opened.receipt.parcel_id == parcel.id


def test_an_upload_resumes_where_it_broke(centre: Centre, site: Site) -> None:
    assignment = site.first()
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"], b"y" * 2_500_000)
    assert site.open(parcel, assignment.id).offset == 0
    assert site.upload(parcel, until=1_500_000).offset == 1_500_000
    with refused("conflict.state", grpc.StatusCode.ABORTED):
        site.commit(parcel)
    assert site.open(parcel, assignment.id).offset == 1_500_000
    with refused("conflict.state", grpc.StatusCode.ABORTED):
        site.upload(parcel, offset=1_000_000)
    site.upload(parcel, offset=1_500_000)
    assert site.commit(parcel).digest == parcel.digest


def test_another_digest_for_an_open_id_starts_anew_and_for_a_committed_id_is_refused(
    centre: Centre, site: Site
) -> None:
    assignment = site.first()
    one = site.parcel(assignment.study_digest, centre.keys["lung"], b"one")
    two = site.parcel(assignment.study_digest, centre.keys["lung"], b"two", parcel_id=one.id)
    site.open(one, assignment.id)
    site.upload(one, until=50)
    assert site.open(two, assignment.id).offset == 0
    site.deliver(two, assignment.id)
    with refused("parcel.replay", grpc.StatusCode.DATA_LOSS):
        site.open(one, assignment.id)


class _Later(datetime):
    """The day after tomorrow, for a gateway."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
        return datetime.now(tz) + timedelta(days=2)


def test_nothing_lands_for_a_study_that_has_expired(
    centre: Centre, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = datetime.now(UTC) + timedelta(days=1)
    digest = centre.submit(draft(id="short").replace("2099-01-01T00:00:00Z", soon.isoformat()))
    call = site.watch()
    assignment = next(given for given in call if given.study_digest == digest)
    call.cancel()
    early = site.parcel(digest, centre.keys["short"], b"early")
    late = site.parcel(digest, centre.keys["short"], b"late")
    receipt = site.deliver(early, assignment.id)
    site.open(late, assignment.id)
    site.upload(late)
    monkeypatch.setattr("central.gateway.permits.datetime", _Later)
    with refused("study.expired"):
        site.commit(late)
    assert site.commit(early).index == receipt.index, "what landed in time keeps its receipt"


def test_a_newer_upload_takes_over(centre: Centre, site: Site) -> None:
    assignment = site.first()
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"], b"z" * 300_000)
    site.open(parcel, assignment.id)
    slow = iter([pb.Chunk(parcel_id=parcel.id, data=parcel.raw[:1000])])
    held: list[float] = []

    def chunks() -> Iterator[pb.Chunk]:
        yield next(slow)
        while not held:
            time.sleep(0.02)
        yield pb.Chunk(offset=1000, data=parcel.raw[1000:2000])

    first = site.delivery.Upload.future(chunks(), timeout=120)
    part = centre.config.state_dir / "landing" / "partial" / f"{parcel.id}.part"
    eventually(lambda: part.stat().st_size == 1000)
    assert site.open(parcel, assignment.id).offset == 1000
    site.upload(parcel, offset=1000)
    held.append(1.0)
    with refused("conflict.state"):
        first.result()
    assert site.commit(parcel).digest == parcel.digest


def test_another_site_cannot_touch_a_parcel(centre: Centre, site: Site) -> None:
    assignment = site.first()
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"])
    site.open(parcel, assignment.id)
    other = centre.enrol("site-b")
    for attempt in (
        lambda: other.open(parcel, assignment.id),
        lambda: other.upload(parcel),
        lambda: other.commit(parcel),
    ):
        with refused("permission.site", grpc.StatusCode.PERMISSION_DENIED):
            attempt()
    site.deliver(parcel, assignment.id)
    with refused("permission.site"):
        other.open(parcel, assignment.id)
    with refused("permission.site"):
        other.commit(parcel)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda raw: raw[:-1], "parcel.truncated"),
        (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "parcel.signature"),
        (lambda raw: b"not a parcel at all" * 10, "parcel.format"),
    ],
)
def test_a_broken_parcel_never_lands(centre: Centre, site: Site, damage, code: str) -> None:  # type: ignore[no-untyped-def]
    assignment = site.first()
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"], b"w" * 10_000)
    parcel.raw = damage(parcel.raw)
    with refused(code, grpc.StatusCode.DATA_LOSS):
        site.deliver(parcel, assignment.id)
    landing = centre.config.state_dir / "landing"
    assert not list(landing.rglob(f"{parcel.id}*"))
    with centre.store.read() as session:
        assert session.get(ParcelRow, parcel.id) is None


def test_bytes_other_than_announced_never_land(centre: Centre, site: Site) -> None:
    assignment = site.first()
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"])
    site.open(parcel, assignment.id, digest="0" * 64)
    site.upload(parcel)
    with refused("parcel.chunk"):
        site.commit(parcel)


def test_a_parcel_of_another_context_never_lands(centre: Centre, site: Site) -> None:
    assignment = site.first()
    digest = assignment.study_digest
    for parcel in (
        site.parcel(digest, centre.keys["lung"], site="site-b"),
        site.parcel(digest, SecretKey.generate()),  # sealed to somebody else
        Site("site-a", key=SecretKey.generate()).parcel(digest, centre.keys["lung"]),  # signed by somebody else
    ):
        with pytest.raises(grpc.RpcError) as caught:
            site.deliver(parcel, assignment.id)
        assert code_of(caught.value) in ("parcel.context", "parcel.signature")


def test_what_open_refuses(centre: Centre, site: Site) -> None:
    assignment = site.first()
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"])
    for changes, code in (
        ({"size_bytes": centre.config.limits.max_parcel_bytes + 1}, "permission.size"),
        ({"size_bytes": 0}, "input.message"),
        ({"content_type": "records"}, "parcel.context"),
        ({"content_type": "update"}, "parcel.context"),
        ({"content_type": "other"}, "input.message"),
        ({"study_digest": "0" * 64}, "study.unknown"),
        ({"assignment_id": "0" * 32}, "permission.site"),
        ({"parcel_id": "../" * 10 + "aa"}, "input.message"),
        ({"parcel_id": parcel.id + "\n"}, "input.message"),
        ({"digest": parcel.digest.upper()}, "input.message"),
    ):
        with refused(code):
            site.open(parcel, assignment.id, **changes)
    other = centre.enrol("site-b")  # not in the study
    with refused("permission.site"):
        other.open(other.parcel(parcel.study, centre.keys["lung"]), assignment.id)


def test_an_oversized_message_is_refused_and_the_gateway_lives(centre: Centre, site: Site) -> None:
    with pytest.raises(grpc.RpcError, check=lambda e: e.code() is grpc.StatusCode.RESOURCE_EXHAUSTED):
        site.assignments.Report(pb.SiteReport(version="x" * 9_000_000), timeout=60)
    assert abs(site.assignments.Report(pb.SiteReport(version="1"), timeout=60).server_time - time.time()) < 60


def test_more_than_announced_is_refused(centre: Centre, site: Site) -> None:
    assignment = site.first()
    parcel = site.parcel(assignment.study_digest, centre.keys["lung"])
    site.open(parcel, assignment.id)
    parcel.raw += b"more"
    with refused("input.message"):
        site.upload(parcel)


def test_a_refused_report_loses_no_other_sites_heartbeat(centre: Centre, site: Site) -> None:
    other = centre.enrol("site-b")

    def known() -> int:
        with centre.store.read() as session:
            return session.get_one(SiteRow, "site-b").spool_parcels

    for parcels in (71, 72, 73):  # the gateway's own clock may have written one of them down already
        other.assignments.Report(pb.SiteReport(version="1", spool_parcels=parcels), timeout=60)
        with refused("permission.site"):
            site.assignments.Report(pb.SiteReport(version="1", assignment_id="0" * 32, state=pb.STATE_DONE), timeout=60)
        eventually(lambda wanted=parcels: known() == wanted)


def test_reports_move_only_own_assignments_and_never_back_from_the_end(centre: Centre) -> None:
    centre.submit(draft(id="reported", sites=["site-a", "site-b"]))
    a, b = centre.enrol("site-a"), centre.enrol("site-b")
    with centre.store.read() as session:
        rows = session.query(AssignmentRow).filter(AssignmentRow.study_digest.is_not(None)).all()
    mine = max((r for r in rows if r.site == "site-a"), key=lambda r: r.seq).id

    def report(site: Site, **values: object) -> None:
        site.assignments.Report(pb.SiteReport(version="1", **values), timeout=60)  # type: ignore[arg-type]

    report(a, assignment_id=mine, state=pb.STATE_RUNNING, spool_parcels=2, ledger_head="ab" * 32)
    with refused("permission.site"):
        report(b, assignment_id=mine, state=pb.STATE_DONE)
    report(a, assignment_id=mine, state=pb.STATE_DONE, counts={"withheld.consent": 3})
    report(a, assignment_id=mine, state=pb.STATE_RUNNING)
    with centre.store.read() as session:
        row = session.query(AssignmentRow).filter_by(id=mine).one()
        assert (row.state, row.counts) == ("done", {"withheld.consent": 3})
        assert session.get(SiteRow, "site-a").spool_parcels == 0  # type: ignore[union-attr]
        kinds = [e.fields["state"] for e in session.query(EventRow).filter_by(kind="assignment.state")]
        assert kinds[-2:] == ["running", "done"]
    for bad in (
        {"assignment_id": mine, "state": 99},
        {"assignment_id": mine},
        {"state": pb.STATE_DONE},
        {"assignment_id": mine, "state": pb.STATE_FAILED, "code": "no.such-code"},
        {"assignment_id": mine, "state": pb.STATE_FAILED, "counts": {"rows": -1}},
        {"assignment_id": mine, "state": pb.STATE_FAILED, "counts": {"a b": 1}},
        {"assignment_id": mine, "state": pb.STATE_FAILED, "counts": {f"k{i}": 1 for i in range(65)}},
        {"assignment_id": mine, "state": pb.STATE_FAILED, "error_id": "Rossi Mario"},
        {"journal_head": "Rossi Mario"},
    ):
        with refused("input.message", grpc.StatusCode.INVALID_ARGUMENT):
            report(a, **bad)


def test_fetch_gives_only_what_an_assignment_of_the_site_names(centre: Centre, site: Site) -> None:
    data = bytes(range(256)) * 10_000
    blob = centre.store.put_blob("message.bin", data)
    request = pb.FetchRequest(digest=blob.digest)
    with refused("permission.site"):
        list(site.models.Fetch(request, timeout=60))
    with centre.store.begin() as session:
        row = session.query(AssignmentRow).filter_by(site="site-a").first()
        assert row is not None
        values = {
            "document": b"",
            "signature": b"",
            "created_at": 0.0,
            "updated_at": 0.0,
            "study_digest": row.study_digest,
        }
        blobs = [{"name": blob.name, "digest": blob.digest, "size_bytes": blob.size_bytes}]
        session.add(AssignmentRow(id="f" * 32, site="site-a", kind="round", state="done", blobs=blobs, **values))
    assert b"".join(c.data for c in site.models.Fetch(request, timeout=60)) == data
    rest = list(site.models.Fetch(pb.FetchRequest(digest=blob.digest, offset=1000), timeout=60))
    assert rest[0].offset == 1000
    assert b"".join(c.data for c in rest) == data[1000:]
    with refused("input.message"):
        list(site.models.Fetch(pb.FetchRequest(digest=blob.digest, offset=len(data) + 1), timeout=60))
    with refused("permission.site"):
        list(centre.enrol("site-b").models.Fetch(request, timeout=60))


def test_a_training_update_belongs_to_a_round(centre: Centre, site: Site) -> None:
    digest = centre.submit(draft(id="fl", **TRAINING))
    with centre.store.begin() as session:
        study = session.query(AssignmentRow).filter_by(study_digest=digest).one()
        values = {"document": b"", "signature": b"", "created_at": 0.0, "updated_at": 0.0}
        session.add(AssignmentRow(id="e" * 32, site="site-a", kind="round", study_digest=digest, blobs=[], **values))
    parcel = site.parcel(digest, centre.keys["fl"], content_type="update")
    with refused("parcel.context"):
        site.open(parcel, study.id)
    assert site.deliver(parcel, "e" * 32).digest == parcel.digest


def instructed(centre: Centre, digest: str, number: int, state: str = "received", document: bytes = b"") -> str:
    with centre.store.begin() as session:
        made = f"{digest[:28]}{number:04x}"
        values = {"document": document, "signature": b"", "blobs": [], "created_at": 0.0, "updated_at": 0.0}
        row = AssignmentRow(id=made, site="site-a", kind="round", study_digest=digest, state=state, **values)
        session.add(row)
    return made


def landed(centre: Centre, parcel: Parcel) -> list[str]:
    landing = centre.config.state_dir / "landing"
    return [path.name for path in landing.rglob(f"{parcel.id}.*")]


@pytest.mark.parametrize("state", ["done", "failed", "refused", "expired"])
def test_an_answer_to_a_round_that_is_over_does_not_land(centre: Centre, site: Site, state: str) -> None:
    digest, key = centre.submit(draft(id=f"over-{state}", **TRAINING)), centre.keys[f"over-{state}"]
    early, late, never = (site.parcel(digest, key, content_type="update") for _ in range(3))
    first, second = instructed(centre, digest, 1), instructed(centre, digest, 2)
    receipt = site.deliver(early, first)
    site.open(late, second)
    site.upload(late)
    with centre.store.begin() as session:
        for row in session.query(AssignmentRow).filter_by(study_digest=digest, kind="round"):
            row.state = state
    with refused("study.late"):
        site.commit(late)
    with refused("study.late"):
        site.open(never, second, data=never.raw)
    assert (landed(centre, late), landed(centre, never)) == ([], [])
    assert site.deliver(early, first).index == receipt.index, "what landed in time keeps its receipt"
    assert landed(centre, early) == [f"{early.id}.parcel"]


def test_nothing_lands_for_a_study_that_is_closed_or_a_study_assignment_that_has_expired(
    centre: Centre, site: Site
) -> None:
    training, table = centre.submit(draft(id="shut", **TRAINING)), centre.submit(draft(id="table"))
    answer = site.parcel(training, centre.keys["shut"], content_type="update")
    rows, again = site.parcel(table, centre.keys["table"]), site.parcel(table, centre.keys["table"])
    round_ = instructed(centre, training, 1)
    with centre.store.begin() as session:
        session.get_one(StudyRow, "shut").state = "closed"
        row = session.query(AssignmentRow).filter_by(study_digest=table, site="site-a").one()
        row.state, assignment = "failed", row.id
    with refused("study.late"):
        site.open(answer, round_)
    assert site.deliver(rows, assignment).parcel_id == rows.id, "a steward may send again what was set aside"
    with centre.store.begin() as session:
        session.query(AssignmentRow).filter_by(id=assignment).one().state = "expired"
    with refused("study.late"):
        site.open(again, assignment)


def test_an_instruction_has_one_answer_even_of_several_at_once(centre: Centre, site: Site) -> None:
    digest = centre.submit(draft(id="once", **TRAINING))
    round_ = instructed(centre, digest, 1)
    parcels = [site.parcel(digest, centre.keys["once"], bytes([n]) * 5000, content_type="update") for n in range(6)]

    def codes(parcel: Parcel) -> str:
        try:
            return site.open(parcel, round_, data=parcel.raw).receipt.parcel_id
        except grpc.RpcError as error:
            return code_of(error)

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(codes, parcels))
    assert said.count("study.replay") == 5
    with centre.store.read() as session:
        assert session.query(ParcelRow).filter_by(assignment_id=round_).one().id in said
    assert sum(len(landed(centre, parcel)) for parcel in parcels) == 1


def test_the_message_of_a_round_that_is_over_is_gone_and_says_so(centre: Centre, site: Site) -> None:
    digest = centre.submit(draft(id="gone", **TRAINING))
    blob = centre.store.put_blob("message.bin", b"a model")
    made = instructed(centre, digest, 1, document=b'{"message": "' + blob.digest.encode() + b'"}')
    with centre.store.begin() as session:
        named = [{"name": blob.name, "digest": blob.digest, "size_bytes": blob.size_bytes}]
        session.query(AssignmentRow).filter_by(id=made).one().blobs = named
    request = pb.FetchRequest(digest=blob.digest)
    assert b"".join(chunk.data for chunk in site.models.Fetch(request, timeout=60)) == b"a model"
    centre.store.drop_blob(blob.digest)
    with refused("blob.digest"):  # it should be there
        list(site.models.Fetch(request, timeout=60))
    with centre.store.begin() as session:
        session.query(AssignmentRow).filter_by(id=made).one().blobs = []
    with refused("study.late"):
        list(site.models.Fetch(request, timeout=60))


def test_a_certificate_is_renewed_with_the_identity_key_only(centre: Centre, site: Site) -> None:
    csr = site.csr()
    with refused("auth.certificate", grpc.StatusCode.UNAUTHENTICATED):
        site.assignments.Renew(pb.RenewRequest(csr_der=csr, signature=b"x" * 100), timeout=60)
    site.chain = site.assignments.Renew(
        pb.RenewRequest(csr_der=csr, signature=site.key.sign(Purpose.RENEW, csr)), timeout=10
    ).certificate_pem
    site.connect(centre.config.gateway.fleet_address).first()


def test_the_log_equals_its_rows_after_a_restart_and_other_leaves_are_signed(tmp_path: Path) -> None:
    with running(tmp_path) as centre:
        site = centre.enrol("site-a")
        centre.submit()
        assignment = site.first()
        receipts = [
            site.deliver(site.parcel(assignment.study_digest, centre.keys["lung"], bytes([n])), assignment.id)
            for n in range(3)
        ]
        centre.stop()
        with centre.store.begin() as session:
            centre.store.append_leaf(session, {"kind": "model", "id": "x"})
        centre.start()
        bundle = trust(centre)
        key = PublicKey.from_base64(bundle.log_key)

        def newest() -> CheckpointRow:
            with centre.store.read() as session:
                return session.query(CheckpointRow).order_by(CheckpointRow.size.desc()).first()  # type: ignore[return-value]

        eventually(lambda: newest().size == 5)
        tree = Tree()
        with centre.store.read() as session:
            for row in session.query(LogRow).order_by(LogRow.index):
                assert tree.append(row.leaf) == row.index
        signed = open_checkpoint(newest().text, key, bundle.log_origin)
        assert (signed.size, signed.root) == (tree.size, tree.root())
        site.connect(centre.config.gateway.fleet_address)
        fresh = site.delivery.Commit(pb.CommitRequest(parcel_id=receipts[0].parcel_id), timeout=60)
        assert fresh.index == receipts[0].index
        assert fresh.checkpoint == newest().text


def test_word_of_a_withdrawn_consent_lands_when_all_else_is_over_but_of_the_studys_sites_alone(
    centre: Centre, site: Site
) -> None:
    digest, other = centre.submit(draft(id="told")), centre.enrol("site-b")
    word, foreign, misled, late = (
        who.parcel(digest, key, content_type="withdrawal")
        for who, key in (
            (site, centre.keys["told"]),
            (other, centre.keys["told"]),
            (site, other.key),
            (site, centre.keys["told"]),
        )
    )
    with centre.store.begin() as session:
        session.get_one(StudyRow, "told").state = "done"
    receipt = site.deliver(word, f"withdrawal-{word.id}")
    assert (receipt.parcel_id, landed(centre, word)) == (word.id, [f"{word.id}.parcel"])
    with refused("permission.site"):
        other.open(foreign, f"withdrawal-{foreign.id}")
    for borrowed in (f"withdrawal-{word.id}", "e" * 32):  # it would pass for the one answer to another's instruction
        with refused("permission.site"):
            site.open(late, borrowed)
    with refused("parcel.context"):  # sealed to another key than the study's
        site.deliver(misled, f"withdrawal-{misled.id}")
    with refused("input.message"):
        site.open(late, f"withdrawal-{late.id}", size_bytes=64 << 20)
    with centre.store.begin() as session:
        session.get_one(StudyRow, "told").state = "erased"
    with refused("study.erased"):
        site.open(late, f"withdrawal-{late.id}")
    assert landed(centre, late) == []

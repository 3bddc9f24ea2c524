"""Parcels that land together: one call for many, one commit for all that wait, and the outcome of each its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from sqlalchemy import func

from central.gateway.commits import Commits, Ready
from central.gateway.landing import Announced, Landing
from central.gateway.receipts import Log, open_log_key
from central.gateway.wire import Announcement
from central.store import Store
from central.store.models import AssignmentRow, CheckpointRow, LogRow, ParcelRow
from edge.identity import enrol
from edge.uplink import Uplink
from privacy.envelope import PublicKey
from privacy.transparency import verify_receipt
from protocol.errors import CorsiaError, StorageError
from protocol.parcel import ContentType, Receipt
from protocol.trust import TrustBundle
from protocol.v1 import fleet_pb2 as pb
from tests.gatewaykit import TRAINING, Centre, Parcel, Site, code_of, draft, eventually, running
from tests.gatewaykit import first as arrived
from tests.integration.test_gateway_edge import entry


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    with running(tmp_path_factory.mktemp("centre")) as made:
        for name in ("site-a", "site-b"):
            made.enrol(name).close()
        made.submit(draft(sites=["site-a", "site-b"]))
        yield made


@pytest.fixture(scope="module")
def site(centre: Centre) -> Site:
    return centre.enrol("site-a")


def carried(site: Site, *parcels: tuple[Parcel, str], **changes: object) -> pb.CarryReply:
    requests = [
        pb.OpenRequest(
            parcel_id=parcel.id, study_digest=parcel.study, content_type=parcel.content_type,
            size_bytes=len(parcel.raw), digest=parcel.digest, assignment_id=assignment, data=parcel.raw,
        )
        for parcel, assignment in parcels
    ]  # fmt: skip
    for name, value in changes.items():
        setattr(requests[0], name, value)
    return site.delivery.Carry(pb.CarryRequest(parcels=requests), timeout=60)


def checked(centre: Centre, reply: pb.CarryReply, place: int) -> int:
    """The log index of a parcel whose receipt verifies under the checkpoint that they share."""
    bundle, one = TrustBundle.from_bytes(centre.trust), reply.parcels[place].receipt
    assert one.checkpoint == ""
    receipt = Receipt(
        parcel_id=one.parcel_id, digest=one.digest, index=one.index, proof=tuple(one.proof), checkpoint=reply.checkpoint
    )
    verify_receipt(receipt, PublicKey.from_base64(bundle.log_key), bundle.log_origin)
    return int(one.index)


def counts(centre: Centre) -> tuple[int, int, int]:
    """How many parcels, leaves and checkpoints there are when no leaf waits for the gateway's next tick, as that of a
    study does that was submitted a moment ago."""

    def signed() -> bool:
        with centre.store.read() as session:
            return bool(session.query(func.max(CheckpointRow.size)).scalar() == session.query(LogRow).count())

    eventually(signed)
    with centre.store.read() as session:
        return tuple(session.query(row).count() for row in (ParcelRow, LogRow, CheckpointRow))  # type: ignore[return-value]


def test_many_land_in_their_order_under_one_checkpoint_and_a_repeat_changes_nothing(centre: Centre, site: Site) -> None:
    assignment = site.first()
    parcels = [site.parcel(assignment.study_digest, centre.keys["lung"], b"%d" % n) for n in range(20)]
    before = counts(centre)
    reply = carried(site, *((parcel, assignment.id) for parcel in parcels))
    indexes = [checked(centre, reply, place) for place in range(20)]
    assert indexes == list(range(indexes[0], indexes[0] + 20))
    after = counts(centre)
    assert (after[0] - before[0], after[1] - before[1]) == (20, 20)
    assert after[2] - before[2] == 1
    landing = centre.config.state_dir / "landing"
    assert [(landing / f"{parcel.id}.parcel").read_bytes() for parcel in parcels] == [p.raw for p in parcels]
    assert list((landing / "partial").iterdir()) == []
    again = carried(site, *((parcel, assignment.id) for parcel in parcels[::-1]))
    assert [checked(centre, again, place) for place in range(20)] == indexes[::-1]
    assert counts(centre) == after
    assert site.commit(parcels[3]).index == indexes[3]


def test_each_has_its_own_outcome(centre: Centre, site: Site) -> None:
    assignment, key = site.first(), centre.keys["lung"]
    good, other = (site.parcel(assignment.study_digest, key, data) for data in (b"good", b"other"))
    forged = site.parcel(assignment.study_digest, key)
    forged.raw = forged.raw[:-1] + bytes([forged.raw[-1] ^ 1])  # the digest is told of what is sent
    elsewhere = site.parcel(assignment.study_digest, key)
    unknown = site.parcel("0" * 64, key)
    replayed = site.parcel(assignment.study_digest, key, b"x", parcel_id=good.id)
    carried(site, (good, assignment.id))
    reply = carried(
        site, (forged, assignment.id), (other, assignment.id), (elsewhere, "0" * 32), (unknown, assignment.id),
        (replayed, assignment.id),
    )  # fmt: skip
    codes = ["parcel.signature", "", "permission.site", "study.unknown", "parcel.replay"]
    assert [one.code for one in reply.parcels] == codes
    assert checked(centre, reply, 1) >= 0
    landing = centre.config.state_dir / "landing"
    assert not [path for parcel in (forged, elsewhere, unknown) for path in landing.rglob(f"{parcel.id}*")]


def test_of_two_answers_to_one_instruction_in_one_call_one_lands(centre: Centre, site: Site) -> None:
    digest, key = centre.submit(draft(id="run", **TRAINING)), centre.keys["run"]
    with centre.store.begin() as session:
        values = {"document": b"", "signature": b"", "blobs": [], "created_at": 0.0, "updated_at": 0.0}
        session.add(AssignmentRow(id="f" * 32, site="site-a", kind="round", study_digest=digest, **values))
    first, second = (site.parcel(digest, key, content_type="update") for _ in range(2))
    reply = carried(site, (first, "f" * 32), (second, "f" * 32))
    assert [one.code for one in reply.parcels] == ["", "study.replay"]


@pytest.mark.parametrize("change", [{"data": b""}, {"parcel_id": "x"}, {"size_bytes": 1}])
def test_a_malformed_call_lands_nothing(centre: Centre, site: Site, change: dict[str, object]) -> None:
    assignment = site.first()
    parcels = [site.parcel(assignment.study_digest, centre.keys["lung"], b"%d" % n) for n in range(2)]
    before = counts(centre)
    with pytest.raises(grpc.RpcError, check=lambda e: code_of(e) == "input.message"):
        carried(site, *((parcel, assignment.id) for parcel in parcels), **change)
    with pytest.raises(grpc.RpcError, check=lambda e: code_of(e) == "input.message"):
        carried(site, *((parcels[0], assignment.id) for _ in range(2)))
    with pytest.raises(grpc.RpcError, check=lambda e: code_of(e) == "input.message"):
        site.delivery.Carry(pb.CarryRequest(), timeout=60)
    assert counts(centre) == before


def test_the_uplink_carries_and_tells_each_outcome(centre: Centre, tmp_path: Path) -> None:
    identity = enrol("site-b", tmp_path / "edge", centre.ask("invite", site="site-b")["code"])
    uplink, signer = Uplink(identity), Site("site-b", key=identity.key)
    assignment = arrived(uplink)
    parcels = [signer.parcel(assignment.study_digest, centre.keys["lung"], b"%d" % n) for n in range(3)]
    parcels[1].raw = b"nothing like a parcel"
    sent = [(entry(parcel, assignment.id), parcel.raw) for parcel in parcels]
    outcomes = uplink.carry(sent, lambda: False)
    assert isinstance(outcomes[1], CorsiaError)
    assert outcomes[1].code == "parcel.format"
    for place in (0, 2):
        receipt = outcomes[place]
        assert isinstance(receipt, Receipt)
        verify_receipt(receipt, PublicKey.from_base64(identity.trust.log_key), identity.trust.log_origin)
    uplink.close()


# --- group commit


def ready(landing: Landing, number: int) -> Ready:
    what = Announcement(
        parcel_id=f"{number:032x}", study_digest="b" * 64, assignment_id="c" * 32, content_type=ContentType.FEATURES,
        size_bytes=5, digest="d" * 64,
    )  # fmt: skip
    landing.place(what.parcel_id, b"bytes")
    return Ready(entry=Announced(site="site-a", what=what), study="lung")


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[tuple[Landing, Commits, Store]]:
    store, landing = Store(tmp_path), Landing(tmp_path / "landing")
    yield landing, Commits(landing, Log(store, open_log_key(tmp_path / "gateway"), "corsia/x")), store
    store.engine.dispose()


def test_all_that_wait_are_one_commit(parts: tuple[Landing, Commits, Store]) -> None:
    landing, commits, store = parts
    made: dict[int, list[ParcelRow]] = {}

    def land(number: int) -> None:
        made[number] = commits.land([ready(landing, 2 * number), ready(landing, 2 * number + 1)])

    threads = [threading.Thread(target=land, args=(number,)) for number in range(12)]
    with commits.busy:  # a commit under way
        for thread in threads:
            thread.start()
        eventually(lambda: commits.waiting == 12)
        assert made == {}
    for thread in threads:
        thread.join()
    assert (commits.groups, commits.parcels) == (1, 24)
    with store.read() as session:
        assert session.query(CheckpointRow).count() == 1
        index = {row.id: row.log_index for row in session.query(ParcelRow)}
    assert sorted(index.values()) == list(range(24))
    for number, rows in made.items():  # each call has its own rows, in its own order
        assert [row.id for row in rows] == [f"{2 * number:032x}", f"{2 * number + 1:032x}"]
        assert rows[0].log_index + 1 == rows[1].log_index


def test_nothing_of_a_group_is_logged_that_is_not_on_the_disk(parts: tuple[Landing, Commits, Store]) -> None:
    landing, commits, store = parts
    gone, here = ready(landing, 1), ready(landing, 2)
    landing.discard(gone.entry.what.parcel_id)
    with pytest.raises(StorageError):
        commits.land([gone, here])
    with store.read() as session:
        assert session.query(ParcelRow).count() == session.query(LogRow).count() == 0
    assert [row.log_index for row in commits.land([here])] == [0]


def test_a_group_that_fails_fails_for_each_and_the_next_lands(parts: tuple[Landing, Commits, Store]) -> None:
    landing, commits, store = parts
    commits.land([ready(landing, 1)])
    with pytest.raises(Exception, match="UNIQUE"):
        commits.land([ready(landing, 2), ready(landing, 1)])
    assert [row.log_index for row in commits.land([ready(landing, 2)])] == [1]
    with store.read() as session:
        assert session.query(LogRow).count() == 2


def test_what_came_along_and_was_not_logged_goes_at_the_next_start(tmp_path: Path) -> None:
    with running(tmp_path) as centre:
        site = centre.enrol("site-a")
        centre.submit()
        assignment = site.first()
        parcel = site.parcel(assignment.study_digest, centre.keys["lung"])
        landed = site.parcel(assignment.study_digest, centre.keys["lung"], b"landed")
        site.open(landed, assignment.id, data=landed.raw)
        centre.stop()
        landing = centre.config.state_dir / "landing"
        (landing / f"{parcel.id}.parcel").write_bytes(parcel.raw)  # as a crash before the database leaves it
        (landing / "partial" / f"{'0' * 32}.part").write_bytes(b"half")
        centre.start()
        assert sorted(path.name for path in landing.rglob("*") if path.is_file()) == [f"{landed.id}.parcel"]
        site.connect(centre.config.gateway.fleet_address)
        assert site.open(parcel, assignment.id, data=parcel.raw).committed
        site.close()

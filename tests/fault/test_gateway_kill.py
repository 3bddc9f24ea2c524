"""kill -9 of the gateway at its three points, a full disk, a torn log: the same outcome, or one clear error."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest

from central.gateway.landing import Announced, Landing
from central.gateway.receipts import Log, open_log_key
from central.gateway.wire import Announcement
from central.store.models import EventRow, LogRow, ParcelRow
from privacy.envelope import PublicKey
from privacy.transparency import verify_receipt
from protocol.errors import IntegrityError, StorageError
from protocol.parcel import ContentType, Receipt
from protocol.trust import TrustBundle
from tests.gatewaykit import Centre, Site, running


def outcome(centre: Centre, parcel_id: str) -> tuple[int, int, int, list[str]]:
    with centre.store.read() as session:
        leaves = [row.leaf for row in session.query(LogRow).order_by(LogRow.index)]
        parcels = session.query(ParcelRow).count()
        landed = session.query(EventRow).filter_by(kind="parcel.landed").count()
    files = sorted(p.name for p in (centre.config.state_dir / "landing").rglob("*") if p.is_file())
    assert sum(parcel_id.encode() in leaf for leaf in leaves) == 1
    return len(leaves), parcels, landed, files


@pytest.mark.parametrize("point", ["gateway.chunk", "gateway.commit", "gateway.committed"])
def test_killed_at_a_point_and_started_again_the_parcel_lands_once(tmp_path: Path, point: str) -> None:
    with running(tmp_path, gateway=False) as centre:
        process = centre.spawn(f"{point}={tmp_path / 'fired'}")
        site = centre.enrol("site-a")
        site.timeout_s = 60.0  # what ends before is killed
        centre.submit()
        assignment = site.first()
        parcel = site.parcel(assignment.study_digest, centre.keys["lung"], b"x" * 3_000_000)
        with pytest.raises(grpc.RpcError):
            site.deliver(parcel, assignment.id)
        assert process.wait(60) == -signal.SIGKILL
        assert (tmp_path / "fired").exists()
        centre.spawn()
        site.close()
        site.connect(centre.config.gateway.fleet_address)
        opened = site.open(parcel, assignment.id)
        assert opened.committed == (point != "gateway.chunk")
        assert opened.offset == (1 << 20 if point == "gateway.chunk" else len(parcel.raw))
        receipt = site.deliver(parcel, assignment.id)
        bundle = TrustBundle.from_bytes(centre.trust)
        verify_receipt(receipt, PublicKey.from_base64(bundle.log_key), bundle.log_origin)
        assert site.deliver(parcel, assignment.id).index == receipt.index
        assert outcome(centre, parcel.id) == (2, 1, 1, [f"{parcel.id}.parcel"])
        site.close()


def test_sigterm_ends_streams_and_leaves_at_once(tmp_path: Path) -> None:
    with running(tmp_path, gateway=False) as centre:
        process = centre.spawn()
        site = centre.enrol("site-a")
        centre.submit()
        call = site.watch()
        next(call)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError, check=lambda e: e.code() is grpc.StatusCode.UNAVAILABLE):
            next(call)
        assert process.wait(60) == 0
        site.close()


def test_a_second_gateway_on_the_same_folder_does_not_start(tmp_path: Path) -> None:
    with running(tmp_path, gateway=False) as centre:
        centre.spawn()
        command = [sys.executable, "-m", "central.gateway", "--config", str(centre.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert done.returncode == 24
        assert "conflict.running" in done.stderr
        assert "Traceback" not in done.stderr


def announced(raw: bytes, parcel_id: str = "a" * 32, site: str = "site-a", size: int | None = None) -> Announced:
    what = Announcement(
        parcel_id=parcel_id,
        study_digest="b" * 64,
        assignment_id="c" * 32,
        content_type=ContentType.FEATURES,
        size_bytes=size or len(raw),
        digest="d" * 64,
    )
    return Announced(site=site, what=what)


def test_a_full_disk_is_one_error_and_what_was_written_stays(tmp_path: Path) -> None:
    landing, raw = Landing(tmp_path), os.urandom(50_000)
    entry = announced(raw)
    landing.announce(entry)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with landing.writer(entry) as writer:
            writer.append(0, raw[:10_000])
            with pytest.raises(StorageError, match=r"storage\.full"):
                writer.append(10_000, raw[10_000:])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    at = landing.announce(entry)
    assert 10_000 <= at <= 20_000
    with landing.writer(entry) as writer:
        writer.append(at, raw[at:])
    assert landing.content(entry.what.parcel_id).read_bytes() == raw


def test_a_parcel_that_cannot_fit_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"storage\.full"):
        Landing(tmp_path).announce(announced(b"", size=1 << 52))


def test_a_site_cannot_keep_more_partial_parcels_than_allowed(tmp_path: Path) -> None:
    landing = Landing(tmp_path)
    ids = [f"{n:032x}" for n in range(20)]
    landing.announce(announced(b"x", parcel_id="f" * 32, site="site-b"))
    for n, parcel_id in enumerate(ids):
        landing.announce(announced(b"x", parcel_id=parcel_id))
        os.utime(tmp_path / "partial" / f"{parcel_id}.json", (n + 1.0, n + 1.0))
    assert [i for i in ids if landing.announced(i)] == ids[4:]
    assert landing.announced("f" * 32) is not None


def test_making_room_waits_for_no_parcel_that_a_call_holds(tmp_path: Path) -> None:
    landing, names = Landing(tmp_path), [f"{n:032x}" for n in range(3)]
    for n, name in enumerate(names[:2]):
        landing.announce(announced(b"x", parcel_id=name))
        os.utime(tmp_path / "partial" / f"{name}.json", (n + 1.0, n + 1.0))

    def opened() -> None:
        with landing.locked(names[2]):
            landing.announce(announced(b"x", parcel_id=names[2]), 2)

    call = threading.Thread(target=opened, daemon=True)
    with landing.locked(names[0]):  # the oldest, by a call that waits for the third
        call.start()
        call.join(20.0)
        assert not call.is_alive()
    assert [landing.announced(name) is not None for name in names] == [True, False, True]


def test_making_room_never_takes_a_parcel_that_is_whole(tmp_path: Path) -> None:
    landing, entry = Landing(tmp_path), announced(b"x")
    landing.announce(entry)
    with landing.writer(entry) as writer:
        writer.append(0, b"x")
    landing.settle([entry.what.parcel_id])  # it lands; its announcement is still there
    landing.announce(announced(b"x", parcel_id="f" * 32), 1)
    assert landing.announced(entry.what.parcel_id) is None
    assert landing.path(entry.what.parcel_id).read_bytes() == b"x"


def test_a_sidecar_lost_in_a_power_cut_only_means_announcing_again(tmp_path: Path) -> None:
    landing, entry = Landing(tmp_path), announced(b"x" * 10)
    landing.announce(entry)
    with landing.writer(entry) as writer:
        writer.append(0, b"x" * 5)
    (tmp_path / "partial" / f"{'a' * 32}.json").write_bytes(b"\0" * 30)
    assert Landing(tmp_path).pending() == []
    assert landing.announce(entry) == 0


def test_a_log_whose_rows_were_changed_stops_the_gateway(tmp_path: Path) -> None:
    with running(tmp_path, gateway=False) as centre:
        key = open_log_key(centre.config.state_dir / "gateway")
        with centre.store.begin() as session:
            for n in range(3):
                centre.store.append_leaf(session, {"n": n})
        Log(centre.store, key, centre.config.log_origin)
        with centre.store.begin() as session:
            session.get(LogRow, 1).leaf = b"other"  # type: ignore[union-attr]
        with pytest.raises(IntegrityError, match=r"log\.proof"):
            Log(centre.store, key, centre.config.log_origin)


def test_a_failed_transaction_leaves_no_leaf_in_memory(tmp_path: Path) -> None:
    with running(tmp_path, gateway=False) as centre:
        log = Log(centre.store, open_log_key(centre.config.state_dir / "gateway"), "corsia/x")
        entry = announced(b"x")
        log.land([(entry, "lung")])
        with pytest.raises(Exception, match="UNIQUE"):
            log.land([(entry, "lung")])
        other = announced(b"x", parcel_id="e" * 32)
        log.land([(other, "lung")])
        with centre.store.read() as session:
            row = session.get(ParcelRow, "e" * 32)
        assert row is not None
        receipt = log.receipt(row)
        assert isinstance(receipt, Receipt)
        assert receipt.index == 1
        public = open_log_key(centre.config.state_dir / "gateway").public
        assert verify_receipt(receipt, public, "corsia/x").size == 2


def test_nobody_else_can_read_what_the_gateway_writes(tmp_path: Path) -> None:
    with running(tmp_path, gateway=False) as centre:
        centre.spawn()
        site: Site = centre.enrol("site-a")
        centre.submit()
        assignment = site.first()
        site.deliver(site.parcel(assignment.study_digest, centre.keys["lung"]), assignment.id)
        site.close()
        for folder in ("gateway", "landing", "signer", "logs", "run"):
            for path in (centre.config.state_dir / folder).rglob("*"):
                if not path.name.endswith(".pub"):
                    assert path.stat().st_mode & 0o077 == 0, path

"""The daemon's certificate against the real gateway: renewal that fails, clocks that differ, an enrolment made anew."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from central.store.models import ParcelRow
from edge.config import EdgeConfig, load
from edge.heartbeat import Heartbeat
from edge.identity import Identity, enrol
from edge.site import Site
from edge.uplink import Uplink
from protocol.errors import AuthenticationError, UnavailableError
from tests.gatewaykit import Centre, eventually, first, running
from tests.gatewaykit import Site as Hospital
from tests.integration.test_gateway_edge import entry

DAY_S = 86_400.0


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with running(tmp_path / "centre") as made:
        yield made


@pytest.fixture
def config(tmp_path: Path, centre: Centre) -> EdgeConfig:
    path = tmp_path / "edge.toml"
    path.write_text('site = "site-a"\n[limits]\nheartbeat_s = 0.1\n')
    made = load(path)
    enrol("site-a", made.state_dir, centre.ask("invite", site="site-a")["code"])
    return made


class Flaky(Uplink):
    """The real wire, whose renewals fail for a while."""

    failures = 0

    def renew(self, csr_der: bytes, signature: bytes) -> bytes:
        if Flaky.failures:
            Flaky.failures -= 1
            raise UnavailableError("unavailable.centre")
        return super().renew(csr_der, signature)


def opened(config: EdgeConfig, wire: type[Uplink] = Uplink) -> Site:
    return Site(config, wire, threading.Event())


def closed(site: Site) -> None:
    site.link.close()
    site.close()


def seen(centre: Centre) -> float:
    row = centre.store.site("site-a")
    return row.last_seen if row is not None else 0.0


def test_a_renewal_that_fails_is_tried_again_and_holds_up_no_heartbeat(centre: Centre, config: EdgeConfig) -> None:
    Flaky.failures = 2
    site = opened(config, Flaky)
    heartbeat, first = Heartbeat(site), site.identity.serial
    for left in (1, 0, 0):
        site.heard(time.time() + 5 * DAY_S)  # the centre's clock counts: two thirds of seven days are over
        heartbeat._next_renewal = 0.0
        heartbeat.beat()  # the report goes out all the same
        assert Flaky.failures == left
    assert site.identity.serial != first
    assert Identity.load(config.state_dir).serial == site.identity.serial
    renewed = site.identity.serial
    heartbeat._next_renewal = 0.0
    heartbeat.beat()  # over the new certificate, by the centre's clock of this beat
    assert site.identity.serial == renewed
    closed(site)


def test_a_clock_far_ahead_does_not_renew_at_every_beat(
    centre: Centre, config: EdgeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = opened(config)
    heartbeat = Heartbeat(site)
    heartbeat.beat()
    first, real = site.identity.serial, time.time
    monkeypatch.setattr(site, "now", lambda: real() + 20 * DAY_S)
    for _ in range(3):
        heartbeat.beat()
    assert site.identity.serial == first
    closed(site)


def test_a_running_daemon_takes_up_an_enrolment_made_anew_and_delivers_what_it_had(
    centre: Centre, config: EdgeConfig
) -> None:
    digest = centre.submit()
    site = opened(config)
    assignment = first(site.link)  # type: ignore[arg-type]
    hospital = Hospital("site-a", key=site.identity.key)
    parcel = hospital.parcel(digest, centre.keys["lung"])  # sealed before
    centre.ask("revoke", site="site-a")
    heartbeat = Heartbeat(site)
    with pytest.raises(AuthenticationError, match=r"auth\.revoked"):
        heartbeat.beat()
    beating = threading.Thread(target=heartbeat.run)
    beating.start()
    serial, before = site.identity.serial, seen(centre)
    enrol("site-a", config.state_dir, centre.ask("invite", site="site-a")["code"], force=True)
    eventually(lambda: seen(centre) > before)
    site.stop.set()
    site.news.set()
    beating.join()
    assert site.identity.serial != serial
    assert site.identity.key.to_bytes() == hospital.key.to_bytes()
    site.link.deliver(entry(parcel, assignment.id), io.BytesIO(parcel.raw), lambda: False)
    with centre.store.read() as session:
        assert session.query(ParcelRow).one().id == parcel.id
    closed(site)


def test_a_daemon_whose_certificate_ran_out_says_so(
    centre: Centre, config: EdgeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = opened(config)
    end = site.identity.not_after
    told: list[str] = []
    monkeypatch.setattr(site, "note", lambda _event, error: (told.append(error.code), site.stop.set()))
    site.identity = replace(site.identity, not_after=site.identity.not_before)
    centre.stop()  # what TLS says of an expired certificate is no more than this
    monkeypatch.setattr(Identity, "load", classmethod(_expired(Identity.load, end)))
    site.heard(time.time() - 30 * DAY_S)  # no renewal is due by the centre's clock
    Heartbeat(site).run()
    assert told == ["auth.expired"]
    closed(site)


def _expired(load_: Any, end: Any) -> Any:
    return lambda _cls, state_dir, _now=None: load_(state_dir, end)

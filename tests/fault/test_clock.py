"""The clock is set ahead or back by an hour at any moment: budgets, certificates, deadlines and back-off stand."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from edge.config import load
from edge.heartbeat import Heartbeat
from edge.identity import Identity
from edge.jobs import Jobs
from edge.ledger import Ledger
from edge.site import Site
from protocol.assignment import AssignmentKind, State
from protocol.errors import AuthenticationError, BudgetExceeded, StorageError
from tests.agentkit import Office, Wire, enrolled, site_config, study
from tests.fault.seam import Seam
from tests.fault.test_seam_site import SiteWork, whole
from tests.uplinkkit import Centre

HOUR = 3600.0


class Clock:
    """The wall clock, to be set. What `time.monotonic` says is its own affair.

    `datetime.now` does not ask `time.time`: every module of a site that holds the name gets another.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead, self.asked = 0.0, 0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead)
        clock = self

        class Kind(type(datetime)):
            def __instancecheck__(cls, value: object) -> bool:
                return isinstance(value, datetime)

        class Shifted(datetime, metaclass=Kind):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                clock.asked += 1
                return datetime.now(tz) + timedelta(seconds=clock.ahead)

        held = [m for name, m in sys.modules.items() if name.partition(".")[0] in ("edge", "protocol", "pipelines")]
        for module in held:
            if getattr(module, "datetime", None) is datetime:
                monkeypatch.setattr(module, "datetime", Shifted)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_set_at_any_step_of_a_sites_work_the_outcome_is_the_same(
    memory: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    made = SiteWork()
    (memory / "prepared" / "state").mkdir(parents=True)
    made.prepare(memory / "prepared")

    def outcome(name: str, at: int) -> tuple[object, int]:
        run = Path(shutil.copytree(memory / "prepared", memory / name))
        with Seam(run / "state") as seam:
            step = seam.step

            def counted(*args: object) -> None:
                step(*args)  # type: ignore[arg-type]
                if len(seam.steps) == at:
                    clock.ahead += jump

            monkeypatch.setattr(seam, "step", counted)
            process = made.start(run)
            process.work()
            process.close()
        assert clock.ahead == (jump if at else 0.0), f"step {at} was not reached"
        clock.ahead = 0.0
        return made.outcome(run), len(seam.steps)

    expected, steps = outcome("whole", 0)
    assert whole(expected)
    assert clock.asked > 0
    for at in range(1, steps, 9):
        assert outcome(f"at-{at}", at)[0] == expected, at


@dataclass(frozen=True)
class Yearly:
    """A policy's limits: 100 bytes a year."""

    max_bytes: int = 100
    max_bytes_per_year: int = 100
    epsilon: float | None = None
    delta: float = 1e-6
    epsilon_per_year: float = 1.0
    delta_per_year: float = 1e-6


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_what_was_spent_stays_spent(tmp_path: Path, clock: Clock, jump: float) -> None:
    def reserve(key: str) -> None:
        ledger.reserve(key, "d", "s", k=5, cohort=9, bytes=60, cost=None, persons=3, limits=Yearly())

    ledger = Ledger(tmp_path / "ledger.db")
    reserve("a")
    clock.ahead = jump
    with pytest.raises(BudgetExceeded):
        reserve("b")
    ledger.commit("a", 50)
    assert (ledger.total("d").bytes, ledger.verify()) == (50, 2)
    clock.ahead = -jump
    with pytest.raises(BudgetExceeded):
        reserve("b")
    ledger.close()
    ledger = Ledger(tmp_path / "ledger.db")
    assert (ledger.total("d").bytes, ledger.verify(), ledger.spend("a").state) == (50, 2, "committed")  # type: ignore[union-attr]
    ledger.close()


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return enrolled(site_config(tmp_path))


def opened(tmp_path: Path, office: Office) -> Site:
    return Site(load(tmp_path / "edge.toml"), lambda _identity, _fleet: Wire(office), threading.Event())


def test_a_certificate_refused_by_a_wrong_clock_is_good_by_a_right_one(tmp_path: Path, office: Office) -> None:
    state, now = tmp_path / "state", datetime.now(UTC)
    with pytest.raises(AuthenticationError, match="clock"):  # an hour behind the moment of enrolment
        Identity.load(state, now - timedelta(hours=1))
    with pytest.raises(AuthenticationError, match="expired"):
        Identity.load(state, now + timedelta(days=7, hours=1))
    assert Identity.load(state, now + timedelta(hours=1)).remaining_s(now) > 0
    assert Identity.load(state, now - timedelta(hours=1), offline=True).site == "site-a"


def test_renewal_is_tried_again_after_minutes_although_the_clock_was_set_back(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = site_config(tmp_path)
    keys = Centre(ago=timedelta(days=6)).start()
    keys.enrol(config.state_dir, config.site)
    keys.stop()
    asked: list[float] = []

    class Deaf(Wire):
        def renew(self, csr_der: bytes, signature: bytes) -> bytes:
            asked.append(time.monotonic())
            raise AuthenticationError("auth.certificate")

    site = Site(config, lambda _identity, _fleet: Deaf(Office(keys)), threading.Event())
    heartbeat, passed, real = Heartbeat(site), [0.0], time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + passed[0])

    def beat() -> int:
        try:
            heartbeat.beat()
        except AuthenticationError:
            pass
        return len(asked)

    assert beat() == 1
    clock.ahead = HOUR
    assert beat() == 1, "not at once, whatever the clock says"
    clock.ahead = -HOUR
    passed[0] = 301.0
    assert beat() == 2
    site.close()


def test_a_rounds_deadline_is_by_the_centres_clock_since_it_was_heard(
    tmp_path: Path, office: Office, clock: Clock
) -> None:
    site = opened(tmp_path, office)
    site.heard(1_000.0)
    for ahead in (HOUR, -HOUR):
        clock.ahead = ahead
        assert abs((site.centre_now() or 0.0) - 1_000.0) < 60.0
    assert abs(site.heard(time.time() - HOUR) - HOUR) < 5.0, "and the difference is told"
    site.close()


def test_back_off_ends_although_the_clock_was_set_back(tmp_path: Path, office: Office, clock: Clock) -> None:
    site = opened(tmp_path, office)
    asked = office.submit(study())
    site.state.store(asked)
    (record,) = site.state.open()
    tries: list[State] = []

    def job(_record: object) -> None:
        tries.append(State.RECEIVED)
        raise StorageError("storage.full")

    jobs = Jobs(site, AssignmentKind.STUDY, job, lambda: None)
    jobs.attempt(record)
    clock.ahead = -HOUR
    until = time.monotonic() + 60
    while len(tries) < 3 and time.monotonic() < until:
        for due in jobs._due():
            jobs.attempt(due)
        time.sleep(0.02)
    assert len(tries) >= 3
    site.close()

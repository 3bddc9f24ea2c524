"""What goes for good goes beyond doubt alone, by both clocks and of known studies; and nothing hinders the rest."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from edge.deliver import Delivery
from edge.draws import Draws
from edge.hold import hold, release
from edge.lane import LaneRun, SiteSource, job_key
from edge.site import Site
from edge.sources.standing import standing
from edge.spool import ParcelMeta, SpoolEntry
from edge.studies import check_may_leave
from edge.subjects import Subjects
from edge.upkeep import Upkeep
from edge.withdrawals import Withdrawals
from privacy.deid.pseudonym import Pseudonymizer, normalise_id
from privacy.envelope import ParcelInfo, SecretKey, new_parcel_id, seal
from protocol.assignment import Assignment, State
from protocol.errors import CorsiaError, StudyRefused
from tests.agentkit import Office, Wire, enrolled, site_config, study

HOUR = 3600.0


@dataclass
class Ward:
    """A site whose clocks the test sets."""

    site: Site
    office: Office
    at: float
    steady: float = 0.0

    def asked(self, name: str, ends: timedelta) -> Assignment:
        """A study of the site, with a parcel that waits, a kept answer and its persons."""
        expires = datetime.fromtimestamp(self.at, UTC) + ends
        made = self.office.submit(study(name, expires=expires))
        self.site.state.store(made)
        self.site.state.move(made.id, State.DELIVERING)
        self.keep(made.study_digest, made.id)
        return made

    def keep(self, digest: str, name: str) -> None:
        meta = ParcelMeta(parcel_id=new_parcel_id(), assignment_id=name, study_digest=digest, content_type="features")
        info = ParcelInfo(parcel_id=meta.parcel_id, study=digest, site="site-a", content_type="features")
        to, by = self.office.vault.public, self.site.identity.key
        self.site.spool.hold(meta, lambda target: seal([b"x"], target, info=info, recipients=[to], signer=by))
        self.site.spool.release(name)
        (self.site.config.state_dir / "draws" / f"{digest}-train.sealed").write_bytes(b"kept")
        self.site.subjects.add(digest, "cohort", {"P" * 17: True})

    def kept(self, digest: str) -> tuple[int, bool, bool]:
        """Parcels, whether there is an answer, whether there are persons."""
        parcels = sum(entry.study_digest == digest for _, entry in self.site.spool.entries())
        return parcels, digest in self.site.draws.studies(), self.site.subjects.known(digest) is not None

    def upkeep(self) -> Upkeep:
        return Upkeep(self.site, Withdrawals(self.site), lambda: self.steady)


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    config = site_config(tmp_path)
    office = enrolled(config)
    site = Site(config, lambda _identity, _fleet: Wire(office), threading.Event())
    made = Ward(site, office, site.now())
    site.now = lambda: made.at  # type: ignore[method-assign]
    yield made
    site.close()


def test_one_look_at_a_wrong_clock_removes_nothing(ward: Ward) -> None:
    asked, other = ward.asked("one", timedelta(minutes=30)), ward.asked("other", timedelta(days=9))
    ward.at += HOUR  # set ahead while the daemon was off: the centre knows better
    upkeep = ward.upkeep()
    assert upkeep.remove() == 0, "the centre has not been heard"
    ward.site.heard(ward.at - HOUR)
    assert upkeep.remove() == 0, "by its clock there is time left"
    ward.at -= HOUR
    upkeep = ward.upkeep()
    ward.at += HOUR  # set ahead while the daemon runs, and the centre lies
    ward.site.heard(ward.at)
    assert upkeep.remove() == 0
    assert ward.kept(asked.study_digest) == (1, True, True)
    ward.steady += HOUR  # so much time has really passed
    hold(ward.site.config.state_dir, "restored")
    assert upkeep.remove() == 0, "put back, and not compared"
    release(ward.site.config.state_dir)
    assert upkeep.remove() == 1
    assert ward.kept(asked.study_digest) == (0, False, False)
    assert ward.kept(other.study_digest) == (1, True, True)


def test_what_is_not_known_or_cannot_be_read_is_left(ward: Ward) -> None:
    asked = ward.asked("one", timedelta(minutes=-30))
    strange, unknown = "c" * 64, "d" * 64
    ward.site.state.store(replace(asked, id="e" * 32, study_digest=strange, document=b'{"schema": 99}'))
    for digest in (strange, unknown):
        ward.keep(digest, "f" * 32)
    ward.site.heard(ward.at)
    assert ward.upkeep().remove() == 1
    assert ward.kept(asked.study_digest) == (0, False, False)
    for digest in (strange, unknown):
        assert ward.kept(digest) == (1, True, True)


def test_a_parcel_that_one_clock_calls_late_is_kept(ward: Ward) -> None:
    asked = ward.asked("one", timedelta(days=-2))  # two days ago by a clock that was set ahead
    site = ward.site
    delivery = Delivery.of(site, lambda digest: check_may_leave(site.state, site.approvals, digest))
    delivery.run_once(site.link)
    (pair,) = site.spool.entries()
    assert (pair[0], site.spool.code(pair[1])) == ("bad", "study.expired")
    record = site.state.record(asked.id)
    assert record is not None
    assert record.state is State.EXPIRED
    assert not ward.office.parcels


def test_a_receipt_is_verified_by_the_log_key_of_now(ward: Ward, tmp_path: Path) -> None:
    """A site that was enrolled anew beside the running daemon: its delivery must not call good receipts forged."""
    ward.asked("one", timedelta(days=9))
    site = ward.site
    delivery = Delivery.of(site, lambda _digest: None)
    fresh = SecretKey.generate()
    trust = replace(site.identity.trust, log_key=fresh.public.to_base64())
    site.identity = replace(site.identity, trust=trust)
    ward.office.keys.other_key = fresh
    delivery.run_once(site.link)
    assert [folder for folder, _ in site.spool.entries()] == ["sent"]
    assert not site.brakes.halted()


def test_while_nothing_may_be_sent_the_spool_is_not_listed(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quiet hours are long, and delivery looks twice a second."""
    ward.asked("one", timedelta(days=9))
    delivery = Delivery.of(ward.site, lambda _digest: None)
    listed: list[str] = []
    kept = ward.site.spool._list

    def counted(folder: str) -> list[SpoolEntry]:
        listed.append(folder)
        return kept(folder)

    monkeypatch.setattr(ward.site.spool, "_list", counted)
    delivery.should_stop = lambda: True
    assert not delivery.run_once(ward.site.link)
    assert listed == []
    delivery.should_stop = lambda: False
    assert delivery.run_once(ward.site.link)
    assert listed


def test_what_a_killed_daemon_left_half_written_goes_at_its_start_alone(tmp_path: Path) -> None:
    key = SecretKey.generate()
    halves = [tmp_path / "draws" / f".tmp-{'c' * 64}-train.sealed", tmp_path / "subjects" / f".tmp-{'c' * 64}.json"]
    for half in halves:
        half.parent.mkdir(exist_ok=True)
        half.write_bytes(b"")
    subjects = Subjects(tmp_path / "subjects")  # by a command, beside a daemon that is just writing
    assert halves[1].exists()
    subjects.recover()
    assert Draws(tmp_path / "draws", "site-a", key).studies() == set()
    assert not any(half.exists() for half in halves)


def test_a_full_spool_hinders_no_removal_and_one_study_no_other(ward: Ward) -> None:
    """The word of a withdrawal does not fit: what is over goes all the same, and makes the room."""
    over, broken, told = ward.asked("over", timedelta(minutes=-1)), "c" * 64, ward.asked("told", timedelta(days=9))
    ward.site.state.store(replace(over, id="e" * 32, study_digest=broken, document=b'{"schema": 99}'))
    ward.keep(broken, "f" * 32)
    for digest in (broken, told.study_digest):
        ward.site.subjects.withdraw(digest, ["P" * 17])
    ward.site.heard(ward.at)
    ward.site.spool._bound.max_bytes = ward.site.spool.usage()[1]
    upkeep = ward.upkeep()
    with pytest.raises(CorsiaError):  # the one or the other first, by their digests
        upkeep._withdrawals.look()
    assert not [e for _, e in ward.site.spool.entries() if e.content_type == "withdrawal"], "there is no room"
    turns = iter([False, True])
    ward.site.stop = cast(threading.Event, SimpleNamespace(wait=lambda _s: next(turns)))
    upkeep.run()
    assert ward.kept(over.study_digest) == (0, False, False)
    ward.site.spool._bound.max_bytes = 1 << 30
    with pytest.raises(CorsiaError):
        upkeep._withdrawals.look()
    assert [e.content_type for _, e in ward.site.spool.entries() if e.study_digest == told.study_digest] == [
        "features",
        "withdrawal",
    ]


def withdraw(ward: Ward, patient: str) -> None:
    table = ward.site.config.datasets["cohort"].table
    assert table is not None
    frame = pd.read_csv(BytesIO(table.read_bytes()), dtype=str, keep_default_na=False)
    frame.loc[frame.patient_id == patient, "consent"] = "no"
    half = table.with_suffix(".new")
    frame.to_csv(half, index=False)
    half.replace(table)


def known(ward: Ward, digest: str, patient: str) -> None:
    name = Pseudonymizer(job_key(ward.site.config.state_dir, digest)).pseudonym(patient)
    ward.site.subjects.add(digest, "cohort", {name: True})


def test_a_table_that_is_written_while_it_is_read_is_read_again(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = "MRN0000003"
    written: list[object] = []
    asked = [ward.asked(name, timedelta(days=9)).study_digest for name in ("one", "two")]
    for digest in asked:
        known(ward, digest, patient)

    def read(*args: Any) -> dict[str, str]:
        found = standing(*args)
        if not written:
            withdraw(ward, patient)  # behind the reader's back
        written.append(args)
        return found

    monkeypatch.setattr("edge.withdrawals.standing", read)
    withdrawals = Withdrawals(ward.site)
    withdrawals.check(asked[0])  # nobody has withdrawn by what was read
    for digest in asked:
        with pytest.raises(StudyRefused):
            withdrawals.check(digest)


def test_persons_that_are_noted_after_a_look_are_held_against_the_same_table(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient, site = "MRN0000003", ward.site
    digest = ward.asked("one", timedelta(days=9)).study_digest
    withdrawals = Withdrawals(site)
    add = site.subjects.add

    def late(*args: Any) -> None:
        withdraw(ward, patient)  # after `note` has read the table, before it has noted the persons
        withdrawals.check(digest)
        add(*args)

    monkeypatch.setattr(site.subjects, "add", late)
    job = SimpleNamespace(key=job_key(site.config.state_dir, digest), column=lambda _role: "patient_id")
    lane = SimpleNamespace(
        dataset=site.config.datasets["cohort"], job=job, study=SimpleNamespace(dataset=SimpleNamespace(name="cohort"))
    )
    source = SimpleNamespace(table=lambda: pd.DataFrame({"patient_id": [patient]}))
    assert standing(lane.dataset, date.today())[normalise_id(patient)] == ""  # noqa: DTZ011
    withdrawals.note(digest, cast(LaneRun, lane), cast(SiteSource, source))
    with pytest.raises(StudyRefused):
        withdrawals.check(digest)

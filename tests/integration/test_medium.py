"""Parcels by hand: out of a site without a line, into the real gateway, receipts back; and media that lie."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from typer.main import get_command

from central.store.models import LogRow, ParcelRow
from corsia.cli import app
from edge.agent import Agent
from edge.approvals import Approvals
from edge.arrivals import Arrivals
from edge.config import EdgeConfig
from edge.identity import Identity, enrol
from edge.journal import Journal
from edge.lane import job_key
from edge.ledger import Ledger
from edge.site import locked, set_paused
from edge.sources.standing import standing
from edge.spool import ParcelMeta, Spool
from edge.state import SiteState
from edge.subjects import Subjects
from edge.uplink import Uplink
from privacy.deid.pseudonym import Pseudonymizer
from privacy.envelope import ParcelInfo, SecretKey, new_parcel_id, seal
from privacy.transparency import verify_receipt
from protocol.assignment import Assignment, State
from protocol.errors import CorsiaError, UnavailableError
from protocol.medium import SignedNote
from protocol.trust import Purpose
from tests.agentkit import site_config
from tests.gatewaykit import Centre, eventually, first, running


@dataclass
class Hospital:
    """An enrolled site that has a study and no line any more."""

    config: EdgeConfig
    centre: Centre
    assignment: Assignment

    @property
    def spool(self) -> Spool:
        return Spool(self.config.state_dir / "spool", self.config.limits.spool_bytes)

    @property
    def identity(self) -> Identity:
        return Identity.load(self.config.state_dir)

    def hold(self, data: bytes = b"payload", content_type: str = "features") -> str:
        """A released parcel, as the sealer makes it."""
        meta = ParcelMeta(
            parcel_id=new_parcel_id(),
            assignment_id=self.assignment.id,
            study_digest=self.assignment.study_digest,
            content_type=content_type,
        )
        about = {"parcel_id": meta.parcel_id, "study": meta.study_digest, "content_type": content_type}
        info = ParcelInfo(site="site-a", **about)
        key = self.centre.keys["lung"].public
        self.spool.hold(meta, lambda to: seal([data], to, info=info, recipients=[key], signer=self.identity.key))
        self.spool.release(self.assignment.id)
        return meta.parcel_id

    def state(self) -> State:
        opened = SiteState(self.config.state_dir / "state.db")
        try:
            record = opened.record(self.assignment.id)
            assert record is not None
            return record.state
        finally:
            opened.close()

    def left(self) -> list[str]:
        return [entry.parcel_id for entry in self.spool.pending()]

    def run(self, *args: str) -> tuple[int, dict[str, Any]]:
        return corsia("edge", "spool", *args, "--config", str(self.config.state_dir.parent / "edge.toml"), "--json")

    def carry_in(self, medium: Path) -> tuple[int, dict[str, Any]]:
        return corsia("central", "spool", "import", str(medium), "--config", str(self.centre.path), "--json")

    def landed(self) -> list[str]:
        with self.centre.store.read() as session:
            rows = session.query(ParcelRow).order_by(ParcelRow.log_index).all()
            assert session.query(LogRow).count() == len(rows) + 1  # the study's leaf
        return [row.id for row in rows]


def corsia(*args: str) -> tuple[int, dict[str, Any]]:
    """Run a command in this process; exit status and its object."""
    try:
        done = CliRunner().invoke(get_command(app), list(args), catch_exceptions=False)
    except CorsiaError as error:
        return error.exit_status, {"code": error.code}
    return done.exit_code, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    config = site_config(tmp_path / "site")
    with running(tmp_path / "centre") as centre:
        identity = enrol("site-a", config.state_dir, centre.ask("invite", site="site-a")["code"])
        centre.submit()
        uplink = Uplink(identity)
        assignment = first(uplink)
        uplink.close()
        state = SiteState(config.state_dir / "state.db")
        state.store(assignment)
        state.move(assignment.id, State.DELIVERING)
        state.close()
        yield Hospital(config, centre, assignment)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_there_and_back_and_again(hospital: Hospital, tmp_path: Path) -> None:
    medium = tmp_path / "stick"
    parcels = [hospital.hold(), hospital.hold(os.urandom(9 << 20)), hospital.hold(b"")]
    update = hospital.hold(content_type="update")
    before = contents(hospital.spool.root)
    for _ in range(2):
        assert hospital.run("export", str(medium))[1]["parcels"] == parcels
        assert contents(hospital.spool.root) == before
    status, said = hospital.run("export", str(medium))
    assert (status, said["left"]) == (0, {"study.late": 1})
    assert sorted(contents(medium)) == sorted(f"{p}.{kind}" for p in parcels for kind in ("parcel", "note"))
    assert hospital.carry_in(medium) == (0, {"landed": 3, "known": 0, "refused": []})
    assert hospital.landed() == parcels
    back = contents(medium)
    assert hospital.carry_in(medium) == (0, {"landed": 0, "known": 3, "refused": []})
    assert hospital.landed() == parcels
    hospital.spool.drop(next(e for e in hospital.spool.pending() if e.parcel_id == update))
    assert hospital.run("import", str(medium))[1] == {
        "receipts": sorted(parcels), "known": 0, "foreign": 0, "daemon": False,
    }  # fmt: skip
    assert hospital.left() == []
    assert hospital.state() is State.DONE
    for entry, receipt in hospital.spool.receipts():
        assert verify_receipt(receipt, hospital.identity.log_key, hospital.identity.trust.log_origin)
        assert (receipt.parcel_id, receipt.digest) == (entry.parcel_id, entry.digest)
    assert hospital.run("import", str(medium))[1]["known"] == 3
    assert {k: v for k, v in back.items() if not k.endswith("receipt")} == {
        k: v for k, v in contents(medium).items() if not k.endswith("receipt")
    }
    lines = Journal(hospital.config.state_dir / "journal.jsonl", readonly=True).tail(99)
    assert [line.event for line in lines].count("parcel.delivered") == 3
    out = [line.fields["parcel"] for line in lines if line.event == "parcel.exported"]
    assert out == parcels * 3


def test_a_running_daemon_takes_receipts_in_by_itself(hospital: Hospital, tmp_path: Path) -> None:
    parcel, medium = hospital.hold(), tmp_path / "stick"
    hospital.run("export", str(medium))
    hospital.carry_in(medium)
    with locked(hospital.config.state_dir):
        assert hospital.run("import", str(medium))[1]["daemon"]
        assert hospital.left() == [parcel]
        assert [r.parcel_id for r in Arrivals(hospital.spool.root).waiting()] == [parcel]

    class Cut(Uplink):
        def watch(self) -> Iterator[Assignment]:
            raise UnavailableError("unavailable.centre")

        def report(self, report: object) -> float:
            raise UnavailableError("unavailable.centre")

        def deliver(self, entry: object, read: object, should_stop: object) -> Any:
            raise UnavailableError("unavailable.centre")

        def landed(self, start: int) -> Any:
            raise UnavailableError("unavailable.centre")

    # what it does at its next pass, without a line
    agent, stop = Agent(hospital.config, connect=Cut), threading.Event()
    thread = threading.Thread(target=agent.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: hospital.left() == [] and hospital.state() is State.DONE, 60)
    finally:
        stop.set()
        thread.join()
    assert Arrivals(hospital.spool.root).waiting() == []


def test_egress_by_hand_is_egress(hospital: Hospital, tmp_path: Path) -> None:
    hospital.hold()
    medium = tmp_path / "stick"
    set_paused(hospital.config.state_dir, True)
    assert hospital.run("export", str(medium))[1] == {"code": "paused.site"}
    assert not medium.exists()
    set_paused(hospital.config.state_dir, False)
    state = SiteState(hospital.config.state_dir / "state.db")
    Approvals(state, lambda: "c").refuse(hospital.assignment.study_digest)
    assert hospital.run("export", str(medium))[1]["left"] == {"policy.refused": 1}
    state.set_fact("ledger_head", "ab" * 32)
    state.close()
    Ledger(hospital.config.state_dir / "ledger.db").close()
    assert hospital.run("export", str(medium))[1] == {"code": "budget.ledger"}
    assert contents(medium) == {}


def test_nothing_of_a_study_goes_by_hand_of_which_a_person_has_withdrawn(hospital: Hospital, tmp_path: Path) -> None:
    hospital.hold()
    (entry,) = hospital.spool.pending()
    subjects = Subjects(hospital.config.state_dir / "subjects")
    subjects.add(entry.study_digest, "cohort", {"p1": True})
    subjects.withdraw(entry.study_digest, ["p1"])
    made = hospital.run("export", str(tmp_path / "stick"))[1]
    assert (made["parcels"], made["left"]) == ([], {"study.withdrawn": 1})


def test_a_consent_withdrawn_a_moment_ago_is_honoured_by_hand(hospital: Hospital, tmp_path: Path) -> None:
    """No daemon has looked at the table since: the export does."""
    hospital.hold()
    (entry,) = hospital.spool.pending()
    dataset = hospital.config.datasets["cohort"]
    person = next(name for name, stand in standing(dataset, datetime.now(UTC).date()).items() if stand == "")
    keys = Pseudonymizer(job_key(hospital.config.state_dir, entry.study_digest))
    subjects = Subjects(hospital.config.state_dir / "subjects")
    subjects.add(entry.study_digest, "cohort", {keys.pseudonym(person): True})
    assert len(hospital.run("export", str(tmp_path / "before"))[1]["parcels"]) == 1
    assert dataset.table is not None
    dataset.table.write_text(dataset.table.read_text().replace("yes", "no"))
    made = hospital.run("export", str(tmp_path / "after"))[1]
    assert (made["parcels"], made["left"]) == ([], {"study.withdrawn": 1})
    assert contents(tmp_path / "after") == {}


def test_a_damaged_medium_loses_nothing_and_one_parcel_stops_no_other(hospital: Hospital, tmp_path: Path) -> None:
    medium = tmp_path / "stick"
    parcels = [hospital.hold(bytes([n]) * 5000) for n in range(8)]
    hospital.run("export", str(medium))
    flipped, cut, gone, link, pipe, torn, swapped, whole = parcels

    def at(parcel: str, kind: str = "parcel") -> Path:
        return medium / f"{parcel}.{kind}"

    raw = bytearray(at(flipped).read_bytes())
    raw[len(raw) // 2] ^= 1
    at(flipped).write_bytes(raw)
    at(cut).write_bytes(at(cut).read_bytes()[:-1])
    at(gone).unlink()
    at(link).rename(tmp_path / "elsewhere")
    at(link).symlink_to(tmp_path / "elsewhere")
    at(pipe).unlink()
    os.mkfifo(at(pipe))
    at(torn, "note").write_bytes(at(torn, "note").read_bytes()[:-9])
    at(swapped, "note").write_bytes(at(whole, "note").read_bytes())
    os.mkfifo(medium / f"{'0' * 32}.note")
    status, said = hospital.carry_in(medium)
    assert {one["parcel"]: one["code"] for one in said.pop("refused")} == {
        flipped: "parcel.chunk", cut: "input.medium", gone: "input.medium", link: "input.medium",
        pipe: "input.medium", torn: "input.medium", swapped: "input.medium", "0" * 32: "input.medium",
    }  # fmt: skip
    assert (status, said) == (11, {"landed": 1, "known": 0})
    assert hospital.landed() == [whole]
    hospital.run("import", str(medium))
    assert hospital.left() == [p for p in parcels if p != whole]
    other = tmp_path / "another stick"
    hospital.run("export", str(other))
    assert hospital.carry_in(other) == (0, {"landed": 7, "known": 0, "refused": []})
    hospital.run("import", str(other))
    assert hospital.left() == []


def test_who_did_not_sign_lands_nothing(hospital: Hospital, tmp_path: Path) -> None:
    medium, parcel = tmp_path / "stick", hospital.hold()
    hospital.run("export", str(medium))
    path = medium / f"{parcel}.note"
    signed = SignedNote.from_bytes(path.read_bytes())
    stranger = SecretKey.generate()
    forged = {
        "parcel.signature": [
            replace(signed, note=replace(signed.note, assignment_id="b" * 32)),
            replace(signed, signature=stranger.sign(Purpose.MEDIUM, signed.note.document())),
            replace(signed, signature=hospital.identity.key.sign(Purpose.RENEW, signed.note.document())),
        ],
        "permission.site": [replace(signed, note=replace(signed.note, site="site-z"))],
    }
    for code, notes in forged.items():
        for note in notes:
            path.write_bytes(note.to_bytes())
            assert hospital.carry_in(medium)[1]["refused"][0]["code"] == code
    resigned = replace(signed.note, assignment_id="b" * 32)  # by the site itself, for what is not assigned to it
    path.write_bytes(
        SignedNote(note=resigned, signature=hospital.identity.key.sign(Purpose.MEDIUM, resigned.document())).to_bytes()
    )
    assert hospital.carry_in(medium)[1]["refused"][0]["code"] == "permission.site"
    path.write_bytes(signed.to_bytes())
    hospital.centre.ask("revoke", site="site-a")
    assert hospital.carry_in(medium)[1]["refused"][0]["code"] == "auth.revoked"
    assert hospital.landed() == []


def test_a_receipt_that_lies_changes_nothing(hospital: Hospital, tmp_path: Path) -> None:
    medium, parcels = tmp_path / "stick", [hospital.hold(), hospital.hold()]
    hospital.run("export", str(medium))
    hospital.carry_in(medium)
    path = medium / f"{max(parcels)}.receipt"
    true = path.read_text()
    value = json.loads(true)
    before = contents(hospital.spool.root)
    for changed in (
        {"index": value["index"] - 1},
        {"checkpoint": value["checkpoint"].replace("time 1", "time 2")},
        {"digest": hashlib.sha256(b"").hexdigest()},
        {"more": 1},
        {"proof": [base64.b16encode(os.urandom(40_000)).decode()]},
    ):
        path.write_text(json.dumps(value | changed))
        status, said = hospital.run("import", str(medium))
        assert (status, said["code"]) in ((19, "log.proof"), (11, "input.medium"))
        assert contents(hospital.spool.root) == before
    path.write_text(true)
    path.rename(medium / f"{'f' * 32}.receipt")
    assert hospital.run("import", str(medium))[1]["foreign"] == 1
    assert hospital.left() == [max(parcels)]


def test_a_full_medium_and_a_damaged_spool(hospital: Hospital, tmp_path: Path) -> None:
    medium = tmp_path / "stick"
    small, large = hospital.hold(), hospital.hold(os.urandom(300_000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        assert hospital.run("export", str(medium)) == (20, {"code": "storage.full"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert sorted(contents(medium)) == [f"{small}.note", f"{small}.parcel"]
    path = next((hospital.spool.root / "new").glob(f"*{large}.parcel"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert hospital.run("export", str(medium))[1]["left"] == {"parcel.chunk": 1}
    assert sorted(contents(medium)) == [f"{small}.note", f"{small}.parcel"]

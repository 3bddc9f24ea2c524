"""The hospital's daemon: the file to read. What the centre asks, what the site allows, what leaves, step by step.

    watch    uplink.watch -> state.db                                   stored before anything is done about it
    study    signature, expiry, site -> policy -> approval -> source (consent) -> worker -> gate -> ledger.reserve
             -> sealed and held -> gate.finish -> released -> ledger.commit; a noised study reserves before its worker
    round    signature by the study's run key, replay -> approval -> message -> warm worker -> gate -> the same
    deliver  spool -> uplink -> receipt verified -> journal -> done     edge/deliver.py
    upkeep   who has withdrawn since, studies whose time is over   edge/withdrawals.py, edge/upkeep.py
    pulls    the hospital's own servers -> mirrors in the state folder   edge/pulls.py
    beat     states, heads, clock, certificate                          edge/heartbeat.py

One thread each; studies and rounds have their own, so that a long study delays no round. `site.brakes.halted` (paused,
ledger damaged, stopping) is looked at before each job, part, release and chunk. `edge/jobs.py` turns failures into
states.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge import batch, plugins, pulls
from edge.config import EdgeConfig
from edge.deliver import Delivery
from edge.gate import EgressGate
from edge.heartbeat import Heartbeat
from edge.identity import Identity
from edge.jobs import PASSING, Jobs, crashed
from edge.lane import LaneRun
from edge.masking import Masking
from edge.pace import Pace
from edge.policy import decide
from edge.rounds import verified_round
from edge.route import Route
from edge.scoring import score
from edge.sealing import About, Sealer, sealed_bound
from edge.site import Link, Site, locked
from edge.state import Record
from edge.studies import check_may_leave, verified_study
from edge.updates import answer_bound, check_update
from edge.upkeep import Upkeep
from edge.withdrawals import Withdrawals
from edge.worker import Worker
from pipelines import registry
from protocol.assignment import Assignment, AssignmentKind, Blob, State
from protocol.errors import (
    ConflictError,
    CorsiaError,
    DisclosureRefused,
    StudyRefused,
    UnavailableError,
    WorkerError,
)
from protocol.faults import point
from protocol.parcel import Item
from protocol.service import Service
from protocol.study import Lane, study_digest

__all__ = ["Agent"]

_IDLE_S = 900.0  # a warm worker that no round has used for so long is closed
_LONGEST_WAIT_S = 10.0
_log = logging.getLogger("edge.agent")


def _dialler(config: EdgeConfig) -> Callable[[Identity, str | None], Link]:
    """What makes the wire; the site's pace outlives a connection."""
    from edge.uplink import Uplink

    pace, route = Pace(config.delivery.max_mbit_s), Route.of(config.delivery)
    return lambda identity, fleet: Uplink(identity, fleet, pace=pace, route=route)


class Agent:
    """One site's daemon.

    Args:
        config: the site's configuration.
        connect: makes the wire from an identity and an address (None: the one of the enrolment); grpc when None.

    Raises:
        ConfigurationError: `config.key-mode`, `config.missing` for a proxy's credentials.
    """

    def __init__(self, config: EdgeConfig, *, connect: Callable[[Identity, str | None], Link] | None = None) -> None:
        self.config = config
        self._connect = connect or _dialler(config)
        self._died = False
        self._warm: dict[str, Worker] = {}  # study digest -> the worker of its run

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; what was begun is finished or left so that the next start takes it up.

        Raises:
            ConflictError: `conflict.running` when another daemon holds this state folder.
            AuthenticationError: `auth.not-enrolled`, `auth.certificate`.
            IntegrityError: `journal.chain`; nothing leaves without a journal.
            ConflictError: `conflict.state` when a thread died of a fault of ours.
        """
        with locked(self.config.state_dir):
            self.site = Site(self.config, self._connect, stop)
            self.site.journal.append("agent.started", site=self.config.site)
            self._masking = Masking(self.config.site, self.site.identity.key, self.site.state)
            self._withdrawals = Withdrawals(self.site)
            self._upkeep = Upkeep(self.site, self._withdrawals)
            studies = Jobs(self.site, AssignmentKind.STUDY, self._study, lambda: None)
            rounds = Jobs(self.site, AssignmentKind.ROUND, self._round, self._close_idle)
            works = [self._watch, studies.run, rounds.run, self._deliver, Heartbeat(self.site).run, self._upkeep.run]
            works += pulls.works(self.site)
            threads = [threading.Thread(target=self._guard, args=(work,)) for work in works]
            for thread in threads:
                thread.start()
            _log.info("agent.started", extra={"fields": {"site": self.config.site}})
            Service.of_environment().stand_by(stop)
            self.site.wake()
            self.site.link.close()
            for thread in threads:
                thread.join()
            for worker in self._warm.values():
                worker.close()
            self.site.close()
            _log.info("agent.stopped", extra={"fields": {"site": self.config.site}})
            if self._died:
                raise ConflictError("conflict.state", "a thread of the daemon died; log.jsonl says where")

    def _guard(self, work: Callable[[], None]) -> None:
        """A thread that dies takes the daemon with it, so that the service manager starts it again."""
        try:
            work()
        except BaseException as error:
            crashed("thread.died", error)
            self._died = True
            self.site.stop.set()

    # --- watch and deliver

    def _watch(self) -> None:
        site, delay = self.site, 0.2
        while not site.stop.is_set():
            try:
                for assignment in site.link.watch():
                    self._accept(assignment)
                    delay = 0.2
            except CorsiaError as error:
                site.note("watch.failed", error)
                site.stop.wait(error.retry_s)
            site.stop.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay = min(2 * delay, _LONGEST_WAIT_S)

    def _accept(self, assignment: Assignment) -> None:
        site = self.site
        try:
            new = site.state.store(assignment)
        except StudyRefused as error:
            site.note("assignment.dropped", error)
            return
        if new:
            site.journal.append("assignment.received", assignment=assignment.id, study=assignment.study_digest)
            if assignment.kind is AssignmentKind.STUDY:
                point("edge.accepted")
                site.news.set()
        site.work[assignment.kind].set()

    def _deliver(self) -> None:
        site, delay = self.site, 0.25
        delivery = Delivery.of(site, self._may_leave)
        while not site.stop.is_set():
            site.send.clear()
            try:
                if site.brakes.halted():
                    moved = False
                elif site.compared.is_set():
                    moved = delivery.run_once(site.link)
                else:  # the centre has not been reached; what came by hand needs no centre
                    moved = delivery.take_in_all()
                if moved:
                    site.news.set()
                delay = 0.25
                site.send.wait(0.5)
            except PASSING as error:
                site.note("delivery.delayed", error)
                site.stop.wait(error.retry_s + delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                delay = min(2 * delay, _LONGEST_WAIT_S)

    def _may_leave(self, digest: str) -> None:
        """As `check_may_leave`; also StudyRefused: `study.withdrawn` when a person has withdrawn since."""
        check_may_leave(self.site.state, self.site.approvals, digest)
        self._withdrawals.check(digest)

    # --- a study

    def _study(self, record: Record) -> None:
        assignment = record.assignment
        if record.state is not State.RECEIVED and self._released_before(record):
            return
        lane = self._approved(assignment, first=record.state is State.RECEIVED)
        self.site.move(record, State.RUNNING)
        self.site.journal.append("study.started", assignment=assignment.id, lane=lane.study.lane.value)
        with self._worker(lane.study.lane) as worker:
            if lane.study.lane is Lane.TRAIN:
                self.site.afford(assignment, lane)
                counts = self._start_training(assignment, lane, worker)
                self._finish(record, counts, tell=lane.cost is None and not lane.study.privacy.secure_aggregation)
            elif lane.study.lane is Lane.INFER:
                self._finish(record, score(self.site, assignment, lane, worker))
            else:
                self._release(record, lane, worker)

    def _approved(self, assignment: Assignment, *, first: bool = False) -> LaneRun:
        """The study of an assignment, after signature, expiry, policy and approval."""
        site, digest = self.site, assignment.study_digest
        study = verified_study(assignment, site.identity)
        decision = decide(study, self.config, registry.INSTALLED, plugins.installed(self.config, study))
        if first:
            refused = [rule.name for rule in decision.rules if not rule.ok]
            lane_name = study.lane.value
            site.journal.append("study.decided", study=digest, lane=lane_name, code=decision.code, rules=refused)
        lane = LaneRun.prepare(study, digest, self.config, decision)
        approval = site.approvals.require(digest, lane.dataset.policy.approve)
        if first:
            approver, code = approval.approver, approval.code_digest
            site.journal.append("study.approved", study=digest, approver=approver, code_digest=code)
        return lane

    def _release(self, record: Record, lane: LaneRun, worker: Worker) -> None:
        """Lanes 1 to 3: run, check, spend, seal; then let everything out at once."""
        site, assignment = self.site, record.assignment
        site.spool.discard(assignment.id)
        site.released.drop(assignment.id)
        source = lane.source()
        gate = lane.gate(source)
        size_bytes = lane.decision.effective.max_bytes

        def reserve() -> None:
            persons, release = gate.source_persons, gate.release
            site.reserve(assignment, lane, size_bytes=size_bytes, persons=persons, release=release)

        if lane.cost is not None:
            reserve()  # before any noise is drawn
        sealer = self._sealer(assignment, lane, reserve if lane.cost is None else lambda: None, lane.subjects(source))
        try:
            withheld = lane.run(worker, source, gate, lambda item: sealer.add(item, gate.named))
            passed = gate.finish()
        except DisclosureRefused as error:
            self._journal_gate(assignment, gate, error)
            raise
        try:
            sealer.finish(withheld)
        except DisclosureRefused as error:  # with what was released before
            self._journal_gate(assignment, gate, error)
            raise
        self._journal_gate(assignment, gate, None)
        counts = {"rows": passed.rows, "files": passed.files, "documents": passed.documents}
        counts |= {f"withheld_{k}": v for k, v in withheld.items()}
        self._withdrawals.note(assignment.study_digest, lane, source)
        self._let_out(record, sealer, counts)

    def _journal_gate(self, assignment: Assignment, gate: EgressGate, error: DisclosureRefused | None) -> None:
        event = "gate.refused" if error else "gate.passed"
        rules = [check.rule for check in gate.checks if check.ok is (error is None)]
        code, passed = error.code if error else "", gate.passed
        self.site.journal.append(
            event, assignment=assignment.id, code=code, rules=rules, persons=passed.persons, rows=passed.rows
        )

    def _sealer(
        self, assignment: Assignment, lane: LaneRun, reserve: Callable[[], None], subjects: About | None = None
    ) -> Sealer:
        site = self.site
        return Sealer(
            site.spool,
            site.journal,
            assignment=assignment,
            study=lane.study,
            site=self.config.site,
            signer=site.identity.key,
            reserve=reserve,
            pause=site.brakes.wait_unpaused,
            room=lambda size: site.brakes.wait_room(assignment.id, size),
            released=site.released if assignment.kind is AssignmentKind.STUDY else None,
            subjects=subjects,
        )

    def _let_out(self, record: Record, sealer: Sealer, counts: dict[str, int]) -> None:
        site, name = self.site, record.assignment.id
        size = sum(entry.size_bytes for entry in sealer.held)
        if record.assignment.kind is AssignmentKind.STUDY:
            site.move(record, State.RUNNING, counts={**counts, "parcels": len(sealer.held), "bytes": size})
        site.brakes.wait_unpaused()
        self._may_leave(record.assignment.study_digest)
        site.check_spent(record.assignment, size)
        site.spool.release(name)
        site.journal.append("parcel.released", assignment=name, parcels=len(sealer.held), bytes=size)
        self._is_out(record, size)

    def _released_before(self, record: Record) -> bool:
        """Whether the parcels are out of our hands, now or since an earlier process: they are not made again."""
        released = self.site.spool.released(record.assignment.id)
        if released:
            self._is_out(record, sum(entry.size_bytes for _folder, entry in released))
        return bool(released)

    def _is_out(self, record: Record, size_bytes: int) -> None:
        self.site.commit(record.assignment, size_bytes)
        with self.site.state.together():
            self.site.state.answered(record.assignment.id)
            self.site.move(record, State.DELIVERING)
        self.site.send.set()

    def _finish(self, record: Record, counts: dict[str, int], *, tell: bool = True) -> None:
        """The end of a study of which nothing but counts leaves, and under masks or noise not these."""
        self.site.journal.append("study.done", assignment=record.assignment.id, rows=counts.get("rows", 0))
        self.site.move(record, State.DONE, counts=counts if tell else {})

    # --- a training run: the study loads the rows, each round is one message

    def _start_training(self, assignment: Assignment, lane: LaneRun, worker: Worker) -> dict[str, int]:
        source = lane.source()
        self.site.released.note(assignment.study_digest, assignment.id, "", source.persons(lane.job.roles))
        outcome = worker.start_training(lane.job, source)
        withheld = Counter(source.withheld) + Counter(outcome.withheld)
        self._withdrawals.note(assignment.study_digest, lane, source)
        old, self._warm[assignment.study_digest] = self._warm.get(assignment.study_digest), worker
        if old is not None:
            old.close()
        return {"rows": source.rows, **{f"withheld_{k}": v for k, v in withheld.items()}}

    def _round(self, record: Record) -> None:
        site, assignment = self.site, record.assignment
        if record.state is not State.RECEIVED and self._released_before(record):
            return
        known = site.state.study(assignment.study_digest)
        if known is not None and known.state in (State.RECEIVED, State.RUNNING):
            raise UnavailableError("unavailable.process", "the study's rows are still being loaded")
        if known is None or known.state not in (State.DONE, State.PENDING):
            raise StudyRefused("study.unknown", "a round of a study that does not run here")
        lane = self._approved(known.assignment)
        self._withdrawals.check(assignment.study_digest, sure=True)
        most = lane.decision.effective.max_model_bytes
        instruction = verified_round(assignment, lane.study, self.config.site, site.centre_now(), most)
        with site.state.together():
            if site.state.instruct(instruction, study_digest(assignment.document), assignment.id):
                raise StudyRefused("study.replay", "this instruction has been answered")
            site.move(record, State.RUNNING)
        message = site.link.fetch(Blob(name="message", digest=instruction.message, size_bytes=instruction.message_size))
        lane, kept = site.draws.price(lane, instruction, message, site.spent)

        def plain() -> Item:
            if lane.cost is not None:
                site.reserve(assignment, lane, size_bytes=0, persons=0)  # before any noise is drawn
            reply = kept or self._answer(known.assignment, lane, message)
            item, checks = check_update(lane.study, lane.decision.effective, instruction, message, reply)
            site.journal.append("gate.passed", assignment=assignment.id, rules=[check.rule for check in checks])
            site.draws.keep(lane, instruction, message, item.data)
            return item

        item = self._masking.answer(lane.study, instruction, message, plain)
        bound = sealed_bound(len(item.data))
        site.spool.discard(assignment.id)
        sealer = self._sealer(assignment, lane, lambda: site.reserve(assignment, lane, size_bytes=bound, persons=0))
        sealer.add(item)
        sealer.finish({})
        self._let_out(record, sealer, {})

    def _answer(self, study: Assignment, lane: LaneRun, message: bytes) -> bytes:
        """The run's warm worker's answer. One that has died is started again once: the answer is the same bytes."""
        worker = self._warm.get(study.study_digest)
        if worker is not None and worker.alive:
            try:
                return worker.handle(message, answer_bound(message))
            except WorkerError as error:
                if error.code != "worker.killed" or worker.timed_out:
                    raise
        with self._worker(lane.study.lane) as fresh:
            self._start_training(study, lane, fresh)
        return self._warm[study.study_digest].handle(message, answer_bound(message))

    def _close_idle(self) -> None:
        """Close workers that no round uses, or may use: its rows go with it."""
        for digest, worker in list(self._warm.items()):
            over = self.site.subjects.left(digest) or self._upkeep.is_over(digest)
            if worker.alive and (over or worker.idle_s > _IDLE_S):
                worker.close()

    @contextmanager
    def _worker(self, lane: Lane) -> Iterator[Worker]:
        """A worker that is closed afterwards, unless it stays warm for a run."""
        argv = batch.command(self.config, lane)
        worker = Worker(self.config.limits, self.site.scratch, should_stop=self.site.stop.is_set, argv=argv)
        try:
            yield worker
        finally:
            if worker not in self._warm.values():
                worker.close()

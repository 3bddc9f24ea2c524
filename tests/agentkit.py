"""A centre in memory behind the agent's own `Link` interface, and hospitals for it. Everything else is real."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import tomli_w

from edge.agent import Agent
from edge.config import EdgeConfig, load
from edge.messages import Heard
from edge.spool import SpoolEntry
from privacy.envelope import ParcelInfo, SecretKey, unseal
from privacy.inclusion import LogNews, LogProof
from privacy.transparency import Checkpoint, Tree, sign_checkpoint
from protocol.assignment import Assignment, AssignmentKind, Blob, RoundInstruction, RoundPhase, SiteReport, State
from protocol.errors import CorsiaError, IntegrityError, Paused, UnavailableError
from protocol.landed import LandedPage, LandedParcel
from protocol.parcel import Batch, Receipt, unpack_batch
from protocol.study import Study, dump_study, parse_study, study_digest
from protocol.trust import Purpose
from tests.uplinkkit import Centre

COLUMNS = {
    "patient_id": "patient",
    "name": "identifier",
    "note": "text",
    "age": "quasi",
    "sex": "quasi",
    "score": "value",
    "time": "value",
    "status": "value",
}


def write_table(folder: Path, rows: int = 24) -> Path:
    """A table with planted identities; every eighth row has no consent."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(
        {
            "patient_id": [f"MRN{i:07d}" for i in range(rows)],
            "name": [f"Bardellini{i:04d} Rosetta" for i in range(rows)],
            "note": ["stabile"] * rows,
            "age": [40 + 10 * (i % 2) for i in range(rows)],
            "sex": ["F"] * rows,
            "score": [i / 7 for i in range(rows)],
            "time": [100 + 7 * i for i in range(rows)],
            "status": [i % 2 for i in range(rows)],
            "consent": ["" if i % 8 == 7 else "yes" for i in range(rows)],
        }
    )
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def site_config(folder: Path, *, rows: int = 24, limits: dict[str, Any] | None = None, **policy: Any) -> EdgeConfig:
    """A hospital's configuration file, read back."""
    write_table(folder / "data", rows)
    lanes = ["harvest", "anonymize", "extract", "train", "infer"]
    allowed = {
        "lanes": lanes,
        "pipelines": lanes,
        "purposes": ["research"],
        "release_columns": ["age", "sex", "score"],
        "min_k": 2,
        "min_cohort": 5,
        "allow_unbounded_epsilon": True,
        "approve": "auto",
    } | policy
    dataset = {
        "table": "data/table.csv",
        "columns": COLUMNS,
        "consent": {"column": "consent", "granted": ["yes"]},
        "policy": allowed,
    }
    value = {
        "site": "site-a",
        "state_dir": "state",
        "limits": {"heartbeat_s": 0.2, "worker_timeout_s": 180.0} | (limits or {}),
        "datasets": {"cohort": dataset},
    }
    path = folder / "edge.toml"
    path.write_text(tomli_w.dumps(value))
    return load(path)


def study(study_id: str = "one", **changes: Any) -> Study:
    """A harvest study, changed."""
    base: dict[str, Any] = {
        "schema": 1,
        "id": study_id,
        "title": "t",
        "lane": "harvest",
        "purpose": "research",
        "legal_basis": "scientific-research",
        "controller": "c",
        "ethics_reference": "e",
        "expires": datetime.now(UTC) + timedelta(days=1),
        "sites": ["site-a"],
        "dataset": {"name": "cohort", "columns": ["age", "score"]},
        "pipeline": {"name": "harvest"},
        "output": {"columns": [{"name": "age", "dtype": "int"}, {"name": "score", "dtype": "float"}]},
        "privacy": {"k": 2, "min_cohort": 5},
    }
    return Study.model_validate(base | changes)


@dataclass
class Office:
    """The centre: keys, what it asks, what it was told and given."""

    keys: Centre
    vault: SecretKey = field(default_factory=SecretKey.generate)
    federation: SecretKey = field(default_factory=SecretKey.generate)
    assignments: list[Assignment] = field(default_factory=list)
    reports: list[SiteReport] = field(default_factory=list)
    parcels: dict[str, tuple[SpoolEntry, bytes]] = field(default_factory=dict)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    tree: Tree = field(default_factory=Tree)
    fail: dict[str, Callable[[], None]] = field(default_factory=dict)  # method -> what happens there
    lie: Callable[[int, int, int], LogProof] | None = None  # what a hostile centre proves
    landed: Callable[[int], LandedPage] | None = None  # what a hostile centre says has landed
    news: Callable[[SiteReport], LogNews | None] | None = None  # what it says of its log at heartbeats
    changed: threading.Condition = field(default_factory=threading.Condition)

    def signed(self, tree: Tree) -> str:
        """A checkpoint of a tree, signed by the log key."""
        state = Checkpoint(origin="test/log", size=tree.size, root=tree.root(), time=int(time.time()))
        return sign_checkpoint(state, self.keys.other_key)

    def submit(self, asked: Study, *, sign: SecretKey | None = None, blobs: tuple[Blob, ...] = ()) -> Assignment:
        """Sign a study and assign it."""
        lane = asked.lane.value
        role = "federation" if lane == "train" else "vault"
        key = self.federation if lane == "train" else self.vault
        recipients = [{"role": role, "key": key.public.to_base64()}]
        document = dump_study(Study.model_validate(asked.model_dump(by_alias=True) | {"recipients": recipients}))
        assert parse_study(document)
        made = Assignment(
            id=hashlib.sha256(document).hexdigest()[:32],
            kind=AssignmentKind.STUDY,
            study_digest=study_digest(document),
            document=document,
            signature=(sign or self.keys.study_key).sign(Purpose.STUDY, document),
            blobs=blobs,
        )
        self.assign(made)
        return made

    def instruct(self, of: Assignment, message: bytes, **changes: Any) -> Assignment:
        """Sign a round's instruction with the run key and assign it."""
        value: dict[str, Any] = {
            "run": "r1",
            "study_digest": of.study_digest,
            "site": "site-a",
            "round": 0,
            "phase": RoundPhase.PREPARE,
            "attempt": 0,
            "message": hashlib.sha256(message).hexdigest(),
            "message_size": len(message),
            "deadline": time.time() + 600,
        }
        signer = changes.pop("signer", self.federation)
        name = changes.pop("id", None)
        document = RoundInstruction(**(value | changes)).to_bytes()
        self.blobs[hashlib.sha256(message).hexdigest()] = message
        made = Assignment(
            id=name or hashlib.sha256(document).hexdigest()[:32],
            kind=AssignmentKind.ROUND,
            study_digest=of.study_digest,
            document=document,
            signature=signer.sign(Purpose.ROUND, document),
        )
        self.assign(made)
        return made

    def assign(self, assignment: Assignment) -> None:
        """Give an assignment out."""
        with self.changed:
            self.assignments.append(assignment)
            self.changed.notify_all()

    def state(self, assignment: Assignment) -> SiteReport | None:
        """The site's last word on an assignment."""
        said = [r for r in self.reports if r.assignment_id == assignment.id]
        return said[-1] if said else None

    def wait(
        self, assignment: Assignment, *states: State, code: str | None = None, timeout_s: float = 120
    ) -> SiteReport:
        """The report of one of these states (default: a final one), with this code if one is given.

        A daemon that starts again first repeats what it had reported before it looks anew.
        """
        until = time.monotonic() + timeout_s
        while True:
            last = self.state(assignment)
            if (
                last is not None
                and last.state is not None
                and (last.state in states or (not states and last.state.final))
                and code in (None, last.code)
            ):
                return last
            assert time.monotonic() < until, last
            time.sleep(0.02)

    def opened(self, of: Assignment, site: SecretKey) -> list[Batch]:
        """All batches of an assignment, opened with the key the study names."""
        batches = []
        for entry, data in self.parcels.values():
            if entry.assignment_id == of.id:
                key = self.federation if entry.content_type == "update" else self.vault
                info = ParcelInfo(
                    parcel_id=entry.parcel_id,
                    study=of.study_digest,
                    site="site-a",
                    content_type=entry.content_type,
                )
                payload = b"".join(unseal(BytesIO(data), key=key, sender=site.public, expect=info))
                batches.append(unpack_batch(payload))
        return batches


def news_of(tree: Tree, report: SiteReport, sign: Callable[[Tree], str]) -> LogNews | None:
    """What an honest centre with this log answers."""
    if not report.log_sizes:
        return None
    links = {size: tuple(tree.consistency(size)) for size in report.log_sizes if 0 < size <= tree.size}
    known = report.log_sizes[0] == tree.size
    return LogNews(size=tree.size, checkpoint="" if known else sign(tree), links=links)


def _hex(values: list[bytes]) -> tuple[str, ...]:
    return tuple(value.hex() for value in values)


class Wire:
    """One connection to the office; implements `edge.site.Link`."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.closed = threading.Event()

    def _may_fail(self, method: str) -> None:
        if self.closed.is_set():
            raise UnavailableError("unavailable.centre")
        self.office.fail.get(method, lambda: None)()

    def watch(self) -> Iterator[Assignment]:
        self._may_fail("watch")
        at = 0
        while not self.closed.is_set():
            with self.office.changed:
                new = self.office.assignments[at:]
                at += len(new)
                if not new:
                    self.office.changed.wait(0.05)
            yield from new

    def report(self, report: SiteReport) -> Heard:
        self._may_fail("report")
        office = self.office
        office.reports.append(report)
        news = office.news if office.news is not None else lambda asked: news_of(office.tree, asked, office.signed)
        return Heard(server_time=time.time(), log=news(report))

    def carry(
        self, parcels: Sequence[tuple[SpoolEntry, bytes]], should_stop: Callable[[], bool]
    ) -> list[Receipt | CorsiaError]:
        return [self.deliver(entry, BytesIO(data), should_stop) for entry, data in parcels]

    def deliver(
        self,
        entry: SpoolEntry,
        read: BinaryIO,
        should_stop: Callable[[], bool],
        turn: Callable[[], None] = lambda: None,
    ) -> Receipt:
        self._may_fail("deliver")
        data = read.read()
        turn()
        if should_stop():
            raise Paused("paused.site")
        office = self.office
        if hashlib.sha256(data).hexdigest() != entry.digest:
            raise IntegrityError("parcel.truncated")
        if entry.parcel_id not in office.receipts:
            index = office.tree.append(Receipt.leaf(entry.parcel_id, entry.digest))
            office.parcels[entry.parcel_id] = (entry, data)
            office.receipts[entry.parcel_id] = Receipt(
                parcel_id=entry.parcel_id,
                digest=entry.digest,
                index=index,
                proof=tuple(node.hex() for node in office.tree.inclusion(index)),
                checkpoint=office.signed(office.tree),
            )
        return office.receipts[entry.parcel_id]

    def fetch(self, blob: Blob) -> bytes:
        self._may_fail("fetch")
        data = self.office.blobs[blob.digest]
        if hashlib.sha256(data).hexdigest() != blob.digest or len(data) != blob.size_bytes:
            raise IntegrityError("blob.digest")
        return data

    def prove(self, index: int, size: int, to: int = 0) -> LogProof:
        self._may_fail("prove")
        office = self.office
        if office.lie is not None:
            return office.lie(index, size, to)
        tree = office.tree
        if to:
            return LogProof(checkpoint="", consistency=_hex(tree.consistency(size, to)))
        return LogProof(
            checkpoint=office.signed(tree),
            inclusion=_hex(tree.inclusion(index)),
            consistency=_hex(tree.consistency(size)),
        )

    def landed(self, start: int) -> LandedPage:
        self._may_fail("landed")
        office, tree = self.office, self.office.tree
        if office.landed is not None:
            return office.landed(start)
        heads = [(r.ledger_head, r.journal_head) for r in office.reports if r.ledger_head] or [("", "")]
        found = sorted(office.receipts.values(), key=lambda receipt: receipt.index)
        parcels = [office.parcels[r.parcel_id][0] for r in found]
        over = {r.assignment_id for r in office.reports if r.state is not None and r.state.final}
        return LandedPage(
            parcels=tuple(
                LandedParcel(
                    parcel_id=receipt.parcel_id,
                    digest=receipt.digest,
                    index=receipt.index,
                    proof=_hex(tree.inclusion(receipt.index)),
                    assignment_id=entry.assignment_id,
                    content_type=entry.content_type,
                    size_bytes=entry.size_bytes,
                    done=entry.assignment_id in over,
                )
                for receipt, entry in zip(found, parcels, strict=True)
                if receipt.index >= start
            ),
            assignments=tuple(office.assignments),
            checkpoint=office.signed(tree) if found else "",
            more=False,
            ledger_head=heads[-1][0],
            journal_head=heads[-1][1],
        )

    def renew(self, csr_der: bytes, signature: bytes) -> bytes:
        raise UnavailableError("unavailable.centre")

    def close(self) -> None:
        self.closed.set()


def enrolled(config: EdgeConfig) -> Office:
    """An office at which this site is enrolled, by real enrolment over TLS."""
    keys = Centre().start()
    keys.enrol(config.state_dir, config.site)
    keys.stop()
    return Office(keys)


@contextmanager
def running(config: EdgeConfig, office: Office) -> Iterator[Agent]:
    """The agent at work in a thread of its own."""
    agent = Agent(config, connect=lambda _identity, _fleet: Wire(office))
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            agent.run(stop)
        except BaseException as error:
            failures.append(error)
            stop.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield agent
    finally:
        stop.set()
        thread.join(120)
        assert not thread.is_alive(), "the agent did not stop"
        if failures:
            raise failures[0]

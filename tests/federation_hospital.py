"""Hospitals for the federation's tests: they answer round instructions through the store, as edge and gateway would.

No gRPC, but real signatures, real sealed parcels in a real landing folder, real training sessions.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sqlalchemy import select

from central.federation.keys import RunKeys
from central.store import Store
from central.store.changes import Changes
from central.store.models import AssignmentRow, ParcelRow, SiteRow, StudyRow
from corsia.lung import study_for
from pipelines import Job
from pipelines.masking import Attempt, MaskedSite
from pipelines.train import Session
from privacy.envelope import ParcelInfo, PublicKey, SecretKey, new_parcel_id, seal
from privacy.secagg import MemoryGuard
from protocol.assignment import RoundInstruction
from protocol.errors import CorsiaError
from protocol.parcel import Batch, ContentType, Item, ItemKind, Receipt, pack_batch
from protocol.study import Recipient, Study, dump_study, parse_study, study_digest
from protocol.trust import Purpose

SITES = ("site-a", "site-b", "site-c")


def frame(site: str, rows: int = 40) -> pd.DataFrame:
    """Rows of one invented hospital: risk rises with x0, some values missing."""
    draw = np.random.default_rng([7, *site.encode()])
    x = draw.normal(size=(rows, 2))
    time_ = np.ceil(draw.exponential(300 * np.exp(-0.8 * x[:, 0]))) + 1
    status = np.where(draw.uniform(size=rows) < 0.7, 2, 1)
    x[draw.uniform(size=x.shape) < 0.1] = np.nan
    return pd.DataFrame({"x0": x[:, 0], "x1": x[:, 1] * 50 + 900, "time": time_, "status": status})


def study(*, sites: tuple[str, ...] = SITES, **training: object) -> Study:
    """A small training study over the invented hospitals."""
    made = study_for(list(sites), rounds=3).model_copy(update={"id": "tiny"})
    assert made.training is not None
    changed = made.training.model_dump() | {"features": ("x0", "x1"), "local_steps": 5, **training}
    raw = made.model_dump(by_alias=True, exclude_none=True) | {"training": changed}
    return Study.model_validate(raw)


class FrameSource:
    """A `pipelines.Source` of one table."""

    def __init__(self, table: pd.DataFrame | None) -> None:
        self._table = table

    def table(self) -> pd.DataFrame | None:
        return self._table

    def files(self):
        return iter(())

    def documents(self, kind):
        return iter(())


def session(plan: Study, site: str, *, site_metrics: bool = False) -> Session:
    job = Job(study=plan, site=site, key=bytes(32), site_metrics=site_metrics)
    return Session(job, FrameSource(frame(site)))


class Consortium:
    """A centre's state folder with an open, signed study and enrolled sites."""

    def __init__(self, root: Path, draft: Study) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.store = root, Store(root)
        self.landing = root / "landing"
        self.landing.mkdir(exist_ok=True)
        self.sent: dict[str, bytes] = {}  # every parcel that has landed: a run forgets those of earlier phases
        self.keys = RunKeys(root / "federation" / "keys")
        self.signer = SecretKey.from_bytes(b"\x07" * 32)  # tests.federation_process.STUDY_KEY
        self.identities = {s: SecretKey.from_bytes(hashlib.sha256(s.encode()).digest()) for s in draft.sites}
        recipient = Recipient(role="federation", key=self.keys.public(draft.id).to_base64())
        roster = {site: key.public.fingerprint for site, key in self.identities.items()}
        document = dump_study(draft.model_copy(update={"recipients": (recipient,), "roster": roster}))
        self.study, self.digest = parse_study(document), study_digest(document)
        self._register(document)

    def _register(self, document: bytes) -> None:
        now = time.time()
        with self.store.begin() as session:
            if session.get(StudyRow, self.study.id) is not None:
                return
            session.add(
                StudyRow(
                    id=self.study.id, digest=self.digest, lane="train", title="t", document=document,
                    signature=self.signer.sign(Purpose.STUDY, document), created_at=now,
                )
            )  # fmt: skip
            session.flush()
            for site, key in self.identities.items():
                session.add(SiteRow(name=site, identity=key.public.to_base64(), enrolled_at=now))
                session.add(
                    AssignmentRow(
                        id=secrets.token_hex(16), site=site, kind="study", study_digest=self.digest, document=document,
                        signature=b"", state="done", created_at=now, updated_at=now,
                    )
                )  # fmt: skip

    def deliver(self, site: str, assignment: str, reply: bytes, *, signer: SecretKey | None = None) -> str:
        """What edge, wire and gateway do with an answer."""
        batch = Batch(
            batch_id=hashlib.sha256(f"{self.digest}|{site}|{assignment}|0".encode()).hexdigest()[:32],
            study_digest=self.digest, site=site, part=0, last=True,
            items=(Item(kind=ItemKind.MESSAGE, name="message.bin", data=reply, rows=1),),
        )  # fmt: skip
        parcel = new_parcel_id()
        info = ParcelInfo(parcel_id=parcel, study=self.digest, site=site, content_type=ContentType.UPDATE.value)
        recipient = PublicKey.from_base64(str(self.study.recipient("federation")))
        target = io.BytesIO()
        digest = seal(
            pack_batch(batch), target, info=info, recipients=[recipient], signer=signer or self.identities[site]
        )
        self.sent[parcel] = target.getvalue()
        (self.landing / f"{parcel}.parcel").write_bytes(self.sent[parcel])
        with self.store.begin() as session:
            index = self.store.append_leaf(session, Receipt.leaf(parcel, digest))
            session.add(
                ParcelRow(
                    id=parcel, site=site, study_digest=self.digest, assignment_id=assignment, content_type="update",
                    digest=digest, size_bytes=len(target.getvalue()), log_index=index, landed_at=time.time(),
                )
            )  # fmt: skip
        return parcel


class Hospitals:
    """Threads that answer every open round instruction of their site, until told to stop; ready when entered.

    Args:
        tamper: changes a reply before it is sealed (site, instruction, reply) -> reply, or None to report a failure.
    """

    def __init__(
        self,
        consortium: Consortium,
        tamper: Callable[[str, RoundInstruction, bytes], bytes | None] = lambda _s, _i, reply: reply,
        silent: tuple[str, ...] = (),
    ) -> None:
        self._consortium, self._tamper, self._silent = consortium, tamper, silent
        self._stop = threading.Event()
        self.seen: dict[str, bytes] = {}
        self.errors: list[BaseException] = []
        self._ready = threading.Semaphore(0)
        self._masks: dict[str, MaskedSite] = {}
        self._threads = [threading.Thread(target=self._guarded, args=(site,)) for site in consortium.study.sites]

    def __enter__(self) -> Hospitals:
        for thread in self._threads:
            thread.start()
        for _ in self._threads:  # loading is no part of what a round's deadline measures
            self._ready.acquire()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert not self.errors

    def _guarded(self, site: str) -> None:
        try:
            self._serve(site)
        except Exception as error:
            self.errors.append(error)
            self._ready.release()

    def _serve(self, site: str) -> None:
        store, warm = self._consortium.store, session(self._consortium.study, site)
        self._masks[site] = MaskedSite(
            self._consortium.study, self._consortium.digest, site, self._consortium.identities[site], MemoryGuard()
        )
        key = PublicKey.from_base64(str(self._consortium.study.recipient("federation")))
        changes = Changes(store.engine)
        self._ready.release()
        while not self._stop.wait(0.005):
            if not changes.seen():
                continue
            with store.read() as reading:
                rows = reading.scalars(
                    select(AssignmentRow).where(
                        AssignmentRow.site == site, AssignmentRow.kind == "round", AssignmentRow.state == "received"
                    )
                ).all()
            for row in rows:
                if row.id not in self.seen and site not in self._silent:
                    self._answer(site, row, warm, key)
        changes.close()

    def _answer(self, site: str, row: AssignmentRow, warm: Session, key: PublicKey) -> None:
        key.verify(Purpose.ROUND, row.document, row.signature)
        instruction = RoundInstruction.from_bytes(row.document)
        assert instruction.site == site
        assert row.blobs[0]["digest"] == instruction.message
        reply = self._said(site, instruction, warm)
        reply = reply if reply is None else self._tamper(site, instruction, reply)
        self.seen[row.id] = reply or b""
        if reply is not None:
            self._consortium.deliver(site, row.id, reply)
        with self._consortium.store.begin() as writing:
            stored = writing.get_one(AssignmentRow, row.seq)
            stored.state, stored.code = ("done", "") if reply is not None else ("failed", "worker.failed")

    def _said(self, site: str, instruction: RoundInstruction, warm: Session) -> bytes | None:
        message = self._consortium.store.get_blob(instruction.message)
        if instruction.step is None:
            return warm.handle(message)
        at = Attempt(run=instruction.run, round=instruction.round, phase=instruction.phase, attempt=instruction.attempt)
        try:
            return self._masks[site].answer(at, instruction.step, message, lambda: warm.handle(message))
        except CorsiaError:
            return None

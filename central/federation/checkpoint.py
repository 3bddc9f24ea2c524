"""What a run has reached, durable after every round: model, preprocessing, strategy state, metrics.

A checkpoint is two safetensors blobs and a row; reading it back and going on gives the bytes that an uninterrupted
run gives. Nothing here talks to a site.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from sqlalchemy import select

from central.federation.flower import MOMENTS
from central.federation.moments import Moments
from central.federation.tensors import tensor_parts, tensors, tensors_at
from central.store import Store
from central.store.models import RoundRow, RunRow
from pipelines.flower import Arrays
from protocol.assignment import RoundPhase

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "History",
    "MemoryCheckpoints",
    "StoreCheckpoints",
    "join_arrays",
    "split_arrays",
]

_EXAMPLES = "examples/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """State after a round; round 0 is the preparation.

    Attributes:
        model: the global model's arrays.
        preprocessing: what all sites apply to their rows.
        state: small arrays that the round loop remembers.
        moments: what the strategy remembers, where it does.
        examples: site -> number of rows, fixed by the preparation.
        metrics: empty until the round has been evaluated; then it holds at least `rows`.
        sites: whose replies are in this round, by name.
        started_at: Unix seconds.
        ended: of the checkpoint that a finished run gives: why it ended (`rounds`, `settled`, `early`, `stopped`).
        rounds_run: of the same: how many rounds were run, of which this one may not be the last.
    """

    round: int
    model: Arrays
    preprocessing: Arrays
    state: Arrays = field(default_factory=dict)
    moments: Moments = field(default_factory=Moments)
    examples: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    sites: tuple[str, ...] = ()
    started_at: float = 0.0
    ended: str = ""
    rounds_run: int = 0


History = list[tuple[int, Mapping[str, Any]]]  # (round, metrics) of rounds that have been evaluated


class Checkpoints(Protocol):
    """Where the round loop keeps what it has reached."""

    def latest(self) -> Checkpoint | None:
        """The last one saved, or None."""
        ...

    def at(self, round_: int) -> Checkpoint:
        """A round's checkpoint, which has been saved."""
        ...

    def history(self) -> History:
        """The metrics of finished rounds, in order, without the preparation."""
        ...

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep it; after this returns it survives a crash. Saving a round again replaces it."""
        ...

    def moments(self) -> Moments:
        """Where the next checkpoint's moments are put, empty."""
        ...

    def begin(self, round_: int, phase: RoundPhase) -> int:
        """Note what is under way; returns the attempt to use (0, or that of an interrupted process)."""
        ...

    def retry(self, round_: int, phase: RoundPhase, attempt: int) -> None:
        """Note that a further attempt begins."""
        ...

    def tell(self, kind: str, *, site: str = "", **fields: Any) -> None:
        """An event of the run, for whoever watches."""
        ...


class MemoryCheckpoints:
    """For the in-process grid and the simulation: kept as long as the object."""

    def __init__(self) -> None:
        self.all: list[Checkpoint] = []
        self.told: list[tuple[str, str, dict[str, Any]]] = []

    def latest(self) -> Checkpoint | None:
        """The last one saved."""
        return self.all[-1] if self.all else None

    def at(self, round_: int) -> Checkpoint:
        """A round's checkpoint."""
        return next(c for c in self.all if c.round == round_)

    def history(self) -> History:
        """Rounds with metrics."""
        return [(c.round, c.metrics) for c in self.all if c.round > 0 and c.metrics]

    def save(self, checkpoint: Checkpoint) -> None:
        """Keep it."""
        self.all = [c for c in self.all if c.round != checkpoint.round] + [checkpoint]

    def moments(self) -> Moments:
        """In memory."""
        return Moments()

    def begin(self, round_: int, phase: RoundPhase) -> int:
        """Always the first attempt."""
        del round_, phase
        return 0

    def retry(self, round_: int, phase: RoundPhase, attempt: int) -> None:
        """Nothing to note."""

    def tell(self, kind: str, *, site: str = "", **fields: Any) -> None:
        """Keep it."""
        self.told.append((kind, site, fields))


class StoreCheckpoints:
    """In the central database and its blobs."""

    def __init__(self, store: Store, run: str, study_id: str) -> None:
        self._store, self._run, self._study = store, run, study_id

    def latest(self) -> Checkpoint | None:
        """The highest round's checkpoint.

        Raises:
            IntegrityError: `blob.digest` when a blob is damaged.
        """
        with self._store.read() as session:
            row = session.scalar(
                select(RoundRow).where(RoundRow.run == self._run).order_by(RoundRow.round.desc()).limit(1)
            )
        return self._read(row) if row is not None else None

    def at(self, round_: int) -> Checkpoint:
        """A round's checkpoint; raises as `latest`."""
        with self._store.read() as session:
            return self._read(session.get_one(RoundRow, (self._run, round_)))

    def history(self) -> History:
        """Rounds with metrics."""
        with self._store.read() as session:
            rows = session.execute(
                select(RoundRow.round, RoundRow.metrics).where(RoundRow.run == self._run, RoundRow.round > 0)
            ).all()
        return sorted(((round_, metrics) for round_, metrics in rows if metrics), key=lambda pair: pair[0])

    def _read(self, row: RoundRow) -> Checkpoint:
        model, preprocessing = split_arrays(self._store.get_blob(row.arrays))
        moments = self.moments()
        state = self._store_state(row.state, moments)
        return Checkpoint(
            round=row.round,
            model=model,
            preprocessing=preprocessing,
            state={k: v for k, v in state.items() if not k.startswith(_EXAMPLES)},
            moments=moments,
            examples={k.removeprefix(_EXAMPLES): int(v[0]) for k, v in state.items() if k.startswith(_EXAMPLES)},
            metrics=dict(row.metrics),
            sites=tuple(row.sites),
            started_at=row.started_at,
        )

    def _store_state(self, digest: str, moments: Moments) -> Arrays:
        """The small arrays of a state's blob; the large ones go into `moments`, one at a time."""
        small: Arrays = {}
        for name, value in tensors_at(self._store.checked_path(digest)):
            if name.startswith(MOMENTS):
                moments.put(name, value.shape, 0, value.reshape(-1))
            else:
                small[name] = value
        return small

    def moments(self) -> Moments:
        """On the disk of the database."""
        return Moments(self._store.state_dir)

    def save(self, checkpoint: Checkpoint) -> None:
        """Blobs first, then the row; an event when the round has its metrics."""
        arrays = self._store.put_blob("arrays", tensor_parts(_named(checkpoint.model, checkpoint.preprocessing)))
        examples = {f"{_EXAMPLES}{site}": np.array([n], np.int64) for site, n in checkpoint.examples.items()}
        state = self._store.put_blob("state", tensor_parts({**checkpoint.state, **examples, **checkpoint.moments}))
        with self._store.begin() as session:
            row = session.get(RoundRow, (self._run, checkpoint.round))
            if row is None:
                row = RoundRow(run=self._run, round=checkpoint.round, started_at=checkpoint.started_at)
                session.add(row)
            row.arrays, row.state = arrays.digest, state.digest
            row.metrics, row.sites = dict(checkpoint.metrics), list(checkpoint.sites)
            row.finished_at = time.time()
            if checkpoint.metrics or checkpoint.round == 0:
                self._store.emit(
                    session, "round.finished", study=self._study, round=checkpoint.round, metrics=row.metrics,
                    sites=len(row.sites), duration_s=round(row.finished_at - row.started_at, 3),
                )  # fmt: skip

    def begin(self, round_: int, phase: RoundPhase) -> int:
        """The attempt that was under way in this round and phase, else 0."""
        with self._store.begin() as session:
            row = session.get_one(RunRow, self._run)
            if (row.round, row.phase) != (round_, phase.value):
                row.round, row.phase, row.attempt = round_, phase.value, 0
            row.updated_at = time.time()
            return row.attempt

    def retry(self, round_: int, phase: RoundPhase, attempt: int) -> None:
        """A further attempt, with an event."""
        with self._store.begin() as session:
            row = session.get_one(RunRow, self._run)
            row.attempt, row.updated_at = attempt, time.time()
            self._store.emit(
                session, "round.retried", study=self._study, round=round_, phase=phase.value, attempt=attempt
            )

    def tell(self, kind: str, *, site: str = "", **fields: Any) -> None:
        """An event in the database."""
        with self._store.begin() as session:
            self._store.emit(session, kind, site=site, study=self._study, **fields)


def join_arrays(model: Arrays, preprocessing: Arrays) -> bytes:
    """Model and preprocessing as one safetensors file: what is published is exactly this."""
    return b"".join(tensor_parts(_named(model, preprocessing)))


def _named(model: Arrays, preprocessing: Arrays) -> Arrays:
    return {f"model/{k}": v for k, v in model.items()} | {f"preprocessing/{k}": v for k, v in preprocessing.items()}


def split_arrays(raw: bytes) -> tuple[Arrays, Arrays]:
    """Model and preprocessing back from `join_arrays`."""
    loaded = tensors(raw)
    parts = [{k.removeprefix(p): v for k, v in loaded.items() if k.startswith(p)} for p in ("model/", "preprocessing/")]
    return parts[0], parts[1]

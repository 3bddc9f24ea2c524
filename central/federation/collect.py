"""The answers of one phase: each site's, judged one by one; their mean, where a strategy needs no more; or under
masks their total alone.

Place in the flow: `rounds` -> here -> grid. A reply is judged before a strategy sees it: a malformed or late site is
left out of the round, never the end of the run. Below the quorum the phase is tried again, a bounded number of times;
no wait is without a bound.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

import numpy as np

from central.federation.checkpoint import Checkpoints
from central.federation.masked import MaskedExchange, MaskedGrid, Total, said
from central.federation.mean import Mean
from central.federation.noise import Noised
from pipelines.flower import (
    ARRAYS,
    CONFIG,
    EXAMPLES,
    LOSS,
    METRICS,
    Arrays,
    Message,
    RecordDict,
    Shapes,
    array_record,
    metric_record,
    record_of,
    views_of,
)
from pipelines.masking import MASKS, PHASE, STEP, Attempt
from pipelines.replies import describe
from pipelines.train import PREPARE
from protocol.assignment import MaskStep, RoundPhase
from protocol.errors import ConflictError, CorsiaError, InputError, UnavailableError
from protocol.study import Study, Training, needs

__all__ = [
    "MAX_ATTEMPTS",
    "PHASES",
    "PREPARED",
    "Collected",
    "Collector",
    "Expected",
    "SiteGrid",
    "place_of",
    "quorum_of",
    "rows_of",
]

Check = Callable[[str, Arrays, int], None]  # site, arrays, number of examples -> raises InputError
Drop = Callable[[str, str], None]  # site, code of why it is left out
MAX_ATTEMPTS = 3
_ROWS, PREPARED = "masked/rows", "masked/prepared"  # in a checkpoint's state: of its round, of the preparation
MAX_EXAMPLES = 10**9
PHASES = {PREPARE: RoundPhase.PREPARE, "train": RoundPhase.TRAIN, "evaluate": RoundPhase.EVALUATE}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a usable reply of one phase holds.

    Attributes:
        received: the model that it is an update of, where noise hides a site.
        examples: rows of each site, where the preparation has fixed them.
    """

    arrays: Shapes
    received: Arrays | None = None
    metrics: tuple[str, ...] = ()
    check: Check
    all_metrics: bool = False
    examples: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A phase's answers: each site's, or their mean, or under masks their total alone."""

    replies: list[tuple[str, Message]] = field(default_factory=list)
    mean: Total | None = None
    total: Total | None = None

    @property
    def sites(self) -> tuple[str, ...]:
        """Whose answers these are, by name."""
        one = self.mean or self.total
        return one.sites if one else tuple(site for site, _ in self.replies)

    def sums(self) -> Arrays:
        """The arrays, added over sites in the order of their names."""
        return self.total.arrays if self.total else _total(self.replies)

    def examples(self) -> dict[str, int]:
        """Rows of each site; 0 where masks hide them."""
        return {s: 0 for s in self.total.sites} if self.total else {s: _examples(m) for s, m in self.replies}

    def rows(self) -> Arrays:
        """Rows in all, where masks hide those of each site; in a checkpoint's state."""
        return {_ROWS: np.array([self.total.examples], np.int64)} if self.total else {}

    def prepared(self) -> Arrays:
        """The same of the preparation, against which `fits` holds later answers."""
        rows = self.rows()
        return {**rows, PREPARED: rows[_ROWS]} if rows else rows

    def fits(self, prepared: Mapping[str, Any], state: Mapping[str, np.ndarray[Any, Any]]) -> bool:
        """Whether under masks it can be of the preparation's rows: as many from the same sites, fewer from fewer.

        Args:
            prepared: whose keys are the sites of the preparation.
            state: a checkpoint's.
        """
        if self.total is None or PREPARED not in state:
            return True
        rows, examples = int(state[PREPARED][0]), self.total.examples
        return examples == rows if set(self.total.sites) == set(prepared) else examples < rows

    def messages(self) -> list[Message]:
        """For the strategy, once: of a mean or total one answer that stands for all, weighted by all examples."""
        one = self.mean or self.total
        if one is None:
            return [message for _, message in self.replies]
        arrays = {name: one.arrays.pop(name) for name in tuple(one.arrays)}  # large, and not needed twice
        content = {ARRAYS: array_record(arrays, once=True), METRICS: metric_record({EXAMPLES: one.examples})}
        return [Message(RecordDict(content), 1, "train")]


class SiteGrid(Protocol):
    """A Flower Grid that knows which site a node is; `sites` may be narrowed by the loop."""

    sites: dict[int, str]

    def get_node_ids(self) -> Iterable[int]:
        """The nodes of `sites`."""
        ...

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Replies that arrived in time, by the names of their sites; each is read when it is asked for, once."""
        ...


class Collector:
    """Sends a phase's messages and collects the answers.

    Args:
        study: a study of lane `train`.
        grid: the way to the sites.
        checkpoints: where attempts are noted.
    """

    def __init__(self, study: Study, training: Training, grid: SiteGrid, checkpoints: Checkpoints) -> None:
        self._study, self._training, self._grid, self._checkpoints = study, training, grid, checkpoints
        self._masked = study.privacy.secure_aggregation
        self.quorum = quorum_of(study)
        self._codes: list[str] = []  # why sites were left out of the attempt under way

    def collect(
        self,
        round_: int,
        phase: RoundPhase,
        messages: Callable[[int], Iterable[Message]],
        expected: Expected,
        quorum: int | None = None,
    ) -> Collected | None:
        """The answers of a phase, or under masks their total; None when the total stays masked for ever.

        Args:
            quorum: answers needed, where that is not the study's.

        Raises:
            UnavailableError: `unavailable.quorum` after the last attempt.
        """
        if not self._masked:
            return self._exchange(round_, phase, messages, expected, quorum or self.quorum)
        grid = cast(MaskedGrid, self._grid)
        attempt = self._checkpoints.begin(round_, phase)
        while True:
            exchange = MaskedExchange(
                study=self._study,
                grid=grid,
                at=Attempt(run=grid.run_name, round=round_, phase=phase, attempt=attempt),
                messages=partial(messages, attempt),
                shapes=expected.arrays,
                received=expected.received,
                quorum=self.quorum,
                timeout=self._training.deadline_s,
                drop=partial(self._drop, round_, phase),
            )
            self._codes = []
            try:
                return Collected(total=exchange.run())
            except ConflictError:
                return None
            except UnavailableError as error:
                if error.code != "unavailable.survivors":
                    raise
            attempt += 1
            if attempt >= MAX_ATTEMPTS:
                raise self._too_few("too few sites are left for secure aggregation")
            self._checkpoints.retry(round_, phase, attempt)

    def _exchange(
        self,
        round_: int,
        phase: RoundPhase,
        messages: Callable[[int], Iterable[Message]],
        expected: Expected,
        quorum: int,
    ) -> Collected:
        """Usable replies, at least a quorum of them.

        Raises:
            UnavailableError: `unavailable.quorum` after the last attempt.
        """
        attempt = self._checkpoints.begin(round_, phase)
        while True:
            replies = self._grid.send_and_receive(messages(attempt), timeout=self._training.deadline_s)
            drop, self._codes = partial(self._drop, round_, phase), []
            if phase is RoundPhase.TRAIN and needs(self._training.strategy) == "sum":
                collected = self._averaged(replies, expected, drop)
            else:
                usable: dict[str, Message] = {}
                self._judged(replies, expected, usable.__setitem__, drop)
                collected = Collected(replies=sorted(usable.items()))
            if len(collected.sites) >= quorum:
                return collected
            attempt += 1
            if attempt >= MAX_ATTEMPTS:
                raise self._too_few(f"{len(collected.sites)} of {quorum} sites gave an answer")
            self._checkpoints.retry(round_, phase, attempt)

    def _averaged(self, replies: Iterable[Message], expected: Expected, drop: Drop) -> Collected:
        """The mean of usable replies, of which one at a time is in memory."""
        mean: Mean | Noised
        if expected.received is not None:
            mean = Noised(self._study, expected.received)
        else:
            rows = {site: expected.examples.get(site, 0) for site in self._grid.sites.values()}
            mean = Mean(expected.arrays, rows, summed=self._training.strategy == "newton")
        self._judged(replies, expected, lambda site, m: mean.add(site, _arrays(m), _examples(m)), drop)
        return Collected(mean=mean.total())

    def _judged(
        self, replies: Iterable[Message], expected: Expected, take: Callable[[str, Message], None], drop: Drop
    ) -> None:
        """Hand on what is usable, one reply of each site."""
        seen: set[str] = set()
        for message in replies:
            site = self._grid.sites.get(message.metadata.src_node_id)
            if site is not None and site not in seen:
                try:
                    _judge(site, message, expected)
                    seen.add(site)
                    take(site, message)
                except CorsiaError as error:
                    drop(site, error.code)
            del message  # before the next one is opened

    def _drop(self, round_: int, phase: RoundPhase, site: str, code: str) -> None:
        """Tell that a site is left out of a phase, and why."""
        self._codes.append(code)
        log.warning("reply.dropped", extra={"fields": {"site": site, "code": code}})
        self._checkpoints.tell("round.dropped", site=site, round=round_, phase=phase.value, code=code)

    def _too_few(self, message: str) -> CorsiaError:
        """The end of a phase after its last attempt: by its own name where sites say that training diverged."""
        if "input.diverged" in self._codes:
            return InputError("input.diverged", f"at {self._codes.count('input.diverged')} sites")
        return UnavailableError("unavailable.quorum", message)


def quorum_of(study: Study) -> int:
    """How many sites must answer: the study's share of all its sites, rounded up."""
    share = study.training.quorum if study.training else 1.0
    return max(1, math.ceil(share * len(study.sites) - 1e-9))


def place_of(message: Message) -> tuple[RoundPhase, MaskStep | None]:
    """Phase and step of an instruction, which its own configuration names."""
    config, kind = record_of(message, CONFIG), message.metadata.message_type
    phase = RoundPhase(str(config[PHASE])) if kind == MASKS else PHASES[kind]
    return phase, MaskStep(str(config[STEP])) if STEP in config else None


def rows_of(state: Mapping[str, np.ndarray[Any, Any]]) -> int:
    """Rows of all sites under masks, as a checkpoint's state notes them; 0 where it does not."""
    return int(state[_ROWS][0]) if _ROWS in state else 0


def _judge(site: str, message: Message, expected: Expected) -> None:
    shape = describe(message)
    if shape.error is not None:
        raise said(shape.error)
    if shape.arrays != expected.arrays or not shape.finite:
        raise InputError("input.message", "keys, shapes, dtypes or values")
    allowed = {EXAMPLES, *expected.metrics}
    if not set(shape.metrics) <= allowed or (expected.all_metrics and set(shape.metrics) != allowed):
        raise InputError("input.message", "metrics that nobody asked for")
    examples = shape.metrics.get(EXAMPLES)
    if not isinstance(examples, int) or not 1 <= examples <= MAX_EXAMPLES:
        raise InputError("input.message", "number of examples")
    if shape.metrics.get(LOSS, 0.0) < 0:
        raise InputError("input.message", "a loss below zero")
    expected.check(site, _arrays(message), examples)


def _total(replies: list[tuple[str, Message]]) -> Arrays:
    """Sums over sites, in the order of their names."""
    parts = [_arrays(message) for _, message in replies]
    return {name: sum((part[name] for part in parts[1:]), parts[0][name].copy()) for name in parts[0]}


def _arrays(message: Message) -> Arrays:
    return views_of(record_of(message, ARRAYS))


def _examples(message: Message) -> int:
    return int(record_of(message, METRICS)[EXAMPLES])

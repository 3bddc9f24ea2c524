"""The answers of one phase: each site's, judged one by one, or under masks their total alone.

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
    arrays_of,
    describe,
    metric_record,
)
from pipelines.masking import MASKS, PHASE, STEP, Attempt
from pipelines.train import PREPARE
from protocol.assignment import MaskStep, RoundPhase
from protocol.errors import ConflictError, CorsiaError, InputError, UnavailableError
from protocol.study import Study, Training

__all__ = [
    "MAX_ATTEMPTS",
    "PHASES",
    "Collected",
    "Collector",
    "Expected",
    "SiteGrid",
    "place_of",
    "quorum_of",
    "rows_of",
]

Check = Callable[[str, Arrays, int], None]  # site, arrays, number of examples -> raises InputError
MAX_ATTEMPTS = 3
_ROWS = "masked/rows"  # in a checkpoint's state
MAX_EXAMPLES = 10**9
PHASES = {PREPARE: RoundPhase.PREPARE, "train": RoundPhase.TRAIN, "evaluate": RoundPhase.EVALUATE}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a usable reply of one phase holds."""

    arrays: Shapes
    metrics: tuple[str, ...] = ()
    check: Check
    all_metrics: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """A phase's answers: each site's, or under masks their total alone."""

    replies: list[tuple[str, Message]] = field(default_factory=list)
    total: Total | None = None

    @property
    def sites(self) -> tuple[str, ...]:
        """Whose answers these are, by name."""
        return self.total.sites if self.total else tuple(site for site, _ in self.replies)

    def sums(self) -> Arrays:
        """The arrays, added over sites in the order of their names."""
        return self.total.arrays if self.total else _total(self.replies)

    def examples(self) -> dict[str, int]:
        """Rows of each site; 0 where masks hide them."""
        return {s: 0 for s in self.total.sites} if self.total else {s: _examples(m) for s, m in self.replies}

    def rows(self) -> Arrays:
        """Rows in all, where masks hide those of each site."""
        return {_ROWS: np.array([self.total.examples], np.int64)} if self.total else {}

    def messages(self) -> list[Message]:
        """For the strategy: under masks one answer that stands for all, weighted by all examples."""
        if self.total is None:
            return [message for _, message in self.replies]
        content = {
            ARRAYS: array_record(self.total.arrays), METRICS: metric_record({EXAMPLES: self.total.examples})
        }  # fmt: skip
        return [Message(RecordDict(content), 1, "train")]


class SiteGrid(Protocol):
    """A Flower Grid that knows which site a node is; `sites` may be narrowed by the loop."""

    sites: dict[int, str]

    def get_node_ids(self) -> Iterable[int]:
        """The nodes of `sites`."""
        ...

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Replies that arrived in time, in any order."""
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
            return Collected(replies=self._exchange(round_, phase, messages, expected, quorum or self.quorum))
        grid = cast(MaskedGrid, self._grid)
        attempt = self._checkpoints.begin(round_, phase)
        while True:
            exchange = MaskedExchange(
                study=self._study,
                grid=grid,
                at=Attempt(run=grid.run_name, round=round_, phase=phase, attempt=attempt),
                messages=partial(messages, attempt),
                shapes=expected.arrays,
                quorum=self.quorum,
                timeout=self._training.deadline_s,
                drop=partial(self._drop, round_, phase),
            )
            self._codes = []
            try:
                return Collected(total=exchange.run())
            except ConflictError as error:
                log.warning("round.skipped", extra={"fields": {"round": round_, "code": error.code}})
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
    ) -> list[tuple[str, Message]]:
        """Usable replies ordered by site name, at least a quorum of them.

        Raises:
            UnavailableError: `unavailable.quorum` after the last attempt.
        """
        attempt = self._checkpoints.begin(round_, phase)
        while True:
            replies = self._grid.send_and_receive(messages(attempt), timeout=self._training.deadline_s)
            self._codes = []
            usable = self._usable(replies, expected, partial(self._drop, round_, phase))
            if len(usable) >= quorum:
                return usable
            attempt += 1
            if attempt >= MAX_ATTEMPTS:
                raise self._too_few(f"{len(usable)} of {quorum} sites gave an answer")
            self._checkpoints.retry(round_, phase, attempt)

    def _usable(
        self, replies: Iterable[Message], expected: Expected, drop: Callable[[str, str], None]
    ) -> list[tuple[str, Message]]:
        usable: dict[str, Message] = {}
        for message in replies:
            site = self._grid.sites.get(message.metadata.src_node_id)
            if site is None or site in usable:
                continue
            try:
                _judge(site, message, expected)
                usable[site] = message
            except CorsiaError as error:
                drop(site, error.code)
        return sorted(usable.items())

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
    config, kind = message.content.config_records[CONFIG], message.metadata.message_type
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
    expected.check(site, arrays_of(message.content.array_records[ARRAYS]), examples)


def _total(replies: list[tuple[str, Message]]) -> Arrays:
    """Sums over sites, in the order of their names."""
    parts = [arrays_of(message.content.array_records[ARRAYS]) for _, message in replies]
    return {name: sum((part[name] for part in parts[1:]), parts[0][name].copy()) for name in parts[0]}


def _examples(message: Message) -> int:
    return int(message.content.metric_records[METRICS][EXAMPLES])

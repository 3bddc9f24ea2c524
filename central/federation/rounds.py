"""The round loop: configure, send, validate, aggregate, checkpoint, evaluate; the same over every grid.

    prepare (round 0): sums over sites -> preprocessing and first model
    each round: train -> aggregate (Flower's strategy) -> checkpoint (durable) -> evaluate -> metrics

A reply is judged before a strategy sees it: a malformed or late site is left out of the round, never the end of the
run. Below the quorum the phase is tried again, a bounded number of times; no wait is without a bound. After a crash
the loop goes on at the phase it had reached, with the same instructions.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, cast

import numpy as np

from central.federation.checkpoint import Checkpoint, Checkpoints
from central.federation.flower import aggregate, asked, restore_state, strategy, strategy_state, told
from central.federation.masked import MaskedExchange, MaskedGrid, Total
from pipelines import learners
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
    config_record,
    describe,
    metric_record,
)
from pipelines.masking import MASKS, PHASE, STEP, Attempt
from pipelines.train import PREPARE, PREPROCESSING, check_supported
from protocol import faults
from protocol.assignment import MaskStep, RoundPhase
from protocol.errors import ConflictError, CorsiaError, InputError, UnavailableError
from protocol.study import Study, Training

Check = Callable[[str, Arrays, int], None]  # site, arrays, number of examples -> raises InputError

__all__ = ["MAX_ATTEMPTS", "PHASES", "Rounds", "SiteGrid", "place_of", "quorum_of"]

MAX_ATTEMPTS = 3
_ROWS = "masked/rows"  # in a checkpoint's state
MAX_EXAMPLES = 10**9
PHASES = {PREPARE: RoundPhase.PREPARE, "train": RoundPhase.TRAIN, "evaluate": RoundPhase.EVALUATE}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Expected:
    """What a usable reply of one phase holds."""

    arrays: Shapes
    metrics: tuple[str, ...] = ()
    check: Check
    all_metrics: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Collected:
    """A phase's answers: each site's, or under masks their total alone."""

    replies: list[tuple[str, Message]] = field(default_factory=list)
    total: Total | None = None

    @property
    def sites(self) -> tuple[str, ...]:
        return self.total.sites if self.total else tuple(site for site, _ in self.replies)

    def sums(self) -> Arrays:
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


class Rounds:
    """One federated run.

    Args:
        study: a study of lane `train`.
        grid: the way to the sites.
        checkpoints: where each round's outcome is kept, and found again after a crash.
    """

    def __init__(self, study: Study, grid: SiteGrid, checkpoints: Checkpoints) -> None:
        check_supported(study)
        if study.training is None:
            raise InputError("input.study", "training: the study has no such table")
        self._study, self._grid, self._checkpoints = study, grid, checkpoints
        self._training: Training = study.training
        self._learner = learners.for_study(study)
        self.quorum = quorum_of(study)
        self._strategy: Any = strategy(self._training, replies=self.quorum)
        self._masked = study.privacy.secure_aggregation
        self._sums = self._training.strategy == "newton"  # what it takes are sums, not models
        self._shown = () if self._masked else self._training.metrics  # under masks no site's own metrics leave

    def run(self) -> Checkpoint:
        """All rounds, from wherever an earlier process stopped; returns the last round's checkpoint.

        Raises:
            UnavailableError: `unavailable.quorum` when too few sites gave a usable answer, again and again.
            InputError: what the sites' sums show to be unusable (`input.rows`, `input.table`).
        """
        reached = self._checkpoints.latest() or self._prepare()
        restore_state(self._strategy, reached.state)
        self._grid.sites = {n: s for n, s in self._grid.sites.items() if s in reached.examples}
        while True:
            if reached.round > 0 and not reached.metrics:
                reached = self._evaluate(reached)
            if reached.round >= self._training.rounds or (reached.round > 0 and self._learner.settled(reached.model)):
                return reached
            reached = self._train(reached)

    # -- phases ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> Checkpoint:
        started, declared = time.time(), self._learner.preparation()

        def messages(attempt: int) -> Iterable[Message]:
            record = RecordDict({CONFIG: config_record(0, declared, attempt=attempt)})
            return [Message(record, node, PREPARE, group_id="0") for node in self._grid.get_node_ids()]

        def check(_site: str, arrays: Arrays, examples: int) -> None:
            if not self._learner.plausible(arrays, examples):
                raise InputError("input.message", "sums that do not fit together")

        collected = self._collect(0, RoundPhase.PREPARE, messages, _Expected(arrays=declared, check=check))
        if collected is None:
            raise UnavailableError("unavailable.quorum", "the preparation stays masked and is not tried again")
        sums = collected.sums()
        if collected.total is not None:
            check("", sums, collected.total.examples)  # what one site says cannot be judged
        preprocessing = self._learner.agree(sums)
        checkpoint = Checkpoint(
            round=0,
            model=self._learner.initial(sums, preprocessing),
            preprocessing=preprocessing,
            state=collected.rows(),
            examples=collected.examples(),
            sites=collected.sites,
            started_at=started,
        )
        return self._saved(checkpoint)

    def _train(self, reached: Checkpoint) -> Checkpoint:
        started, round_ = time.time(), reached.round + 1
        expected = _Expected(
            arrays=self._learner.update(reached.model),
            metrics=told(self._strategy),
            check=self._same_rows(reached, norm=True),
            all_metrics=True,
        )
        messages = self._configured(self._strategy.configure_train, round_, reached, expected)
        collected = self._collect(round_, RoundPhase.TRAIN, messages, expected)
        faults.point("federation.collected")
        if collected is None:  # it stays masked for ever: the round is skipped, the model unchanged
            return self._saved(replace(reached, round=round_, metrics={}, sites=(), started_at=started))
        if collected.total is not None and not self._sums and _norm(collected.total.arrays) > self._training.max_norm:
            raise InputError("input.message", "a mean above the study's bound: a site did not keep to it")
        aggregated = aggregate(self._strategy, round_, collected.messages())
        model = self._learner.combine(reached.model, aggregated)
        if not all(bool(np.isfinite(v).all()) for v in model.values()):
            raise InputError("input.diverged", "the aggregated model is not finite")
        checkpoint = replace(
            reached,
            round=round_,
            model=model,
            state=strategy_state(self._strategy) | collected.rows(),
            metrics={},
            sites=collected.sites,
            started_at=started,
        )
        saved = self._saved(checkpoint)
        faults.point("federation.checkpoint")
        return saved

    def _evaluate(self, reached: Checkpoint) -> Checkpoint:
        if not self._learner.scoring():
            told = {"rows": _rows(reached), **self._learner.metrics(reached.model)}
            return self._saved(replace(reached, metrics=told))
        expected = _Expected(arrays=self._learner.scoring(), metrics=self._shown, check=self._same_rows(reached))
        messages = self._configured(self._strategy.configure_evaluate, reached.round, reached, expected)
        collected = self._collect(reached.round, RoundPhase.EVALUATE, messages, expected)
        if collected is None:
            return self._saved(replace(reached, metrics={"rows": _rows(reached)}))
        metrics: dict[str, Any] = dict(self._learner.metrics(collected.sums()))
        metrics["rows"] = sum(collected.examples().values()) or _rows_of(collected.rows())
        shown = {site: _site_metrics(message, self._training.metrics) for site, message in collected.replies}
        if any(shown.values()):
            metrics["sites"] = {site: values for site, values in shown.items() if values}
        return self._saved(replace(reached, metrics=metrics))

    # -- under masks, or not ----------------------------------------------------------------------------------------

    def _collect(
        self, round_: int, phase: RoundPhase, messages: Callable[[int], Iterable[Message]], expected: _Expected
    ) -> _Collected | None:
        """The answers of a phase, or under masks their total; None when the total stays masked for ever.

        Raises:
            UnavailableError: `unavailable.quorum` after the last attempt.
        """
        if not self._masked:
            return _Collected(replies=self._exchange(round_, phase, messages, expected))
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
            )
            try:
                return _Collected(total=exchange.run())
            except ConflictError as error:
                log.warning("round.skipped", extra={"fields": {"round": round_, "code": error.code}})
                return None
            except UnavailableError as error:
                if error.code != "unavailable.survivors":
                    raise
            attempt += 1
            if attempt >= MAX_ATTEMPTS:
                raise UnavailableError("unavailable.quorum", "too few sites are left for secure aggregation")
            self._checkpoints.retry(round_, phase, attempt)

    # -- one exchange ----------------------------------------------------------------------------------------------

    def _exchange(
        self, round_: int, phase: RoundPhase, messages: Callable[[int], Iterable[Message]], expected: _Expected
    ) -> list[tuple[str, Message]]:
        """Usable replies ordered by site name, at least a quorum of them.

        Raises:
            UnavailableError: `unavailable.quorum` after the last attempt.
        """
        attempt = self._checkpoints.begin(round_, phase)
        quorum = asked(self._strategy, self.quorum) if phase is RoundPhase.TRAIN else self.quorum
        while True:
            replies = self._grid.send_and_receive(messages(attempt), timeout=self._training.deadline_s)
            usable = self._usable(replies, expected)
            if len(usable) >= quorum:
                return usable
            attempt += 1
            if attempt >= MAX_ATTEMPTS:
                raise UnavailableError("unavailable.quorum", f"{len(usable)} of {quorum} sites gave an answer")
            self._checkpoints.retry(round_, phase, attempt)

    def _usable(self, replies: Iterable[Message], expected: _Expected) -> list[tuple[str, Message]]:
        usable: dict[str, Message] = {}
        for message in replies:
            site = self._grid.sites.get(message.metadata.src_node_id)
            if site is None or site in usable:
                continue
            try:
                _judge(site, message, expected)
                usable[site] = message
            except CorsiaError as error:
                log.warning("reply.dropped", extra={"fields": {"site": site, "code": error.code}})
        return sorted(usable.items())

    def _same_rows(self, reached: Checkpoint, *, norm: bool = False) -> Check:
        def check(site: str, arrays: Arrays, examples: int) -> None:
            if examples != reached.examples.get(site):
                raise InputError("input.message", "another number of examples than in the preparation")
            if norm and _norm(arrays) > self._training.max_norm:
                raise InputError("input.message", "norm above the study's bound")

        return check

    def _configured(
        self, configure: Callable[..., Iterable[Message]], round_: int, reached: Checkpoint, expected: _Expected
    ) -> Callable[[int], Iterable[Message]]:
        """A strategy's own messages, with the preprocessing beside the model."""

        def messages(attempt: int) -> Iterable[Message]:
            config = config_record(round_, expected.arrays, expected.metrics, attempt=attempt)
            made = list(configure(round_, array_record(reached.model), config, self._grid))
            for message in made:
                message.content[PREPROCESSING] = array_record(reached.preprocessing)
                message.metadata.group_id = str(round_)
            return made

        return messages

    def _saved(self, checkpoint: Checkpoint) -> Checkpoint:
        self._checkpoints.save(checkpoint)
        return checkpoint


def quorum_of(study: Study) -> int:
    """How many sites must answer: the study's share of all its sites, rounded up."""
    share = study.training.quorum if study.training else 1.0
    return max(1, math.ceil(share * len(study.sites) - 1e-9))


def place_of(message: Message) -> tuple[RoundPhase, MaskStep | None]:
    """Phase and step of an instruction, which its own configuration names."""
    config, kind = message.content.config_records[CONFIG], message.metadata.message_type
    phase = RoundPhase(str(config[PHASE])) if kind == MASKS else PHASES[kind]
    return phase, MaskStep(str(config[STEP])) if STEP in config else None


def _rows(reached: Checkpoint) -> int:
    return _rows_of(reached.state) or sum(reached.examples.values())


def _rows_of(state: Mapping[str, np.ndarray[Any, Any]]) -> int:
    return int(state[_ROWS][0]) if _ROWS in state else 0


def _judge(site: str, message: Message, expected: _Expected) -> None:
    shape = describe(message)
    if shape.error is not None:
        raise InputError("input.message", "the site answers with an error")
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


def _site_metrics(message: Message, asked: tuple[str, ...]) -> Mapping[str, float]:
    return {k: float(v) for k, v in message.content.metric_records[METRICS].items() if k in asked}


def _norm(arrays: Arrays) -> float:
    return math.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in arrays.values() if a.dtype.kind == "f"))

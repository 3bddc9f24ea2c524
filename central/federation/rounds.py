"""The round loop: configure, send, validate, aggregate, checkpoint, evaluate; the same over every grid.

    prepare (round 0): sums over sites -> preprocessing and first model
    each round: train -> aggregate (Flower's strategy) -> checkpoint (durable) -> evaluate -> metrics

How a phase's answers are collected and judged is in `collect`, what the operator wants of the run in `control`, when
further rounds are not worth it in `stopping`. After a crash the loop goes on at the phase it had reached, with the same
instructions.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from central.federation.checkpoint import Checkpoint, Checkpoints
from central.federation.collect import PREPARED, Check, Collected, Collector, Expected, SiteGrid, rows_of
from central.federation.control import Control, Stopped, Unattended
from central.federation.flower import aggregate, asked, configured, strategy, told
from central.federation.moments import Moments
from central.federation.stopping import judge
from pipelines import clipping, learners
from pipelines.flower import CONFIG, METRICS, Arrays, Message, RecordDict, array_record, config_record, norm_of
from pipelines.train import PREPARE, PREPROCESSING, check_supported
from protocol import faults
from protocol.assignment import RoundPhase
from protocol.errors import ConflictError, InputError, UnavailableError, from_code
from protocol.study import Study, Training

__all__ = ["MAX_SKIPPED", "WITHHELD", "Rounds"]

WITHHELD = "withheld"  # what a site's own metrics are where the study asks for them and the site keeps them
MAX_SKIPPED = 3  # rounds in a row
_SKIPPED = "masked/skipped"  # in a checkpoint's state
log = logging.getLogger(__name__)


class Rounds:
    """One federated run.

    Args:
        study: a study of lane `train`.
        grid: the way to the sites.
        checkpoints: where each round's outcome is kept, and found again after a crash.
        control: what the operator wants; without one the study's own rounds are run.
    """

    def __init__(self, study: Study, grid: SiteGrid, checkpoints: Checkpoints, control: Control | None = None) -> None:
        check_supported(study)
        if study.training is None:
            raise InputError("input.study", "training: the study has no such table")
        self._study, self._grid, self._checkpoints = study, grid, checkpoints
        self._training: Training = study.training
        self._control = control or Unattended(study.training)
        self._learner = learners.for_study(study)
        self._collector = Collector(study, self._training, grid, checkpoints)
        self._strategy: Any = strategy(self._training, replies=self._collector.quorum)
        self._masked = study.privacy.secure_aggregation
        self._sums = self._training.strategy == "newton"  # what it takes are sums, not models
        self._shown = () if self._masked else self._training.metrics  # under masks no site's own metrics leave

    def run(self) -> Checkpoint:
        """All rounds, from wherever an earlier process stopped; returns the checkpoint whose model is the run's.

        That is the last finished round's, or the best one's where the study stops early and restores the best.

        Raises:
            UnavailableError: `unavailable.quorum` when too few sites gave a usable answer, again and again.
            InputError: what the sites' sums show to be unusable (`input.rows`, `input.table`), `input.diverged`,
                `input.model-size`, `input.study` for a metric to watch that there is not.
            ConflictError: `conflict.stopped` when the operator stopped the run before a round was finished,
                `conflict.round` when round after round stayed masked.
            IntegrityError: `masks.total` when round after round the masked answers added up to no model.
        """
        try:
            return self._final(self._to_the_end(self._checkpoints.latest() or self._prepare()))
        except Stopped:
            return self._final("stopped")

    def _to_the_end(self, reached: Checkpoint) -> str:
        """Phase after phase until there is nothing left to do; why that is."""
        self._grid.sites = {n: s for n, s in self._grid.sites.items() if s in reached.examples}
        while True:
            rounds = self._heed()
            if reached.round > 0 and not reached.metrics:
                reached = self._evaluate(reached)
            elif why := self._ended(reached, rounds):
                return why
            else:
                reached = self._train(reached)

    def _heed(self) -> int:
        """Between two exchanges: how many rounds are wanted; waits while the run is paused.

        Raises:
            Stopped: the run is to stop.
        """
        orders = self._control.heed()
        if orders.wish == "stop":
            raise Stopped
        return orders.rounds

    def _ended(self, reached: Checkpoint, rounds: int) -> str:
        stopping = self._training.stopping
        if reached.round > 0 and self._learner.settled(reached.model):
            return "settled"
        if stopping is not None and judge(stopping, self._checkpoints.history()).stop:
            return "early"
        return "rounds" if reached.round >= rounds else ""

    def _final(self, why: str) -> Checkpoint:
        history, stopping = self._checkpoints.history(), self._training.stopping
        if not history:
            raise ConflictError("conflict.stopped")
        last = chosen = history[-1][0]
        if stopping is not None and stopping.restore_best:
            chosen = judge(stopping, history).best or last
        return replace(self._checkpoints.at(chosen), ended=why, rounds_run=last)

    # -- phases ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> Checkpoint:
        self._heed()
        started, declared = time.time(), self._learner.preparation()

        def messages(attempt: int) -> Iterable[Message]:
            record = RecordDict({CONFIG: config_record(0, declared, attempt=attempt)})
            return [Message(record, node, PREPARE, group_id="0") for node in self._grid.get_node_ids()]

        def check(_site: str, arrays: Arrays, examples: int) -> None:
            if not self._learner.plausible(arrays, examples):
                raise InputError("input.message", "sums that do not fit together")

        collected = self._collector.collect(0, RoundPhase.PREPARE, messages, Expected(arrays=declared, check=check))
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
            state=collected.prepared(),
            examples=collected.examples(),
            sites=collected.sites,
            started_at=started,
        )
        if (
            sum(v.nbytes for v in (*checkpoint.model.values(), *preprocessing.values()))
            > self._training.max_model_bytes
        ):
            raise InputError("input.model-size")
        return self._saved(checkpoint)

    def _train(self, reached: Checkpoint) -> Checkpoint:
        started, round_ = time.time(), reached.round + 1
        expected = Expected(
            arrays=self._learner.update(reached.model),
            received=reached.model if self._study.privacy.site_level else None,
            metrics=told(self._strategy),
            check=self._same_rows(reached, norm=True),
            all_metrics=True,
            examples=reached.examples,
        )
        messages = self._configured(self._strategy.configure_train, round_, reached, expected)
        collected = self._collector.collect(
            round_, RoundPhase.TRAIN, messages, expected, asked(self._strategy, self._collector.quorum)
        )
        if collected is None:
            return self._skipped(reached, started, "conflict.round")  # it stays masked for ever
        moments = self._checkpoints.moments()
        model = self._combined(reached, round_, collected, moments)
        if model is None:
            return self._skipped(reached, started, "masks.total")
        checkpoint = replace(
            reached,
            round=round_,
            model=model,
            moments=moments,
            state=collected.rows() | _prepared(reached),
            metrics={},
            sites=collected.sites,
            started_at=started,
        )
        return self._saved(checkpoint)

    def _combined(self, reached: Checkpoint, round_: int, collected: Collected, moments: Moments) -> Arrays | None:
        """The next model; None where what masks hide, of one site perhaps, spoils the total: the site has no name.

        Raises:
            InputError: `input.diverged`.
        """
        hidden = collected.total is not None
        if not collected.fits(reached.examples, reached.state):
            return None
        if collected.total is not None and not self._sums and norm_of(collected.total.arrays) > self._training.max_norm:
            return None
        try:
            made = aggregate(self._strategy, round_, collected.messages(), reached.model, reached.moments, moments)
            model = self._learner.combine(reached.model, made)
        except (ArithmeticError, ValueError):
            if hidden:
                return None
            raise
        if all(bool(np.isfinite(v).all()) for v in model.values()):
            return model
        if hidden and self._sums:
            return None
        raise InputError("input.diverged", "the aggregated model is not finite")

    def _skipped(self, reached: Checkpoint, started: float, code: str) -> Checkpoint:
        """The round is over, the model unchanged, and told; so many times in a row at most.

        Raises:
            CorsiaError: that code, after the last of them, or when no round of the run gave a model.
        """
        round_, many = reached.round + 1, int(reached.state[_SKIPPED][0]) + 1 if _SKIPPED in reached.state else 1
        log.warning("round.skipped", extra={"fields": {"round": round_, "code": code}})
        self._checkpoints.tell("round.skipped", round=round_, code=code)
        if many >= min(MAX_SKIPPED, self._training.rounds):
            raise from_code(code)
        state = {**reached.state, _SKIPPED: np.array([many], np.int64)}
        return self._saved(replace(reached, round=round_, state=state, metrics={}, sites=(), started_at=started))

    def _evaluate(self, reached: Checkpoint) -> Checkpoint:
        if not self._learner.scoring():
            many = {"answers": len(reached.sites)} if self._study.privacy.site_level else {"rows": _rows(reached)}
            told = {**many, **self._learner.metrics(reached.model)}
            return self._saved(replace(reached, metrics=told))
        expected = Expected(arrays=self._learner.scoring(), metrics=self._shown, check=self._same_rows(reached))
        messages = self._configured(self._strategy.configure_evaluate, reached.round, reached, expected)
        collected = self._collector.collect(reached.round, RoundPhase.EVALUATE, messages, expected)
        if collected is None or not collected.fits(reached.examples, reached.state):
            return self._saved(replace(reached, metrics={"rows": _rows(reached)}))
        try:
            scores = self._learner.metrics(collected.sums())
        except (ArithmeticError, ValueError):
            if collected.total is None:
                raise
            scores = {}  # what masks hide can spoil the scores of a round, not the run
        metrics: dict[str, Any] = {k: v for k, v in scores.items() if math.isfinite(v)}
        metrics["rows"] = sum(collected.examples().values()) or rows_of(collected.rows())
        shown = {site: _site_metrics(message, self._training.metrics) for site, message in collected.replies}
        if self._shown and shown:
            metrics["sites"] = {site: values or WITHHELD for site, values in shown.items()}
        return self._saved(replace(reached, metrics=metrics))

    def _same_rows(self, reached: Checkpoint, *, norm: bool = False) -> Check:
        privacy = self._study.privacy

        def check(site: str, arrays: Arrays, examples: int) -> None:
            if examples != reached.examples.get(site):
                raise InputError("input.message", "another number of examples than in the preparation")
            if norm and norm_of(arrays) > self._training.max_norm:
                raise InputError("input.message", "norm above the study's bound")
            if norm and privacy.site_level and not clipping.length(reached.model, arrays) <= privacy.reach:
                raise InputError("input.message", "an update longer than the study's clip")

        return check

    def _configured(
        self, configure: Callable[..., Iterable[Message]], round_: int, reached: Checkpoint, expected: Expected
    ) -> Callable[[int], Iterable[Message]]:
        """A strategy's own messages, with the preprocessing beside the model."""

        def messages(attempt: int) -> Iterable[Message]:
            config = config_record(round_, expected.arrays, expected.metrics, attempt=attempt)
            made = configured(configure(round_, array_record(reached.model), config, self._grid), self._strategy)
            for message in made:
                message.content[PREPROCESSING] = array_record(reached.preprocessing)
                message.metadata.group_id = str(round_)
            return made

        return messages

    def _saved(self, checkpoint: Checkpoint) -> Checkpoint:
        self._checkpoints.save(checkpoint)
        faults.point("federation.checkpoint")
        return checkpoint


def _rows(reached: Checkpoint) -> int:
    return rows_of(reached.state) or sum(reached.examples.values())


def _prepared(reached: Checkpoint) -> Arrays:
    return {name: value for name, value in reached.state.items() if name == PREPARED}


def _site_metrics(message: Message, asked: tuple[str, ...]) -> Mapping[str, float]:
    return {k: float(v) for k, v in message.content.metric_records[METRICS].items() if k in asked}

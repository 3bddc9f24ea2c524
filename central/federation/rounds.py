"""The round loop: configure, send, validate, aggregate, checkpoint, evaluate; the same over every grid.

    prepare (round 0): sums over sites -> preprocessing and first model
    each round: train -> aggregate (Flower's strategy) -> checkpoint (durable) -> evaluate -> metrics

How a phase's answers are collected and judged is in `collect`. After a crash the loop goes on at the phase it had
reached, with the same instructions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from central.federation.checkpoint import Checkpoint, Checkpoints
from central.federation.collect import Check, Collector, Expected, SiteGrid, rows_of
from central.federation.flower import aggregate, asked, restore_state, strategy, strategy_state, told
from pipelines import learners
from pipelines.flower import CONFIG, METRICS, Arrays, Message, RecordDict, array_record, config_record, norm_of
from pipelines.train import PREPARE, PREPROCESSING, check_supported
from protocol import faults
from protocol.assignment import RoundPhase
from protocol.errors import InputError, UnavailableError
from protocol.study import Study, Training

__all__ = ["Rounds"]

log = logging.getLogger(__name__)


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
        self._collector = Collector(study, self._training, grid, checkpoints)
        self._strategy: Any = strategy(self._training, replies=self._collector.quorum)
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
            state=collected.rows(),
            examples=collected.examples(),
            sites=collected.sites,
            started_at=started,
        )
        return self._saved(checkpoint)

    def _train(self, reached: Checkpoint) -> Checkpoint:
        started, round_ = time.time(), reached.round + 1
        expected = Expected(
            arrays=self._learner.update(reached.model),
            metrics=told(self._strategy),
            check=self._same_rows(reached, norm=True),
            all_metrics=True,
            examples=reached.examples,
        )
        messages = self._configured(self._strategy.configure_train, round_, reached, expected)
        collected = self._collector.collect(
            round_, RoundPhase.TRAIN, messages, expected, asked(self._strategy, self._collector.quorum)
        )
        faults.point("federation.collected")
        if collected is None:  # it stays masked for ever: the round is skipped, the model unchanged
            return self._saved(replace(reached, round=round_, metrics={}, sites=(), started_at=started))
        if collected.total is not None and not self._sums and norm_of(collected.total.arrays) > self._training.max_norm:
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
        expected = Expected(arrays=self._learner.scoring(), metrics=self._shown, check=self._same_rows(reached))
        messages = self._configured(self._strategy.configure_evaluate, reached.round, reached, expected)
        collected = self._collector.collect(reached.round, RoundPhase.EVALUATE, messages, expected)
        if collected is None:
            return self._saved(replace(reached, metrics={"rows": _rows(reached)}))
        metrics: dict[str, Any] = dict(self._learner.metrics(collected.sums()))
        metrics["rows"] = sum(collected.examples().values()) or rows_of(collected.rows())
        shown = {site: _site_metrics(message, self._training.metrics) for site, message in collected.replies}
        if any(shown.values()):
            metrics["sites"] = {site: values for site, values in shown.items() if values}
        return self._saved(replace(reached, metrics=metrics))

    def _same_rows(self, reached: Checkpoint, *, norm: bool = False) -> Check:
        def check(site: str, arrays: Arrays, examples: int) -> None:
            if examples != reached.examples.get(site):
                raise InputError("input.message", "another number of examples than in the preparation")
            if norm and norm_of(arrays) > self._training.max_norm:
                raise InputError("input.message", "norm above the study's bound")

        return check

    def _configured(
        self, configure: Callable[..., Iterable[Message]], round_: int, reached: Checkpoint, expected: Expected
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


def _rows(reached: Checkpoint) -> int:
    return rows_of(reached.state) or sum(reached.examples.values())


def _site_metrics(message: Message, asked: tuple[str, ...]) -> Mapping[str, float]:
    return {k: float(v) for k, v in message.content.metric_records[METRICS].items() if k in asked}

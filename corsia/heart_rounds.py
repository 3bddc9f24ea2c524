"""The round loop of the benchmark in two variants: updates added up under masks, and with a learner of its own.

Both are the product's own round loop over the in-process grid, so that the figures are of what hospitals run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from central.federation.checkpoint import MemoryCheckpoints
from central.federation.flower import Sums
from central.federation.local import LocalGrid, handler
from central.federation.rounds import Rounds
from pipelines.flower import ARRAYS, EXAMPLES, METRICS, Arrays, Message, array_record, arrays_of
from pipelines.learners import Learner
from pipelines.learners.tabular import Tabular
from pipelines.train import TrainingData
from privacy.envelope.keys import SecretKey
from privacy.secagg import Layout, Member, MemoryGuard, Quantizer, Session, Tally
from protocol.study import Study

__all__ = ["LearnerRounds", "MaskedRounds", "OneClass"]

_MAX_EXAMPLES = 1 << 20


class MaskedSums(Sums):
    """FedAvg of which the centre sees the sum alone: every step of secure aggregation, in one process."""

    def __init__(self, study: Study, keys: Mapping[str, SecretKey], **flower: Any) -> None:
        super().__init__(**flower)
        self._study, self._keys = study, keys

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[Any, Any]:
        """Part of Flower's Strategy. The replies come in the order of the sites' names."""
        parts = [
            (arrays_of(reply.content.array_records[ARRAYS]), int(reply.content.metric_records[METRICS][EXAMPLES]))
            for reply in replies
        ]
        roster = {site: key.public.fingerprint for site, key in self._keys.items()}
        session = Session(study="0" * 64, run="bench", round=server_round, attempt=0, roster=roster)
        layout = Layout(shapes={name: value.shape for name, value in parts[0][0].items()})
        bound = self._study.training.max_norm if self._study.training else 1.0
        quantizer = Quantizer(bound=bound, max_weight=_MAX_EXAMPLES, sites=len(roster))
        plain = {
            site: quantizer.encode(layout.join(arrays), weight)
            for site, (arrays, weight) in zip(sorted(roster), parts, strict=True)
        }
        total = quantizer.decode(self._summed(session, layout.size, plain)) / sum(weight for _, weight in parts)
        return array_record(dict(layout.split(total))), None

    def _summed(self, session: Session, size: int, plain: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.uint64]]:
        members = {site: Member(session, site, self._keys[site], MemoryGuard()) for site in plain}
        tally = Tally(session, size)
        for member in members.values():
            tally.take_advert(member.advertise())
        adverts = tally.close_adverts()
        for member in members.values():
            tally.take_bundle(member.share(adverts))
        bundles = tally.close_bundles()
        for site, member in members.items():
            tally.take_masked(site, member.mask(bundles, plain[site]))
        survivors = tally.survivors()
        for member in members.values():
            tally.take_word(member.sign(survivors))
        for member in members.values():
            tally.take_release(member.release(tally.words.values()))
        return tally.total()


class MaskedRounds(Rounds):
    """A run whose updates are added up under secure aggregation."""

    def __init__(self, study: Study, data: Mapping[str, TrainingData]) -> None:
        super().__init__(study, LocalGrid({site: handler(d) for site, d in data.items()}), MemoryCheckpoints())
        keys = {site: SecretKey.generate() for site in data}
        self._strategy = MaskedSums(study, keys, min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)


class OneClass(Tabular):
    """Trains where all rows have one class, as the published local model of Switzerland does; a run is refused."""

    def agreed_outcome(self, sums: Arrays) -> np.ndarray[Any, Any]:
        """Classes as they are."""
        del sums
        return np.array([0.0, 1.0])


class LearnerRounds(Rounds):
    """A run with a learner made by the benchmark."""

    def __init__(self, study: Study, data: Mapping[str, TrainingData], learner: Learner) -> None:
        super().__init__(study, LocalGrid({site: handler(d) for site, d in data.items()}), MemoryCheckpoints())
        self._learner = learner

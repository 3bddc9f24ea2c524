"""The only door between `central` and flwr: server-side names, internals among them, and the strategies by name.

Messages and records come from `pipelines.flower`; what only a server needs is here, so that a new release of flwr is
met in two modules and one contract test.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipelines.flower import ARRAYS, EXAMPLES, Arrays, Message, RecordDict, array_record, arrays_of
from protocol.errors import InputError
from protocol.study import Training

# isort: split
from flwr.serverapp import Grid, ServerApp  # after pipelines.flower, which sets the environment
from flwr.serverapp.strategy import FedAdam, FedAvg, Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "Grid",
    "NodeGrid",
    "Run",
    "ServerApp",
    "Strategy",
    "empty_run",
    "identify",
    "restore_state",
    "strategy",
    "strategy_state",
]


class Sums(FedAvg):  # type: ignore[misc]
    """Adds the sites' answers, which are sums over their rows; the learner makes the step (Newton's method)."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[Any, Any]:
        """Part of Flower's Strategy: the totals, and no metrics."""
        parts = [arrays_of(reply.content.array_records[ARRAYS]) for reply in replies]
        return array_record({name: sum((p[name] for p in parts[1:]), parts[0][name]) for name in parts[0]}), None


_STRATEGIES: dict[str, tuple[Any, frozenset[str]]] = {
    "fedavg": (FedAvg, frozenset()),
    "newton": (Sums, frozenset()),
    "fedadam": (FedAdam, frozenset({"eta", "eta_l", "beta_1", "beta_2", "tau"})),
}
_MOMENTS = ("m_t", "v_t")  # FedOpt's state between rounds
_identified = threading.Lock()


def identify(run_id: int) -> None:
    """Give this process the identity without which flwr refuses to make messages.

    It is one a process: a grid writes the true run id on the protobuf (`message_to_bytes(run_id=...)`).
    """
    with _identified:
        if TaskIdentity._run_id is None:
            TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1


def empty_run(run_id: int) -> Run:
    """A Flower run record with nothing but its id."""
    return Run.create_empty(run_id)


def strategy(training: Training) -> Strategy:
    """Flower's strategy by the name and parameters in the study.

    Who takes part is decided by the round loop; a strategy takes all the nodes it is shown and never waits.

    Raises:
        InputError: `input.study` for a parameter that the strategy does not have.
    """
    made, allowed = _STRATEGIES[training.strategy]
    unknown = sorted(set(training.strategy_parameters) - allowed)
    if unknown:
        raise InputError("input.study", f"training.strategy_parameters: {training.strategy} has no {unknown[0]!r}")
    return made(
        fraction_train=1.0,
        fraction_evaluate=1.0,
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        weighted_by_key=EXAMPLES,
        **training.strategy_parameters,
    )


def strategy_state(made: Strategy) -> Arrays:
    """What a strategy remembers between rounds, as arrays (empty for FedAvg)."""
    found: Arrays = {}
    for moment in _MOMENTS:
        for name, value in (getattr(made, moment, None) or {}).items():
            found[f"{moment}/{name}"] = np.array(value)
    return found


def restore_state(made: Strategy, state: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Put back what `strategy_state` gave, so that the next round is bit-equal to an uninterrupted one."""
    for moment in _MOMENTS:
        if hasattr(made, moment):
            values = {k.removeprefix(f"{moment}/"): np.array(v) for k, v in state.items() if k.startswith(f"{moment}/")}
            setattr(made, moment, values or None)


class NodeGrid(Grid):  # type: ignore[misc]
    """What both our grids share: one run, and the sites by node id."""

    _run: Run
    sites: dict[int, str]

    def set_run(self, run: Run) -> None:
        """Part of Flower's Grid."""
        self._run = run

    @property
    def run(self) -> Run:
        """Part of Flower's Grid."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Part of Flower's Grid."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """The nodes of `sites`."""
        return list(self.sites)

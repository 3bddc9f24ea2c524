"""The only door between `central` and flwr: server-side names, internals among them, and the strategies by name.

Messages and records come from `pipelines.flower`; what only a server needs is here, so that a new release of flwr is
met in two modules and one contract test.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from central.federation.moments import BLOCK, Moments
from pipelines.flower import (
    ARRAYS,
    CONFIG,
    EXAMPLES,
    LOSS,
    METRICS,
    Arrays,
    Message,
    RecordDict,
    array_record,
    record_of,
    views_of,
)
from protocol.errors import InputError
from protocol.study import Training

# isort: split
from flwr.app.exception import AppExitException
from flwr.serverapp import Grid, ServerApp  # after pipelines.flower, which sets the environment
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)
from flwr.serverapp.strategy.fedopt import FedOpt
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "MOMENTS",
    "Grid",
    "NodeGrid",
    "Run",
    "ServerApp",
    "Strategy",
    "aggregate",
    "asked",
    "configured",
    "empty_run",
    "identify",
    "simulation",
    "strategy",
    "told",
]


class Sums(FedAvg):  # type: ignore[misc]
    """Adds the sites' answers, which are sums over their rows; the learner makes the step (Newton's method)."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[Any, Any]:
        """Part of Flower's Strategy: the totals, and no metrics."""
        parts = [views_of(record_of(reply, ARRAYS)) for reply in replies]
        return array_record({name: sum((p[name] for p in parts[1:]), parts[0][name]) for name in parts[0]}), None


class Adagrad(FedAdagrad):  # type: ignore[misc]
    """Flower's FedAdagrad with momentum in the numerator (`beta_1`, default 0 as in Flower), as FLamby has it."""

    def __init__(self, *, beta_1: float = 0.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.beta_1 = beta_1


class Cyclic(FedAvg):  # type: ignore[misc]
    """Weight transfer: each round one site goes on from where the one before it stopped, in the order of names.

    A round is one site; a site that fails at its turn is passed over by the round's next attempt.

    Source: Chang et al. 2018, "Distributed deep learning networks among institutions for medical imaging",
    JAMIA 25:945.
    """

    def configure_train(self, server_round: int, arrays: Any, config: Any, grid: Grid) -> Iterable[Message]:
        """Part of Flower's Strategy: one message."""
        nodes = sorted(grid.get_node_ids())
        turn = nodes[(server_round - 1 + int(config.get("attempt", 0))) % len(nodes)]
        config["server-round"] = server_round
        return [Message(RecordDict({ARRAYS: arrays, CONFIG: config}), turn, "train")]


_RATE, _SHARE, _COUNT = (1e-12, 1e6), (0.0, 0.999999), (0, 1000)  # allowed ranges
_OPTIMISER = {"eta": _RATE, "eta_l": _RATE, "beta_1": _SHARE, "beta_2": _SHARE, "tau": _RATE}
_STRATEGIES: dict[str, tuple[Any, dict[str, tuple[float, float]]]] = {
    "fedavg": (FedAvg, {}),
    "fedavgm": (FedAvgM, {"server_learning_rate": _RATE, "server_momentum": _SHARE}),
    "fedprox": (FedProx, {"proximal_mu": (0.0, 1e6)}),
    "fedadam": (FedAdam, _OPTIMISER),
    "fedadagrad": (Adagrad, {k: v for k, v in _OPTIMISER.items() if k != "beta_2"}),
    "fedyogi": (FedYogi, _OPTIMISER),
    "qfedavg": (QFedAvg, {"q": (0.0, 100.0), "client_learning_rate": _RATE}),
    "fedmedian": (FedMedian, {}),
    "fedtrimmedavg": (FedTrimmedAvg, {"beta": (0.0, 0.499999)}),
    "krum": (Krum, {"num_malicious_nodes": _COUNT}),
    "multikrum": (MultiKrum, {"num_malicious_nodes": _COUNT, "num_nodes_to_select": (1, 1000)}),
    "bulyan": (Bulyan, {"num_malicious_nodes": _COUNT}),
    "newton": (Sums, {}),
    "cyclic": (Cyclic, {}),
}
_REPLIES = {"krum": 2, "multikrum": 2, "bulyan": 4}  # at least so many times the malicious, and 3
_MOMENTS = ("m_t", "v_t")  # FedOpt's state between rounds, by name
_VECTOR = "momentum_vector"  # FedAvgM's, a list
MOMENTS = tuple(f"{kind}/" for kind in (*_MOMENTS, _VECTOR))  # how keys of moments begin
_identified = threading.Lock()


def identify(run_id: int) -> None:
    """Give this process the identity without which flwr refuses to make messages.

    It is one a process: a grid writes the true run id on the protobuf (`message_to_bytes(run_id=...)`).
    """
    with _identified:
        if TaskIdentity._run_id is None:
            TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, 1


def simulation() -> Any:
    """Flower's `run_simulation`.

    Raises:
        ImportError: the extra `simulate` is not installed.
    """
    from flwr.simulation import run_simulation

    return run_simulation


def empty_run(run_id: int) -> Run:
    """A Flower run record with nothing but its id."""
    return Run.create_empty(run_id)


def strategy(training: Training, *, replies: int | None = None) -> Strategy:
    """Flower's strategy by the name and parameters in the study.

    Who takes part is decided by the round loop; a strategy takes all the nodes it is shown and never waits.

    Args:
        replies: how many sites answer at least, where that is known: some strategies need more than others.

    Raises:
        InputError: `input.study` for a parameter that the strategy does not have, or not of this value.
    """
    name, given = training.strategy, dict(training.strategy_parameters)
    made, allowed = _STRATEGIES[name]
    for parameter, value in given.items():
        if parameter not in allowed:
            raise InputError("input.study", f"training.strategy_parameters: {name} has no {parameter!r}")
        low, high = allowed[parameter]
        whole = allowed[parameter] == _COUNT or low == 1
        if not low <= value <= high or (whole and value != int(value)):
            raise InputError("input.study", f"training.strategy_parameters.{parameter}: {low:g} to {high:g}")
        given[parameter] = int(value) if whole else value
    if name == "qfedavg":
        given.setdefault("client_learning_rate", training.learning_rate)
        given["train_loss_key"] = LOSS  # type: ignore[assignment]
    _check_replies(name, given, replies)
    return made(
        fraction_train=1.0,
        fraction_evaluate=1.0,
        min_train_nodes=1,
        min_evaluate_nodes=1,
        min_available_nodes=1,
        weighted_by_key=EXAMPLES,
        **given,
    )


def _check_replies(name: str, given: Mapping[str, float], replies: int | None) -> None:
    """What the robust strategies promise holds only among enough sites."""
    if replies is None or name not in _REPLIES:
        return
    malicious = int(given.get("num_malicious_nodes", 0))
    least = max(_REPLIES[name] * malicious + 3, int(given.get("num_nodes_to_select", 1)))
    if replies < least:
        raise InputError(
            "input.study", f"training.strategy: {name} with {malicious} malicious sites needs {least} answers a round"
        )


def asked(made: Strategy, sites: int) -> int:
    """How many of so many sites the strategy asks in one round of training."""
    return 1 if isinstance(made, Cyclic) else sites


def told(made: Strategy) -> tuple[str, ...]:
    """Metrics that each site's answer in training must hold besides its number of examples."""
    return (LOSS,) if isinstance(made, QFedAvg) else ()


def configured(messages: Iterable[Message], made: Strategy) -> list[Message]:
    """A strategy's messages, of whose model it keeps no copy: `aggregate` is given the model."""
    made_ready = list(messages)
    if isinstance(made, (FedOpt, FedAvgM)):
        made.current_arrays = None
    return made_ready


def aggregate(
    made: Strategy, round_: int, replies: Iterable[Message], model: Arrays, before: Moments, after: Moments
) -> Arrays:
    """What the strategy makes of a round's answers, which have been judged one by one before; read-only.

    A strategy that remembers something between rounds has it in `before`, not in itself: its formula, which takes each
    element by itself, is applied to a block of elements at a time, so that no copy of a whole model is made.

    Args:
        model: that was sent out; what a strategy with moments makes has its types.
        before: what this function put into `after` the round before; empty in the first one.
        after: filled here.

    Raises:
        InputError: `input.message` when it makes nothing of them.
    """
    gc.freeze()  # some strategies collect garbage once an array: spare them what was there before
    try:
        answers = list(replies)
        if isinstance(made, (FedOpt, FedAvgM)) and answers:
            return _stepped(made, round_, answers, model, before, after)
        return _made(made, round_, answers)
    except (AppExitException, ValueError, ArithmeticError) as error:
        raise InputError("input.message", f"the strategy cannot aggregate: {type(error).__name__}") from None
    finally:
        gc.unfreeze()


def _made(made: Strategy, round_: int, replies: list[Message]) -> Arrays:
    arrays, _ = made.aggregate_train(round_, replies)
    if arrays is None:
        raise InputError("input.message", "the strategy cannot aggregate: too few answers")
    return views_of(arrays)


def _stepped(
    made: FedOpt | FedAvgM, round_: int, replies: list[Message], model: Arrays, before: Moments, after: Moments
) -> Arrays:
    """Flower's own step, a block of each array at a time."""
    weights = [record_of(reply, METRICS) for reply in replies]
    answers = [record_of(reply, ARRAYS) for reply in replies]
    if any(set(answer) != set(model) for answer in answers):
        raise ValueError("names")
    stepped: Arrays = {}
    for name, now in model.items():
        given = [np.asarray(answer.pop(name).numpy()).reshape(-1) for answer in answers]
        flat = np.empty(now.size, now.dtype)
        for start in range(0, max(now.size, 1), BLOCK):
            here = slice(start, start + BLOCK)
            _recall(made, name, now.reshape(-1)[here], before, start)
            contents = [
                RecordDict({ARRAYS: array_record({name: part[here]}), METRICS: weight})
                for part, weight in zip(given, weights, strict=True)
            ]
            flat[here] = _made(made, round_, [Message(content, 1, "train") for content in contents])[name]
            for key, moment in _remembered(made, name):
                after.put(key, now.shape, start, moment)
            del contents
            gc.collect()  # Flower's records hold their arrays in cycles; all else is frozen, so this costs little
        stepped[name] = flat.reshape(now.shape)
        stepped[name].flags.writeable = False
    _forget(made)
    return stepped


def _recall(made: FedOpt | FedAvgM, name: str, model: np.ndarray[Any, Any], before: Moments, start: int) -> None:
    """Let the strategy know one block: its part of the model, and what it remembers of it."""

    def moment(kind: str) -> np.ndarray[Any, Any] | None:
        stored = before.get(f"{kind}/{name}")
        return None if stored is None else stored.block(start, start + BLOCK)

    if isinstance(made, FedAvgM):
        made.current_arrays = array_record({name: model})
        vector = moment(_VECTOR)
        made.momentum_vector = None if vector is None else [vector]
        return
    made.current_arrays = {name: model}
    for kind in _MOMENTS:
        known = moment(kind)
        setattr(made, kind, None if known is None else {name: known})


def _remembered(made: FedOpt | FedAvgM, name: str) -> list[tuple[str, np.ndarray[Any, Any]]]:
    """What the strategy remembers of the block, by key."""
    if isinstance(made, FedAvgM):
        return [(f"{_VECTOR}/{name}", np.asarray(vector)) for vector in made.momentum_vector or ()]
    return [(f"{kind}/{name}", np.asarray(getattr(made, kind)[name])) for kind in _MOMENTS]


def _forget(made: FedOpt | FedAvgM) -> None:
    made.current_arrays = None
    for kind in (_VECTOR,) if isinstance(made, FedAvgM) else _MOMENTS:
        setattr(made, kind, None)


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

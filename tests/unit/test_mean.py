"""The mean taken one answer at a time is what Flower makes of all at once, for every strategy that needs sums."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from central.federation import flower as server
from central.federation.collect import Collected
from central.federation.mean import Mean
from pipelines import flower
from pipelines.flower import ARRAYS, EXAMPLES, METRICS, RecordDict
from protocol.study import INDIVIDUAL
from tests.federation_hospital import study

server.identify(1)
ROWS = {"site-a": 40, "site-b": 7, "site-c": 1, "site-d": 123_457, "site-e": 3}
SUMMED = sorted({*server._STRATEGIES} - INDIVIDUAL)
MODEL: dict[str, np.ndarray[Any, Any]] = {
    "scalar": np.array(0.25, np.float32),
    "w": np.zeros((300, 1001), np.float32),  # more than one block
    "wide": np.ones((3, 2)),
    "steps": np.array([5, -7], np.int64),
    "count": np.array([2], np.int32),
    "none": np.zeros((0, 4), np.float32),
}
SHAPES = flower.shapes_of(MODEL)


def answers(seed: int = 1) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    draw = np.random.default_rng(seed)
    return {
        site: {
            name: (value + draw.normal(size=value.shape)).astype(value.dtype)
            if value.dtype.kind == "f"
            else draw.integers(-1000, 1000, value.shape).astype(value.dtype)
            for name, value in MODEL.items()
        }
        for site in ROWS
    }


def message(arrays: dict[str, np.ndarray[Any, Any]], rows: int) -> flower.Message:
    content = {ARRAYS: flower.array_record(arrays), METRICS: flower.metric_record({EXAMPLES: rows})}
    raw = flower.message_to_bytes(flower.Message(RecordDict(content), 1, "train", group_id="1"))
    return flower.message_from_bytes(raw)


class _Nodes(server.Grid):
    def set_run(self, run): ...

    @property
    def run(self): ...

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None): ...

    def get_node_ids(self):
        return [1]

    def push_messages(self, messages): ...

    def pull_messages(self, message_ids): ...

    def send_and_receive(self, messages, *, timeout=None): ...


def strategy(name: str) -> Any:
    parameters = {"server_momentum": 0.9, "server_learning_rate": 0.7} if name == "fedavgm" else {}
    made = server.strategy(study(strategy=name, strategy_parameters=parameters).training)
    list(made.configure_train(1, flower.array_record(MODEL), flower.config_record(1, SHAPES), _Nodes()))
    return made


def virtual(name: str, given: dict[str, dict[str, np.ndarray[Any, Any]]]) -> list[flower.Message]:
    mean = Mean(SHAPES, ROWS, summed=name == "newton")
    for site in sorted(given):
        mean.add(site, flower.views_of(message(given[site], ROWS[site]).content[ARRAYS]), ROWS[site])
    collected = Collected(mean=mean.total())
    assert collected.sites == tuple(sorted(given))
    return collected.messages()


@pytest.mark.parametrize("name", SUMMED)
def test_it_is_bit_equal_to_flowers_own_aggregation(name: str) -> None:
    """Whole numbers among them, which Flower averages to float64; and the strategy's memory of the next round."""
    given, one, other = answers(), strategy(name), strategy(name)
    for round_ in (1, 2):
        streamed = server.aggregate(one, round_, virtual(name, given))
        plain = server.aggregate(other, round_, [message(given[s], ROWS[s]) for s in sorted(given)])
        assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in streamed.items()} == {
            k: (v.dtype, v.shape, v.tobytes()) for k, v in plain.items()
        }
        given = answers(seed=2)
    for left, right in zip(server.strategy_state(one).values(), server.strategy_state(other).values(), strict=True):
        assert left.tobytes() == right.tobytes()


@pytest.mark.parametrize("missing", [{"site-c"}, {"site-d"}, {"site-a", "site-e"}])
def test_without_a_site_it_is_flowers_mean_of_the_others_but_for_two_roundings(missing: set[str]) -> None:
    """Each share is rounded, and the sum once more when it is divided by the share that answered.

    So an element differs by at most (answers + 3) half steps of the largest term. Where the missing site has nearly all
    rows (`site-d`: 99.9 %), shares are tiny but relative errors are the same: floating point has no fixed step.
    """
    given = {site: arrays for site, arrays in answers().items() if site not in missing}
    streamed = server.aggregate(strategy("fedavg"), 1, virtual("fedavg", given))
    plain = server.aggregate(strategy("fedavg"), 1, [message(given[s], ROWS[s]) for s in sorted(given)])
    for name, value in plain.items():
        assert streamed[name].dtype == value.dtype
        largest = np.max([np.abs(given[site][name]) for site in given], axis=0, initial=0)
        step = np.finfo(value.dtype).eps / 2
        assert (np.abs(streamed[name] - value) <= (len(given) + 3) * step * largest).all()


def test_answers_out_of_order_are_refused() -> None:
    mean = Mean(SHAPES, ROWS)
    given = answers()
    mean.add("site-b", given["site-b"], 7)
    with pytest.raises(AssertionError, match="order"):
        mean.add("site-a", given["site-a"], 40)


def test_the_virtual_answer_is_given_once() -> None:
    (made,) = virtual("fedavg", answers())
    server.aggregate(strategy("fedavg"), 1, [made])
    with pytest.raises(Exception, match="given away"):
        made.content[ARRAYS]["w"].numpy()


def test_the_head_of_a_message_has_no_arrays() -> None:
    raw = flower.message_to_bytes(message(answers()["site-a"], 3))
    head = flower.message_head(io.BytesIO(raw))
    assert set(head.content) == {METRICS}

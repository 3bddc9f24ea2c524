"""The mean taken one answer at a time is what Flower makes of all at once, for every strategy that needs sums."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from central.federation import flower as server
from central.federation.collect import Collected
from central.federation.mean import Mean
from central.federation.moments import Moments
from central.federation.tensors import tensor_parts, tensors_at
from pipelines import flower
from pipelines.flower import ARRAYS, EXAMPLES, METRICS, RecordDict
from protocol.errors import InputError
from protocol.study import INDIVIDUAL
from tests.federation_hospital import study
from tests.flowerkit import Nodes

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


def strategy(name: str) -> Any:
    parameters = {"server_momentum": 0.9, "server_learning_rate": 0.7} if name == "fedavgm" else {}
    return server.strategy(study(strategy=name, strategy_parameters=parameters).training)


def configure(made: Any, model: dict[str, np.ndarray[Any, Any]]) -> list[flower.Message]:
    return list(made.configure_train(1, flower.array_record(model), flower.config_record(1, SHAPES), Nodes(1)))


def virtual(name: str, given: dict[str, dict[str, np.ndarray[Any, Any]]]) -> list[flower.Message]:
    mean = Mean(SHAPES, ROWS, summed=name == "newton")
    for site in sorted(given):
        mean.add(site, flower.views_of(message(given[site], ROWS[site]).content[ARRAYS]), ROWS[site])
    collected = Collected(mean=mean.total())
    assert collected.sites == tuple(sorted(given))
    return collected.messages()


@pytest.mark.parametrize("name", SUMMED)
def test_it_is_bit_equal_to_flowers_own_aggregation(name: str) -> None:
    """Whole numbers among them, which Flower averages to float64; and the strategy's memory of the next rounds."""
    given, one, other = answers(), strategy(name), strategy(name)
    model, before = MODEL, Moments()
    for round_ in (1, 2, 3):
        server.configured(configure(one, model), one)
        after = Moments()
        streamed = typed(server.aggregate(one, round_, virtual(name, given), model, before, after))
        other.current_arrays = None  # FedAvgM's own last model; as in a resumed run, it takes the one that was sent
        configure(other, model)
        arrays, _ = other.aggregate_train(round_, [message(given[s], ROWS[s]) for s in sorted(given)])
        plain = typed(flower.views_of(arrays))
        assert {k: (v.dtype, v.shape, v.tobytes()) for k, v in streamed.items()} == {
            k: (v.dtype, v.shape, v.tobytes()) for k, v in plain.items()
        }
        assert {k: np.asarray(v).tobytes() for k, v in after.items()} == remembered(other)
        given, model, before = answers(seed=round_ + 1), streamed, after


def typed(made: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """As the learner has it: in the model's types."""
    return {name: made[name].astype(value.dtype) for name, value in MODEL.items()}


def remembered(made: Any) -> dict[str, bytes]:
    """What Flower's strategy holds between rounds, by our names."""
    held = {f"{kind}/{k}": v for kind in ("m_t", "v_t") for k, v in (getattr(made, kind, None) or {}).items()}
    vector = zip(MODEL, getattr(made, "momentum_vector", None) or (), strict=False)
    return {k: np.asarray(v).tobytes() for k, v in (held | {f"momentum_vector/{k}": v for k, v in vector}).items()}


def test_moments_come_back_from_a_file_as_from_memory(tmp_path: Path) -> None:
    """On disk, over a checkpoint's blob, and the next round from there."""
    made, model, before = strategy("fedyogi"), MODEL, Moments()
    at_once = Moments(tmp_path)
    first = typed(server.aggregate(made, 1, virtual("fedyogi", answers()), model, before, at_once))
    (tmp_path / "blob").write_bytes(b"".join(tensor_parts(at_once)))
    read = Moments(tmp_path)
    for name, value in tensors_at(tmp_path / "blob"):
        read.put(name, value.shape, 0, value.reshape(-1))
    made_from = [
        server.aggregate(made, 2, virtual("fedyogi", answers(2)), first, moments, Moments())
        for moments in (at_once, read)
    ]
    assert {k: v.tobytes() for k, v in made_from[0].items()} == {k: v.tobytes() for k, v in made_from[1].items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blob"]  # files without a name


def test_a_model_of_other_names_than_the_answer_is_refused() -> None:
    with pytest.raises(InputError) as failure:
        server.aggregate(strategy("fedadam"), 1, virtual("fedadam", answers()), {"w": MODEL["w"]}, Moments(), Moments())
    assert failure.value.code == "input.message"


@pytest.mark.parametrize("missing", [{"site-c"}, {"site-d"}, {"site-a", "site-e"}])
def test_without_a_site_it_is_flowers_mean_of_the_others_but_for_two_roundings(missing: set[str]) -> None:
    """Each share is rounded, and the sum once more when it is divided by the share that answered.

    So an element differs by at most (answers + 3) half steps of the largest term. Where the missing site has nearly all
    rows (`site-d`: 99.9 %), shares are tiny but relative errors are the same: floating point has no fixed step.
    """
    given = {site: arrays for site, arrays in answers().items() if site not in missing}
    streamed, plain = (
        server.aggregate(strategy("fedavg"), 1, messages, MODEL, Moments(), Moments())
        for messages in (virtual("fedavg", given), [message(given[s], ROWS[s]) for s in sorted(given)])
    )
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
    server.aggregate(strategy("fedavg"), 1, [made], MODEL, Moments(), Moments())
    with pytest.raises(Exception, match="given away"):
        made.content[ARRAYS]["w"].numpy()


def test_the_head_of_a_message_has_no_arrays() -> None:
    raw = flower.message_to_bytes(message(answers()["site-a"], 3))
    head = flower.message_head(io.BytesIO(raw))
    assert set(head.content) == {METRICS}

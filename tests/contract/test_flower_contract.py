"""Every name of flwr that the product uses is there and behaves as the adapters expect (flwr==1.41.0).

A new release fails here first: two adapter modules, one test.
"""

from __future__ import annotations

import ast
import logging
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from central.federation import flower as server
from central.federation.moments import Moments
from pipelines import flower
from tests.flowerkit import Nodes

ROOT = Path(__file__).parents[2]
NAMES = {
    "flwr.app.exception": "AppExitException",
    "flwr.app": "Array ArrayRecord ConfigRecord Context Error Message MetricRecord RecordDict",
    "flwr.clientapp": "ClientApp",
    "flwr.common.constant": "ErrorCode",
    "flwr.common.serde": "message_from_proto message_to_proto",
    "flwr.proto.message_pb2": "Message",
    "flwr.serverapp": "Grid ServerApp",
    "flwr.serverapp.strategy": "Bulyan FedAdagrad FedAdam FedAvg FedAvgM FedMedian FedProx FedTrimmedAvg FedYogi Krum "
    "MultiKrum QFedAvg Strategy",
    "flwr.serverapp.strategy.fedopt": "FedOpt",
    "flwr.simulation": "run_simulation",
    "flwr.supercore.run": "Run",
    "flwr.supercore.task_identity": "TaskIdentity",
}


@pytest.mark.parametrize("module", sorted(NAMES))
def test_the_names_exist(module: str) -> None:
    found = import_module(module)
    assert [n for n in NAMES[module].split() if not hasattr(found, n)] == []


def _imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, wherever in it; a program that it holds as text does not count."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def test_only_the_adapters_import_flwr() -> None:
    importing = {
        path.relative_to(ROOT).as_posix()
        for package in ("protocol", "privacy", "pipelines", "edge", "central", "corsia")
        for path in (ROOT / package).rglob("*.py")
        if any(name.partition(".")[0] == "flwr" for name in _imported(path))
    }
    assert importing == {"pipelines/flower.py", "central/federation/flower.py"}


def test_telemetry_and_update_check_are_off_and_no_handler_is_left() -> None:
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert logging.getLogger("flwr").handlers == []


def test_task_identity_and_run_are_as_the_adapter_uses_them() -> None:
    server.identify(77)
    assert server.empty_run(77).run_id == 77
    message = flower.Message(flower.RecordDict(), 5, "train", group_id="1")
    raw = flower.message_to_bytes(message, run_id=77, message_id="m")
    read = flower.message_from_bytes(raw)
    assert (read.metadata.run_id, read.metadata.message_id, read.metadata.dst_node_id) == (77, "m", 5)


def test_a_client_app_routes_the_three_kinds_and_raises_what_a_handler_raises() -> None:
    app = flower.ClientApp()

    @app.query("prepare")
    def prepare(message, context):
        return flower.reply(message, flower.RecordDict({"metrics": flower.metric_record({"a": 1})}))

    @app.train()
    def train(message, context):
        raise KeyError("here")

    server.identify(1)
    context = flower.Context(1, 5, {}, flower.RecordDict(), {})
    asked = flower.Message(flower.RecordDict(), 5, "query.prepare", group_id="0")
    asked = flower.message_from_bytes(flower.message_to_bytes(asked, message_id="id"))
    answer = app(asked, context)
    assert answer.metadata.reply_to_message_id == "id"
    assert (answer.metadata.src_node_id, answer.metadata.dst_node_id) == (5, asked.metadata.src_node_id)
    with pytest.raises(KeyError):
        app(flower.Message(flower.RecordDict(), 5, "train", group_id="0"), context)


@pytest.mark.parametrize("name", ["fedavg", "fedadam"])
def test_a_strategy_configures_and_aggregates(name: str) -> None:
    from tests.federation_hospital import study

    server.identify(1)
    training = study(strategy=name).training
    assert training is not None
    made = server.strategy(training)
    start = flower.array_record({"w": np.array([1.0, 1.0], np.float32)})
    config = flower.config_record(1, {"w": ("float32", (2,))})
    messages = [flower.message_from_bytes(flower.message_to_bytes(m, message_id=str(m.metadata.dst_node_id)))
                for m in made.configure_train(1, start, config, Nodes(2))]  # fmt: skip
    assert sorted(m.metadata.dst_node_id for m in messages) == [1, 2]
    assert set(messages[0].content) == {"arrays", "config"}
    replies = []
    for message, values, rows in zip(messages, ([0.0, 2.0], [4.0, 2.0]), (3, 1), strict=True):
        weights = flower.array_record({"w": np.array(values, np.float32)})
        content = {"arrays": weights, "metrics": flower.metric_record({flower.EXAMPLES: rows})}
        replies.append(flower.reply(message, flower.RecordDict(content)))
    arrays, _ = made.aggregate_train(1, replies)
    if name == "fedavg":
        assert flower.arrays_of(arrays)["w"].tolist() == [1.0, 2.0]
    else:
        assert set(made.m_t) == set(made.v_t) == {"w"}


def test_flower_keeps_its_state_where_the_adapter_looks_for_it() -> None:
    from tests.federation_hospital import study

    for name, kept in (("fedavgm", "momentum_vector"), ("fedadam", "m_t"), ("fedyogi", "v_t"), ("fedadagrad", "v_t")):
        training = study(strategy=name).training
        assert training is not None
        made = server.strategy(training)
        assert getattr(made, kept) is None
        assert made.current_arrays is None


def test_what_flower_cannot_aggregate_is_one_error() -> None:
    from protocol.errors import InputError
    from tests.federation_hospital import study

    training = study(strategy="bulyan").training
    assert training is not None
    with pytest.raises(InputError, match="too few"):
        server.aggregate(server.strategy(training), 1, [], {}, Moments(), Moments())
    plain = study(strategy="fedavg").training
    assert plain is not None
    asked = flower.Message(flower.RecordDict(), 5, "train", group_id="1")
    content = {"arrays": flower.array_record({"w": np.zeros(2, np.float32)}), "metrics": flower.metric_record({"a": 1})}
    with pytest.raises(InputError, match="InconsistentMessageReplies"):
        server.aggregate(
            server.strategy(plain), 1, [flower.reply(asked, flower.RecordDict(content))], {}, Moments(), Moments()
        )


def test_unknown_strategy_parameters_are_refused() -> None:
    from protocol.errors import InputError
    from tests.federation_hospital import study

    with pytest.raises(InputError, match="eta"):
        server.strategy(study(strategy="fedavg", strategy_parameters={"eta": 0.1}).training)

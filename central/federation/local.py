"""The round loop without a fleet: sites in this process, or under Flower's simulation engine.

For benchmarks, what-if runs and the tests that show all three grids to give the same model. Messages cross as bytes
here too, so that no site shares an object with another or with the server.
"""

from __future__ import annotations

import os
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from central.federation.checkpoint import Checkpoint, Checkpoints, MemoryCheckpoints
from central.federation.collect import place_of
from central.federation.flower import Grid, NodeGrid, ServerApp, empty_run, identify, simulation
from central.federation.rounds import Rounds
from pipelines.flower import (
    ARRAYS,
    CONFIG,
    METRICS,
    ClientApp,
    Context,
    Message,
    RecordDict,
    array_record,
    config_record,
    error_reply,
    message_from_bytes,
    message_to_bytes,
    metric_record,
    reply,
)
from pipelines.masking import Attempt, MaskedSite
from pipelines.train import TrainingData, client_app
from privacy.envelope import SecretKey
from privacy.secagg import MemoryGuard
from protocol.errors import ConfigurationError, CorsiaError, InputError, StudyRefused, UnavailableError
from protocol.study import Study

__all__ = ["LocalGrid", "handler", "masked_locally", "simulate", "train_locally"]

_WHO = "query.who"
Handler = Callable[[bytes], bytes]
_JOIN_TIMEOUT_S = 120.0


class LocalGrid(NodeGrid):
    """Sites as functions from message bytes to reply bytes, in this process.

    Args:
        sites: site name -> handler, as `pipelines.train.Session.handle`.
        run_id: Flower's run id.
    """

    digest, run_name = "0" * 64, "local"  # to what masks are bound

    def __init__(self, sites: Mapping[str, Callable[[bytes], bytes]], run_id: int = 1) -> None:
        identify(run_id)
        self._run, self._handlers = empty_run(run_id), dict(sites)
        self.sites = dict(enumerate(sorted(sites), start=1))
        self._replies: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Answers each message at once; returns the message ids."""
        ids = []
        for message in messages:
            message_id = uuid.uuid4().hex
            raw = message_to_bytes(message, run_id=self._run.run_id, message_id=message_id)
            self._replies[message_id] = self._answer(self.sites[message.metadata.dst_node_id], raw)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages, once."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Each site's answer when it is asked for, by the sites' names; nothing to wait for."""
        del timeout
        for message in sorted(messages, key=lambda m: self.sites[m.metadata.dst_node_id]):
            yield from self.pull_messages(self.push_messages([message]))

    def _answer(self, site: str, raw: bytes) -> Message:
        try:
            return message_from_bytes(self._handlers[site](raw))
        except CorsiaError as error:
            return error_reply(message_from_bytes(raw), error.code)


def train_locally(study: Study, data: Mapping[str, TrainingData], checkpoints: Checkpoints | None = None) -> Checkpoint:
    """Run a study's rounds with all its sites in this process; returns the last checkpoint.

    Raises:
        CorsiaError: as `Rounds.run`.
    """
    handlers = {site: handler(one) for site, one in data.items()}
    if study.privacy.secure_aggregation:
        study, handlers = masked_locally(study, handlers)
    return Rounds(study, LocalGrid(handlers), checkpoints or MemoryCheckpoints()).run()


def masked_locally(
    study: Study, handlers: Mapping[str, Handler], member: Callable[..., MaskedSite] = MaskedSite
) -> tuple[Study, dict[str, Handler]]:
    """Sites that mask what their handlers answer, each under an identity made here, and the study that names them.

    Args:
        member: makes a site's side of the masks; for sites that do not keep to it.
    """
    keys = {site: SecretKey.generate() for site in handlers}
    study = study.model_copy(update={"roster": {site: key.public.fingerprint for site, key in keys.items()}})
    return study, {
        site: _masked(member(study, LocalGrid.digest, site, keys[site], MemoryGuard()), plain)
        for site, plain in handlers.items()
    }


def _masked(masks: MaskedSite, plain: Handler) -> Handler:
    def answer(raw: bytes) -> bytes:
        asked = message_from_bytes(raw)
        config = asked.content.config_records[CONFIG]
        phase, step = place_of(asked)
        if step is None:
            raise StudyRefused("study.signature", "a plain question under masks")
        at = Attempt(
            run=LocalGrid.run_name, round=int(config["server-round"]), phase=phase, attempt=int(config["attempt"])
        )
        return masks.answer(at, step, raw, lambda: plain(raw))

    return answer


def handler(data: TrainingData) -> Callable[[bytes], bytes]:
    """A site of `LocalGrid`: these rows behind the lane's own app."""
    app, context = client_app(lambda _context: data), Context(1, 1, {}, RecordDict(), {})
    return lambda raw: message_to_bytes(app(message_from_bytes(raw), context))


# -- Flower's simulation engine ----------------------------------------------------------------------------------------


class _SimulatedGrid:
    """Flower's in-memory grid with the site of each node, asked once."""

    def __init__(self, grid: Grid, names: list[str]) -> None:
        self._grid, self.sites = grid, {}
        nodes: list[int] = []
        for _ in range(int(_JOIN_TIMEOUT_S * 10)):
            nodes = list(grid.get_node_ids())
            if len(nodes) == len(names):
                break
            time.sleep(0.1)
        record = RecordDict({CONFIG: config_record(0, {})})
        asked = [Message(record, node, _WHO, group_id="0") for node in nodes]
        for message in grid.send_and_receive(asked, timeout=_JOIN_TIMEOUT_S):
            self.sites[message.metadata.src_node_id] = names[int(message.content.metric_records[METRICS]["partition"])]
        if sorted(self.sites.values()) != names:
            raise UnavailableError("unavailable.quorum", "not all simulated sites answer")

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self.sites)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        found = self._grid.send_and_receive(messages, timeout=timeout)
        return sorted(found, key=lambda m: self.sites.get(m.metadata.src_node_id, ""))


def simulate(study: Study, data: Mapping[str, TrainingData]) -> Checkpoint:
    """Run a study's rounds under Flower's simulation engine (Ray actors on this machine, loopback sockets only).

    Raises:
        ConfigurationError: `config.extra-missing` without the extra `simulate`.
        CorsiaError: as `Rounds.run`.
    """
    if study.privacy.secure_aggregation:
        raise InputError("input.study", "privacy.secure_aggregation: not under the simulation engine")
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    os.environ.update(quiet)
    try:
        import ray

        run_simulation = simulation()
    except ImportError:
        raise ConfigurationError("config.extra-missing", "pip install 'corsia[simulate]'") from None
    names = sorted(data)
    parts = [data[name] for name in names]
    outcome: queue.Queue[Checkpoint | CorsiaError] = queue.Queue()
    server = ServerApp()

    @server.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, _context: Context) -> None:
        try:
            outcome.put(Rounds(study, _SimulatedGrid(grid, names), MemoryCheckpoints()).run())
        except CorsiaError as error:
            outcome.put(error)

    backend: dict[str, Any] = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": min(len(names), os.cpu_count() or 1), "include_dashboard": False,
                      "_node_ip_address": "127.0.0.1", "log_to_driver": False},
    }  # fmt: skip
    try:
        run_simulation(server, _simulated_app(parts), num_supernodes=len(names), backend_config=backend)
    finally:
        ray.shutdown()
    result = outcome.get(timeout=1)
    if isinstance(result, CorsiaError):
        raise result
    return result


def _simulated_app(parts: list[TrainingData]) -> ClientApp:
    app = client_app(lambda context: parts[int(context.node_config["partition-id"])])

    @app.query("who")  # type: ignore[untyped-decorator]
    def who(message: Message, context: Context) -> Message:
        partition = metric_record({"partition": int(context.node_config["partition-id"])})
        return reply(message, RecordDict({ARRAYS: array_record({}), METRICS: partition}))

    return app

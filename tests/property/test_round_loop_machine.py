"""The round loop under everything at once: drops, lateness, malformed replies, crashes of the centre, commands.

One run goes on under Hypothesis' rules. Whatever happens, it ends in one of the ways that there are, its rounds are
those of a run of the sites that answered, and a run that nobody disturbed for good is bit-equal to one of its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from central.federation.checkpoint import Checkpoint, MemoryCheckpoints, join_arrays
from central.federation.collect import MAX_ATTEMPTS
from central.federation.control import Orders, Stopped
from central.federation.local import LocalGrid, handler, masked_locally
from central.federation.rounds import Rounds
from pipelines import flower
from pipelines.flower import ARRAYS, METRICS, Message, RecordDict
from pipelines.train import load
from protocol.assignment import RoundPhase
from protocol.errors import ConflictError, CorsiaError, UnavailableError
from protocol.study import Study
from tests.federation_hospital import SITES, frame, study

ROUNDS, MOST = 3, 5
FAULTS = ("silent", "error", "nan", "shape", "weight", "garbage")


class Crash(BaseException):
    """The centre's process is killed here."""


class Kept(MemoryCheckpoints):
    """Checkpoints that remember the attempt under way, as the database does, and at which the centre may die."""

    def __init__(self) -> None:
        super().__init__()
        self.way: tuple[int, RoundPhase, int] | None = None
        self.dies = False

    def begin(self, round_: int, phase: RoundPhase) -> int:
        if self.way is None or self.way[:2] != (round_, phase):
            self.way = (round_, phase, 0)
        return self.way[2]

    def retry(self, round_: int, phase: RoundPhase, attempt: int) -> None:
        assert attempt < MAX_ATTEMPTS
        self.way = (round_, phase, attempt)

    def save(self, checkpoint: Checkpoint) -> None:
        super().save(checkpoint)
        if self.dies:
            self.dies = False
            raise Crash


class Wished:
    """The operator's orders; a paused run gives the turn back to the machine."""

    def __init__(self) -> None:
        self.orders = Orders(rounds=ROUNDS)

    def heed(self) -> Orders:
        if self.orders.wish == "pause":
            raise UnavailableError("unavailable.process", "the test goes on elsewhere")
        return self.orders


class Rough(LocalGrid):
    """An in-process grid on which single answers are lost or spoilt, and the centre dies or is stopped half way."""

    def __init__(self, handlers: dict[str, object], machine: RoundLoop) -> None:
        super().__init__(handlers)  # type: ignore[arg-type]
        self._machine = machine

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        machine, asked = self._machine, list(messages)
        faults, machine.faults = machine.faults, {}
        if machine.dies_on == "instructed":
            machine.dies_on = ""
            raise Crash
        if machine.stops_on_the_way:
            machine.stops_on_the_way = False
            machine.wished.orders = Orders(rounds=ROUNDS, wish="stop")
            raise Stopped
        replies = []
        for message in sorted(asked, key=lambda m: self.sites[m.metadata.dst_node_id]):  # as every grid gives them
            site = self.sites[message.metadata.dst_node_id]
            if faults.get(site) != "silent":
                (reply,) = super().send_and_receive([message])
                replies += spoilt(message, reply, faults.get(site, ""))
        if machine.dies_on == "collected":
            machine.dies_on = ""
            raise Crash
        machine.turn(faults)
        return replies


def spoilt(asked: Message, reply: Message, fault: str) -> list[Message]:
    """A reply as a broken or hostile site would send it; twice now and then, which must not count twice."""
    if not fault or reply.has_error():
        return [reply, reply]
    if fault in ("error", "garbage") or ARRAYS not in reply.content or not reply.content.array_records[ARRAYS]:
        return [flower.error_reply(asked, "worker.failed" if fault == "error" else "no code at all")]
    arrays = flower.arrays_of(reply.content.array_records[ARRAYS])
    metrics = dict(reply.content.metric_records[METRICS])
    name = next(iter(arrays))
    if fault == "nan" and arrays[name].dtype.kind == "f":
        arrays[name] = arrays[name] * np.asarray(math.nan, arrays[name].dtype)
    elif fault == "shape":
        arrays[name] = np.append(arrays[name], arrays[name][:1], axis=0)
    else:
        metrics["num-examples"] = -1
    content = {ARRAYS: flower.array_record(arrays), METRICS: flower.metric_record(metrics)}
    made = flower.reply(asked, RecordDict(content))
    made.metadata.__dict__["_src_node_id"] = asked.metadata.dst_node_id
    return [made]


class RoundLoop(RuleBasedStateMachine):
    @initialize(
        quorum=st.sampled_from([1.0, 0.6]), hidden=st.booleans(), strategy=st.sampled_from(["fedavg", "fedadam"])
    )
    def begin(self, quorum: float, hidden: bool, strategy: str) -> None:
        raw = study(rounds=ROUNDS, max_rounds=MOST, quorum=quorum, local_steps=2, strategy=strategy).model_dump(
            by_alias=True, exclude_none=True
        )
        raw["privacy"]["secure_aggregation"] = hidden
        self.plan = Study.model_validate(raw)
        self.faults: dict[str, str] = {}
        self.dies_on, self.stops_on_the_way = "", False
        self.kept, self.wished = Kept(), Wished()
        self.exchanges, self.disturbed = 0, False
        self.final: Checkpoint | None = None
        self.code = ""
        self.quorum, self.hidden = quorum, hidden
        self.handlers: dict[str, object] = {s: handler(load(self.plan, s, frame(s, 30))) for s in SITES}
        self.named = self.plan
        if hidden:
            self.named, masked = masked_locally(self.plan, self.handlers)  # type: ignore[arg-type]
            self.handlers = dict(masked)

    def turn(self, faults: dict[str, str]) -> None:
        self.exchanges += 1
        self.disturbed = self.disturbed or bool(faults)

    # -- what may happen

    @rule(site=st.sampled_from(SITES), fault=st.sampled_from(FAULTS))
    def one_site_fails_in_the_next_exchange(self, site: str, fault: str) -> None:
        self.faults[site] = fault

    @rule(where=st.sampled_from(["instructed", "collected", "checkpoint"]))
    def the_centre_dies(self, where: str) -> None:
        if where == "checkpoint":
            self.kept.dies = True
        else:
            self.dies_on = where

    @rule()
    def pause(self) -> None:
        if self.wished.orders.wish == "run":
            self.wished.orders = Orders(rounds=self.wished.orders.rounds, wish="pause")

    @rule()
    def resume(self) -> None:
        if self.wished.orders.wish == "pause":
            self.wished.orders = Orders(rounds=self.wished.orders.rounds)

    @rule(rounds=st.integers(ROUNDS, MOST))
    def extend(self, rounds: int) -> None:
        orders = self.wished.orders
        if orders.wish != "stop" and rounds > orders.rounds and self.final is None:
            self.wished.orders = Orders(rounds=rounds, wish=orders.wish)

    @rule(at_once=st.booleans(), sure=st.integers(0, 3))
    def stop(self, at_once: bool, sure: int) -> None:
        if sure:  # not in every example
            return
        if at_once:
            self.wished.orders = Orders(rounds=self.wished.orders.rounds, wish="stop")
        else:
            self.stops_on_the_way = True

    @rule()
    def go_on(self) -> None:
        """A process takes the run up where the one before it left it, as far as it gets."""
        if self.final is not None or self.code:
            return
        try:
            self.final = Rounds(self.named, Rough(self.handlers, self), self.kept, self.wished).run()
        except Crash:
            pass
        except (UnavailableError, ConflictError) as error:
            if error.code != "unavailable.process":
                self.code = error.code
        except CorsiaError as error:
            raise AssertionError(f"a bad site ended the run: {error}") from error

    # -- what must hold

    @invariant()
    def rounds_are_without_a_gap(self) -> None:
        if not hasattr(self, "kept"):
            return
        numbers = [c.round for c in self.kept.all]
        assert numbers == list(range(len(numbers)))
        assert all(c.metrics for c in self.kept.all[1:-1])
        assert len(numbers) <= MOST + 1

    @invariant()
    def every_checkpoint_is_sound_and_of_enough_sites(self) -> None:
        for checkpoint in getattr(self, "kept", Kept()).all:
            assert all(np.isfinite(v).all() for v in checkpoint.model.values())
            assert checkpoint.sites == tuple(sorted(set(checkpoint.sites)))
            skipped = self.hidden and checkpoint.round > 0 and not checkpoint.sites
            assert skipped or len(checkpoint.sites) >= math.ceil(self.quorum * len(SITES) - 1e-9)

    @invariant()
    def a_run_ends_in_one_of_the_ways_there_are(self) -> None:
        if getattr(self, "code", ""):
            assert self.code in ("unavailable.quorum", "conflict.stopped", "conflict.round")
            assert self.code == "conflict.stopped" or self.disturbed
            assert self.code != "conflict.round" or self.hidden  # too many rounds in a row stayed masked
        final = getattr(self, "final", None)
        if final is None:
            return
        assert final.ended == "rounds" or (final.ended, self.wished.orders.wish) == ("stopped", "stop")
        assert final.metrics
        assert final.ended == "stopped" or final.round == final.rounds_run == len(self.kept.all) - 1

    def teardown(self) -> None:
        """Crashes, pauses and extensions leave no trace in the model."""
        if getattr(self, "final", None) is None or self.disturbed:
            return
        plan = self.plan.model_copy(
            update={"training": self.plan.training.model_copy(update={"rounds": self.final.round})}  # type: ignore
        )
        handlers: dict[str, object] = {s: handler(load(plan, s, frame(s, 30))) for s in SITES}
        if self.hidden:
            plan, masked = masked_locally(plan, handlers)  # type: ignore[arg-type]
            handlers = dict(masked)
        alone = Rounds(plan, LocalGrid(handlers), MemoryCheckpoints()).run()  # type: ignore[arg-type]
        assert join_arrays(self.final.model, self.final.preprocessing) == join_arrays(alone.model, alone.preprocessing)


@pytest.mark.parametrize("hidden", [False, True])
def test_the_ways_through_the_machine_lead_to_an_end(hidden: bool) -> None:
    """Hypothesis may come by all of them; here a run dies at each place, pauses, goes on longer, and must end whole."""
    machine = RoundLoop()
    machine.begin(1.0, hidden, "fedadam")
    for where in ("instructed", "collected", "checkpoint"):
        machine.the_centre_dies(where)
        machine.go_on()
        assert (machine.final, machine.code) == (None, ""), f"it did not die at {where}"
    machine.pause()
    machine.go_on()
    assert machine.final is None
    machine.extend(MOST)
    machine.resume()
    machine.go_on()
    assert machine.final is not None
    assert (machine.final.round, machine.final.ended, machine.disturbed) == (MOST, "rounds", False)
    check(machine)


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_site_disturbs_and_leaves_a_sound_run(fault: str) -> None:
    machine = RoundLoop()
    machine.begin(0.6, False, "fedavg")
    machine.one_site_fails_in_the_next_exchange(SITES[0], fault)
    machine.go_on()
    assert (machine.disturbed, machine.code) == (True, "")
    assert machine.final is not None
    check(machine)


def check(machine: RoundLoop) -> None:
    machine.rounds_are_without_a_gap()
    machine.every_checkpoint_is_sound_and_of_enough_sites()
    machine.a_run_ends_in_one_of_the_ways_there_are()
    machine.teardown()


TestRoundLoop = RoundLoop.TestCase
TestRoundLoop.settings = settings(
    max_examples=200 if os.environ.get("CORSIA_FULL") else 8, stateful_step_count=25, deadline=None
)

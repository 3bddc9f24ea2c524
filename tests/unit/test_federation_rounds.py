"""The round loop among dishonest and failing sites: a bad reply is left out, never the end of the run."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from central.federation.checkpoint import Checkpoint, MemoryCheckpoints, join_arrays, split_arrays
from central.federation.collect import MAX_ATTEMPTS, quorum_of
from central.federation.local import LocalGrid, train_locally
from central.federation.rounds import Rounds
from pipelines import flower
from pipelines.flower import ARRAYS, METRICS, RecordDict
from pipelines.train import load
from protocol.assignment import RoundPhase
from protocol.errors import DisclosureRefused, InputError, IntegrityError, UnavailableError, WorkerError
from protocol.study import Study
from tests.federation_hospital import SITES, frame, session, study

Handler = Callable[[bytes], bytes]


def run(
    plan: Study, replaced: dict[str, Callable[[Handler], Handler]], kept: MemoryCheckpoints | None = None
) -> Checkpoint:
    handlers: dict[str, Handler] = {site: session(plan, site).handle for site in plan.sites}
    handlers |= {site: change(handlers[site]) for site, change in replaced.items()}
    return Rounds(plan, LocalGrid(handlers), kept or MemoryCheckpoints()).run()


def only(kind: str, change: Callable[[flower.Message, flower.Message], bytes]) -> Callable[[Handler], Handler]:
    """Replace a site's answers to one kind of message."""

    def wrap(handle: Handler) -> Handler:
        def answer(raw: bytes) -> bytes:
            asked = flower.message_from_bytes(raw)
            reply = handle(raw)
            if asked.metadata.message_type != kind:
                return reply
            return change(asked, flower.message_from_bytes(reply))

        return answer

    return wrap


def content(asked: flower.Message, arrays: flower.Arrays, metrics: dict[str, float], **more: object) -> bytes:
    record = {ARRAYS: flower.array_record(arrays), METRICS: flower.metric_record(metrics), **more}
    return flower.message_to_bytes(flower.reply(asked, RecordDict(record)))


def arrays(reply: flower.Message) -> flower.Arrays:
    return flower.arrays_of(reply.content.array_records[ARRAYS])


HOSTILE = {
    "nan": lambda a, r: content(a, {k: v * math.nan for k, v in arrays(r).items()}, {"num-examples": 40}),
    "infinite": lambda a, r: content(a, {k: v + math.inf for k, v in arrays(r).items()}, {"num-examples": 40}),
    "huge": lambda a, r: content(a, {k: v + np.float32(1e6) for k, v in arrays(r).items()}, {"num-examples": 40}),
    "negative": lambda a, r: content(a, arrays(r), {"num-examples": -1}),
    "zero": lambda a, r: content(a, arrays(r), {"num-examples": 0}),
    "heavier": lambda a, r: content(a, arrays(r), {"num-examples": 10**8}),
    "float": lambda a, r: content(a, arrays(r), {"num-examples": 40.0}),
    "no-weight": lambda a, r: content(a, arrays(r), {"other": 1}),
    "extra-metric": lambda a, r: content(a, arrays(r), {"num-examples": 40, "c-index": 0.5}),
    "extra-array": lambda a, r: content(a, {**arrays(r), "more": np.zeros(3)}, {"num-examples": 40}),
    "fewer": lambda a, r: content(a, dict(list(arrays(r).items())[:1]), {"num-examples": 40}),
    "shape": lambda a, r: content(a, {k: v[..., :1] for k, v in arrays(r).items()}, {"num-examples": 40}),
    "dtype": lambda a, r: content(a, {k: v.astype(np.float64) for k, v in arrays(r).items()}, {"num-examples": 40}),
    "record": lambda a, r: content(a, arrays(r), {"num-examples": 40}, extra=flower.metric_record({"a": 1})),
    "error": lambda a, r: flower.message_to_bytes(flower.error_reply(a, "worker.failed")),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_a_malformed_update_is_left_out_and_the_others_go_on(name: str) -> None:
    plan = study(quorum=0.6, rounds=1)
    reached = run(plan, {"site-b": only("train", HOSTILE[name])})
    assert reached.sites == ("site-a", "site-c")

    def dead(_handle: Handler) -> Handler:
        def answer(raw: bytes) -> bytes:
            if flower.message_from_bytes(raw).metadata.message_type == "train":
                raise WorkerError("worker.failed")
            return _handle(raw)

        return answer

    without = run(plan, {"site-b": dead})
    assert join_arrays(reached.model, reached.preprocessing) == join_arrays(without.model, without.preprocessing)


@pytest.mark.parametrize("name", ["nan", "negative", "heavier", "extra-array", "dtype", "error"])
def test_sums_that_cannot_be_are_left_out_for_the_whole_run(name: str) -> None:
    plan = study(quorum=0.6, rounds=1)
    change = HOSTILE[name] if name != "dtype" else (
        lambda a, r: content(a, {**arrays(r), "count": arrays(r)["count"] * 100}, {"num-examples": 40})
    )  # fmt: skip
    reached = run(plan, {"site-b": only("query.prepare", change)})
    assert set(reached.examples) == {"site-a", "site-c"}
    assert reached.sites == ("site-a", "site-c")


def test_below_quorum_a_phase_is_tried_a_bounded_number_of_times() -> None:
    kept = MemoryCheckpoints()
    attempts: list[tuple[int, RoundPhase, int]] = []
    kept.retry = lambda *told: attempts.append(told)  # type: ignore[method-assign]
    with pytest.raises(UnavailableError) as error:
        run(study(), {"site-b": only("train", HOSTILE["nan"])}, kept)
    assert error.value.code == "unavailable.quorum"
    assert attempts == [(1, RoundPhase.TRAIN, n) for n in range(1, MAX_ATTEMPTS)]
    assert [c.round for c in kept.all] == [0]


def test_a_site_that_recovers_is_used_in_the_next_attempt() -> None:
    calls: list[int] = []

    def flaky(asked: flower.Message, reply: flower.Message) -> bytes:
        calls.append(1)
        return HOSTILE["nan"](asked, reply) if len(calls) == 1 else flower.message_to_bytes(reply)

    plan = study(rounds=1)
    reached = run(plan, {"site-b": only("train", flaky)})
    assert reached.sites == SITES
    assert len(calls) == 2


def test_the_order_in_which_sites_are_given_does_not_matter() -> None:
    plan = study()
    data = {site: load(plan, site, frame(site)) for site in SITES}
    one = train_locally(plan, data)
    two = train_locally(plan, dict(reversed(data.items())))
    assert join_arrays(one.model, one.preprocessing) == join_arrays(two.model, two.preprocessing)


def test_metrics_are_those_of_summed_counts_and_sites_only_where_asked() -> None:
    plan = study(rounds=1, metrics=("c-index",))
    open_ = {site: session(plan, site, site_metrics=site != "site-b").handle for site in SITES}
    silent, shown = run(study(rounds=1), {}), Rounds(plan, LocalGrid(open_), MemoryCheckpoints()).run()
    assert set(silent.metrics) == {"c-index", "loss", "rows"}
    assert silent.metrics["rows"] == 120
    assert shown.metrics["sites"]["site-b"] == "withheld"
    assert {site: set(values) for site, values in shown.metrics["sites"].items() if site != "site-b"} == {
        "site-a": {"c-index"},
        "site-c": {"c-index"},
    }
    assert {k: v for k, v in shown.metrics.items() if k != "sites"} == dict(silent.metrics)


def hidden(plan: Study) -> Study:
    raw = plan.model_dump(by_alias=True, exclude_none=True)
    return Study.model_validate(raw | {"privacy": raw["privacy"] | {"secure_aggregation": True}})


@pytest.mark.slow
@pytest.mark.parametrize("masks", [False, True], ids=["plain", "masked"])
def test_training_that_diverges_everywhere_is_one_clear_error(masks: bool) -> None:
    plan = study(learning_rate=100.0, local_steps=200, rounds=3, max_norm=50.0)
    plan = hidden(plan) if masks else plan
    with pytest.raises(InputError) as error:
        train_locally(plan, {site: load(plan, site, frame(site)) for site in SITES})
    assert error.value.code == "input.diverged"


def test_training_that_diverges_at_one_site_goes_on_with_the_others_and_is_told() -> None:
    plan, wild = study(quorum=0.6, rounds=2), study(quorum=0.6, learning_rate=100.0, local_steps=200, max_norm=50.0)
    kept = MemoryCheckpoints()
    reached = run(plan, {"site-b": lambda _handle: session(wild, "site-b").handle}, kept)
    assert (reached.round, reached.sites) == (2, ("site-a", "site-c"))
    dropped = [(site, fields) for kind, site, fields in kept.told if kind == "round.dropped"]
    assert {(site, f["phase"], f["code"]) for site, f in dropped} == {("site-b", "train", "input.diverged")}


def test_a_site_that_answers_with_an_error_each_time_is_left_out_each_time() -> None:
    def broken(handle: Handler) -> Handler:
        def answer(raw: bytes) -> bytes:
            if flower.message_from_bytes(raw).metadata.message_type == "query.prepare":
                return handle(raw)
            raise WorkerError("worker.failed")

        return answer

    plan, kept = study(quorum=0.6, rounds=3), MemoryCheckpoints()
    reached = run(plan, {"site-c": broken}, kept)
    assert (reached.round, reached.sites) == (3, ("site-a", "site-b"))
    assert [f["code"] for kind, _, f in kept.told if kind == "round.dropped"] == ["worker.failed"] * 6


def lone(plan: Study, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Checkpoint:
    frames = {site: frame(site) for site in SITES} | {"site-c": change(frame("site-c"))}
    return train_locally(plan, {site: load(plan, site, one) for site, one in frames.items()})


def small(**training: object) -> Study:
    plan = study(rounds=2, **training)
    return plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"min_cohort": 1, "k": 1})})


def test_a_site_with_one_row_takes_part_where_the_cohort_allows_it() -> None:
    reached = lone(small(), lambda rows: rows.dropna().head(1))
    assert (reached.round, dict(reached.examples)) == (2, {"site-a": 40, "site-b": 40, "site-c": 1})
    assert all(math.isfinite(v) for v in reached.metrics.values())
    with pytest.raises(DisclosureRefused) as error:
        load(study(), "site-c", frame("site-c").head(1))
    assert error.value.code == "gate.cohort"


@pytest.mark.parametrize("status", [1, 2], ids=["no event", "only events"])
def test_a_site_with_one_kind_of_outcome_takes_part(status: int) -> None:
    reached = lone(small(), lambda rows: rows.assign(status=status))
    assert reached.sites == SITES
    assert all(math.isfinite(v) for v in reached.metrics.values())


def test_a_site_with_one_class_takes_part_and_all_of_one_class_is_one_clear_error() -> None:
    raw = small().model_dump(by_alias=True, exclude_none=True)
    raw["training"] |= {"learner": "tabular", "outcome": ("status",)}
    raw["pipeline"] |= {"parameters": {"positive": 2, "negative": 1}}
    plan = Study.model_validate(raw)
    frames = {site: frame(site) for site in SITES} | {"site-c": frame("site-c").assign(status=2)}
    reached = train_locally(plan, {site: load(plan, site, rows) for site, rows in frames.items()})
    assert (reached.round, reached.sites) == (2, SITES)
    assert 0 <= reached.metrics["auc"] <= 1
    assert all(np.isfinite(v).all() for v in reached.model.values())
    alike = {site: load(plan, site, rows.assign(status=2)) for site, rows in frames.items()}
    with pytest.raises(InputError) as error:
        train_locally(plan, alike)
    assert error.value.code == "input.rows"


@pytest.mark.parametrize(("share", "needed"), [(1.0, 3), (0.67, 3), (0.6, 2), (1 / 3, 1), (0.01, 1)])
def test_the_quorum_is_rounded_up(share: float, needed: int) -> None:
    assert quorum_of(study(quorum=share)) == needed


def test_a_damaged_checkpoint_is_told() -> None:
    with pytest.raises(IntegrityError):
        split_arrays(b"\x10\0\0\0\0\0\0\0nonsense")

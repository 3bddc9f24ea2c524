"""Training under secure aggregation: equal to plaintext, over dropouts, restarts and against a hostile centre."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from central.federation.checkpoint import Checkpoint, MemoryCheckpoints, StoreCheckpoints, join_arrays
from central.federation.collect import place_of
from central.federation.grid import FleetGrid
from central.federation.local import LocalGrid, handler, masked_locally, train_locally
from central.federation.rounds import MAX_SKIPPED, Rounds
from central.store.models import ModelRow, ParcelRow, RunRow
from edge.config import EdgeConfig
from edge.masking import Masking
from edge.state import SiteState
from pipelines import infer
from pipelines.flower import (
    ARRAYS,
    CONFIG,
    EXAMPLES,
    METRICS,
    Message,
    RecordDict,
    array_record,
    config_record,
    message_from_bytes,
    message_to_bytes,
    metric_record,
    reply,
)
from pipelines.masking import MASKED, MASKS, Attempt, MaskedSite, decode, pack, payload_of, session_of, vector_size
from pipelines.train import load
from privacy.envelope import SecretKey, read_key, unseal
from privacy.secagg import Advert, Bundle, MemoryGuard, Release, Survivors, Tally
from protocol.assignment import Assignment, MaskStep, RoundInstruction, RoundPhase, State
from protocol.errors import ConflictError, CorsiaError, IntegrityError, StudyRefused, UnavailableError
from protocol.study import Study
from tests.agentkit import Office, enrolled, running, site_config
from tests.fault.test_federation_kill import attend
from tests.federation_hospital import SITES, Consortium, Hospitals, frame, study
from tests.federation_process import PUBLICATION_KEY, federation
from tests.integration.test_agent_training import training_study

RUN = "ab" * 16
FIVE = (*SITES, "site-d", "site-e")  # the threshold is 4


def masked(plan: Study, **privacy: object) -> Study:
    changed = plan.privacy.model_dump(exclude_none=True) | {"secure_aggregation": True, **privacy}
    return Study.model_validate(plan.model_dump(by_alias=True, exclude_none=True) | {"privacy": changed})


def data(plan: Study):
    return {site: load(plan, site, frame(site)) for site in plan.sites}


def apart(one: Checkpoint, other: Checkpoint) -> float:
    def worst(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12))

    both = [(one.model[k], other.model[k]) for k in other.model]
    both += [(one.preprocessing[k], other.preprocessing[k]) for k in other.preprocessing]
    return max(worst(a, b) for a, b in both)


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedprox", "fedadam", "fedadagrad", "fedyogi"])
def test_masks_change_nothing_of_the_outcome(strategy: str) -> None:
    plan = study(strategy=strategy)
    plain, hidden = train_locally(plan, data(plan)), train_locally(masked(plan), data(masked(plan)))
    assert apart(hidden, plain) <= 1e-6
    assert hidden.metrics.keys() == plain.metrics.keys()
    for name, value in plain.metrics.items():
        assert hidden.metrics[name] == pytest.approx(value, rel=1e-5)
    assert set(hidden.examples.values()) == {0}  # the centre does not know how many rows a site has


def test_metrics_of_one_site_are_withheld() -> None:
    plan = study(metrics=("c-index",), rounds=1)
    assert "sites" in train_locally(plan, data(plan)).metrics
    assert "sites" not in train_locally(masked(plan), data(masked(plan))).metrics


def test_over_the_fleet_the_federation_opens_nothing_but_masked_vectors(tmp_path: Path) -> None:
    plan = masked(study(rounds=2))
    consortium = Consortium(tmp_path, plan)
    with Hospitals(consortium):
        reached = over_fleet(consortium)
    assert apart(reached, train_locally(study(rounds=2), data(study(rounds=2)))) <= 1e-6
    with consortium.store.read() as reading:
        parcels = reading.scalars(select(ParcelRow)).all()
    assert len(parcels) == 3 * 5 * (1 + 2 * 2)
    seen = []
    for parcel in parcels:
        key = consortium.keys.secret(plan.id)
        source = io.BytesIO(consortium.sent[parcel.id])
        opened = b"".join(unseal(source, key=key, sender=consortium.identities[parcel.site].public))
        assert EXAMPLES.encode() not in opened.replace(b'"metrics": ["num-examples"]', b"")
        seen += [bit for bit in _int64(opened)]
    bits = np.unpackbits(np.array(seen, np.int64).view(np.uint8))
    assert 0.49 < bits.mean() < 0.51  # uniform


def _int64(opened: bytes) -> list[int]:
    from protocol.parcel import unpack_batch

    content = message_from_bytes(unpack_batch(opened).items[0].data).content
    if ARRAYS not in content:
        return []
    assert set(content.array_records[ARRAYS]) == {MASKED}
    assert dict(content.metric_records[METRICS]) == {}
    return content.array_records[ARRAYS][MASKED].numpy().tolist()


def over_fleet(consortium: Consortium) -> Checkpoint:
    with consortium.store.begin() as writing:
        if writing.get(RunRow, RUN) is None:
            writing.add(RunRow(id=RUN, study_digest=consortium.digest, updated_at=time.time()))
    grid = FleetGrid(
        consortium.store, consortium.landing, consortium.study, consortium.digest, RUN,
        consortium.keys.secret(consortium.study.id), consortium.study.sites, threading.Event(),
    )  # fmt: skip
    return Rounds(consortium.study, grid, StoreCheckpoints(consortium.store, RUN, consortium.study.id)).run()


def test_the_published_model_of_a_masked_run_says_so(tmp_path: Path) -> None:
    plan = masked(study(rounds=1))
    expected = train_locally(plan, data(plan))
    consortium = Consortium(tmp_path / "state", plan)
    with Hospitals(consortium):
        assert attend(consortium, tmp_path) == 0
    with consortium.store.read() as reading:
        model = reading.scalars(select(ModelRow)).one()
    weights = consortium.store.get_blob(model.weights)
    assert weights == join_arrays(expected.model, expected.preprocessing)  # sums are exact: bit-equal
    manifest = infer.verify(consortium.store.get_blob(model.manifest), weights, PUBLICATION_KEY.public)
    assert manifest.value["masked"] is True


def test_a_roster_of_two_fails_the_study(tmp_path: Path) -> None:
    consortium = Consortium(tmp_path, masked(study(sites=SITES[:2])))
    federation(tmp_path, "sqlite://", threading.Event()).attend("tiny")
    with consortium.store.read() as reading:
        assert reading.scalars(select(RunRow)).one().code == "input.study"


# -- dropouts ----------------------------------------------------------------------------------------------------------


class Lossy(LocalGrid):
    """Sites that are silent in some steps of some rounds."""

    def __init__(self, handlers, lost: dict[tuple[str, str], tuple[str, ...]], attempts: int = 99) -> None:
        super().__init__(handlers)
        self.lost, self.attempts, self.asked = lost, attempts, []

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        heard = []
        for message in messages:
            phase, step = place_of(message)
            config, site = message.content.config_records[CONFIG], self.sites[message.metadata.dst_node_id]
            self.asked.append((int(config["server-round"]), phase.value, step.value, int(config["attempt"]), site))
            gone = self.lost.get((phase.value, step.value), ())
            if site not in gone or int(config["attempt"]) >= self.attempts:
                heard.append(message)
        return super().send_and_receive(heard, timeout=timeout)


def lossy(
    plan: Study, lost: dict[tuple[str, str], tuple[str, ...]], attempts: int = 99,
    kept: MemoryCheckpoints | None = None,
) -> tuple[Checkpoint, Lossy]:  # fmt: skip
    named, handlers = masked_locally(plan, {site: handler(one) for site, one in data(plan).items()})
    grid = Lossy(handlers, lost, attempts)
    return Rounds(named, grid, kept or MemoryCheckpoints()).run(), grid


STEPS = [step.value for step in MaskStep]


@pytest.mark.parametrize("step", STEPS)
def test_a_silent_site_in_any_step_is_survived(step: str) -> None:
    plan = masked(study(sites=FIVE, rounds=1, quorum=0.8))
    reached, _ = lossy(plan, {("train", step): ("site-b",)})
    counted = set(FIVE) - ({"site-b"} if step in ("advertise", "share", "mask") else set())
    assert reached.round == 1
    assert set(reached.sites) == counted
    expected = study(sites=FIVE, rounds=1, quorum=0.8)
    if counted == set(FIVE):
        assert apart(reached, train_locally(expected, data(expected))) <= 1e-6


@pytest.mark.parametrize("step", STEPS[:4])
def test_below_the_threshold_the_attempt_is_made_again_under_fresh_masks(step: str) -> None:
    plan = masked(study(sites=FIVE, rounds=1, quorum=0.8))
    reached, grid = lossy(plan, {("train", step): ("site-b", "site-c")}, attempts=1)
    assert set(reached.sites) == set(FIVE)
    releases = {asked[:4] for asked in grid.asked if asked[1:3] == ("train", "release")}
    assert releases == {(1, "train", "release", 1)}  # nothing was released in the first
    with pytest.raises(UnavailableError) as error:
        lossy(plan, {("train", step): ("site-b", "site-c")})
    assert error.value.code == "unavailable.quorum"


def test_once_released_a_round_is_skipped_and_never_tried_again() -> None:
    plan, kept = masked(study(sites=FIVE, rounds=4, quorum=0.8)), MemoryCheckpoints()
    with pytest.raises(ConflictError) as error:
        lossy(plan, {("train", "release"): ("site-b", "site-c")}, kept=kept)
    assert error.value.code == "conflict.round"
    reached = kept.all[-1]
    assert (reached.round, reached.sites) == (MAX_SKIPPED - 1, ())
    assert join_arrays(reached.model, {}) == join_arrays(kept.all[0].model, {})  # unchanged
    assert [(n, more["code"]) for kind, _, more in kept.told if kind == "round.skipped" for n in [more["round"]]] == [
        (n, "conflict.round") for n in range(1, MAX_SKIPPED + 1)
    ]
    with pytest.raises(UnavailableError):  # the preparation cannot be skipped
        lossy(plan, {("prepare", "release"): ("site-b", "site-c")})


def test_below_the_quorum_of_the_study_nothing_is_unmasked() -> None:
    plan = masked(study(sites=FIVE, rounds=1, quorum=1.0))
    with pytest.raises(UnavailableError) as error:
        lossy(plan, {("train", "mask"): ("site-b",)})
    assert error.value.code == "unavailable.quorum"


# -- a hostile centre against one site's daemon ------------------------------------------------------------------------


def ask(step: MaskStep, payload: bytes, attempt: int = 0, round_: int = 0) -> bytes:
    from central.federation.flower import identify

    identify(1)
    extra = {"attempt": attempt, "step": step.value, "phase": "prepare", "masks": payload}
    record = RecordDict({CONFIG: config_record(round_, {}, **extra)})
    return message_to_bytes(Message(record, 1, MASKS, group_id="0"), run_id=1, message_id=f"{step}{attempt}{round_}")


def ask_sums(plan: Study, bundles: bytes, attempt: int = 0) -> bytes:
    from central.federation.flower import identify
    from pipelines import learners

    identify(1)
    declared = learners.for_study(plan).preparation()
    record = RecordDict({CONFIG: config_record(0, declared, attempt=attempt, step="mask", masks=bundles)})
    return message_to_bytes(Message(record, 1, "query.prepare", group_id="0"), run_id=1, message_id="m")


class Table:
    """site-a's daemon, two more sites, and a centre that a test turns against them."""

    def __init__(self, config: EdgeConfig, office: Office) -> None:
        self.office, self.own = office, read_key(config.state_dir / "identity.key")
        self.keys = {"site-b": SecretKey.generate(), "site-c": SecretKey.generate()}
        roster = {"site-a": self.own.public.fingerprint} | {s: k.public.fingerprint for s, k in self.keys.items()}
        privacy = {"k": 2, "min_cohort": 5, "secure_aggregation": True}
        self.plan = training_study().model_copy(update={"sites": SITES, "roster": roster})
        self.plan = Study.model_validate(self.plan.model_dump(by_alias=True, exclude_none=True) | {"privacy": privacy})
        self.study = office.submit(self.plan)
        said = office.wait(self.study, timeout_s=240)
        assert said.state is State.DONE, said
        assert said.counts == {}  # a count of rows is a weight
        digest = self.study.study_digest
        self.others = {s: MaskedSite(self.plan, digest, s, k, MemoryGuard()) for s, k in self.keys.items()}

    def at(self, attempt: int = 0) -> Attempt:
        return Attempt(run="r1", round=0, phase=RoundPhase.PREPARE, attempt=attempt)

    def tell(self, step: MaskStep | None, message: bytes, attempt: int = 0) -> Assignment:
        return self.office.instruct(self.study, message, step=step, attempt=attempt, deadline=4e9)

    def hear(self, asked: Assignment) -> Message:
        assert self.office.wait(asked, timeout_s=240).state is State.DONE, self.office.state(asked)
        (batch,) = self.office.opened(asked, self.own)
        return message_from_bytes(batch.items[0].data)

    def code(self, step: MaskStep | None, message: bytes, attempt: int = 0) -> str:
        return self.office.wait(self.tell(step, message, attempt), timeout_s=240).code

    def others_say(self, step: MaskStep, message: bytes, attempt: int = 0) -> list[Message]:
        def plain(raw: bytes) -> bytes:
            from pipelines import learners

            shapes = learners.for_study(self.plan).preparation()
            arrays = {name: np.zeros(shape, dtype) for name, (dtype, shape) in shapes.items()}
            content = {ARRAYS: array_record(arrays), METRICS: metric_record({EXAMPLES: 1})}
            return message_to_bytes(reply(message_from_bytes(raw), RecordDict(content)))

        sites = self.others.values()
        return [message_from_bytes(o.answer(self.at(attempt), step, message, lambda: plain(message))) for o in sites]

    def everybody(self, step: MaskStep, message: bytes, attempt: int = 0) -> list[bytes]:
        said = [self.hear(self.tell(step, message, attempt)), *self.others_say(step, message, attempt)]
        return [payload_of(one) for one in said]

    def signed(self, attempt: int = 0) -> tuple[list[bytes], Tally]:
        """An honest attempt up to the signed survivor set."""
        from pipelines import learners

        shapes = learners.for_study(self.plan).preparation()
        session = session_of(self.plan, self.study.study_digest, self.at(attempt))
        tally = Tally(session, vector_size(self.plan, RoundPhase.PREPARE, shapes))
        adverts = self.everybody(MaskStep.ADVERTISE, ask(MaskStep.ADVERTISE, b"", attempt), attempt)
        for advert in adverts:
            tally.take_advert(Advert.from_bytes(advert))
        for bundle in self.everybody(MaskStep.SHARE, ask(MaskStep.SHARE, pack(adverts), attempt), attempt):
            tally.take_bundle(Bundle.from_bytes(bundle))
        message = ask_sums(self.plan, pack(b.to_bytes() for b in tally.close_bundles()), attempt)
        vectors = [
            self.hear(self.tell(MaskStep.MASK, message, attempt)), *self.others_say(MaskStep.MASK, message, attempt)
        ]  # fmt: skip
        for site, vector in zip(SITES, vectors, strict=True):
            tally.take_masked(site, vector.content.array_records[ARRAYS][MASKED].numpy().view(np.uint64))
        names = [site.encode() for site in tally.survivors()]
        return self.everybody(MaskStep.SIGN, ask(MaskStep.SIGN, pack(names), attempt), attempt), tally


@pytest.fixture
def config(tmp_path: Path) -> EdgeConfig:
    return site_config(tmp_path)


@pytest.fixture
def office(config: EdgeConfig) -> Office:
    return enrolled(config)


def test_the_daemon_takes_part_and_binds_itself_to_one_attempt(config: EdgeConfig, office: Office) -> None:
    from pipelines import learners

    with running(config, office):
        table = Table(config, office)
        assert table.code(None, ask_sums(table.plan, b"")) == "study.signature"  # a plain question under masks
        first, _ = table.signed(attempt=0)
        assert len(first) == 3
        # too few signatures, then another survivor set: nothing is released
        assert table.code(MaskStep.RELEASE, ask(MaskStep.RELEASE, pack(first[:2]))) == "masks.replay"
        words, tally = table.signed(attempt=1)
        for word in words:
            tally.take_word(Survivors.from_bytes(word))
        releases = table.everybody(MaskStep.RELEASE, ask(MaskStep.RELEASE, pack(words), 1), 1)
        for release in releases:
            tally.take_release(Release.from_bytes(release))
        shapes = learners.for_study(table.plan).preparation()
        arrays, examples = decode(table.plan, RoundPhase.PREPARE, shapes, tally.total())
        assert examples == 21 + 2
        assert arrays["rows"][0] == 21
        assert arrays["count"].tolist() == [21, 21]
        # the round is over for ever, with fewer sites too
        assert table.code(MaskStep.ADVERTISE, ask(MaskStep.ADVERTISE, b"", 2), 2) == "conflict.round"
    state = SiteState(config.state_dir / "state.db")
    assert state.claimed(table.study.study_digest, "prepare", 0) == 1
    assert not state.claim(table.study.study_digest, "prepare", 0, 2, b"other")
    state.close()


def test_swapped_keys_second_survivor_sets_and_restarts(config: EdgeConfig, office: Office) -> None:
    with running(config, office):
        table = Table(config, office)
        adverts = table.everybody(MaskStep.ADVERTISE, ask(MaskStep.ADVERTISE, b""))
        evil = SecretKey.generate()
        forged_roster = {**table.plan.roster, "site-b": evil.public.fingerprint}
        forged_plan = table.plan.model_copy(update={"roster": forged_roster})
        mallory = MaskedSite(forged_plan, table.study.study_digest, "site-b", evil, MemoryGuard())
        forged = payload_of(
            message_from_bytes(
                mallory.answer(table.at(), MaskStep.ADVERTISE, ask(MaskStep.ADVERTISE, b""), lambda: b"")
            )
        )
        swapped = pack([adverts[0], forged, adverts[2]])
        assert table.code(MaskStep.SHARE, ask(MaskStep.SHARE, swapped)) == "masks.signature"
        table.everybody(MaskStep.ADVERTISE, ask(MaskStep.ADVERTISE, b"", 1), 1)
        fewer = pack(adverts[:2])  # of the old attempt, and too few
        assert table.code(MaskStep.SHARE, ask(MaskStep.SHARE, fewer, 1), 1) == "masks.signature"
        words, _ = table.signed(attempt=2)
        assert len(words) == 3
        second = ask(MaskStep.SIGN, pack([b"site-a", b"site-b"]), 2)
        assert table.code(MaskStep.SIGN, second, 2) == "study.replay"
    with running(config, office):  # the secrets of the attempt are gone
        assert table.code(MaskStep.RELEASE, ask(MaskStep.RELEASE, pack(words), 2), 2) == "masks.replay"
        table.signed(attempt=3)  # the round was not released: another attempt is answered


def test_a_second_survivor_set_is_refused_by_the_site_itself() -> None:
    """The daemon's replay check aside."""
    keys = {site: SecretKey.generate() for site in FIVE}
    plan = masked(study(sites=FIVE)).model_copy(update={"roster": {s: k.public.fingerprint for s, k in keys.items()}})
    sites = {s: MaskedSite(plan, "d" * 64, s, k, MemoryGuard()) for s, k in keys.items()}
    at = Attempt(run="r", round=0, phase=RoundPhase.PREPARE, attempt=0)

    def say(step: MaskStep, message: bytes, site: str) -> bytes:
        def plain() -> bytes:
            arrays = {"rows": np.ones(1)}
            content = {ARRAYS: array_record(arrays), METRICS: metric_record({EXAMPLES: 1})}
            return message_to_bytes(reply(message_from_bytes(message), RecordDict(content)))

        return sites[site].answer(at, step, message, plain)

    def round_of(step: MaskStep, message: bytes) -> list[bytes]:
        return [payload_of(message_from_bytes(say(step, message, site))) for site in FIVE]

    adverts = round_of(MaskStep.ADVERTISE, ask(MaskStep.ADVERTISE, b""))
    bundles = round_of(MaskStep.SHARE, ask(MaskStep.SHARE, pack(adverts)))
    mask = ask_sums(plan, pack(bundles))
    assert say(MaskStep.MASK, mask, "site-a") == say(MaskStep.MASK, mask, "site-a")  # the same bytes, no new draw
    for site in FIVE[1:]:
        say(MaskStep.MASK, mask, site)
    round_of(MaskStep.SIGN, ask(MaskStep.SIGN, pack([s.encode() for s in FIVE])))
    with pytest.raises(IntegrityError):
        say(MaskStep.SIGN, ask(MaskStep.SIGN, pack([s.encode() for s in FIVE[:4]])), "site-a")


def test_a_step_in_a_plain_study_and_a_foreign_roster_are_refused(tmp_path: Path) -> None:
    key, state = SecretKey.generate(), SiteState(tmp_path / "state.db")

    def instruction(step: MaskStep | None) -> RoundInstruction:
        return RoundInstruction(
            run="r", study_digest="d" * 64, site="site-a", round=0, phase=RoundPhase.PREPARE, attempt=0, message="",
            message_size=0, deadline=0.0, step=step,
        )  # fmt: skip

    def plain():
        raise AssertionError("nobody may ask the worker")

    cases: list[tuple[Study, MaskStep | None, type[CorsiaError]]] = [
        (study(), MaskStep.ADVERTISE, StudyRefused),
        (masked(study()), None, StudyRefused),
        (
            masked(study()).model_copy(update={"roster": {s: SecretKey.generate().public.fingerprint for s in SITES}}),
            MaskStep.ADVERTISE,
            StudyRefused,
        ),
    ]
    for plan, step, error in cases:
        with pytest.raises(error):
            Masking("site-a", key, state).answer(plan, instruction(step), ask(MaskStep.ADVERTISE, b""), plain)
    state.close()


def test_instructions_without_a_step_keep_their_bytes() -> None:
    made = RoundInstruction(
        run="r", study_digest="d", site="s", round=1, phase=RoundPhase.TRAIN, attempt=0, message="m", message_size=1,
        deadline=1.0,
    )  # fmt: skip
    assert b"step" not in made.to_bytes()
    assert RoundInstruction.from_bytes(made.to_bytes()) == made
    for step in MaskStep:
        from dataclasses import replace

        stepped = replace(made, step=step)
        assert RoundInstruction.from_bytes(stepped.to_bytes()) == stepped
        assert stepped.place == f"train/{step.value}"

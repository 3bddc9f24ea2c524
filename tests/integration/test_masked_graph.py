"""Training under secure aggregation with more sites than a complete graph bears: seventy, each of ten rows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from central.federation.checkpoint import Checkpoint, MemoryCheckpoints
from central.federation.collect import MAX_ATTEMPTS, place_of
from central.federation.local import LocalGrid, handler, masked_locally
from central.federation.publish import model_card
from central.federation.rounds import Rounds
from pipelines.flower import Message
from pipelines.masking import Attempt, MaskedSite, check_masks
from pipelines.train import load
from privacy.envelope import SecretKey
from privacy.secagg import ATTEMPTS, Member, MemoryGuard, Release, Session
from protocol.assignment import MaskStep, RoundPhase
from protocol.errors import ConflictError, InputError
from protocol.study import Study, dump_study, parse_study
from tests.federation_hospital import frame, study
from tests.integration.test_masked_runs import apart, ask, masked

SITES = tuple(f"s{i:02d}" for i in range(70))
# who is silent from which step of training on; 58 answer in all, 47 are needed
GONE = {"advertise": SITES[:2], "share": SITES[2:4], "mask": SITES[4:6], "sign": SITES[6:8], "release": SITES[8:10]}


class Silent(LocalGrid):
    """Sites that say nothing in some step of training; without masks, nothing at all where their sum did not count."""

    asked: set[tuple[str, str]]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        heard = []
        for message in messages:
            phase, step = place_of(message)
            gone: tuple[str, ...] = ()
            if phase is RoundPhase.TRAIN:
                gone = GONE[step.value] if step else tuple(s for n in ("advertise", "share", "mask") for s in GONE[n])
            if self.sites[message.metadata.dst_node_id] not in gone:
                heard.append(message)
        return super().send_and_receive(heard, timeout=timeout)


def run(plan: Study) -> Checkpoint:
    handlers = {site: handler(load(plan, site, frame(site, 10))) for site in SITES}
    if plan.privacy.secure_aggregation:
        plan, handlers = masked_locally(plan, handlers)
    return Rounds(plan, Silent(handlers), MemoryCheckpoints()).run()


@pytest.mark.full  # its parts always run: tests/unit/test_secagg_graph.py
def test_seventy_sites_train_as_without_masks_over_dropouts_at_every_step() -> None:
    plan = study(sites=SITES, rounds=1, quorum=0.8, local_steps=1)
    hidden = run(masked(plan, max_examples=1000))
    assert set(hidden.sites) == set(SITES[6:])
    assert apart(hidden, run(plan)) <= 1e-6
    assert set(hidden.examples.values()) == {0}


def test_a_study_states_for_whom_its_graph_is_made() -> None:
    plan = masked(study(sites=SITES, rounds=1), max_examples=1000, colluding_fraction=0.1, dropout_fraction=0.15)
    again = parse_study(dump_study(plan))
    assert again.privacy.graph == {"colluding": 0.1, "dropout": 0.15}
    check_masks(again)
    assert b"colluding" not in dump_study(masked(study()))  # the bytes of other studies stay as they are
    for wrong in ({"colluding_fraction": 0.2, "dropout_fraction": 0.2}, {"dropout_fraction": 0.3}):
        with pytest.raises(InputError) as refused:
            check_masks(masked(study(sites=SITES), max_examples=1000, **wrong))
        assert refused.value.code == "input.study"
    with pytest.raises(ValueError, match="colluding"):
        masked(study(sites=SITES), colluding_fraction=0.5)


def test_a_site_answers_no_more_attempts_than_the_graph_is_made_for() -> None:
    assert MAX_ATTEMPTS <= ATTEMPTS
    keys = {site: SecretKey.generate() for site in SITES}
    plan = masked(study(sites=SITES)).model_copy(update={"roster": {s: k.public.fingerprint for s, k in keys.items()}})
    site = MaskedSite(plan, "d" * 64, "s00", keys["s00"], MemoryGuard())

    def advertise(attempt: int) -> bytes:
        at = Attempt(run="r", round=0, phase=RoundPhase.PREPARE, attempt=attempt)
        return site.answer(at, MaskStep.ADVERTISE, ask(MaskStep.ADVERTISE, b"", attempt), lambda: b"")

    assert len({advertise(attempt) for attempt in range(ATTEMPTS)}) == ATTEMPTS
    with pytest.raises(ConflictError):
        advertise(ATTEMPTS)


def test_a_round_under_another_runs_name_is_the_same_round() -> None:
    """The centre makes the names up; up to 64 sites too."""
    keys = {site: SecretKey.generate() for site in ("a", "b", "c", "d")}
    roster = {site: key.public.fingerprint for site, key in keys.items()}
    guards = {site: MemoryGuard() for site in keys}

    def release(run: str, lost: str, attempt: int = 0) -> list[Release]:
        made = Session(study="5" * 64, run=run, round=1, attempt=attempt, roster=roster)
        members = {site: Member(made, site, key, guards[site]) for site, key in keys.items()}
        adverts = [member.advertise() for member in members.values()]
        bundles = [member.share(adverts) for member in members.values()]
        for member in members.values():
            member.mask(bundles, np.zeros(3, np.uint64))
        survivors = set(keys) - {lost}
        words = [members[site].sign(survivors) for site in survivors]
        return [members[site].release(words) for site in survivors]

    assert len(release("first/train", lost="")) == 4
    assert len(release("first/evaluate", lost="d")) == 3
    for run in ("first/train", "second/train"):
        for lost in ("", "d"):
            with pytest.raises(ConflictError):
                release(run, lost, attempt=0 if run == "second/train" else 1)


@pytest.mark.parametrize(("many", "said"), [(64, "over at least 43"), (70, "over the larger part of at least 47")])
def test_the_card_promises_no_more_than_the_graph_keeps(many: int, said: str) -> None:
    """In a drawn graph a lying centre may leave out of the sum some of those that answered (ADR 14)."""
    plan = masked(study(sites=SITES[:many]))
    learner = {"name": "survival", "version": "1", "digest": "0" * 64}
    manifest = {
        "name": "m", "version": 1, "study": "0" * 64, "learner": learner, "strategy": "fedavg", "sites": [*plan.sites],
        "rounds": 1, "rounds_run": 1, "ended": "rounds", "features": ["x0"], "outcome": ["time", "status"],
        "log": {"index": 0}, "alias": "candidate", "privacy": {},
    }  # fmt: skip
    assert f"learned sums {said} sites" in model_card(plan, manifest, ())

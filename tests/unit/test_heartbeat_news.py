"""What a heartbeat tells of assignments: every study, every failure, and of rounds that go well the newest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from edge.heartbeat import Heartbeat
from edge.site import Site
from edge.state import SiteState
from protocol.assignment import Assignment, AssignmentKind, State

ROUND = Assignment(
    id="r", kind=AssignmentKind.ROUND, study_digest="0" * 64, document=b"d", signature=b"s", blobs=()
)  # fmt: skip


@pytest.fixture
def state(tmp_path: Path) -> SiteState:
    return SiteState(tmp_path / "state.db")


def news(state: SiteState) -> list[str]:
    site = cast(Site, SimpleNamespace(state=state, config=SimpleNamespace(datasets={})))
    return [record.assignment.id for record in Heartbeat(site)._news()]


def test_of_rounds_that_went_well_the_newest_alone_is_told(state: SiteState) -> None:
    for number in range(5):
        state.store(replace(ROUND, id=f"r{number}"))
        state.move(f"r{number}", State.RUNNING)
        state.move(f"r{number}", State.DONE)
    state.store(replace(ROUND, id="other", study_digest="1" * 64))
    state.move("other", State.DONE)
    assert news(state) == ["r4", "other"]
    assert len(state.unreported()) == 2
    state.store(replace(ROUND, id="r1"))  # the centre sends it again: it does not know
    assert news(state) == ["r4", "other"]


def test_a_failed_round_and_one_under_way_are_told(state: SiteState) -> None:
    for name in ("failed", "running", "done"):
        state.store(replace(ROUND, id=name))
    state.move("failed", State.FAILED, code="worker.failed")
    state.move("running", State.RUNNING)
    state.move("done", State.DONE)
    state.store(replace(ROUND, id="study", kind=AssignmentKind.STUDY))
    assert news(state) == ["failed", "running", "done", "study"]

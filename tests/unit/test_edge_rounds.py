"""A round's instruction before anything is done about it: whose it is, when it ends, how large, and how often."""

from __future__ import annotations

import pytest

from edge.rounds import MESSAGE_BYTES, verified_round
from privacy.envelope import SecretKey
from protocol.assignment import Assignment, AssignmentKind, RoundInstruction, RoundPhase
from protocol.errors import PolicyRefused, StudyRefused
from protocol.study import Recipient
from protocol.trust import Purpose
from tests.federation_hospital import study

KEY = SecretKey.generate()
PLAN = study(rounds=3, max_rounds=5).model_copy(
    update={"recipients": (Recipient(role="federation", key=KEY.public.to_base64()),)}
)
LIMIT = 1_000_000


def assignment(**changes: object) -> Assignment:
    value = {
        "run": "r", "study_digest": "d" * 64, "site": "site-a", "round": 1, "phase": RoundPhase.TRAIN, "attempt": 0,
        "message": "m" * 64, "message_size": 10, "deadline": 1000.0,
    }  # fmt: skip
    document = RoundInstruction(**(value | changes)).to_bytes()
    signature = KEY.sign(Purpose.ROUND, document)
    return Assignment(
        id="a" * 32, kind=AssignmentKind.ROUND, study_digest="d" * 64, document=document, signature=signature
    )


def code(made: Assignment, now: float | None = 500.0) -> str:
    try:
        verified_round(made, PLAN, "site-a", now, LIMIT)
    except (StudyRefused, PolicyRefused) as error:
        return error.code
    return ""


@pytest.mark.parametrize(("round_", "said"), [(0, ""), (3, ""), (5, ""), (6, "study.rounds"), (-1, "study.rounds")])
def test_the_rounds_that_were_approved_and_no_others(round_: int, said: str) -> None:
    assert code(assignment(round=round_)) == said


@pytest.mark.parametrize(("now", "said"), [(999.0, ""), (1001.0, "study.expired"), (None, "")])
def test_a_deadline_is_judged_by_the_centres_clock_or_not_at_all(now: float | None, said: str) -> None:
    assert code(assignment(), now) == said


@pytest.mark.parametrize(
    ("size", "said"),
    [(LIMIT + MESSAGE_BYTES, ""), (LIMIT + MESSAGE_BYTES + 1, "policy.model-size"), (-1, "policy.model-size")],
)
def test_a_message_beyond_the_limit_is_refused_by_what_the_instruction_says(size: int, said: str) -> None:
    assert code(assignment(message_size=size)) == said

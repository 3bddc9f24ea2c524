"""A federation's instruction, verified against the one key that the approved study names for it.

Place in the flow: agent -> here -> replay check (`SiteState.instruct`) -> worker. Pure: no file, no network.
"""

from __future__ import annotations

from privacy.envelope import PublicKey
from protocol.assignment import Assignment, AssignmentKind, RoundInstruction
from protocol.errors import IntegrityError, PolicyRefused, StudyRefused
from protocol.study import Study
from protocol.trust import Purpose

__all__ = ["MESSAGE_BYTES", "key_of", "ledger_key", "verified_round"]

MESSAGE_BYTES = 16 << 20  # what a round's message holds besides the model: names, configuration, words of the masks


def verified_round(
    assignment: Assignment, study: Study, site: str, now: float | None, max_model_bytes: int
) -> RoundInstruction:
    """The instruction of a round assignment, if it is the study's own federation that gives it, to us, in time.

    Args:
        now: Unix seconds by the centre's clock, in which deadlines are given; None while that is not known: the centre
            judges by itself what comes too late.
        max_model_bytes: the largest model that study and site allow.

    Raises:
        StudyRefused: `study.signature`, `study.replay` for another study or site, `study.rounds` for a round that
            nobody approved, `study.expired` after its deadline.
        PolicyRefused: `policy.model-size`; its message is not to be fetched.
        InputError: `input.message`.
    """
    text = study.recipient("federation")
    if text is None:
        raise StudyRefused("study.signature", "the study names no federation")
    try:
        PublicKey.from_base64(text).verify(Purpose.ROUND, assignment.document, assignment.signature)
    except IntegrityError:
        raise StudyRefused("study.signature", "the round is not signed by the study's federation") from None
    instruction = RoundInstruction.from_bytes(assignment.document)
    if (instruction.study_digest, instruction.site) != (assignment.study_digest, site):
        raise StudyRefused("study.replay", "a round of another study or site")
    training = study.training
    if training is None or not 0 <= instruction.round <= training.max_rounds:
        raise StudyRefused("study.rounds")
    if not 0 <= instruction.message_size <= max_model_bytes + MESSAGE_BYTES:
        raise PolicyRefused("policy.model-size")
    if now is not None and now > instruction.deadline:
        raise StudyRefused("study.expired", "the round's deadline is over")
    return instruction


def ledger_key(assignment: Assignment) -> str:
    """What names a release in the ledger: the assignment, or the round's run, number and phase.

    A further attempt of a phase is a further release.
    """
    if assignment.kind is AssignmentKind.STUDY:
        return assignment.id
    return key_of(RoundInstruction.from_bytes(assignment.document))


def key_of(made: RoundInstruction) -> str:
    """What names a round's release in the ledger."""
    key = f"{made.run}/{made.round}/{made.place}"
    return f"{key}/{made.attempt}" if made.attempt > 0 else key

"""The egress gate for one answer of a training run: judged against the instruction that asked for it."""

from __future__ import annotations

from edge.checks import Check, refusal
from edge.policy import Effective
from protocol.assignment import RoundInstruction, RoundPhase
from protocol.errors import CODES, InputError, WorkerError, from_code
from protocol.parcel import Item, ItemKind
from protocol.study import Study

__all__ = ["answer_bound", "check_update"]

_MESSAGES = {RoundPhase.PREPARE: "query.prepare", RoundPhase.TRAIN: "train", RoundPhase.EVALUATE: "evaluate"}


def answer_bound(message: bytes) -> int:
    """Bytes that no right answer to an instruction exceeds, so that no longer one is read into memory.

    Raises:
        InputError: `input.message`.
    """
    from pipelines.frames import MAX_HEADER_BYTES, PREFIX_BYTES, buffers
    from pipelines.replies import describe_message

    _, end = buffers(PREFIX_BYTES + MAX_HEADER_BYTES, [*describe_message(message).arrays.values()])
    return end


def check_update(
    study: Study, effective: Effective, instruction: RoundInstruction, message: bytes, reply: bytes
) -> tuple[Item, tuple[Check, ...]]:
    """Judge a training run's answer against the instruction that asked for it.

    Args:
        message: the instruction's Flower message, its digest checked.
        reply: the worker's answer.

    Returns:
        The item that may be sealed, and the rules that it passed.

    Raises:
        DisclosureRefused: `gate.update`, `gate.cohort`; nothing may leave.
        CorsiaError: the code that the answer names, when it is an error.
    """
    from pipelines.flower import EXAMPLES, LOSS, message_from_bytes
    from pipelines.replies import SHOWN_DIGITS, declared, describe_reply

    try:
        instructed = message_from_bytes(message)
        asked, made = declared(instructed), describe_reply(reply, instructed)
    except InputError:
        raise refusal("gate.update", "the answer is not one that the instruction asks for") from None
    if made.error is not None:
        raise from_code(made.error) if made.error in CODES else WorkerError("worker.failed")
    training = study.training
    named = {LOSS} if training and training.strategy == "qfedavg" else set()  # approved with the strategy
    own = {*named, *(training.metrics if training else ())}  # what the study may ask for of one site
    allowed = {EXAMPLES, *own} & {EXAMPLES, *asked.metrics}
    shown = set(training.metrics if training else ()) & set(made.metrics) - named
    told = own & set(made.metrics)
    examples = made.metrics.get(EXAMPLES)
    bound = training.max_norm if training else 0.0
    right = (asked.kind, asked.round) == (_MESSAGES[instruction.phase], instruction.round)
    checks = (
        Check(rule="instruction", ok=right, reason="the message is of another phase or round"),
        Check(rule="kind", ok=made.kind == asked.kind, reason="an answer of another kind"),
        Check(rule="arrays", ok=dict(made.arrays) == dict(asked.arrays), reason="names, types or shapes of arrays"),
        Check(rule="metrics", ok=set(made.metrics) <= allowed, reason="a metric that was not asked for"),
        Check(
            rule="rounded",
            ok=all(made.metrics[name] == round(made.metrics[name], SHOWN_DIGITS) for name in shown),
            reason="a metric with more digits than may leave for one site",
        ),
        *(
            [Check(rule="site-metrics", ok=effective.site_metrics, reason="the site keeps its own metrics")]
            * bool(told)
        ),
        Check(rule="finite", ok=made.finite, reason="an array or a metric is not finite"),
        Check(rule="norm", ok=made.kind != "train" or made.norm <= bound, reason="norm above training.max_norm"),
        Check(rule="examples", ok=isinstance(examples, int) and examples > 0, reason="the number of examples"),
        *_noise_checks(study, instruction, message, reply, examples),
    )
    for check in checks:
        if not check.ok:
            raise refusal("gate.update", check.reason)
    if int(examples or 0) < effective.min_cohort and not study.privacy.site_level:  # there the lane has counted
        raise refusal("gate.cohort", f"fewer than {effective.min_cohort} examples")
    passed = tuple(Check(rule=check.rule, ok=True) for check in checks)
    item = Item(kind=ItemKind.MESSAGE, name="message.bin", data=reply, rows=1)
    return item, (*passed, Check(rule="cohort", ok=True))


def _noise_checks(
    study: Study, instruction: RoundInstruction, message: bytes, reply: bytes, examples: object
) -> tuple[Check, ...]:
    """What differential privacy rests on, where the study promises it: no scores; one site as short as any other."""
    privacy, phase = study.privacy, instruction.phase
    if privacy.dp == "none":
        return ()
    scores = Check(rule="scores", ok=phase is not RoundPhase.EVALUATE, reason="scores are not noised")
    if not privacy.site_level:
        return (scores,)
    weight = Check(rule="weight", ok=examples == 1, reason="every site weighs one")
    if phase is not RoundPhase.TRAIN:
        return scores, weight
    from pipelines.clipping import length
    from pipelines.flower import ARRAYS, message_from_bytes, record_of, views_of

    received, made = (views_of(record_of(message_from_bytes(raw), ARRAYS)) for raw in (message, reply))
    try:
        near = length(received, made) <= privacy.reach
    except InputError:
        near = False
    return scores, weight, Check(rule="clip", ok=near, reason="the update is longer than privacy.clip")

"""Secure aggregation around lane 4's answers: what a site says in each step, and how an answer becomes a vector.

    plain answer (gate has passed it, inside the site) -> `encode` -> masked -> reply           `MaskedSite`
    sum over sites, unmasked -> `decode` -> arrays and number of examples                        at the centre

Both sides reckon the same layout and fixed point from the signed study and the phase alone. What is averaged (a model
after local steps) is weighted by examples in fixed point; what is a sum already is carried by `privacy.secagg.wide`;
where noise hides a site, the clipped difference from the received model goes on the noise's own grid. The number of
examples is one more element of the vector, so the centre learns its sum only. Holds a site's secrets of
one attempt in memory; no file, no network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import clipping, guarantee
from pipelines.flower import (
    ARRAYS,
    CONFIG,
    EXAMPLES,
    METRICS,
    Arrays,
    Message,
    RecordDict,
    Shapes,
    array_record,
    config_record,
    message_from_bytes,
    message_to_bytes,
    metric_record,
    record_of,
    reply,
    views_of,
)
from privacy.dp.noise import discrete_gaussian
from privacy.dp.stream import Stream
from privacy.envelope.keys import SecretKey
from privacy.secagg import (
    ATTEMPTS,
    COLLUDING,
    DIGITS,
    MAX_ROSTER,
    Advert,
    Bundle,
    Guard,
    Layout,
    Letter,
    Member,
    Neighbour,
    Quantizer,
    Session,
    Survivors,
    Word,
    count_of,
    from_digits,
    graph_of,
    threshold_of,
    to_digits,
)
from protocol.assignment import MaskStep, RoundPhase
from protocol.errors import ConflictError, InputError, IntegrityError
from protocol.study import Study

__all__ = [
    "MASKED", "MASKS", "PAYLOAD", "PHASE", "STEP", "Attempt", "MaskedSite", "check_masks", "decode", "decode_update",
    "encode", "encode_update", "pack", "payload_of", "session_of", "unpack", "vector_size",
]  # fmt: skip

MASKS = "query.masks"  # Flower message type of the steps that carry no vector
STEP, PHASE, PAYLOAD = "step", "phase", "masks"  # keys of a message's or reply's configuration
MASKED = "masked"  # the one array of a masked reply: int64, the ring's bits
MAX_EXAMPLES = 1_000_000
MIN_BITS = 20
MAX_PARTS = 3 * MAX_ROSTER  # of one message
Ring = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What is unmasked at most once: one phase of one round of a run, and which attempt at it."""

    run: str
    round: int
    phase: RoundPhase
    attempt: int


def check_masks(study: Study) -> None:
    """Refuse a study whose updates would be rounded too coarsely, or of too few sites.

    Raises:
        InputError: `input.study`.
    """
    if not 3 <= len(study.sites) <= MAX_ROSTER:
        raise InputError("input.study", f"privacy.secure_aggregation: needs 3 to {MAX_ROSTER} sites")
    _check_graph(study)
    if _summed(study, RoundPhase.TRAIN) or study.privacy.site_level:
        return  # nothing is averaged, or on a grid of its own
    try:
        bits = _quantizer(study).bits
    except InputError:
        bits = 0
    if bits < MIN_BITS:
        raise InputError(
            "input.study", "privacy.secure_aggregation: lower training.max_norm or privacy.max_examples: 20 bits needed"
        )


def _check_graph(study: Study) -> None:
    """Refuse a study whose graph cannot be made, or is not made for as many colluders as its noise."""
    if graph_of(len(study.sites), **study.privacy.graph) is None or study.privacy.dp != "distributed":
        return
    bears = count_of(study.privacy.graph.get("colluding", COLLUDING), len(study.sites))
    if study.privacy.colluding > bears:
        raise InputError("input.study", f"privacy.max_colluding: the graph of masks bears {bears}: colluding_fraction")


def session_of(study: Study, digest: str, attempt: Attempt) -> Session:
    """The session that all signatures and masks of an attempt are bound to.

    Raises:
        InputError: `input.study` for a roster that secure aggregation cannot work with.
    """
    return Session(
        study=digest,
        run=f"{attempt.run}/{attempt.phase.value}",
        round=attempt.round,
        attempt=attempt.attempt,
        roster=dict(study.roster),
        **study.privacy.graph,
    )


# -- answers and vectors -----------------------------------------------------------------------------------------------


def vector_size(study: Study, phase: RoundPhase, shapes: Shapes) -> int:
    """Elements of the vector that stands for an answer of these arrays, the last that for the number of examples."""
    elements = _layout(shapes).size + 1
    return elements * DIGITS if _summed(study, phase) else elements


def encode(study: Study, phase: RoundPhase, arrays: Arrays, examples: int) -> Ring:
    """An answer's arrays and its number of examples as one vector of the ring.

    Raises:
        InputError: `input.message` for values or examples beyond the study's bounds.
    """
    joined = _layout({name: (str(a.dtype), a.shape) for name, a in arrays.items()}).join(arrays)
    if _summed(study, phase):
        return to_digits(np.append(joined, float(examples)))
    return _quantizer(study).encode(np.append(joined, 1.0), examples)


def decode(study: Study, phase: RoundPhase, shapes: Shapes, total: Ring) -> tuple[Arrays, int]:
    """Arrays (the weighted mean, or the sum) and the number of examples of a total over sites.

    Raises:
        InputError: `input.message` for a total of another size, or of no examples, or more than there can be.
    """
    if total.shape != (vector_size(study, phase, shapes),):
        raise InputError("input.message", "secure aggregation: a total of another size")
    summed = _summed(study, phase)
    values = from_digits(total) if summed else _quantizer(study).decode(total)
    most = len(study.sites) * (study.privacy.max_examples or MAX_EXAMPLES)
    if not 0.5 < float(values[-1]) < most + 0.5:
        raise InputError("input.message", "secure aggregation: a total of no examples, or of too many")
    examples = round(float(values[-1]))
    if not summed:
        values /= examples
    parts = _layout(shapes).split(values[:-1])
    return {name: _typed(parts[name], dtype) for name, (dtype, _) in shapes.items()}, examples


def encode_update(study: Study, received: Arrays, made: Arrays, stream: Stream | None = None) -> Ring:
    """A site's update under noise that hides the site: steps of the grid, its share of the noise among them, and one.

    Args:
        stream: for tests.

    Raises:
        InputError: `input.message` for an update longer than the study's clip.
    """
    privacy = study.privacy
    moved = clipping.steps(received, made, privacy.reach)
    if privacy.dp == "distributed":
        variance, _ = clipping.share(guarantee.multiplier(study), privacy, threshold_of(len(study.sites)))
        moved = moved + discrete_gaussian(variance, moved.size, stream)
    return np.append(moved, np.int64(1)).view(np.uint64)


def decode_update(study: Study, received: Arrays, total: Ring, stream: Stream | None = None) -> tuple[Arrays, int]:
    """The model that the sites' updates make together, and how many they are; central noise is added here.

    Raises:
        InputError: `input.message` for a total of another size, or of no site.
    """
    moved, sites = total.view(np.int64)[:-1], int(total.view(np.int64)[-1])
    if not 1 <= sites <= MAX_ROSTER:
        raise InputError("input.message", "secure aggregation: a total of no examples")
    if study.privacy.dp == "central":
        moved = moved + clipping.noise(guarantee.multiplier(study), moved.size, stream)
    return clipping.mean(received, moved, sites, study.privacy.reach), sites


def _typed(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    return (np.rint(values) if dtype.startswith("int") else values).astype(dtype)


def _layout(shapes: Shapes) -> Layout:
    return Layout(shapes={name: tuple(shape) for name, (_, shape) in shapes.items()})


def _summed(study: Study, phase: RoundPhase) -> bool:
    """Whether answers are sums over rows already, so that every site weighs one."""
    return phase is not RoundPhase.TRAIN or (study.training is not None and study.training.strategy == "newton")


def _quantizer(study: Study) -> Quantizer:
    bound = study.training.max_norm if study.training else 1.0
    most = study.privacy.max_examples or MAX_EXAMPLES
    return Quantizer(bound=max(bound, 1.0), max_weight=most, sites=len(study.sites))


# -- messages ----------------------------------------------------------------------------------------------------------


def pack(parts: Iterable[bytes]) -> bytes:
    """Byte strings as one, each behind its length."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def unpack(raw: bytes) -> list[bytes]:
    """What `pack` took.

    Raises:
        InputError: `input.message`.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(raw):
        end = at + 4 + int.from_bytes(raw[at : at + 4], "big")
        if end > len(raw) or at + 4 > len(raw) or len(parts) >= MAX_PARTS:
            raise InputError("input.message", "malformed message of secure aggregation")
        parts.append(raw[at + 4 : end])
        at = end
    return parts


def payload_of(message: Message) -> bytes:
    """What a message or a reply carries for this protocol.

    Raises:
        InputError: `input.message`.
    """
    records = message.content.config_records
    payload = records[CONFIG].get(PAYLOAD) if CONFIG in records else None
    if not isinstance(payload, bytes):
        raise InputError("input.message", "a message of secure aggregation without its payload")
    return payload


# -- the site's side ---------------------------------------------------------------------------------------------------


class MaskedSite:
    """One site through all exchanges of a study, one attempt at a time.

    A step that comes again has the same bytes for an answer. After a restart the secrets of an attempt are gone: its
    further steps are refused, and the others go on without this site.

    Args:
        digest: of the signed study.
        identity: the site's long-term key, whose fingerprint the study's roster names.
        guard: what this site has released; outlives the process.
    """

    def __init__(self, study: Study, digest: str, site: str, identity: SecretKey, guard: Guard) -> None:
        self._study, self._digest, self._site = study, digest, site
        self._identity, self._guard = identity, guard
        self._at: Attempt | None = None
        self._member: Member | Neighbour | None = None
        self._said: dict[MaskStep, tuple[bytes, bytes]] = {}  # digest of the question, answer

    def answer(self, at: Attempt, step: MaskStep, message: bytes, plain: Callable[[], bytes]) -> bytes:
        """The reply to one step.

        Args:
            message: the Flower message, whose sender has been verified.
            plain: gives the unmasked answer to it, checked by the gate; called in the step `mask` alone.

        Raises:
            InputError: `input.message`.
            IntegrityError: `masks.signature`, `masks.share`, `masks.replay`.
            ConflictError: `conflict.round` when another attempt has been released, or too many were made.
            UnavailableError: `unavailable.survivors`.
            StudyRefused: `study.signature` when the roster names another identity for this site.
            CorsiaError: what `plain` raises.
        """
        if step is MaskStep.ADVERTISE and at != self._at:
            self._begin(at)
        if self._member is None or at != self._at:
            raise IntegrityError("masks.replay", "this attempt's secrets are not here, or no longer")
        question = hashlib.sha256(message).digest()
        known = self._said.get(step)
        if known is not None:
            if known[0] != question:
                raise IntegrityError("masks.replay", "a step came again with other content")
            return known[1]
        asked = message_from_bytes(message)
        made = message_to_bytes(reply(asked, self._content(self._member, at, step, asked, plain)))
        self._said[step] = (question, made)
        if step is MaskStep.SIGN:
            self._said.pop(MaskStep.MASK, None)  # large, and not asked for again
        return made

    def _begin(self, at: Attempt) -> None:
        session = session_of(self._study, self._digest, at)
        bound = self._guard.claimed(session.study, session.place, session.round)
        if bound is not None and bound != at.attempt:
            raise ConflictError("conflict.round")
        if session.graph is not None and at.attempt >= ATTEMPTS:
            raise ConflictError("conflict.round")  # each has a graph of its own: another chance for a bad one
        kind = Member if session.graph is None else Neighbour
        self._member = kind(session, self._site, self._identity, self._guard)
        self._at, self._said = at, {}

    def _content(
        self, member: Member | Neighbour, at: Attempt, step: MaskStep, asked: Message, plain: Callable[[], bytes]
    ) -> RecordDict:
        kind = str(asked.metadata.message_type)
        if (step is MaskStep.MASK) == (kind == MASKS):
            raise InputError("input.message", "a message of another step")
        if step is MaskStep.MASK:
            return self._masked(member, at, asked, plain)
        parts = unpack(payload_of(asked)) if step is not MaskStep.ADVERTISE else []
        if step is MaskStep.ADVERTISE:
            said = member.advertise().to_bytes()
        elif step is MaskStep.SHARE:
            said = member.share([Advert.from_bytes(part) for part in parts]).to_bytes()
        elif step is MaskStep.SIGN:
            said = member.sign([_name(part) for part in parts]).to_bytes()
        elif isinstance(member, Neighbour):
            said = member.release([Word.from_bytes(part) for part in parts]).to_bytes()
        else:
            said = member.release([Survivors.from_bytes(part) for part in parts]).to_bytes()
        return RecordDict({CONFIG: config_record(at.round, {}, masks=said)})

    def _masked(
        self, member: Member | Neighbour, at: Attempt, asked: Message, plain: Callable[[], bytes]
    ) -> RecordDict:
        parts, content = unpack(payload_of(asked)), RecordDict({METRICS: metric_record({})})
        if isinstance(member, Neighbour):
            names = _name(parts[0]).split("\x00") if parts else []
            letters = [Letter.from_bytes(part) for part in parts[1:]]
            vector, word = member.mask(names, letters, self._encoded(at, asked, plain))
            content[CONFIG] = config_record(at.round, {}, masks=word.to_bytes())
        else:
            vector = member.mask([Bundle.from_bytes(part) for part in parts], self._encoded(at, asked, plain))
        content[ARRAYS] = array_record({MASKED: vector.view(np.int64)})
        return content

    def _encoded(self, at: Attempt, asked: Message, plain: Callable[[], bytes]) -> Ring:
        answer = message_from_bytes(plain())
        arrays = views_of(record_of(answer, ARRAYS))
        if self._study.privacy.site_level and at.phase is RoundPhase.TRAIN:
            return encode_update(self._study, views_of(record_of(asked, ARRAYS)), arrays)
        return encode(self._study, at.phase, arrays, int(record_of(answer, METRICS)[EXAMPLES]))


def _name(part: bytes) -> str:
    try:
        return part.decode("ascii")
    except UnicodeDecodeError:
        raise InputError("input.message", "a site's name") from None

"""One exchange under secure aggregation: five steps with the sites, then the sum over those that are left.

    advertise -> share -> mask (the phase's own message, answered by masked vectors) -> sign -> release -> the total

Place in the flow: `rounds` -> here -> grid. The centre relays what it cannot read, learns the total and who took part.
A site that is silent, refuses or lies in one step is not asked in the next. Before the release is asked for, a failed
attempt may be followed by another under fresh masks; afterwards never (`conflict.round`): the phase is over. Messages
follow from the answers alone, so a process that was killed finds the same instructions and finishes the attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from pipelines.flower import (
    ARRAYS,
    CONFIG,
    METRICS,
    Arrays,
    Message,
    RecordDict,
    Shapes,
    config_record,
    record_of,
    shapes_of,
    views_of,
)
from pipelines.masking import (
    MASKED,
    MASKS,
    PAYLOAD,
    PHASE,
    STEP,
    Attempt,
    decode,
    decode_update,
    pack,
    payload_of,
    session_of,
    vector_size,
)
from privacy.secagg import Advert, Bundle, Release, Tally, tally_of
from protocol.assignment import MaskStep
from protocol.errors import CODES, ConflictError, CorsiaError, InputError, UnavailableError, from_code
from protocol.study import Study

__all__ = ["MaskedExchange", "MaskedGrid", "Total", "said"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """What the centre learns: weighted means (training) or sums, of so many examples, from these sites."""

    arrays: Arrays
    examples: int
    sites: tuple[str, ...]


class MaskedGrid(Protocol):
    """A grid that knows the signed study's digest and the run, to which masks are bound."""

    sites: dict[int, str]
    digest: str
    run_name: str

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Replies that arrived in time."""
        ...


@dataclass(slots=True)
class MaskedExchange:
    """One attempt at one phase of one round.

    Attributes:
        messages: the phase's own messages, as without masks.
        shapes: the arrays of a plain answer.
        quorum: fewer vectors than this, or than the threshold, and the attempt has failed.
        received: the model that the sites were sent, where noise hides a site; the total is then the next model.
        drop: is told the site that is left out of an exchange, and the code of why.
    """

    study: Study
    grid: MaskedGrid
    at: Attempt
    messages: Callable[[], Iterable[Message]]
    shapes: Shapes
    quorum: int
    timeout: float
    received: Arrays | None = None
    drop: Callable[[str, str], None] = lambda _site, _code: None
    refused: list[str] = field(default_factory=list)  # codes of sites that answered with an error

    def run(self) -> Total:
        """All five steps.

        Raises:
            UnavailableError: `unavailable.survivors`; nothing was revealed, another attempt may follow.
            ConflictError: `conflict.round`; this phase of this round must not be tried again.
        """
        session = session_of(self.study, self.grid.digest, self.at)
        tally = tally_of(session, vector_size(self.study, self.at.phase, self.shapes))
        nodes = dict(self.grid.sites)
        self._step(MaskStep.ADVERTISE, nodes, _nothing, lambda site, r: tally.take_advert(_own(site, Advert, r)))
        if len(tally.adverts) < session.threshold and "conflict.round" in self.refused:
            raise ConflictError("conflict.round")
        sites = _of(nodes, (advert.site for advert in tally.close_adverts()))
        self._step(MaskStep.SHARE, sites, tally.adverts_for, lambda site, r: tally.take_bundle(_own(site, Bundle, r)))
        sites = _of(nodes, (bundle.site for bundle in tally.close_bundles()))
        self._step(MaskStep.MASK, sites, tally.bundles_for, lambda site, r: tally.take_masked(site, *_vector(r)))
        survivors = tally.survivors()
        if len(survivors) < self.quorum:
            raise UnavailableError("unavailable.survivors", f"{len(survivors)} of {self.quorum} sites gave an answer")
        names, sites = [site.encode() for site in survivors], _of(nodes, survivors)
        self._step(MaskStep.SIGN, sites, lambda _: names, lambda site, r: tally.take_word(_own(site, tally.Said, r)))
        if len(tally.words) < session.threshold:
            raise UnavailableError("unavailable.survivors", "too few sites signed the survivor set")
        return self._released(tally, _of(nodes, tally.words), survivors)

    def _released(self, tally: Tally, nodes: dict[int, str], survivors: tuple[str, ...]) -> Total:
        self._step(MaskStep.RELEASE, nodes, tally.words_for, lambda site, r: tally.take_release(_own(site, Release, r)))
        try:
            total = tally.total()
            if self.received is not None:
                arrays, examples = decode_update(self.study, self.received, total)
            else:
                arrays, examples = decode(self.study, self.at.phase, self.shapes, total)
        except CorsiaError as error:  # shares are out: no further attempt
            raise ConflictError("conflict.round", f"there is no sum: {error.code}") from None
        return Total(arrays=arrays, examples=examples, sites=survivors)

    def _step(
        self,
        step: MaskStep,
        nodes: dict[int, str],
        parts: Callable[[str], list[bytes]],
        take: Callable[[str, Message], None],
    ) -> None:
        """Tell each of these sites its parts and take what it says; one whose answer is refused has dropped out."""
        asked = list(self._asked(step, nodes, parts))
        answered = set()
        for message in self.grid.send_and_receive(asked, timeout=self.timeout):
            site = nodes.get(message.metadata.src_node_id)
            if site is None or site in answered:
                continue
            answered.add(site)
            try:
                if message.has_error():
                    self.refused.append(str(message.error.reason)[:64])
                    raise said(self.refused[-1])
                take(site, message)
            except CorsiaError as error:
                self.drop(site, error.code)
            del message  # before the next one is opened: each is a vector of the model's length

    def _asked(self, step: MaskStep, nodes: dict[int, str], parts: Callable[[str], list[bytes]]) -> Iterable[Message]:
        if step is MaskStep.MASK:
            for message in self.messages():
                site, about = nodes.get(message.metadata.dst_node_id), message.metadata
                if site is not None:
                    own = {STEP: step.value, PHASE: self.at.phase.value, PAYLOAD: pack(parts(site))}
                    config = message.content.config_records[CONFIG]  # messages may share it
                    content = RecordDict({**message.content, CONFIG: type(config)({**config, **own})})
                    yield Message(content, about.dst_node_id, about.message_type, group_id=about.group_id)
            return
        for node, site in sorted(nodes.items()):
            extra: dict[str, Any] = {STEP: step.value, PHASE: self.at.phase.value, PAYLOAD: pack(parts(site))}
            record = RecordDict({CONFIG: config_record(self.at.round, {}, attempt=self.at.attempt, **extra)})
            yield Message(record, node, MASKS, group_id=str(self.at.round))


def _nothing(_site: str) -> list[bytes]:
    return []


def said(code: str) -> CorsiaError:
    """The error of a site that answers with one, by the code that it gives."""
    return from_code(code) if code in CODES else InputError("input.message", "the site answers with an error")


def _of(nodes: dict[int, str], sites: Iterable[str]) -> dict[int, str]:
    chosen = set(sites)
    return {node: site for node, site in nodes.items() if site in chosen}


def _own(site: str, kind: Any, message: Message) -> Any:
    """What a site says of itself; one that speaks in another's name is left out."""
    if set(message.content) != {CONFIG}:
        raise InputError("input.message", "an answer of another step")
    said = kind.from_bytes(payload_of(message))
    if said.site != site:
        raise InputError("input.message", "a site speaks in another's name")
    return said


def _vector(message: Message) -> tuple[np.ndarray[Any, Any], bytes]:
    """The masked vector, and what a site of a drawn graph says beside it."""
    try:
        arrays = views_of(record_of(message, ARRAYS))
    except KeyError:
        raise InputError("input.message", "an answer of another step") from None
    right = set(message.content) - {CONFIG} == {ARRAYS, METRICS} and set(arrays) == {MASKED}
    if not right or [dtype for dtype, _ in shapes_of(arrays).values()] != ["int64"]:
        raise InputError("input.message", "an answer that is not one masked vector")
    return arrays[MASKED].view(np.uint64), payload_of(message) if CONFIG in message.content else b""

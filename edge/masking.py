"""Secure aggregation at the site's daemon: which steps it answers, and that nothing of a masked study leaves plain.

Place in the flow: verified instruction -> here -> (`mask`: worker -> gate) -> masked reply -> seal -> spool. The
secrets of an attempt live in this process alone, never in a worker and never on disk; what has been released is in
state.db before it is spooled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from privacy.envelope.keys import SecretKey
from protocol.assignment import MaskStep, RoundInstruction
from protocol.errors import StudyRefused
from protocol.parcel import Item, ItemKind
from protocol.study import Study

if TYPE_CHECKING:
    from pipelines.masking import MaskedSite
    from privacy.secagg import Guard

__all__ = ["Masking"]


class Masking:
    """The masked exchanges of all studies of one site.

    Args:
        identity: the site's long-term key.
        guard: durable, `edge.state.SiteState`.
    """

    def __init__(self, site: str, identity: SecretKey, guard: Guard) -> None:
        self._site, self._identity, self._guard = site, identity, guard
        self._studies: dict[str, MaskedSite] = {}  # study digest -> the attempt under way

    def answer(self, study: Study, instruction: RoundInstruction, message: bytes, plain: Callable[[], Item]) -> Item:
        """What may be sealed in answer to an instruction.

        Args:
            study: the approved study.
            instruction: verified and not answered before.
            plain: the worker's answer to the message, after the gate.

        Raises:
            StudyRefused: `study.signature` for a plain instruction in a masked study, or a step in a plain one.
            CorsiaError: as `pipelines.masking.MaskedSite.answer`, and what `plain` raises.
        """
        step = instruction.step
        if study.privacy.secure_aggregation is not (step is not None):
            raise StudyRefused("study.signature", "the instruction and the study differ on secure aggregation")
        if step is None:
            return plain()
        from pipelines.masking import Attempt

        at = Attempt(run=instruction.run, round=instruction.round, phase=instruction.phase, attempt=instruction.attempt)
        data = self._of(study, instruction.study_digest).answer(at, step, message, lambda: plain().data)
        return Item(kind=ItemKind.MESSAGE, name="message.bin", data=data, rows=int(step is MaskStep.MASK))

    def _of(self, study: Study, digest: str) -> MaskedSite:
        from pipelines.masking import MaskedSite

        known = self._studies.get(digest)
        if known is None:
            known = self._studies[digest] = MaskedSite(study, digest, self._site, self._identity, self._guard)
        return known

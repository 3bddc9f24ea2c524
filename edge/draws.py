"""What one release of a training round costs, and the noised answer that is sent again instead of being drawn again.

Place in the flow: verified instruction -> `price` -> ledger.reserve -> (worker -> gate -> `keep`) -> seal. An answer
that this site noised is kept, sealed to the site's own key, before anything of it leaves; the same question at a
further attempt is answered by the same numbers and costs nothing more. Another question, or one whose answer is not
kept any more, is drawn anew and costs anew. Where noise hides a whole site it is in the sum of a round, of which no
more than one attempt is ever opened, so that a round is paid once.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge.spends import Spend, greatest
from edge.storage import TEMPORARY, named_errors, write_file
from pipelines import noising
from privacy.dp.accountant import ZERO, Curve
from privacy.envelope import ParcelInfo, SecretKey, new_parcel_id, seal, unseal
from protocol.assignment import MaskStep, RoundInstruction
from protocol.errors import IntegrityError
from protocol.faults import point
from protocol.parcel import ContentType, canonical_json

if TYPE_CHECKING:
    from edge.lane import LaneRun

__all__ = ["Draws"]

_LONGEST_S = 90 * 86_400.0  # a study's answer is kept
_EARLIER = 16  # attempts before this one that are looked up; a round has three

Spent = Callable[[str], Spend | None]  # ledger key -> what it has spent


class Draws:
    """The noised answers of one site, the last one of each study and phase.

    Args:
        folder: made when needed.
        key: the site's identity.
    """

    def __init__(self, folder: Path, site: str, key: SecretKey) -> None:
        self._folder, self._site, self._key = folder, site, key
        with named_errors():
            folder.mkdir(mode=0o700, exist_ok=True)
            for path in folder.iterdir():
                if path.name.startswith(TEMPORARY) or path.stat().st_mtime < time.time() - _LONGEST_S:
                    path.unlink()

    def price(
        self, lane: LaneRun, instruction: RoundInstruction, message: bytes, spent: Spent
    ) -> tuple[LaneRun, bytes | None]:
        """The lane with the cost of this very answer, and the answer itself where it was noised before.

        Args:
            spent: the ledger's spend under a key.

        Raises:
            PolicyRefused: `policy.epsilon` for a phase whose answer is not noised.
            InputError: `input.message`.
        """
        if lane.cost is None:
            return lane, None
        if instruction.step not in (None, MaskStep.MASK):
            return replace(lane, cost=ZERO), None  # keys and shares of keys: nothing of the data
        cost = noising.cost(lane.study, instruction.phase)
        if lane.study.privacy.site_level:
            return replace(lane, cost=ZERO if _paid(instruction, cost, spent) else cost), None
        kept = self._find(instruction, message)
        return replace(lane, cost=cost if kept is None else ZERO), kept

    def keep(self, lane: LaneRun, instruction: RoundInstruction, message: bytes, answer: bytes) -> None:
        """Keep an answer that was noised now, durably; only where each site noises its own.

        Args:
            lane: as `price` gave it.

        Raises:
            StorageError: it must not leave then.
        """
        if lane.study.privacy.dp != "sample" or lane.cost == ZERO:
            return
        point("edge.drawn")
        head = canonical_json(_place(instruction, message)) + b"\n"
        info = ParcelInfo(
            parcel_id=new_parcel_id(), study=instruction.study_digest, site=self._site,
            content_type=ContentType.UPDATE.value,
        )  # fmt: skip
        made = io.BytesIO()
        seal([head, answer], made, info=info, recipients=[self._key.public], signer=self._key)
        with named_errors():
            write_file(self._path(instruction), made.getvalue())
        point("edge.kept")

    def studies(self) -> set[str]:
        """Digests of the studies of which an answer is kept."""
        with named_errors():
            return {path.name.partition("-")[0] for path in self._folder.glob("[0-9a-f]*.sealed")}

    def drop(self, digest: str) -> int:
        """Remove the kept answers of a study; returns how many there were. Repeatable."""
        with named_errors():
            paths = list(self._folder.glob(f"{digest}-*.sealed"))
            for path in paths:
                path.unlink(missing_ok=True)
        return len(paths)

    def _find(self, instruction: RoundInstruction, message: bytes) -> bytes | None:
        """The answer to the same question, as an answer to this message."""
        from pipelines.flower import message_from_bytes, message_to_bytes, reply

        try:
            with named_errors():
                raw = self._path(instruction).read_bytes() if self._path(instruction).exists() else b""
            head, _, kept = b"".join(unseal(io.BytesIO(raw), key=self._key, sender=self._key.public)).partition(b"\n")
        except IntegrityError:  # none, or a damaged one
            return None
        if head != canonical_json(_place(instruction, message)):
            return None
        return message_to_bytes(reply(message_from_bytes(message), message_from_bytes(kept).content))

    def _path(self, instruction: RoundInstruction) -> Path:
        return self._folder / f"{instruction.study_digest}-{instruction.phase.value}.sealed"


def _paid(instruction: RoundInstruction, cost: Curve | None, spent: Spent) -> bool:
    """Whether an earlier attempt at this phase of this round was charged for it."""
    from edge.rounds import key_of

    for attempt in range(min(instruction.attempt, _EARLIER)):
        known = spent(key_of(replace(instruction, attempt=attempt)))
        if known is not None and known.cost is not None and greatest([known.cost, cost]) == known.cost:
            return True
    return False


def _place(instruction: RoundInstruction, message: bytes) -> dict[str, object]:
    """What is asked, the attempt apart: run, round, phase and all arrays."""
    from pipelines.flower import ArrayRecord, message_from_bytes, views_of

    asked = hashlib.sha256()
    for record, arrays in sorted(message_from_bytes(message).content.items()):
        for name, value in views_of(arrays).items() if isinstance(arrays, ArrayRecord) else ():
            asked.update(canonical_json([record, name, str(value.dtype), list(value.shape)]))
            asked.update(value.reshape(-1).view("u1").data)
    return {
        "run": instruction.run, "round": instruction.round, "phase": instruction.phase.value, "asked": asked.hexdigest()
    }  # fmt: skip

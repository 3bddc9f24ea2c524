"""What goes down to a site and what it reports up, as values.

`edge/uplink.py` and `central/gateway/` turn these into protobuf messages and back; nothing else sees protobuf.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from protocol.catalogue import AdvertisedDataset
from protocol.errors import InputError
from protocol.parcel import canonical_json

__all__ = ["Assignment", "AssignmentKind", "Blob", "MaskStep", "RoundInstruction", "RoundPhase", "SiteReport", "State"]


class AssignmentKind(StrEnum):
    """What an assignment's document is."""

    STUDY = "study"  # the study's TOML bytes, signed by the study-signing key
    ROUND = "round"  # a RoundInstruction's bytes, signed by the run key that the study names


class State(StrEnum):
    """Where an assignment stands at a site. The last four are final."""

    RECEIVED = "received"
    PENDING = "pending"  # waits for the steward's approval
    RUNNING = "running"
    DELIVERING = "delivering"
    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether nothing more will come."""
        return self in (State.DONE, State.REFUSED, State.FAILED, State.EXPIRED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """An object to fetch by `Models.Fetch`: its SHA-256 (hex) and its size."""

    name: str
    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One thing for a site to do. `signature` covers `document` (context: `docs/spec/trust.md`)."""

    id: str
    kind: AssignmentKind
    study_digest: str
    document: bytes
    signature: bytes
    blobs: tuple[Blob, ...] = ()


class RoundPhase(StrEnum):
    """The kinds of Flower message a round sends: a sum before round 1, training, evaluation."""

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"


class MaskStep(StrEnum):
    """The steps of one exchange under secure aggregation (`privacy.secagg`); each is one instruction a site."""

    ADVERTISE = "advertise"
    SHARE = "share"
    MASK = "mask"  # the phase's own message, answered by the masked vector
    SIGN = "sign"
    RELEASE = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundInstruction:
    """One Flower message to one site: (run, round, phase, step, attempt) is never reused for other content.

    `message` is the digest of the blob that holds the Flower message; `deadline` is Unix seconds; `step` is there in
    studies with secure aggregation only.
    """

    run: str
    study_digest: str
    site: str
    round: int
    phase: RoundPhase
    attempt: int
    message: str
    message_size: int
    deadline: float
    step: MaskStep | None = None

    @property
    def place(self) -> str:
        """Phase and step as one word, by which instructions and spends are told apart."""
        return self.phase.value if self.step is None else f"{self.phase.value}/{self.step.value}"

    def to_bytes(self) -> bytes:
        """Canonical JSON: what the federation signs."""
        value = asdict(self)
        if self.step is None:
            del value["step"]
        return canonical_json(value)

    @classmethod
    def from_bytes(cls, raw: bytes) -> RoundInstruction:
        """Read an instruction.

        Raises:
            InputError: `input.message`.
        """
        try:
            value = json.loads(raw)
            value["phase"] = RoundPhase(value["phase"])
            if "step" in value:
                value["step"] = MaskStep(value["step"])
            made = cls(**value)
            if not all(isinstance(n, int) for n in (made.round, made.attempt, made.message_size)):
                raise TypeError("integers")
            return made
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InputError("input.message", "malformed round instruction") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteReport:
    """A heartbeat, and the state of one assignment when `assignment_id` is set. Codes and counts only, no text.

    `log_sizes` are states of the centre's log that the site wants linked (0: none seen yet; empty: it does not ask),
    `witnessed` is the largest one with signatures of witnesses, where the site wants those. `catalogue` is what the
    site tells of its datasets, where that is new.
    """

    version: str
    paused: bool
    spool_parcels: int
    spool_bytes: int
    ledger_head: str
    journal_head: str
    assignment_id: str = ""
    state: State | None = None
    code: str = ""
    error_id: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    log_sizes: tuple[int, ...] = ()
    witnessed: int | None = None
    catalogue: tuple[AdvertisedDataset, ...] | None = None

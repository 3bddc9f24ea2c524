"""What the centre says of a site's parcels that have landed, as values: to a site whose state was put back.

`edge/uplink.py` and `central/gateway/` turn these into protobuf messages and back. Nothing here is verified.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.assignment import Assignment

__all__ = ["BEYOND", "LandedPage", "LandedParcel"]

BEYOND = 1 << 53  # a start beyond every leaf: what the centre heard of heads alone


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedParcel:
    """A committed parcel; `digest` is the SHA-256 (hex) of its file, `index` that of its leaf in the log.

    Attributes:
        proof: RFC 6962 audit path (hex) to the page's checkpoint.
        done: its assignment is over at the centre.
    """

    parcel_id: str
    digest: str
    index: int
    proof: tuple[str, ...]
    assignment_id: str
    content_type: str
    size_bytes: int
    done: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LandedPage:
    """Parcels in the order of the log, with the assignments that they answer and the studies of these.

    Attributes:
        checkpoint: text of a signed checkpoint, empty where there is no parcel.
        more: whether there are later ones.
        ledger_head: of the site's ledger, as the centre heard it last.
        journal_head: of its journal.
    """

    parcels: tuple[LandedParcel, ...]
    assignments: tuple[Assignment, ...]
    checkpoint: str
    more: bool
    ledger_head: str
    journal_head: str

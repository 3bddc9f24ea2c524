"""On what a site's worker trains: the site's own word, never the study's. No torch is imported here."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEVICE", "Compute"]

DEVICE = r"^(auto|cpu|mps|cuda(:[0-9]{1,2})?)$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Where local steps are made.

    Attributes:
        device: `auto` (a GPU where there is one), `cpu`, `cuda:N`, `mps`.
        processes: that share each step's batch (torch DDP); with `cuda:N` each takes a GPU, from N on.
    """

    device: str = "cpu"
    processes: int = 1

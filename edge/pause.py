"""The site's brake on all egress: a file whose text is the code for which the daemon itself has pulled it.

Place in the flow: steward's commands and `edge.brakes` pull it, `Brakes.halted` looks at it before anything leaves.
"""

from __future__ import annotations

from pathlib import Path

from edge.hold import is_held
from edge.storage import named_errors, sync_folder, write_file

__all__ = ["is_paused", "paused_for", "set_paused"]


def is_paused(state_dir: Path) -> bool:
    """Whether egress is paused at this site, by steward or daemon, or because its state was put back."""
    return (state_dir / "paused").exists() or is_held(state_dir)


def paused_for(state_dir: Path) -> str:
    """The code for which the daemon itself has paused; empty when the steward did, or nobody."""
    try:
        return (state_dir / "paused").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def set_paused(state_dir: Path, paused: bool, reason: str = "") -> None:
    """Pause or resume all egress, durably, whether the daemon runs or not.

    Args:
        reason: the code for which the daemon pauses.

    Raises:
        StorageError: nothing changed.
    """
    flag = state_dir / "paused"
    with named_errors():
        if paused:
            if reason or not flag.exists():  # a steward's pause does not hide why the daemon has paused
                write_file(flag, reason.encode("ascii"))
        else:
            flag.unlink(missing_ok=True)
        sync_folder(state_dir)

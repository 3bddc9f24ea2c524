"""The mark of a state folder that was put back: nothing leaves until it agrees with the centre's signed receipts.

Place in the flow: `corsia edge restore` sets it, or the daemon when the centre has heard of a later ledger or journal
than lies here; `edge.reconcile` takes it away. The steward's `resume` does not. Read at every brake (`edge.brakes`).
"""

from __future__ import annotations

import os
from pathlib import Path

from edge.storage import named_errors, sync_folder, write_file
from protocol.parcel import canonical_json

__all__ = ["hold", "is_held", "release"]

_MARK = "restored.json"


def is_held(state_dir: Path) -> bool:
    """Whether this state has not been reconciled."""
    return (state_dir / _MARK).exists()


def hold(state_dir: Path, why: str, **heads: str) -> None:
    """Set the mark, durably.

    Args:
        state_dir: whose.
        why: restored | older.
        heads: of ledger and journal, as they lie there.

    Raises:
        StorageError: nothing changed.
    """
    with named_errors():
        write_file(state_dir / _MARK, canonical_json({"why": why, **heads}))


def release(state_dir: Path) -> None:
    """Take the mark away, durably.

    Raises:
        StorageError: it may still be there.
    """
    with named_errors():
        if is_held(state_dir):
            os.unlink(state_dir / _MARK)
            sync_folder(state_dir)

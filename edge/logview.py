"""What this site has seen of the centre's log, linked by proofs, so that a forked log is found.

Place in the flow: receipts bring checkpoints (`note`), which stand apart until the centre has proved that they are of
one log with what was seen before (`link`); a proof for a model then extends that (`extend`). Sizes and hashes only.
"""

from __future__ import annotations

import threading
from typing import Protocol

from edge.state import SiteState
from privacy.checkpoint import Checkpoint
from privacy.inclusion import LogProof, Seen, hashes
from privacy.transparency import verify_consistency
from protocol.errors import IntegrityError

__all__ = ["LogView", "Prover"]

_LINKED, _SHOWN = "log_linked", "log_shown"


class Prover(Protocol):
    """What is needed of the wire."""

    def prove(self, index: int, size: int, to: int = 0) -> LogProof:
        """Proof of a leaf and of the log's growth from `size`; or of its growth from `size` to `to` alone."""
        ...


class LogView:
    """The site's view. Safe for threads.

    Args:
        state: where it is kept.

    Raises:
        IntegrityError: `log.proof` when what is kept is damaged.
    """

    def __init__(self, state: SiteState) -> None:
        self._state, self._lock = state, threading.Lock()
        self._kept = {name: state.fact(name) or "" for name in (_LINKED, _SHOWN)}
        self._linked, self._shown = (Seen.from_text(text) if text else None for text in self._kept.values())

    @property
    def linked(self) -> Seen | None:
        """The state from which a proof must lead on, or None at the first."""
        return self._linked

    def note(self, checkpoint: Checkpoint) -> None:
        """Take a receipt's verified checkpoint; of those not linked yet the largest stays.

        Raises:
            IntegrityError: `log.proof` when one of this size was seen with another root: two logs under one name.
        """
        with self._lock:
            if any(seen is not None and not seen.same(checkpoint) for seen in (self._linked, self._shown)):
                raise IntegrityError("log.proof", "the centre shows two logs: one size, two roots")
            new = Seen(size=checkpoint.size, root=checkpoint.root)
            if self._linked is None:
                self._linked = new
            elif new != self._linked and (self._shown is None or new.size > self._shown.size):
                self._shown = new

    def link(self, prover: Prover) -> None:
        """Have the centre prove that what receipts showed is one log with what was seen before.

        Raises:
            IntegrityError: `log.proof`: it is not.
            UnavailableError: the centre does not answer now.
        """
        linked, shown = self._linked, self._shown
        if linked is None or shown is None:
            return
        old, new = sorted((linked, shown), key=lambda seen: seen.size)
        proof = prover.prove(0, old.size, new.size)
        verify_consistency(old.size, new.size, old.root, new.root, hashes(proof.consistency))
        with self._lock:
            self._linked = new
            if self._shown == shown:
                self._shown = None

    def extend(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint that was proved to extend `linked`, and write it down.

        Raises:
            StorageError: it is not written.
        """
        with self._lock:
            if self._linked is None or checkpoint.size > self._linked.size:
                self._linked = Seen(size=checkpoint.size, root=checkpoint.root)
        self.keep()

    def keep(self) -> None:
        """Write down what is new.

        Raises:
            StorageError: it is not written.
        """
        with self._lock:
            for name, seen in ((_LINKED, self._linked), (_SHOWN, self._shown)):
                text = seen.to_text() if seen else ""
                if text != self._kept[name]:
                    self._state.set_fact(name, text)
                    self._kept[name] = text

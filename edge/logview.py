"""What this site has seen of the centre's log, linked by proofs, so that a forked log is found.

Place in the flow: receipts bring checkpoints (`note`), which stand apart until the centre has proved, at a heartbeat
(`learn`) or before a model is used (`link`), that they and what was seen before are one log. The linked state grows; a
receipt whose checkpoint is linked is proved for good. Sizes and hashes only.

    log_linked   fact: the newest linked state
    log_shown    fact: states that stand apart, a line each
    log_lines    fact: the journal's lines up to here are covered by both; later receipts are read again at a start
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from edge.journal import Line
from edge.state import SiteState
from privacy.checkpoint import Checkpoint
from privacy.inclusion import LogProof, Seen, hashes
from privacy.transparency import verify_consistency
from protocol.errors import IntegrityError, UnavailableError

__all__ = ["LogView", "Prover", "View", "forget", "newest_text"]

MAX_ASKED = 256  # states that one heartbeat asks to be linked
MAX_APART = 4096  # a centre that takes parcels and links none of them gets no more
_LINKED, _SHOWN, _LINES = "log_linked", "log_shown", "log_lines"
NEWEST = "log_checkpoint"  # fact: the text of the newest linked checkpoint, to be exchanged with others
WITNESSED, ALONE = "log_witnessed", "log_unwitnessed"  # facts of `edge/watchman.py`


class Prover(Protocol):
    """What is needed of the wire."""

    def prove(self, index: int, size: int, to: int = 0) -> LogProof:
        """Proof of a leaf and of the log's growth from `size`; or of its growth from `size` to `to` alone."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """The view at one moment: the linked state, and some of what stands apart, smallest first."""

    linked: Seen | None
    apart: tuple[Seen, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """As a heartbeat names them: the linked one first, 0 for none."""
        return (self.linked.size if self.linked else 0, *(one.size for one in self.apart))


class LogView:
    """The site's view. Safe for threads, and for the steward's commands beside the daemon.

    Args:
        state: where it is kept.
        lines: how many lines the site's journal has now; only the daemon gives it.

    Raises:
        IntegrityError: `log.proof` when what is kept is damaged.
    """

    def __init__(self, state: SiteState, lines: Callable[[], int] | None = None) -> None:
        self._state, self._lines, self._lock = state, lines, threading.RLock()
        self._kept = self._read()
        self._linked, self._apart = _parsed(*self._kept)
        self._since = int(state.fact(_LINES) or 0)
        self.fresh = state.fact(_LINES) is None  # never kept, or by a version that did not count lines

    @property
    def linked(self) -> Seen | None:
        """The state from which a proof must lead on, or None at the first."""
        return self._linked

    def note(self, checkpoint: Checkpoint) -> None:
        """Take a receipt's verified checkpoint.

        Raises:
            IntegrityError: `log.proof` when one of this size was seen with another root: two logs under one name.
        """
        new = Seen(size=checkpoint.size, root=checkpoint.root)
        with self._lock:
            _check((self._linked, self._apart.get(new.size)), new)
            if self._linked is None:
                self._linked = new
            elif new.size != self._linked.size:
                self._apart[new.size] = new

    def check_room(self) -> None:
        """Refuse further parcels while too many receipts are not linked.

        Raises:
            UnavailableError: `unavailable.centre`.
        """
        if len(self._apart) >= MAX_APART:
            raise UnavailableError("unavailable.centre", "the centre has not proved the receipts that it gave")

    def recall(self, line: Line) -> None:
        """Take a line of the journal again, after a crash between the receipt and `keep`.

        Raises:
            IntegrityError: as `note`.
        """
        if line.seq < self._since or line.event != "parcel.delivered" or "size" not in line.fields:
            return
        try:
            size, root = int(line.fields["size"]), bytes.fromhex(line.fields["checkpoint"])
        except (KeyError, TypeError, ValueError):
            raise IntegrityError("log.proof", "a receipt in the journal is malformed") from None
        self.note(Checkpoint(origin="", size=size, root=root, time=0))

    def look(self) -> View:
        """The view now, with what another process has changed."""
        with self._lock:
            if self._read() != self._kept:
                self.keep()
            apart = sorted(self._apart.values(), key=lambda one: one.size)
            return View(self._linked, tuple(apart[:MAX_ASKED]))

    def learn(self, view: View, newest: Seen | None) -> None:
        """Take it that everything in `view` was proved to be a beginning of `newest`, and write that down.

        What changed meanwhile stands apart until the next time.

        Raises:
            StorageError: it is not written.
        """
        with self._lock:
            if newest is not None and self._linked == view.linked:
                self._linked = newest
                for one in view.apart:
                    if self._apart.get(one.size) == one:
                        del self._apart[one.size]
                if self._apart.get(newest.size) == newest:
                    del self._apart[newest.size]
                self.keep()

    def link(self, prover: Prover) -> None:
        """Have the centre prove, state by state, that what receipts showed is one log with what was seen before.

        Raises:
            IntegrityError: `log.proof`: it is not.
            UnavailableError: the centre does not answer now.
        """
        while True:
            view = self.look()
            if view.linked is None or not view.apart:
                return
            newest = max((view.linked, *view.apart), key=lambda one: one.size)
            for one in (view.linked, *view.apart):
                if one != newest:
                    proof = hashes(prover.prove(0, one.size, newest.size).consistency)
                    verify_consistency(one.size, newest.size, one.root, newest.root, proof)
            self.learn(view, newest)

    def extend(self, checkpoint: Checkpoint, seen: Seen | None) -> None:
        """Take a checkpoint that was proved to extend `seen`, and write it down.

        Raises:
            IntegrityError: as `note`.
            StorageError: it is not written.
        """
        with self._lock:
            if self._linked == seen and (seen is None or checkpoint.size > seen.size):
                self._linked = Seen(size=checkpoint.size, root=checkpoint.root)
            else:
                self.note(checkpoint)
        self.keep()

    def keep(self) -> None:
        """Write down what is new; what another process wrote meanwhile is not lost but stands apart, to be linked.

        Raises:
            IntegrityError: `log.proof` when the other process saw another log.
            StorageError: it is not written.
        """
        lines = self._lines() if self._lines is not None else None  # first: each of these lines was noted before
        with self._lock, self._state.together():
            stored = self._read()
            if stored != self._kept:
                self._merge(stored)
            made = (_text([self._linked] if self._linked else []), _text(self._apart.values()))
            if made == stored and not (self.fresh and lines is not None):
                self._kept = made
                return
            for name, text in zip((_LINKED, _SHOWN), made, strict=True):
                self._state.set_fact(name, text)
            if lines is not None:
                self._state.set_fact(_LINES, str(lines))
                self.fresh = False
            self._kept = made

    def _read(self) -> tuple[str, str]:
        return self._state.fact(_LINKED) or "", self._state.fact(_SHOWN) or ""

    def _merge(self, stored: tuple[str, str]) -> None:
        """Another process has written: what is new here joins it; the larger linked state stays, others stand apart."""
        linked, apart = _parsed(*stored)
        known, known_apart = _parsed(*self._kept)
        if linked is None and known is not None:  # forgotten: the steward has decided to begin anew
            self._linked, self._apart = None, {}
            return
        new = [one for one in self._apart.values() if known_apart.get(one.size) != one]
        if self._linked is not None and self._linked != known:
            new.append(self._linked)
        for one in new:
            _check((linked, *apart.values()), one)
            apart[one.size] = one
        mine = self._linked
        if mine is not None and (linked is None or mine.size > linked.size):
            apart |= {linked.size: linked} if linked is not None else {}
            linked = mine
        if linked is not None:
            apart.pop(linked.size, None)
        self._linked, self._apart = linked, apart


def forget(state: SiteState, lines: int) -> Seen | None:
    """Begin anew with whatever log the centre shows next: a steward's decision, never the daemon's. What was linked.

    Args:
        lines: of the journal; receipts before this are linked no more.
    """
    old = state.fact(_LINKED)
    with state.together():
        for name in (_LINKED, _SHOWN, NEWEST, WITNESSED, ALONE):
            state.set_fact(name, "")
        state.set_fact(_LINES, str(lines))
    return Seen.from_text(old) if old else None


def newest_text(state: SiteState) -> str:
    """The newest linked checkpoint as it was signed; empty before the first heartbeat."""
    return state.fact(NEWEST) or ""


def _check(known: Iterable[Seen | None], new: Seen) -> None:
    if any(one is not None and one.size == new.size and one != new for one in known):
        raise IntegrityError("log.proof", "the centre shows two logs: one size, two roots")


def _text(states: Iterable[Seen]) -> str:
    return "\n".join(one.to_text() for one in sorted(states, key=lambda one: one.size))


def _parsed(linked: str, apart: str) -> tuple[Seen | None, dict[int, Seen]]:
    states = [Seen.from_text(line) for line in apart.split("\n") if line]
    return Seen.from_text(linked) if linked else None, {one.size: one for one in states}

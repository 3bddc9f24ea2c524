"""Where the reactor of an association of ours stands while we read its answers, so that it takes none of them.

pynetdicom 3.0 has two readers of one queue: who asked, and the association's own thread, its reactor, which is to
stand at a checkpoint meanwhile. Whether it stands is told by a flag that is old as soon as the checkpoint has been
opened: a reactor that was let go and has not run since looks as if it stood, then goes on, takes the first answer and
drops it. On a busy machine a list of studies or instances came short by that, or a request waited for its last answer
until it timed out. And a reactor that takes the word of a lost connection leaves the next request to wait for nothing.
"""

from __future__ import annotations

import threading
from typing import Any

from protocol.errors import UnavailableError

__all__ = ["Checkpoint", "handlers"]

_LOOK_S = 0.05  # a reactor that ends tells nobody


class Checkpoint(threading.Event):
    """In place of pynetdicom's, which calls all of these: the reactor waits here, who asks clears it and sets it.

    Args:
        reactor: the association, a thread.
    """

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self._reactor, self._turn = reactor, threading.Condition()
        self._open, self._stands, self.lost = True, False, False

    def is_set(self) -> bool:
        """Whether the reactor may pass."""
        return self._open

    def set(self) -> None:
        """Let the reactor go on."""
        with self._turn:
            self._open, self._stands = True, False
            self._turn.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Stand here until it is open: the reactor does."""
        with self._turn:
            while not self._open:
                self._stands = True
                self._turn.notify_all()
                if not self._turn.wait(timeout):
                    return False
        return True

    def clear(self) -> None:
        """Stop the reactor; it stands here when this returns.

        Raises:
            UnavailableError: `unavailable.source`, the association was lost.
        """
        with self._turn:
            self._open = False
            if threading.current_thread() is self._reactor:  # it stops itself, to release
                return
            while not self._stands and self._reactor.is_alive():
                self._turn.wait(_LOOK_S)
        if self.lost or not self._reactor.is_established:
            self.set()  # for it to end
            raise UnavailableError("unavailable.source", "the association was lost")


def handlers() -> list[Any]:
    """What an association that is asked for has to be given."""
    from pynetdicom import evt

    return [(evt.EVT_CONN_OPEN, _begin), (evt.EVT_CONN_CLOSE, _lose)]


def _begin(event: Any) -> None:
    event.assoc._reactor_checkpoint = Checkpoint(event.assoc)  # before anybody has come to the first one


def _lose(event: Any) -> None:
    """Who asks from now on is told by the checkpoint; who has asked, by the queue: its own word may be gone."""
    event.assoc._reactor_checkpoint.lost = True
    event.assoc.dimse.msg_queue.put((None, None))

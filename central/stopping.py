"""The end of a process as an event that a thread may also wait for in the kernel, beside whatever else wakes it."""

from __future__ import annotations

import os
import select
import threading

__all__ = ["Stop", "wait_for"]

POLL_S = 0.25  # how often an event that is none of ours is looked at


class Stop(threading.Event):
    """An event with a descriptor, readable for good once it is set. A signal handler may set it."""

    def __init__(self) -> None:
        super().__init__()
        self._handle = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __del__(self) -> None:
        os.close(self._handle)

    def fileno(self) -> int:
        """For `poll`."""
        return self._handle

    def set(self) -> None:
        """End."""
        super().set()
        os.eventfd_write(self._handle, 1)


def wait_for(descriptor: int, stop: threading.Event | None, timeout_s: float | None = None) -> bool:
    """Wait until a descriptor can be read, the end has come, or the time is over; whether it can be read.

    An event that is no `Stop` is looked at again every `POLL_S` by returning: the caller waits in a loop.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if isinstance(stop, Stop):
        poll.register(stop.fileno(), select.POLLIN)
    elif stop is not None:
        timeout_s = POLL_S if timeout_s is None else min(timeout_s, POLL_S)
    ready = poll.poll(None if timeout_s is None else 1000 * timeout_s)
    return any(found == descriptor for found, _ in ready)

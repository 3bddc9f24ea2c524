"""What every process of the product does first: files for its user alone, and no core dump, whoever asks for one.

A core file holds keys and patients' rows in the clear. The limit alone does not help where the kernel pipes dumps to a
program (apport, systemd-coredump): only a process that says it is not dumpable is left out there. It also keeps
debuggers of the same user from looking in. `execve` makes a process dumpable again, so each one says it for itself;
the limit and the umask are inherited.

Source: core(5); prctl(2), PR_SET_DUMPABLE; umask(2).
"""

from __future__ import annotations

import ctypes
import os
import resource

__all__ = ["close_dumps", "guard"]

_PR_SET_DUMPABLE = 4


def guard() -> None:
    """Call it before anything is opened, and before the threads that are to inherit it."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    close_dumps()


def close_dumps() -> None:
    """No core dump of this process and no debugger of the same user; a worker does it once its namespace is its own."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)

"""One piece of work, disturbed at each of its steps in turn; afterwards it must have come out as undisturbed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from protocol.errors import StorageError
from tests.fault.seam import Mode, PowerCut, Seam

__all__ = ["Process", "Work", "disturbed", "sweep", "undisturbed"]

HOW = ("cut", "lost", "fail", "stuck", "kill")
_ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS)
# ids, digests and temporary names, which each run draws anew; not the number of a parcel
_DRAWN = re.compile(r"\b(?!\d{12}-)[0-9a-f]{8,}\b|(?<= \.)[a-z0-9_]{8}(?= |$)")


class Process(Protocol):
    """A process that has started on a folder; `work` goes on to the end from wherever it stands."""

    def work(self) -> None:
        """Do what is left to do."""

    def close(self) -> None:
        """Let go of files and connections."""


@dataclass(frozen=True)
class Work:
    """What is disturbed. A run has a folder of its own: `state/` is watched, what lies beside it is the world outside.

    Args:
        prepare: makes the folder that all runs begin with.
        start: starts the process, with whatever it does first after a crash.
        outcome: what must be equal; checks besides that what is there verifies.
        whole: whether an outcome is that of work done to its end. Asked of the undisturbed one: if that failed too, all
            that are equal to it would show nothing.
        errors: what may come out when the disk fails.
        forks: the world outside is on the disk, so that a child of the test can do the work and be killed.
    """

    prepare: Callable[[Path], None]
    start: Callable[[Path], Process]
    outcome: Callable[[Path], Any]
    whole: Callable[[Any], bool]
    errors: tuple[type[Exception], ...] = (StorageError,)
    forks: bool = True


def undisturbed(work: Work, folder: Path) -> tuple[list[str], Any]:
    """The steps of the work and its outcome; the folder `prepared` is what `disturbed` begins with.

    A step is told without what is drawn in the names of its files, so that every run has the same.
    """
    (folder / "prepared" / "state").mkdir(parents=True)
    work.prepare(folder / "prepared")
    run = _fresh(folder, "whole")
    with Seam(run / "state") as seam:
        _through(work, run)
    found = work.outcome(run)
    assert work.whole(found), f"undisturbed it does not come out right: {found}"
    return _named(seam.steps), found


def disturbed(work: Work, folder: Path, steps: list[str], at: int, how: str) -> Any:
    """The outcome when step `at` went wrong: `cut`, `lost` (a cut, and what was not synced is lost), `fail`, `stuck`,
    `kill` (a child of this process is, by SIGKILL).

    After a cut or a kill another process starts; after an error the same process goes on, unless that was in its end.
    Up to there the run took the steps of the undisturbed one: else another step than `steps` tells was disturbed.
    """
    run = _fresh(folder, f"{how}-{at}")
    if how == "kill":
        _killed(work, run, at)
    else:
        taken = _gone_wrong(work, run, at, how)
        assert taken == steps[:at], f"this run took other steps than the undisturbed one, up to {at}"
    found = work.outcome(run)
    shutil.rmtree(run)
    return found


def _killed(work: Work, run: Path, at: int) -> None:
    child = os.fork()
    if child == 0:
        with suppress(BaseException), Seam(run / "state", at, Mode.KILL):
            _through(work, run)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, f"step {at} was not reached"
    with Seam(run / "state"):
        _through(work, run)


def _gone_wrong(work: Work, run: Path, at: int, how: str) -> list[str]:
    mode = {"cut": Mode.CUT, "lost": Mode.CUT, "fail": Mode.FAIL, "stuck": Mode.STUCK}[how]
    seam = Seam(run / "state", at, mode, _ERRORS[at % 3] if how == "fail" else _ERRORS[1 + at % 2])
    started: list[Process] = []
    closed = False
    with seam:
        with suppress(PowerCut, *work.errors):
            started.append(work.start(run))
            started[0].work()
            if closed := mode is Mode.CUT or not seam.struck:  # the last steps may be those of its end
                started[0].close()
        assert seam.struck, f"step {at} was not reached"
        taken = _named(seam.steps[:at])
        if mode is not Mode.CUT:
            seam.heal()
            process = started[0] if started and not closed else work.start(run)
            process.work()
            process.close()
    if mode is Mode.CUT:
        for process in started:
            getattr(process, "abandon", process.close)()
        if how == "lost":
            seam.lose()
        with Seam(run / "state"):
            _through(work, run)
    return taken


def sweep(work: Work, folder: Path, stride: int = 1, ways: tuple[str, ...] = HOW) -> None:
    """Disturb every `stride`-th step, in each way another share, and in each the last: all was told by then."""
    steps, expected = undisturbed(work, folder)
    assert len(steps) >= 10, steps
    for number, how in enumerate(way for way in ways if work.forks or way != "kill"):
        for at in sorted({*range(1 + number % stride, len(steps) + 1, stride), len(steps)}):
            assert disturbed(work, folder, steps, at, how) == expected, (how, at, steps[at - 1])


def _through(work: Work, run: Path) -> None:
    process = work.start(run)
    process.work()
    process.close()


def _named(steps: list[str]) -> list[str]:
    return [_DRAWN.sub("*", step) for step in steps]


def _fresh(folder: Path, name: str) -> Path:
    return Path(shutil.copytree(folder / "prepared", folder / name, symlinks=True))

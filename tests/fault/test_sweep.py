"""The sweep itself: careless work fails it, each kind in the way of its own; work that shows nothing is refused."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import StorageError
from tests.fault.sweep import HOW, Work, disturbed, sweep, undisturbed

FILES = 4  # three steps and more each: more than a sweep demands


@dataclass
class Careless:
    """Writes files durably and tells the world outside of each, but for what it is told to leave out."""

    run: Path
    without: str
    begun: set[int] = field(default_factory=set)

    def work(self) -> None:
        told = self.run / "told"
        for number in range(FILES):
            path = self.run / "state" / f"{number}"
            if path.exists() or str(number) in (told.read_text() if told.exists() else ""):
                continue
            if self.without == "again" and number in self.begun:
                continue
            self.begun.add(number)
            try:
                self.make(path, str(number).encode() * 99)
            except OSError as error:
                if self.without == "error":
                    raise StopIteration from error  # none of those it may end in
                raise StorageError("storage.failed") from error
            with told.open("a") as file:
                file.write(str(number))
        if self.without == "once":
            (self.run / "state" / "0").write_text("other")

    def make(self, path: Path, data: bytes) -> None:
        if self.without == "same" and self.run.name != "whole":
            sync(path.parent)
        made = path if self.without == "temporary" else path.with_suffix(".tmp")
        handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(handle, data)
            if self.without != "fsync":
                os.fsync(handle)
        finally:
            os.close(handle)
        if made != path:
            os.rename(made, path)
        if self.without != "folder":
            sync(path.parent)

    def close(self) -> None:
        pass


def sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def outcome(run: Path) -> Any:
    return [path.read_text() for path in sorted((run / "state").glob("?"))]


def work(without: str = "") -> Work:
    whole = [str(number) * 99 for number in range(FILES)]
    return Work(lambda run: None, lambda run: Careless(run, without), outcome, lambda found: found == whole)


def test_careful_work_passes_in_every_way(memory: Path) -> None:
    sweep(work(), memory)


@pytest.mark.parametrize(
    ("without", "ways"),
    [
        ("fsync", ("lost",)),
        ("folder", ("lost",)),
        ("temporary", ("cut",)),
        ("temporary", ("kill",)),
        ("again", ("fail",)),
        ("again", ("stuck",)),
    ],
)
def test_careless_work_fails_in_the_way_that_is_its_own(memory: Path, without: str, ways: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError):
        sweep(work(without), memory, ways=ways)


def test_an_error_that_may_not_come_out_does_not_pass_for_a_fault(memory: Path) -> None:
    with pytest.raises(StopIteration):
        sweep(work("error"), memory, ways=("fail",))


@pytest.mark.parametrize("how", HOW)
def test_what_fails_undisturbed_too_is_no_measure(memory: Path, how: str) -> None:
    with pytest.raises(AssertionError, match="undisturbed"):
        sweep(work("once"), memory, ways=(how,))


def test_a_step_that_is_never_reached_is_no_fault(memory: Path) -> None:
    steps, _ = undisturbed(work(), memory)
    for how in HOW:
        with pytest.raises(AssertionError, match="not reached"):
            disturbed(work(), memory, steps, len(steps) + 1, how)


@pytest.mark.parametrize("how", [way for way in HOW if way != "kill"])
def test_a_run_of_other_steps_is_not_taken_for_the_undisturbed_one(memory: Path, how: str) -> None:
    with pytest.raises(AssertionError, match="other steps"):
        sweep(work("same"), memory, ways=(how,))

"""A folder of DICOM files, de-identified by several processes: any order, any number of them, the same bytes.

    report = run(Settings(key=key, target=Path("clean")), Path("scans"), jobs=2)

Files are named by their new UID alone; folders and names of the source do not appear. A manifest beside the target
holds what is done, by keyed digest, so that a run that was killed goes on where it was; what it says is believed only
if the result stands there with the digest it names. The report holds numbers and codes only. Not here: rules, the
second look, how one file is done (`onefile.py`).
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import multiprocessing
import multiprocessing.process
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from privacy.deid.folders import check_places, make_folder
from privacy.deid.manifest import Manifest, identity, places
from privacy.deid.onefile import PARTIAL, Outcome, Settings, Worker, read_regular, storage_error
from protocol.errors import CODES, CorsiaError, InputError

__all__ = ["Settings", "run"]

_WINDOW, _CHUNK = 3, 8  # chunks in flight a process, files a chunk at most
_MAX_LISTED = 10_000
_UID = re.compile(r"[0-9.]{1,64}")
File = tuple[str, int]  # path, number


def run(
    settings: Settings, source: Path, *, jobs: int = 1, progress: Callable[[int, int], None] = lambda done, of: None
) -> dict[str, Any]:
    """De-identify a file or a folder.

    Args:
        settings: key, profile, target.
        source: file or folder; symbolic links are not followed.
        jobs: processes.
        progress: called with (files done, files).

    Returns:
        The report: counts, reasons by code, tallies; no values, no names.

    Raises:
        InputError: `input.usage` for a source that is neither, or that holds the target or lies in it.
        StorageError: `storage.full`, `storage.failed`; what was done stays, and the next run goes on.
    """
    check_places(source, settings.target, settings.quarantine)
    worker = Worker(settings)  # options that are not offered are refused before anything is written
    paths, refused = _inputs(source)
    for folder in (settings.target, settings.quarantine):
        if folder is not None:
            make_folder(folder)
    with Manifest(settings) as manifest:
        _sweep(settings)
        try:
            batch = _gather(settings, worker, paths, manifest, jobs, progress)
        finally:
            _sweep(settings)
    return batch.report(refused)


def _gather(
    settings: Settings, worker: Worker, paths: list[str], manifest: Manifest, jobs: int,
    progress: Callable[[int, int], None],
) -> _Batch:  # fmt: skip
    """Take over what is done, do the rest, name all."""
    batch, todo = _Batch(settings, len(paths), manifest), []
    for number, path in enumerate(paths, 1):
        known = manifest.find(_digest(worker, path), number) if len(manifest) else None
        if known is None:
            todo.append((path, number))
        else:
            batch.take(*known)
    progress(len(paths) - len(todo), len(paths))
    for count, outcome in enumerate(_process(settings, worker, todo, jobs), len(paths) - len(todo) + 1):
        batch.take(outcome)
        progress(count, len(paths))
    batch.settle()
    return batch


class _Batch:
    """Gathers outcomes; the result does not depend on their order."""

    def __init__(self, settings: Settings, files: int, manifest: Manifest) -> None:
        self._settings, self._files, self._manifest = settings, files, manifest
        self._outcomes: dict[int, Outcome] = {}
        self._stands: dict[tuple[str, str], tuple[Outcome, Path]] = {}  # (UID, digest) -> where

    def take(self, outcome: Outcome, place: Path | None = None) -> None:
        """Note an outcome; give a new result a name that is free."""
        self._outcomes[outcome.number] = outcome
        if outcome.reason:
            return
        if not _UID.fullmatch(outcome.uid):
            raise InputError("input.dicom", "the new UID is none")
        key = (outcome.uid, outcome.output)
        partial = self._settings.target / outcome.partial
        if key in self._stands:
            if place is None:
                partial.unlink(missing_ok=True)
        elif place is not None:
            self._stands[key] = (outcome, place)
        else:
            name, other = places(self._settings.target, outcome)
            self._stands[key] = (outcome, other if name.exists() else name)
            self._move(partial, self._stands[key][1])
        if place is None:
            self._manifest.add(outcome)

    def settle(self) -> None:
        """Of several results with one UID the first by its digest gets the plain name."""
        first = {uid: output for uid, output in sorted(self._stands, reverse=True)}
        for promote in (False, True):
            for (uid, output), (outcome, place) in sorted(self._stands.items(), key=lambda item: item[0]):
                wins = first[uid] == output
                wanted = places(self._settings.target, outcome)[0 if wins else 1]
                if wins == promote and place != wanted:
                    self._move(place, wanted)
                    self._stands[uid, output] = (outcome, wanted)
        standing = {place.name for _, place in self._stands.values()}
        for outcome in self._outcomes.values():
            self._manifest.supersede(outcome.digest, standing)
        _sync(self._settings)

    def _others(self) -> int:
        """How many files stand in the target that are no result of this run."""
        standing = {place.name for _, place in self._stands.values()}
        return sum(1 for path in self._settings.target.iterdir() if path.name not in standing)

    @staticmethod
    def _move(place: Path, name: Path) -> None:
        try:
            place.replace(name)
        except OSError as error:
            raise storage_error(error) from None

    def report(self, refused: Counter[str]) -> dict[str, Any]:
        """Counts of all that was met."""
        reasons: Counter[str] = Counter({"input.dicom": sum(refused.values())})
        kinds: Counter[str] = Counter(refused)
        tallies: dict[str, Counter[str]] = {"elements": Counter(), "exclusions": Counter(), "residual": Counter()}
        listed: list[dict[str, Any]] = []
        seen: set[tuple[str, str]] = set()
        for number, one in sorted(self._outcomes.items()):
            if one.reason:
                reasons[one.reason] += 1
                listed.append({"number": number, "reason": one.reason})
            elif (one.uid, one.output) in seen:
                continue
            else:
                seen.add((one.uid, one.output))
            kinds.update([one.kind] if one.kind else [])
            tallies["exclusions"].update(one.exclusions)
            tallies["residual"].update(one.hits)
            tallies["elements"].update(one.elements)
        quarantined = sum(reasons.values())
        return {
            **identity(self._settings),
            "files": self._files + sum(refused.values()),
            "passed": len(seen),
            "duplicates": self._files + sum(refused.values()) - len(seen) - quarantined,
            "same_uid": len(seen) - len({uid for uid, _ in seen}),
            "others": self._others(),
            "persons": len({one.person for one, _ in self._stands.values()}),
            "quarantined": quarantined,
            "reasons": dict(sorted((+reasons).items())),
            "kinds": dict(sorted(kinds.items())),
            **{name: dict(sorted(tally.items())) for name, tally in tallies.items()},
            "not_passed": listed[:_MAX_LISTED],
            "outputs_sha256": hashlib.sha256(json.dumps(sorted(seen)).encode()).hexdigest(),
        }


# -- inputs


def _inputs(source: Path) -> tuple[list[str], Counter[str]]:
    """Files in a fixed order, and how many things are none (symlink, special)."""
    if source.is_file():
        return [str(source)], Counter()
    refused: Counter[str] = Counter()
    found: list[str] = []
    folders = [str(source)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        refused["symlink"] += 1
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        found.append(entry.path)
                    else:
                        refused["special"] += 1
        except OSError:
            refused["unreadable"] += 1
    return sorted(found), refused


def _sweep(settings: Settings) -> None:
    """Take away what a killed run left half written."""
    for folder in (settings.target, settings.quarantine):
        for path in folder.glob(f".*{PARTIAL}") if folder is not None else ():
            path.unlink(missing_ok=True)


def _sync(settings: Settings) -> None:
    """Bring all that was written to the disk, once.

    Raises:
        StorageError: the disk did not take it.
    """
    for folder in (settings.target, settings.quarantine):
        if folder is None:
            continue
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        except OSError as error:
            raise storage_error(error) from None
        except AttributeError:  # a C library without it
            os.sync()
        finally:
            os.close(descriptor)


# -- processes

_worker: Worker | None = None


def _start(settings: Settings) -> None:
    global _worker
    _worker = _worker or Worker(settings)  # a forked process has its parent's
    gc.freeze()
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker whose parent was killed would wait for ever
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _work(path: str, number: int) -> Outcome:
    if _worker is None:
        raise RuntimeError("the worker was not started")
    return _worker.process(path, number)


def _chunk(work: Callable[[str, int], Outcome], files: list[File]) -> tuple[list[Outcome], tuple[str, str] | None]:
    """Outcomes, and code and message of the error that ended them: errors of this project do not survive pickling."""
    done: list[Outcome] = []
    try:
        for file in files:
            done.append(work(*file))
    except CorsiaError as error:
        return done, (error.code, error.message)
    return done, None


def _process(settings: Settings, worker: Worker, todo: list[File], jobs: int) -> Iterator[Outcome]:
    """The outcome of each file, in any order."""
    if jobs <= 1 or len(todo) < 2:
        return (worker.process(path, number) for path, number in todo)
    return _in_pool(settings, worker, todo, min(jobs, len(todo)))


def _digest(worker: Worker, path: str) -> str:
    try:
        return worker.digest(read_regular(path))
    except InputError:
        return ""


def _in_pool(settings: Settings, worker: Worker, todo: list[File], jobs: int) -> Iterator[Outcome]:
    """Run in processes. When one dies, what was in flight is done file by file, and who kills again is set aside."""
    global _worker
    left = {number: path for path, number in todo}
    size = max(1, min(_CHUNK, len(todo) // (jobs * 8)))
    _worker = worker
    try:
        while left:
            try:
                yield from _pooled(settings, left, list(left), jobs, size)
            except BrokenProcessPool:
                for number in list(left)[: jobs * _WINDOW * size]:
                    try:
                        yield from _pooled(settings, left, [number], 1, 1)
                    except BrokenProcessPool:
                        del left[number]
                        yield Outcome(number=number, reason="input.dicom", kind="crash")
    finally:
        _worker = None


def _pooled(
    settings: Settings, left: dict[int, str], numbers: list[int], jobs: int, size: int
) -> Iterator[Outcome]:  # fmt: skip
    # Forking is quick and shares what is loaded, but takes no other thread along, whatever lock that may hold.
    how = "fork" if threading.active_count() == 1 else "spawn"
    pool = ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context(how), initializer=_start, initargs=(settings,)
    )
    waiting: set[Future[tuple[list[Outcome], tuple[str, str] | None]]] = set()
    chunks = iter([numbers[i : i + size] for i in range(0, len(numbers), size)])
    try:
        while True:
            while len(waiting) < jobs * _WINDOW and (chunk := next(chunks, None)) is not None:
                waiting.add(pool.submit(_chunk, _work, [(left[number], number) for number in chunk]))
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes, failed = future.result()
                for outcome in outcomes:
                    del left[outcome.number]
                    yield outcome
                if failed is not None:
                    raise CODES[failed[0]].error(*failed)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

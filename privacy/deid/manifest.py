"""What a batch has finished: keyed digests of inputs and where their results stand, so that a killed run goes on.

One JSON line an input, in a hidden file beside the target, locked while a run is on. It holds no name and no value, and
it is believed only where the result stands with the digest it names. What a run under other settings left is kept as
`former`: when an input is done anew, its former result goes, so that nothing stays that the present rules would not
pass. Not here: the files themselves.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Container
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from privacy.deid.onefile import Outcome, Settings, storage_error
from protocol.errors import ConflictError

__all__ = ["Manifest", "identity", "places"]

_VERSIONS = ("corsia", "pydicom", "numpy")


def places(target: Path, outcome: Outcome) -> tuple[Path, Path]:
    """The name of a result, and its name if another with the same UID has the first."""
    return target / f"{outcome.uid}.dcm", target / f"{outcome.uid}-{outcome.output[:16]}.dcm"


class Manifest:
    """Finished inputs by keyed digest, one JSON line each; locked while a run is on. Holds no name and no value."""

    def __init__(self, settings: Settings) -> None:
        target = settings.target.resolve()
        self._target, self._path = target, target.with_name(f".{target.name}.corsia-manifest")
        self._header = json.dumps(identity(settings), sort_keys=True)
        self._done: dict[str, dict[str, Any]] = {}
        self._former: dict[str, list[Outcome]] = {}
        self._file: TextIO | None = None

    def __enter__(self) -> Manifest:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        except OSError:  # beside the target nothing can be written: the run starts anew each time
            return self
        self._file = open(descriptor, "r+", encoding="utf-8")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConflictError("conflict.running", "another run is writing to this target") from None
        self._load(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def _load(self, file: TextIO) -> None:
        file.seek(0)
        lines = file.read().split("\n")
        same = lines[0] == self._header
        for line in lines[1:-1]:
            try:
                entry = json.loads(line)
                if not entry.pop("former", not same):
                    self._done[entry["digest"]] = entry
                    continue
                former = Outcome(number=0, **entry)
                if any(place.exists() for place in places(self._target, former)):
                    self._former.setdefault(former.digest, []).append(former)
            except (ValueError, KeyError, TypeError, AttributeError):  # half a line of a killed run
                continue
        old = [{**one.as_dict(), "former": True} for former in self._former.values() for one in former]
        body = [json.dumps(entry, sort_keys=True) for entry in [*old, *self._done.values()]]
        file.seek(0)
        file.truncate()
        file.write("\n".join([self._header, *body, ""]))
        file.flush()

    def supersede(self, digest: str, standing: Container[str]) -> None:
        """Take away what an earlier run under other settings made of an input, unless it is a result of this one."""
        for former in self._former.get(digest, ()):
            for place in places(self._target, former):
                if place.name not in standing and _holds(place, former.output):
                    try:
                        place.unlink(missing_ok=True)
                    except OSError as error:
                        raise storage_error(error) from None

    def __len__(self) -> int:
        return len(self._done)

    def find(self, digest: str, number: int) -> tuple[Outcome, Path] | None:
        """What became of an input and where its result stands, if it stands there unchanged."""
        entry = self._done.get(digest)
        if entry is None:
            return None
        try:
            outcome = Outcome(number=number, **entry)
        except TypeError:
            return None
        for place in places(self._target, outcome):
            if _holds(place, outcome.output):
                return outcome, place
        return None

    def add(self, outcome: Outcome) -> None:
        """Note a result that stands under its name."""
        if self._file is None or outcome.digest in self._done:
            return
        try:
            self._file.write(json.dumps(outcome.as_dict(), sort_keys=True) + "\n")
            self._file.flush()
        except OSError as error:
            raise storage_error(error) from None


def _holds(place: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(place.read_bytes()).hexdigest() == digest
    except OSError:
        return False


def identity(settings: Settings) -> dict[str, Any]:
    """What a result depends on besides its input."""
    from privacy.deid.profiles import load
    from privacy.deid.pseudonym import Pseudonymizer

    profile = load(settings.profile, settings.options)
    return {
        "profile": profile.name,
        "edition": profile.edition,
        "options": sorted(profile.options),
        "language": settings.language,
        "allow_risky": settings.allow_risky,
        "key_id": Pseudonymizer(settings.key).key_id,
        "versions": {name: _version(name) for name in _VERSIONS},
        "rules_sha256": _rules_digest(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _rules_digest() -> str:
    """Of the de-identification code and its data: a run under other rules does not take over old results."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"):
        digest.update(f"{path.relative_to(folder)}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()

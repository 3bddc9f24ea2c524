"""About whom something of a study has left this site, by the study's own pseudonyms: so that a withdrawal reaches it.

Place in the flow: agent, before a release and when a run's rows are loaded -> here, durably -> `edge/withdrawals.py`. A
file a study, mode 0600; it goes when the study's time is over. It holds no id that the hospital uses.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from edge.storage import TEMPORARY, named_errors, write_file
from protocol.errors import StorageError
from protocol.parcel import canonical_json

__all__ = ["Brief", "Known", "Subjects"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """What is asked all the time, without the persons; `unknown`: of some of them nothing is known."""

    dataset: str
    due: bool
    left: bool
    unknown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One study.

    Attributes:
        dataset: from which its rows come.
        released: pseudonym -> whether all of the person's rows might pass then.
        withdrawn: who withdrew since.
        due: of these, who the centre has not been told of.
        left: whether nothing more of the study may leave: for those who withdrew, or because persons are not known who
            should be.
    """

    dataset: str
    released: Mapping[str, bool] = field(default_factory=dict)
    withdrawn: tuple[str, ...] = ()
    due: tuple[str, ...] = ()
    left: bool = False


class Subjects:
    """The files `<study digest>.json` in a folder. Safe for threads.

    Raises:
        StorageError: from every method; nothing changed then, and nothing may leave.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()
        self._briefs: dict[str, Brief] = {}
        with named_errors():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in folder.glob("[0-9a-f]*.json"):
                self._note(path.stem, self.known(path.stem))

    def recover(self) -> None:
        """Remove what a killed process left half-written; for the daemon alone, before anything else."""
        with self._lock, named_errors():
            for path in self._folder.glob(f"{TEMPORARY}*"):
                path.unlink(missing_ok=True)

    def briefs(self) -> dict[str, Brief]:
        """All studies that are known here, by digest."""
        with self._lock:
            return dict(sorted(self._briefs.items()))

    def left(self, digest: str) -> bool:
        """Whether nothing more of a study may leave."""
        return digest in self._briefs and self._briefs[digest].left

    def known(self, digest: str) -> Known | None:
        """One study; None when nothing about persons of it has left.

        Raises:
            StorageError: `storage.failed`, also for a damaged file: who has left is not known then.
        """
        with self._lock, named_errors():
            try:
                value = json.loads(self._path(digest).read_bytes())
                return Known(**{**value, "withdrawn": tuple(value["withdrawn"]), "due": tuple(value["due"])})
            except FileNotFoundError:
                return None
            except (ValueError, TypeError, KeyError):
                raise StorageError("storage.failed", "the list of a study's persons is damaged") from None

    def add(self, digest: str, dataset: str, persons: Mapping[str, bool]) -> None:
        """Note persons of a study before anything about them leaves; those who withdrew from it stay withdrawn."""
        with self._lock:
            before = self.known(digest) or Known(dataset=dataset)
            self._write(digest, replace(before, released={**before.released, **persons}))

    def withdraw(self, digest: str, persons: Iterable[str]) -> None:
        """Note who withdrew; the centre is to be told, and a run goes on without this site."""
        with self._lock:
            before = self.known(digest)
            new = () if before is None else tuple(sorted(set(persons) - set(before.withdrawn)))
            if before is not None and new:
                after = replace(before, withdrawn=(*before.withdrawn, *new), due=(*before.due, *new), left=True)
                self._write(digest, after)

    def close(self, digest: str, dataset: str) -> None:
        """Note that persons of a study are not known who should be: nothing more of it leaves."""
        with self._lock:
            self._write(digest, replace(self.known(digest) or Known(dataset=dataset), left=True))

    def told(self, digest: str, persons: Iterable[str]) -> None:
        """Note that a parcel that says so is in the spool."""
        with self._lock:
            before = self.known(digest)
            if before is not None:
                left = tuple(one for one in before.due if one not in set(persons))
                self._write(digest, replace(before, due=left))

    def drop(self, digest: str) -> None:
        """Forget a study: its data are erased everywhere."""
        with self._lock, named_errors():
            self._path(digest).unlink(missing_ok=True)
            self._briefs.pop(digest, None)

    def _write(self, digest: str, known: Known) -> None:
        with named_errors():
            write_file(self._path(digest), canonical_json(asdict(known)))
        self._note(digest, known)

    def _note(self, digest: str, known: Known | None) -> None:
        if known is not None:
            self._briefs[digest] = Brief(
                dataset=known.dataset,
                due=bool(known.due),
                left=known.left,
                unknown=known.left and not known.withdrawn,
            )

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.json"

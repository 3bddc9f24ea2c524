"""Heads of the journal, signed by the site's identity key: who holds the file alone cannot write its past anew.

Place in the flow: each heartbeat after which the journal is another signs its head; the last one of each day stays. The
data protection officer verifies them with `corsia edge journal verify`. Holds hashes, counts and times.

    journal.head    the newest signed head, replaced as a whole
    journal.heads   one a day, a JSON line each, appended
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.journal import GENESIS, Journal, Line
from edge.storage import named_errors, write_file
from privacy.envelope import PublicKey, SecretKey
from protocol.errors import CorsiaError, IntegrityError
from protocol.parcel import canonical_json
from protocol.trust import Purpose

__all__ = ["Head", "Heads"]

_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A signed head: after how many lines of the journal, when (Unix seconds), and by which site."""

    site: str
    lines: int
    head: str
    at: int

    def to_bytes(self) -> bytes:
        """What the identity key signs (context `Purpose.JOURNAL`)."""
        return canonical_json(asdict(self))


class Heads:
    """The signed heads in a state folder. For one thread."""

    def __init__(self, state_dir: Path) -> None:
        self._newest, self._daily = state_dir / "journal.head", state_dir / "journal.heads"
        self._last: Head | None = None

    def sign(self, journal: Journal, site: str, key: SecretKey, now: Callable[[], float] = time.time) -> None:
        """Sign the journal as it is now, unless that has been done.

        Raises:
            StorageError: not written; the next call tries again.
        """
        lines, end = journal.end()
        made = Head(site=site, lines=lines, head=end, at=int(now()))
        last = self._last
        if made.head == GENESIS or (last is not None and last.head == made.head):
            return
        signature = base64.b64encode(key.sign(Purpose.JOURNAL, made.to_bytes())).decode("ascii")
        line = canonical_json({**asdict(made), "signature": signature}) + b"\n"
        with named_errors():
            write_file(self._newest, line)
            if last is None or last.at // _DAY_S != made.at // _DAY_S:
                self._append(line)
        self._last = made

    def verify(self, journal: Journal, key: PublicKey) -> dict[str, Any]:
        """Check the journal's chain and every signed head against it.

        Returns:
            `lines`, `head`, `signed` (how many heads), `signed_lines` (lines under the newest) and `signed_at`.

        Raises:
            IntegrityError: `journal.chain`: the chain, a signature, or a head that is not in the chain.
        """
        wanted: dict[int, set[str]] = {}
        newest: Head | None = None
        count = 0
        for head in self._read(key):
            wanted.setdefault(head.lines, set()).add(head.head)
            count += 1
            newest = head if newest is None or head.lines > newest.lines else newest

        def look(line: Line) -> None:
            if wanted.pop(line.seq + 1, {line.digest}) != {line.digest}:
                raise IntegrityError("journal.chain", f"line {line.seq + 1} is not the one whose head was signed")

        lines = journal.verify(each=look)
        if wanted:
            raise IntegrityError("journal.chain", "the journal lacks lines whose head was signed")
        signed_lines, at = (newest.lines, newest.at) if newest else (0, None)
        return {"lines": lines, "head": journal.head(), "signed": count, "signed_lines": signed_lines, "signed_at": at}

    def _append(self, line: bytes) -> None:
        handle = os.open(self._daily, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"  # a crash cut the line before
            os.write(handle, b"\n" + line if torn else line)
            os.fsync(handle)
        finally:
            os.close(handle)

    def _read(self, key: PublicKey) -> Iterator[Head]:
        """Every signed head, verified; of the daily ones a torn line is passed over."""
        for path in (self._daily, self._newest):
            with named_errors():
                raw = path.read_bytes() if path.exists() else b""
            for line in raw.split(b"\n"):
                head = _verified(line, key) if line else None
                if head is not None:
                    yield head


def _verified(raw: bytes, key: PublicKey) -> Head | None:
    """A signed head; None for a line that a crash has cut.

    Raises:
        IntegrityError: `journal.chain` when it is whole and not signed by this key.
    """
    try:
        value = json.loads(raw)
        signature = base64.b64decode(value.pop("signature"), validate=True)
        head = Head(**value)
        key.verify(Purpose.JOURNAL, head.to_bytes(), signature)
        return head
    except json.JSONDecodeError:
        return None
    except (CorsiaError, ValueError, KeyError, TypeError, AttributeError):
        raise IntegrityError("journal.chain", "a head of the journal is not signed by this site") from None

"""Heads of the journal, signed by the site's identity key: who holds the file alone cannot write its past anew.

Place in the flow: each heartbeat after which the journal is another signs its head; the last one of each day stays. The
data protection officer verifies them with `corsia edge journal verify`. Holds hashes, counts and times.

    journal.head              the newest signed head, replaced as a whole
    journal.heads             one a day, a JSON line each, appended
    journal.signer            the public key under which these two are
    journal.before-KEY.json   the same of an earlier identity key, and that key, vouched for by the one that followed it
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
from edge.storage import named_errors, read_json, write_file
from privacy.envelope import PublicKey, SecretKey
from protocol.errors import CorsiaError, IntegrityError
from protocol.parcel import canonical_json
from protocol.trust import Purpose

__all__ = ["Head", "Heads"]

_DAY_S = 86_400
_BEFORE = "journal.before-"


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
        self._folder, self._signer = state_dir, state_dir / "journal.signer"
        self._newest, self._daily = state_dir / "journal.head", state_dir / "journal.heads"
        self._last: Head | None = None

    def succeed(self, site: str, key: SecretKey) -> None:
        """Set the heads of the identity key before aside, under the signature of one that was just made. Repeatable.

        What lies there then is vouched for as it is: the key that could prove more is lost. So this is for an enrolment
        that makes a key, never for the daemon.

        Raises:
            StorageError: to be done again before the new key is used.
        """
        known = read_json(self._signer).get("key")
        if known == key.public.to_base64():
            return
        with named_errors():
            if known is not None:
                aside = self._folder / f"{_BEFORE}{PublicKey.from_base64(str(known)).fingerprint[:32]}.json"
                texts = [str(line) for line in read_json(aside).get("lines", [])]
                texts += [line.decode("ascii", "replace") for line in self._lines()]
                made = {"site": site, "key": known, "lines": list(dict.fromkeys(texts))}
                signature = base64.b64encode(key.sign(Purpose.JOURNAL, canonical_json(made))).decode("ascii")
                write_file(aside, canonical_json({**made, "signature": signature}))
                self._daily.unlink(missing_ok=True)
                self._newest.unlink(missing_ok=True)
                write_file(self._signer, canonical_json({"key": key.public.to_base64()}))

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
            if not self._signer.exists():
                write_file(self._signer, canonical_json({"key": key.public.to_base64()}))
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

    def _lines(self) -> list[bytes]:
        with named_errors():
            raw = [path.read_bytes() for path in (self._daily, self._newest) if path.exists()]
        return [line for text in raw for line in text.split(b"\n") if line]

    def _read(self, key: PublicKey) -> Iterator[Head]:
        """Every signed head, verified by the key of its time; of the daily ones a torn line is passed over."""
        signed = [(key, line) for line in self._lines()]
        vouched, before = [key], [read_json(path) for path in sorted(self._folder.glob(f"{_BEFORE}*.json"))]
        for by in vouched:  # it grows
            for one in [one for one in before if _is_vouched(one, by)]:
                before.remove(one)
                vouched.append(PublicKey.from_base64(str(one["key"])))
                signed += [(vouched[-1], str(line).encode()) for line in one["lines"]]
        if before:
            raise IntegrityError("journal.chain", "earlier heads of the journal are not vouched for by this site")
        for by, line in signed:
            if (head := _verified(line, by)) is not None:
                yield head


def _is_vouched(value: dict[str, Any], by: PublicKey) -> bool:
    """Whether a later identity key of this site has signed what an earlier one's heads were."""
    try:
        made = {name: value[name] for name in ("site", "key", "lines")}
        by.verify(Purpose.JOURNAL, canonical_json(made), base64.b64decode(value["signature"], validate=True))
        return isinstance(made["lines"], list)
    except (CorsiaError, ValueError, KeyError, TypeError):
        return False


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

"""A site's state as one file that only its recovery key opens, and back: `corsia edge backup | verify | restore`.

Place in the flow: beside the daemon. `edge.snapshot` takes one moment of the folder, `privacy.archive` seals it to the
recovery key and signs it by the site's identity. What is put back is on hold (`edge.hold`) until it agrees with the
centre's receipts. Nothing is decided here on what may leave.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from edge.hold import hold
from edge.journal import Journal
from edge.ledger import Ledger
from edge.snapshot import take
from edge.state import SiteState
from edge.storage import named_errors
from privacy.archive import Head, Member, opened, sealed
from privacy.envelope import PublicKey, SecretKey, read_key, read_public
from privacy.folders import in_memory, make_recovery_key, placed, staged
from protocol.errors import AuthenticationError, ConfigurationError, CorsiaError, IntegrityError

__all__ = ["Checked", "backup", "recovery_key", "restore", "verify"]

KIND = "edge"
RECOVERY = "recovery.pub"
_CHECKED = ("state.db", "ledger.db", "journal.jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a whole backup holds: `at` is when it was made (Unix seconds), heads are those of journal and ledger."""

    site: str
    at: float
    version: str
    files: int
    journal_lines: int
    ledger_rows: int
    parcels: int
    journal_head: str
    ledger_head: str


def recovery_key(state_dir: Path, out: Path) -> PublicKey:
    """Make the site's recovery key; see `privacy.folders.make_recovery_key`.

    Raises:
        AuthenticationError: `auth.not-enrolled`: there is no identity to sign backups.
        ConflictError: `conflict.exists`.
    """
    with named_errors():
        return make_recovery_key(out, state_dir / RECOVERY, _identity(state_dir).public)


def backup(site: str, state_dir: Path, out: Path) -> tuple[str, int]:
    """Back the state folder up, whether the daemon runs or not; `out` is whole or not there.

    Returns:
        SHA-256 (hex) of the file and how many files are in it.

    Raises:
        ConfigurationError: `config.missing` without a recovery key.
        AuthenticationError: `auth.not-enrolled`.
        ConflictError: `conflict.exists`; `conflict.running` while another backup is made; `conflict.state`.
        IntegrityError: `journal.chain`.
        StorageError: `storage.full`, `storage.failed`.
    """
    signer = _identity(state_dir)
    if not (state_dir / RECOVERY).is_file():
        raise ConfigurationError("config.missing", "no recovery key: make one by `corsia edge recovery-key --out K`")
    recipient = read_public(state_dir / RECOVERY)
    journal = Journal(state_dir / "journal.jsonl")  # first: of one that is damaged no backup verifies
    with named_errors(), staged(state_dir) as staging:
        take(state_dir, staging)
        head = Head(kind=KIND, name=site, at=round(time.time(), 3), version=version("corsia"))
        digest, files = sealed(staging, out, head, recipient=recipient, signer=signer)
    try:
        journal.append("backup.made", sha256=digest, count=files)
    except CorsiaError:
        out.unlink(missing_ok=True)
        raise
    return digest, files


def verify(source: Path, key: SecretKey, sender: PublicKey) -> Checked:
    """Open a backup and check every digest, the journal's and the ledger's chains; nothing is written to a disk.

    Raises:
        IntegrityError: `parcel.*`, `backup.format`, `journal.chain`.
        BudgetExceeded: `budget.ledger`.
        StorageError: `storage.failed`, also where this machine has no file system in memory.
    """
    with named_errors(), in_memory() as folder:

        def keep(name: str) -> Path | None:
            return folder / name if name in _CHECKED or name.startswith("spool/meta/") else None

        head, members = opened(source, kind=KIND, key=key, sender=sender, keep=keep)
        return _checked(folder, head, members)


def restore(source: Path, site: str, state_dir: Path, key: SecretKey, sender: PublicKey) -> Checked:
    """Put a backup back into an empty state folder, whole or not at all; the site is on hold then.

    Args:
        source: the backup.
        site: this site's configured name.
        state_dir: absent or empty.

    Raises:
        ConflictError: `conflict.exists` when something is there.
        AuthenticationError: `auth.certificate` for another site's backup.
        CorsiaError: as `verify`. In each case nothing was put there.
    """

    def fill(folder: Path) -> Checked:
        head, members = opened(source, kind=KIND, key=key, sender=sender, keep=lambda name: folder / name)
        if head.name != site:
            raise AuthenticationError("auth.certificate", f"this is a backup of another site than {site!r}")
        checked = _checked(folder, head, members)
        hold(folder, "restored", journal_head=checked.journal_head, ledger_head=checked.ledger_head)
        Journal(folder / "journal.jsonl").append(
            "backup.restored", count=checked.files, lines=checked.journal_lines, rows=checked.ledger_rows
        )
        return checked

    with named_errors():
        state_dir.parent.mkdir(parents=True, exist_ok=True)
        return placed(state_dir, fill)


def _identity(state_dir: Path) -> SecretKey:
    if not (state_dir / "identity.key").is_file():
        raise AuthenticationError("auth.not-enrolled")
    return read_key(state_dir / "identity.key")


def _checked(folder: Path, head: Head, members: list[Member]) -> Checked:
    """The chains of what was unpacked, and that each parcel is the one that was sealed."""
    names = {member.name: member for member in members}
    state = SiteState(folder / "state.db")
    try:
        journal = Journal(folder / "journal.jsonl", readonly=True)
        lines = journal.verify(state.fact("journal_head"))
        ledger = Ledger(folder / "ledger.db")
        try:
            rows, ledger_head = ledger.verify(state.fact("ledger_head")), ledger.head()
        finally:
            ledger.close()
    finally:
        state.close()
    parcels = [name for name in names if name.startswith("spool/") and name.endswith(".parcel")]
    for name in parcels:
        meta = folder / "spool" / "meta" / f"{Path(name).stem}.json"
        if not meta.is_file() or json.loads(meta.read_bytes()).get("digest") != names[name].sha256:
            raise IntegrityError("backup.format", "a parcel of the spool is not the one that was sealed")
    return Checked(
        site=head.name, at=head.at, version=head.version, files=len(members), journal_lines=lines, ledger_rows=rows,
        parcels=len(parcels), journal_head=journal.head(), ledger_head=ledger_head,
    )  # fmt: skip

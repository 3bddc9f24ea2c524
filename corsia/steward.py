"""What a steward does at a site, for the commands and for the site's page: find a study, decide, pause, resume.

Every act goes into the journal. Works whether the daemon runs or not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from corsia.cli.edge_status import paused_by_daemon
from protocol.errors import Paused, StudyRefused

if TYPE_CHECKING:
    from edge.config import EdgeConfig
    from edge.state import Record, SiteState

__all__ = ["decide", "find", "opened", "pause", "resume"]


@contextmanager
def opened(site: EdgeConfig) -> Iterator[SiteState]:
    """The site's state."""
    from edge.state import SiteState

    site.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = SiteState(site.state_dir / "state.db")
    try:
        yield state
    finally:
        state.close()


def find(state: SiteState, name: str) -> Record:
    """The newest received study of an id, a digest, or an unambiguous beginning of a digest.

    Raises:
        StudyRefused: `study.unknown`.
    """
    from protocol.study import parse_study

    found = []
    for record in state.studies():
        digest = record.assignment.study_digest
        if parse_study(record.assignment.document).id == name or (len(name) >= 8 and digest.startswith(name)):
            found.append(record)
    if not found:
        raise StudyRefused("study.unknown", f"no study {name!r} was received here")
    return found[-1]


def decide(site: EdgeConfig, name: str, verb: Literal["approve", "refuse"], digest: str = "") -> dict[str, Any]:
    """Approve a study for the code that is installed now, or refuse it.

    Args:
        digest: of the bytes that the steward has read; another study of the same name is not decided then.

    Returns:
        `{"study", "digest", "verdict", "was", "code_digest", "code_digest_before", "changed"}`.

    Raises:
        StudyRefused: `study.unknown`.
    """
    from edge.approvals import Approvals
    from edge.journal import Journal
    from edge.plugins import PluginCode
    from pipelines.registry import code_digest, code_manifest

    with opened(site) as state:
        read = find(state, digest or name).assignment.study_digest
        if digest and read != digest:
            raise StudyRefused("study.unknown")
        plugin = PluginCode(site, state)
        approvals = Approvals(state, code_digest, plugin.digest)
        before = approvals.look(read)
        now = code_manifest() | dict(plugin.manifest(read))
        changes = _changes(state, before.code_digest, approvals.code(read), now)
        made = approvals.approve(read) if verb == "approve" else approvals.refuse(read)
    log = Journal(site.state_dir / "journal.jsonl")
    event = "study.approved" if verb == "approve" else "study.refused"
    log.append(event, study=read, approver="steward", code_digest=made.code_digest)
    return {
        "study": name,
        "digest": read,
        "verdict": made.verdict.value,
        "was": before.verdict.value,
        "code_digest": made.code_digest,
        "code_digest_before": before.code_digest,
        "changed": changes,
    }


def _changes(state: SiteState, old_digest: str, digest: str, now: dict[str, str]) -> list[str]:
    """What changed in the installed code since a digest was approved; remembers the code that is installed now."""
    known = state.fact(f"code:{old_digest}") if old_digest else None
    state.set_fact(f"code:{digest}", json.dumps(now))
    if known is None:
        return []
    old = json.loads(known)
    changed = [f"changed {name}" for name in sorted(set(now) & set(old)) if now[name] != old[name]]
    added = [f"new {name}" for name in sorted(set(now) - set(old))]
    return changed + added + [f"gone {name}" for name in sorted(set(old) - set(now))]


def pause(site: EdgeConfig) -> None:
    """Stop all egress at once, until `resume`."""
    _set(site, True)


def resume(site: EdgeConfig, *, accept_log: bool = False) -> str:
    """Let egress go on; what the daemon had paused for by itself, if `accept_log` passed it.

    Raises:
        IntegrityError: `log.proof`, `log.witness` without `accept_log`.
        Paused: `paused.restored`.
    """
    reason = paused_by_daemon(site, accept_log)
    _set(site, False)
    return reason


def _set(site: EdgeConfig, paused: bool) -> None:
    from edge.hold import is_held
    from edge.journal import Journal
    from edge.site import is_paused, set_paused

    site.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    before = is_paused(site.state_dir)
    set_paused(site.state_dir, paused)
    if not paused and is_held(site.state_dir):
        raise Paused("paused.restored")
    if before != paused:
        Journal(site.state_dir / "journal.jsonl").append("egress.paused" if paused else "egress.resumed")

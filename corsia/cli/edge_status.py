"""What `corsia edge status` tells: read from the state folder, whether the daemon runs or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge.approvals import Approvals
    from edge.config import EdgeConfig
    from edge.state import Record

__all__ = ["paused_by_daemon", "site_status"]


def paused_by_daemon(site: EdgeConfig, accept_log: bool) -> str:
    """Why the daemon has paused by itself, before a steward resumes; empty when it has not.

    Args:
        accept_log: the steward's decision: what this site has seen of the centre's log is forgotten, and journalled.

    Raises:
        IntegrityError: `log.proof`, `log.witness` without that decision.
    """
    from edge.journal import Journal
    from edge.logview import forget
    from edge.site import paused_for
    from edge.state import SiteState
    from protocol.errors import IntegrityError

    reason = paused_for(site.state_dir)
    if not reason:
        return ""
    if not accept_log:
        folder = site.state_dir / "evidence"
        raise IntegrityError(reason, f"the daemon has paused: what it was shown is in {folder}; then: --accept-log")
    journal = Journal(site.state_dir / "journal.jsonl")
    state = SiteState(site.state_dir / "state.db")
    try:
        seen = forget(state, journal.count())
    finally:
        state.close()
    about = {"size": seen.size, "checkpoint": seen.root.hex()} if seen else {}
    journal.append("log.forgotten", code=reason, approver="steward", **about)
    return reason


def site_status(site: EdgeConfig) -> dict[str, Any]:
    """Enrolment, pause, studies, spool, heads, budgets; a part that is damaged gives its code."""
    from edge.approvals import Approvals
    from edge.hold import is_held
    from edge.identity import Identity
    from edge.journal import Journal
    from edge.ledger import Ledger
    from edge.plugins import PluginCode
    from edge.site import SKEW, is_paused, is_running, paused_for
    from edge.spool import Spool
    from edge.state import SiteState
    from edge.subjects import Subjects
    from pipelines.registry import code_digest
    from protocol.errors import CorsiaError

    value: dict[str, Any] = {
        "site": site.site,
        "running": is_running(site.state_dir),
        "paused": is_paused(site.state_dir),
        "restored": is_held(site.state_dir),
        "paused_for": paused_for(site.state_dir),
        "enrolled": False,
        "certificate_until": "",
        "fingerprint": "",
        "fleet": "",
    }
    try:
        identity = Identity.load(site.state_dir)
        value |= {
            "enrolled": True,
            "certificate_until": identity.not_after.isoformat(),
            "fingerprint": identity.key.public.fingerprint,
            "fleet": site.centre.fleet if site.centre else identity.fleet,
        }
    except CorsiaError as error:
        value["enrolment_code"] = error.code
    site.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = SiteState(site.state_dir / "state.db")
    approvals = Approvals(state, code_digest, PluginCode(site, state).digest)
    value["studies"] = [_study_line(record, approvals) for record in state.studies()]
    skew = state.fact(SKEW)
    value["clock_skew_s"] = None if skew is None else float(skew)
    value["log_size"] = int((state.fact("log_linked") or "0").partition(" ")[0])
    state.close()
    parcels, size = Spool(site.state_dir / "spool", site.limits.spool_bytes).usage()
    value |= {"spool_parcels": parcels, "spool_bytes": size}
    heads: dict[str, Callable[[], str]] = {
        "ledger": lambda: Ledger(site.state_dir / "ledger.db").head(),
        "journal": lambda: Journal(site.state_dir / "journal.jsonl", readonly=True).head(),
    }
    try:  # studies of which a withdrawal cannot be followed by person: nothing more of them leaves
        briefs = Subjects(site.state_dir / "subjects").briefs()
        value["unfollowed"] = [digest for digest, brief in briefs.items() if brief.unknown]
    except CorsiaError as error:
        value["unfollowed"], value["subjects_code"] = [], error.code
    for name, head in heads.items():
        try:
            value[f"{name}_head"] = head()
        except CorsiaError as error:
            value[f"{name}_head"], value[f"{name}_code"] = "", error.code
    value["budgets"] = [] if "ledger_code" in value else _budgets(site)
    return value


def _budgets(site: EdgeConfig) -> list[dict[str, Any]]:
    """What each dataset has spent and has left within 365 days; `unbounded` counts releases without noise."""
    import time

    from edge.ledger import YEAR_S, Ledger

    ledger, made = Ledger(site.state_dir / "ledger.db"), []
    for name, dataset in site.datasets.items():
        policy, total = dataset.policy, ledger.total(name, time.time() - YEAR_S)
        budget = ledger.year(name, policy.epsilon_per_year, policy.delta)
        made.append(
            {
                "dataset": name,
                "epsilon_spent": round(budget.used, 6),
                "epsilon_left": round(budget.remaining, 6),
                "epsilon_per_year": policy.epsilon_per_year,
                "delta": policy.delta,
                "unbounded": total.unbounded,
                "bytes_spent": total.bytes,
                "bytes_left": max(0, policy.max_bytes_per_year - total.bytes),
            }
        )
    ledger.close()
    return made


def _study_line(record: Record, approvals: Approvals) -> dict[str, Any]:
    from protocol.errors import CorsiaError
    from protocol.study import parse_study

    try:
        study = parse_study(record.assignment.document)
        name, lane = study.id, study.lane.value
    except CorsiaError:
        name, lane = "-", "-"
    return {
        "id": name,
        "lane": lane,
        "digest": record.assignment.study_digest,
        "state": record.state.value,
        "code": record.code,
        "error_id": record.error_id,
        "counts": record.counts,
        "approval": approvals.look(record.assignment.study_digest).verdict.value,
    }

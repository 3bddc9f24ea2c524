"""The way off hold without the centre: everything that may have left is counted as if it had.

Place in the flow: a steward whose site has no connection to the centre, or who does not believe it, after a restore.
Each dataset's year is spent, in bytes and in epsilon; studies under masks and further sums are refused as after
`edge.reconcile`. To go on before the year is over the steward raises the limits, and knows then what that means.
"""

from __future__ import annotations

import time

from edge.config import EdgeConfig
from edge.hold import is_held, release
from edge.journal import Journal
from edge.ledger import YEAR_S, Ledger
from edge.site import MEMORY_LOST, locked
from edge.state import SiteState
from edge.studies import parsed
from privacy.dp.accountant import gaussian, scale_for
from protocol.errors import ConflictError, CorsiaError
from protocol.study import Lane

__all__ = ["WRITTEN_OFF", "write_off"]

WRITTEN_OFF = "written-off"


def write_off(config: EdgeConfig) -> list[str]:
    """Spend what is left of every dataset's year, and release the hold; the datasets' names.

    Raises:
        ConflictError: `conflict.state` when there is no hold, `conflict.running` while the daemon runs.
        BudgetExceeded: `budget.ledger`.
        StorageError: the hold stays; do it again.
    """
    state_dir = config.state_dir
    if not is_held(state_dir):
        raise ConflictError("conflict.state", "this site is not on hold")
    with locked(state_dir):
        state, ledger = SiteState(state_dir / "state.db"), Ledger(state_dir / "ledger.db")
        try:
            ledger.verify(state.fact("ledger_head"))
            for name in config.datasets:
                _spend(config, ledger, name)
                state.set_fact(f"{MEMORY_LOST}{name}", WRITTEN_OFF)
            journal = Journal(state_dir / "journal.jsonl")
            _refuse_masked(state, journal)
            state.set_fact("ledger_head", ledger.head())
            journal.append("backup.written-off", count=len(config.datasets), ledger=ledger.head())
            release(state_dir)
        finally:
            ledger.close()
            state.close()
    return list(config.datasets)


def _spend(config: EdgeConfig, ledger: Ledger, name: str) -> None:
    policy, now = config.datasets[name].policy, time.time()
    left = max(0, policy.max_bytes_per_year - ledger.total(name, now - YEAR_S).bytes)
    ledger.reserve(
        f"{WRITTEN_OFF}/{name}/{int(now)}",
        name,
        WRITTEN_OFF,
        k=policy.min_k,
        cohort=policy.min_cohort,
        bytes=left,
        cost=gaussian(scale_for(policy.epsilon_per_year, policy.delta)),
        persons=0,
    )


def _refuse_masked(state: SiteState, journal: Journal) -> None:
    for record in state.studies(1 << 30):
        digest = record.assignment.study_digest
        try:
            study = parsed(record.assignment.document)
        except CorsiaError:
            continue  # it cannot run either
        if study.lane is Lane.TRAIN and study.privacy.secure_aggregation:
            state.set_approval(digest, "refused", WRITTEN_OFF, "")
            journal.append("study.refused", study=digest, approver=WRITTEN_OFF)

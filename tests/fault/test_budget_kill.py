"""A daemon that dies between reserve and release: what it had reserved counts as spent, once."""

from __future__ import annotations

import base64
import json
import signal
from pathlib import Path

import pytest

from edge.ledger import Ledger
from privacy.dp import accountant
from privacy.dp.budget import Budget
from protocol.errors import BudgetExceeded
from tests.agentkit import enrolled
from tests.fault.test_agent_kill import run
from tests.integration.test_agent_budget import DELTA, hospital, noised


@pytest.mark.parametrize("point", ["edge.reserved", "edge.spooled"])
def test_what_was_reserved_is_spent_once(tmp_path: Path, point: str) -> None:
    config = hospital(tmp_path, epsilon_per_year=0.6)
    office = enrolled(config)
    asked = office.submit(noised("one"))
    value = {
        "study": office.keys.study_key.to_bytes().hex(),
        "other": office.keys.other_key.to_bytes().hex(),
        "id": asked.id,
        "digest": asked.study_digest,
        "document": base64.b64encode(asked.document).decode(),
        "signature": base64.b64encode(asked.signature).decode(),
    }
    (tmp_path / "office.json").write_text(json.dumps(value))
    cost = accountant.gaussian(accountant.scale_for(0.5, DELTA))
    assert run(tmp_path, point)[0] == -signal.SIGKILL
    ledger = Ledger(config.state_dir / "ledger.db")
    (spend,) = ledger.spends()
    assert (spend.state, spend.cost) == ("reserved", cost)
    with pytest.raises(BudgetExceeded):
        Budget(epsilon=0.6, delta=DELTA, spent=ledger.total("cohort").cost).require(cost, "365 days")
    ledger.close()
    status, outcome = run(tmp_path, "")
    assert (status, outcome["state"], outcome["parcels"]) == (0, "done", 1)
    ledger = Ledger(config.state_dir / "ledger.db")
    assert ledger.verify() == 2
    assert ledger.total("cohort").cost == cost

"""A noised study from assignment to receipt, and the budget that refuses the next before any noise is drawn."""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from corsia.cli.edge_status import site_status
from edge.config import EdgeConfig
from edge.journal import Journal, Line
from edge.lane import LaneRun
from edge.ledger import Ledger
from pipelines import aggregate
from pipelines.features import pooling
from privacy.dp import accountant
from privacy.envelope import read_key
from protocol.assignment import State
from protocol.study import Study
from tests.agentkit import enrolled, running, site_config, study

DELTA = 1e-5
STATISTICS = [
    {"kind": "moments", "columns": ["score"], "by": {"column": "sex", "levels": ["F", "M"]}},
    {"kind": "histogram", "column": "time", "edges": [0, 10_000, 20_000]},
]


def noised(study_id: str, epsilon: float = 0.5, **parameters: Any) -> Study:
    given = {"statistics": STATISTICS, "bounds": {"score": [0, 200]}} | parameters
    return study(
        study_id,
        lane="extract",
        dataset={"name": "cohort", "columns": ["score", "sex", "time"]},
        pipeline={"name": "aggregate", "parameters": given},
        output={"columns": [{"name": name, "dtype": dtype} for name, dtype in aggregate.OUTPUT.items()]},
        privacy={"k": 2, "min_cohort": 5, "dp": "sample", "epsilon": epsilon, "delta": DELTA},
    )


def hospital(folder: Path, **policy: Any) -> EdgeConfig:
    given = {"pipelines": ["aggregate"], "allow_unbounded_epsilon": False, "delta": DELTA} | policy
    return site_config(folder, rows=800, **given)


def journal(config: EdgeConfig) -> list[Line]:
    return list(Journal(config.state_dir / "journal.jsonl", readonly=True).tail(200))


def events(config: EdgeConfig) -> list[str]:
    return [line.event for line in journal(config)]


def test_noised_sums_leave_and_the_ledger_holds_their_curve(tmp_path: Path) -> None:
    config = hospital(tmp_path)
    office = enrolled(config)
    with running(config, office):
        asked = office.submit(noised("one"))
        said = office.wait(asked)
    assert (said.state, said.code) == (State.DONE, "")
    (batch,) = office.opened(asked, read_key(config.state_dir / "identity.key"))
    assert batch.withheld == {}  # 100 have no consent: exact, so it is not told
    assert not any(name.startswith("withheld") for name in said.counts)
    assert [item.persons for item in batch.items] == [0, 0]
    table = aggregate.read(pd.read_parquet(BytesIO(batch.items[0].data)))
    found = pooling.moments(pooling.pool([table]))
    multiplier = accountant.scale_for(0.5, DELTA)
    spread = multiplier * math.sqrt(7)  # of one count: three blocks for the whole, three for the groups, one histogram
    assert abs(float(found.loc[("score", ""), "n"]) - 700) < 6 * spread
    assert abs(float(found.loc[("score", ""), "mean"]) - 57) < 20
    report = json.loads(batch.items[1].data)["noise"]
    assert (report["epsilon"], report["delta"], report["mechanism"]) == (0.5, DELTA, "discrete-gaussian")
    assert report["adjacency"] == "add-or-remove-one-patient"
    (spend,) = Ledger(config.state_dir / "ledger.db").spends()
    assert spend.cost == accountant.gaussian(multiplier)
    assert spend.state == "committed"
    seen = events(config)
    assert seen.count("ledger.reserved") == 1
    assert seen.index("ledger.reserved") < seen.index("parcel.planned")
    (line,) = [one for one in journal(config) if one.event == "ledger.reserved"]
    assert (line.fields["epsilon"], line.fields["epsilon_left"]) == (pytest.approx(0.5, rel=1e-5), pytest.approx(4.5))
    (budget,) = site_status(config)["budgets"]
    assert (budget["dataset"], budget["unbounded"]) == ("cohort", 0)
    assert budget["epsilon_spent"] == pytest.approx(0.5, rel=1e-5)
    assert budget["epsilon_left"] == pytest.approx(4.5)


def test_the_budget_refuses_before_any_noise_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = hospital(tmp_path, epsilon_per_year=0.6)
    office = enrolled(config)
    ran: list[str] = []
    run = LaneRun.run

    def spy(self: LaneRun, *args: Any) -> Any:
        ran.append(self.study.id)
        return run(self, *args)

    monkeypatch.setattr(LaneRun, "run", spy)
    with running(config, office):
        office.wait(office.submit(noised("one")), State.DONE)
        said = office.wait(office.submit(noised("two")))
        small = office.wait(office.submit(noised("three", epsilon=0.05)))
    assert (said.state, said.code) == (State.REFUSED, "budget.epsilon")
    assert (small.state, small.code) == (State.DONE, "")  # what still fits is answered
    assert ran == ["one", "three"]
    assert len(Ledger(config.state_dir / "ledger.db").spends()) == 2


def test_the_sites_epsilon_is_stricter_and_is_what_the_noise_is_made_for(tmp_path: Path) -> None:
    config = hospital(tmp_path, epsilon_per_study=0.2)
    office = enrolled(config)
    with running(config, office):
        asked = office.submit(noised("one", epsilon=3.0))
        office.wait(asked, State.DONE)
    (batch,) = office.opened(asked, read_key(config.state_dir / "identity.key"))
    assert json.loads(batch.items[1].data)["noise"]["epsilon"] == 0.2
    (spend,) = Ledger(config.state_dir / "ledger.db").spends()
    assert spend.cost is not None
    assert spend.cost.epsilon(DELTA) == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"bounds": {}}, "input.study"),
        ({"bounds": {"score": [3, 3]}}, "input.study"),
        ({"bounds": {"score": ["a", 3]}}, "input.study"),
    ],
)
def test_without_bounds_nothing_is_drawn_and_nothing_spent(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    config = hospital(tmp_path)
    office = enrolled(config)
    with running(config, office):
        said = office.wait(office.submit(noised("one", **changes)))
    assert said.code == code
    assert Ledger(config.state_dir / "ledger.db").spends() == []

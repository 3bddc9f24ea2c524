"""The ledger against a model of itself: totals are the model's, limits hold, the chain verifies after every step.

A disk that fails, or a process that dies, within a spend leaves it unspent: the ledger has told nobody that it is.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edge.ledger import GENESIS, Ledger
from privacy.dp import accountant
from protocol.errors import BudgetExceeded, ConflictError, StorageError
from tests.fault.seam import Mode, PowerCut, Seam

DELTA = 1e-6
COST = accountant.gaussian(accountant.scale_for(0.5, DELTA))
KEYS = st.sampled_from(["r/1", "r/2", "r/3", "r/4"])
SIZES = st.integers(0, 60)


@dataclass(frozen=True)
class Limits:
    max_bytes: int = 100
    max_bytes_per_year: int = 150
    epsilon: float | None = 0.8
    delta: float = DELTA
    epsilon_per_year: float = 1.0
    delta_per_year: float = DELTA


def study_of(key: str) -> str:
    return "s1" if key in ("r/1", "r/2") else "s2"


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.outer = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.folder = self.outer / "state"
        self.folder.mkdir()
        self.ledger = Ledger(self.folder / "ledger.db")
        self.spent: dict[str, int] = {}
        self.noised: set[str] = set()
        self.done: set[str] = set()
        self.heads = [GENESIS]
        self.struck = 0

    def teardown(self) -> None:
        self.ledger.close()
        shutil.rmtree(self.outer)

    @rule(key=st.sampled_from(["n/1", "n/2", "n/3", "n/4", "n/5"]))
    def reserve_noised(self, key: str) -> None:
        """Of no bytes, so that only epsilon decides."""
        study = "s1" if key < "n/4" else "s2"
        others = self.noised - {key}
        own = sum((k < "n/4") == (key < "n/4") for k in others)

        def call() -> None:
            self.ledger.reserve(key, "d", study, k=5, cohort=9, bytes=0, cost=COST, persons=3, limits=Limits())

        fits = COST.times(own + 1).epsilon(DELTA) <= 0.8 and COST.times(len(others) + 1).epsilon(DELTA) <= 1.0
        if key in self.noised or fits:
            call()
            self.noised.add(key)
        else:
            with pytest.raises(BudgetExceeded):
                call()

    @rule(key=st.sampled_from(["n/1", "n/4"]))
    def give_up(self, key: str) -> None:
        if key in self.noised:
            assert self.ledger.commit(key, 0).cost == COST

    @rule(key=KEYS, size=SIZES)
    def reserve(self, key: str, size: int) -> None:
        old = self.spent.get(key)
        more = size - (old or 0)
        study = sum(v for k, v in self.spent.items() if study_of(k) == study_of(key))
        over = study + more > 100 or sum(self.spent.values()) + more > 150

        def call() -> int:
            made = self.ledger.reserve(
                key, "d", study_of(key), k=5, cohort=9, bytes=size, cost=None, persons=3, limits=Limits()
            )
            return made.bytes

        if old is not None and more <= 0:
            assert call() == old
        elif key in self.done:
            with pytest.raises(ConflictError):
                call()
        elif over:
            with pytest.raises(BudgetExceeded):
                call()
        else:
            self.spent[key] = call()
            assert self.spent[key] == size

    @rule(key=KEYS, size=SIZES)
    def commit(self, key: str, size: int) -> None:
        if key not in self.spent or (key in self.done and size != self.spent[key]):
            with pytest.raises(ConflictError):
                self.ledger.commit(key, size)
        elif size > self.spent[key]:
            with pytest.raises(BudgetExceeded):
                self.ledger.commit(key, size)
        else:
            self.ledger.commit(key, size)
            self.spent[key] = size
            self.done.add(key)

    @rule(key=KEYS, commit=st.booleans(), at=st.integers(1, 2), how=st.sampled_from([Mode.CUT, Mode.FAIL, Mode.STUCK]))
    def goes_wrong(self, key: str, commit: bool, at: int, how: Mode) -> None:
        """At the row's statement or at the commit of its transaction."""
        self.ledger.close()
        with Seam(self.folder, at, how) as seam:
            self.ledger = Ledger(self.folder / "ledger.db")
            before = self.ledger.head()
            try:
                if commit:
                    self.ledger.commit(key, self.spent.get(key, 0))
                else:
                    size = self.spent.get(key, 0) + 1
                    self.ledger.reserve(key, "d", study_of(key), k=5, cohort=9, bytes=size, cost=None, persons=3,
                                        limits=Limits())  # fmt: skip
            except (StorageError, PowerCut, BudgetExceeded, ConflictError):
                pass
            else:  # what changes nothing comes through
                assert not [step for step in seam.steps if step.startswith("insert")]
            assert self.ledger.head() == before
        self.struck += bool(seam.struck)
        seam.heal()  # else the same process goes on
        if how is Mode.CUT:
            self.restart()

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.folder / "ledger.db")

    @invariant()
    def adds_up(self) -> None:
        total = self.ledger.total("d")
        assert (total.bytes, total.releases, total.unbounded) == (
            sum(self.spent.values()),
            len(self.spent) + len(self.noised),
            len(self.spent),
        )
        assert total.cost.epsilon(DELTA) == pytest.approx(COST.times(len(self.noised)).epsilon(DELTA))
        assert total.cost.epsilon(DELTA) <= 1.0 + 1e-9
        assert total.bytes <= 150
        kept = self.ledger._caught_up()  # the running sums are those of all rows read anew
        assert kept.since("d", 0.0) == total.bytes
        assert kept.spends("d") == self.ledger._spends("d", 0.0, None)
        for study in ("s1", "s2"):
            assert kept.of_study("d", study) == self.ledger.total("d", study=study).bytes
        head = self.ledger.head()
        if head != self.heads[-1]:
            self.heads.append(head)
        for seen in self.heads:
            self.ledger.verify(remembered=seen)


@pytest.mark.parametrize("how", [Mode.CUT, Mode.FAIL, Mode.STUCK])
def test_each_fault_of_the_machine_happens(how: Mode) -> None:
    """Hypothesis may come by all of them; here they are, at both steps of both acts, with something spent before."""
    machine = LedgerMachine()
    machine.reserve("r/1", 10)
    for number, (commit, at) in enumerate([(False, 1), (False, 2), (True, 1), (True, 2)], 1):
        machine.goes_wrong("r/1", commit, at, how)
        assert machine.struck == number
        machine.adds_up()
    machine.commit("r/1", 9)
    machine.adds_up()
    assert machine.ledger.total("d").bytes == 9
    machine.teardown()


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)

"""A centre that turned against its hospitals, over real mutual TLS, and one agent process that outlives all of it.

The centre holds every key that a centre has: its CA, the study-signing key, the run key, the log key.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from edge.config import EdgeConfig, load
from edge.pause import paused_for, set_paused
from privacy.envelope import SecretKey
from privacy.transparency import Tree
from protocol.assignment import Assignment, AssignmentKind, RoundPhase, SiteReport, State
from protocol.errors import UnavailableError
from protocol.study import Study
from protocol.v1 import fleet_pb2 as pb
from tests.agentkit import Office, site_config, study
from tests.e2e.hostile.bridge import Bridge, agent, listening
from tests.gatewaykit import eventually
from tests.integration.test_agent_training import evaluate_message, prepare_message, training_study

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@dataclass
class Place:
    """One hospital, and the centre that it must not trust."""

    config: EdgeConfig
    bridge: Bridge
    process: subprocess.Popen[bytes]

    @property
    def office(self) -> Office:
        return self.bridge.office

    def word(self, made: Assignment, timeout_s: float = 180) -> SiteReport:
        return self.office.wait(made, timeout_s=timeout_s)

    def log(self) -> str:
        return (self.config.state_dir / "log.jsonl").read_text()

    def alive(self) -> None:
        """The daemon did not die over it, nor was it started again."""
        assert self.process.poll() is None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("hostile")
    site_config(folder, max_model_bytes=1 << 20)
    path = folder / "edge.toml"
    value = tomllib.loads(path.read_text())
    held = json.loads(json.dumps(value["datasets"]["cohort"]))
    value["datasets"]["held"] = held | {"policy": held["policy"] | {"approve": "manual"}}
    path.write_text(tomli_w.dumps(value))
    config = load(path)
    with listening(config) as bridge, agent(path) as process:
        eventually(lambda: bridge.streams or process.poll() is not None, 180)
        yield Place(config, bridge, process)


@pytest.fixture(scope="module")
def trained(place: Place) -> tuple[Study, Assignment]:
    """A training study whose rows are loaded; its rounds can begin."""
    asked = training_study("hostile-training")
    made = place.office.submit(asked)
    assert place.word(made).state is State.DONE
    return asked, made


def test_what_policy_forbids_is_refused_by_its_rule(place: Place) -> None:
    name = [{"name": "name", "dtype": "string"}]
    asked: dict[str, dict[str, Any]] = {
        "policy.purpose": {"purpose": "marketing"},
        "policy.dataset": {"dataset": {"name": "another", "columns": ["age"]}},
        "policy.columns": {"dataset": {"name": "cohort", "columns": ["name"]}, "output": {"columns": name}},
        "policy.pipeline": {"pipeline": {"name": "harvest", "version": "99"}},
        "study.expired": {"expires": datetime.now(UTC) - timedelta(seconds=1)},
        "permission.site": {"sites": ["site-b"]},
    }
    made = {code: place.office.submit(study(f"asks-{n}", **changes)) for n, (code, changes) in enumerate(asked.items())}
    for code, one in made.items():
        assert place.word(one).code == code
    assert place.office.parcels == {}
    place.alive()


def test_a_study_that_the_study_signing_key_did_not_sign(place: Place) -> None:
    """The gateway's own inventions: another signature, a recipient swapped under a good one, another digest."""
    office = place.office
    forged = office.submit(study("forged"), sign=SecretKey.generate())
    assert place.word(forged).code == "study.signature"
    good = office.submit(study("swapped"))
    mine, thief = office.vault.public.to_base64().encode(), SecretKey.generate().public.to_base64().encode()
    document = good.document.replace(mine, thief)
    assert document != good.document
    swapped = replace(good, id="e" * 32, document=document, study_digest=hashlib.sha256(document).hexdigest())
    office.assign(swapped)
    assert place.word(swapped).code == "study.signature"
    office.assign(relabelled := replace(swapped, id="d" * 32, study_digest=good.study_digest))
    assert place.word(relabelled).code in ("study.signature", "study.replay")
    assert place.word(good).state is State.DONE
    (batch,) = office.opened(good, _identity(place))
    assert batch.items
    place.alive()


def test_other_recipients_under_an_approved_id_need_approval_again(place: Place) -> None:
    """The steward approved these bytes; the study-signing key itself signs others."""
    office, held = place.office, {"dataset": {"name": "held", "columns": ["age", "score"]}}
    first = office.submit(study("recipients", **held))
    office.wait(first, State.PENDING)
    done = subprocess.run(
        [sys.executable, "-m", "corsia", "edge", "approve", "recipients", "--config",
         str(place.config.state_dir.parent / "edge.toml")],
        capture_output=True, text=True, timeout=180, env=os.environ, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert place.word(first).state is State.DONE
    before, kept = dict(office.parcels), office.vault
    office.vault = SecretKey.generate()
    try:
        second = office.submit(study("recipients", **held))
    finally:
        office.vault = kept
    assert office.wait(second, State.PENDING).code == "approval.pending"
    assert office.parcels == before


def test_a_round_is_answered_once_and_by_its_run_key_alone(place: Place, trained: tuple[Study, Assignment]) -> None:
    office, (asked, made) = place.office, trained
    message = prepare_message(asked)
    assert place.word(office.instruct(made, message, signer=SecretKey.generate())).code == "study.signature"
    assert place.word(office.instruct(made, message, site="site-b")).code == "study.replay"
    first = office.instruct(made, message)
    assert place.word(first).state is State.DONE
    answers = len(office.parcels)
    for changed in ({"id": "a" * 32}, {"id": "b" * 32, "deadline": time.time() + 61}):
        assert place.word(office.instruct(made, message, **changed)).code == "study.replay"
    beyond = office.instruct(made, message, round=99, phase=RoundPhase.TRAIN)
    assert place.word(beyond).code == "study.rounds"
    assert len(office.parcels) == answers
    place.alive()


def test_a_poisoned_model(place: Place, trained: tuple[Study, Assignment]) -> None:
    """Malformed, other than signed, larger than the site takes, endless, and full of NaN: no answer to any of them."""
    office, (asked, made) = place.office, trained
    answers, at = len(office.parcels), {"round": 1, "phase": RoundPhase.TRAIN}
    huge = office.instruct(made, b"x", message_size=1 << 40, attempt=0, **at)
    assert place.word(huge).code == "policy.model-size"
    garbage = office.instruct(made, os.urandom(4096), attempt=1, **at)
    assert place.word(garbage).code in ("input.message", "worker.failed", "gate.update")
    place.bridge.fetched = lambda _digest: iter([os.urandom(512)])
    try:
        other = office.instruct(made, os.urandom(512), attempt=2, **at)
        assert place.word(other).code == "blob.digest"
        place.bridge.fetched = lambda _digest: (b"\0" * (1 << 20) for _ in range(1 << 20))
        endless = office.instruct(made, os.urandom(513), attempt=3, **at)
        assert place.word(endless).code in ("blob.digest", "input.message")
    finally:
        place.bridge.fetched = None
    poisoned = office.instruct(made, _with_nan(evaluate_message(asked)), attempt=4, **at)
    said = place.word(poisoned)
    assert said.state in (State.REFUSED, State.FAILED)
    assert said.code == "input.diverged"
    assert len(office.parcels) == answers
    place.alive()


def test_assignments_that_are_no_assignments(place: Place) -> None:
    """Each pushed at the head of a stream, which the site gives up; the honest one behind them still arrives."""
    kind = pb.ASSIGNMENT_KIND_STUDY
    bad = [
        pb.Assignment(id="../../etc/passwd", kind=kind, study_digest="ab" * 32, document=b"x", signature=b"y"),
        pb.Assignment(id="a", kind=kind, study_digest="zz", document=b"x", signature=b"y"),
        pb.Assignment(id="b", kind=kind, study_digest="ab" * 32, document=b"x" * (1 << 20), signature=b"y"),
        pb.Assignment(id="c", kind=99, study_digest="ab" * 32),  # type: ignore[arg-type]
    ]
    from edge.messages import assignment_of
    from protocol.errors import InputError

    for one in bad:
        with pytest.raises(InputError):
            assignment_of(one)
    before, known = len(place.bridge.streams), place.log().count("watch.failed")
    place.bridge.pushed = list(bad)
    place.bridge.streams[-1].closed.set()
    until = time.monotonic() + 180
    while len(place.bridge.streams) <= before + len(bad):
        assert time.monotonic() < until, "it did not come back after each of them"
        time.sleep(0.1)
    assert place.bridge.pushed == []
    assert place.log().count("watch.failed") - known >= len(bad)
    deep = b"a." * 20_000 + b"a = 1\n"  # TOML that would take gigabytes
    digest = hashlib.sha256(deep).hexdigest()
    bomb = Assignment(
        id="f" * 32, kind=AssignmentKind.STUDY, study_digest=digest, document=deep,
        signature=place.office.keys.study_key.sign(b"corsia/v1/study", deep),
    )  # fmt: skip
    place.office.assign(bomb)
    assert place.word(bomb).code == "input.study"
    assert place.word(place.office.submit(study("after-the-bomb"))).state is State.DONE
    with Path(f"/proc/{place.process.pid}/status").open() as status:
        (peak,) = (int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    assert peak < 1_500_000, "kB at the most, ever"


def test_a_receipt_of_a_forked_log_is_not_believed(place: Place) -> None:
    """The parcel stays in the spool: without a proof nothing is deleted."""
    office = place.office
    spool = place.config.state_dir / "spool"
    honest, thief = office.keys.other_key, SecretKey.generate()
    assert "log.proof" not in place.log(), "else it is no sign of what follows"
    silent = threading.Event()

    def unanswered() -> None:
        silent.set()
        raise UnavailableError("unavailable.centre")

    office.fail["report"] = unanswered  # else a heartbeat finds it before anything is sent, one that is under way too
    assert silent.wait(60)
    kept, office.tree = office.tree, Tree()
    office.keys.other_key = thief  # another log key than the one pinned
    try:
        made = office.submit(study("forked"))
        until = time.monotonic() + 180
        while paused_for(place.config.state_dir) != "log.proof":
            assert time.monotonic() < until
            time.sleep(0.1)
        held = [path for name in ("new", "sending", "bad") for path in (spool / name).glob("*.parcel")]
        assert held, "it was deleted on a false receipt"
        assert office.state(made) is None or office.state(made).state is not State.DONE  # type: ignore[union-attr]
    finally:
        office.keys.other_key, office.tree = honest, kept
        del office.fail["report"]
    set_paused(place.config.state_dir, False)  # what the steward decides
    place.alive()


def _identity(place: Place) -> SecretKey:
    from privacy.envelope import read_key

    return read_key(place.config.state_dir / "identity.key")


def _with_nan(raw: bytes) -> bytes:
    import numpy as np

    from pipelines import flower

    read = flower.message_from_bytes(raw)
    poisoned = {
        name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array
        for name, array in flower.arrays_of(read.content[flower.ARRAYS]).items()
    }
    content = flower.RecordDict({**read.content, flower.ARRAYS: flower.array_record(poisoned)})
    return flower.message_to_bytes(flower.Message(content, 1, "train", group_id="1"), run_id=1, message_id="p1")

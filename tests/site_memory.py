"""A site's way of one training round in a process of its own, for its memory: message, worker, gate, seal, spool.

`python -m tests.site_memory FOLDER HIDDEN...` prints one line of JSON, all in KiB but `model_bytes`: the agent's
resident set before and its high-water mark after the round, and the worker's before and after. The worker is the real
one: a tabular network on 40 rows, one local step.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any


def memory(field: str, process: int | str = "self") -> int:
    return int(re.findall(rf"{field}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[0])


class _Source:
    def __init__(self, table: Any) -> None:
        self._table = table

    def table(self) -> Any:
        return self._table

    def files(self) -> Any:
        return iter(())

    def documents(self, _kind: str) -> Any:
        return iter(())


def instruction(study: Any, path: Path) -> int:
    """Write a round's message to a file, in another process than the one measured; the model's bytes."""
    from central.federation.flower import identify
    from corsia.bench_sites import invented
    from pipelines.flower import ARRAYS, CONFIG, Message, RecordDict, array_record, config_record, message_parts
    from pipelines.train import PREPROCESSING, load

    identify(1)
    data = load(study, "site-00", invented("site-00"))
    sums = data.learner.sums(data.rows, 1)
    preprocessing = data.learner.agree(sums)
    model = data.learner.initial(sums, preprocessing)
    config = config_record(1, data.learner.update(model), attempt=0)
    content = {ARRAYS: array_record(model), CONFIG: config, PREPROCESSING: array_record(preprocessing)}
    made = Message(RecordDict(content), 1, "train", group_id="1")
    with path.open("wb") as target:
        for part in message_parts(made, run_id=1, message_id="m"):
            target.write(part)
    return sum(value.nbytes for value in model.values())


def main(folder: Path, hidden: tuple[int, ...]) -> dict[str, int]:
    from corsia.bench_sites import invented, study_of
    from edge.config import Limits
    from edge.entry import ParcelMeta
    from edge.spool import Spool
    from edge.updates import answer_bound, check_update
    from edge.worker import Worker
    from pipelines import Job
    from privacy.envelope import ParcelInfo, SecretKey, new_parcel_id, seal
    from protocol.assignment import RoundInstruction, RoundPhase
    from protocol.parcel import Batch, pack_batch

    study = study_of(["site-00"], hidden, {"local_steps": 1})
    path = folder / "message"
    asking = [sys.executable, "-m", "tests.site_memory", str(folder), "message", *map(str, hidden)]
    model_bytes = int(subprocess.run(asking, check=True, capture_output=True).stdout)
    worker = Worker(Limits(), folder / "work")
    worker.start_training(Job(study=study, site="site-00", key=bytes(32)), _Source(invented("site-00")))
    assert worker._child is not None
    spool, key = Spool(folder / "spool", 10**10), SecretKey.generate()
    asked = RoundInstruction(
        run="r", study_digest="0" * 64, site="site-00", round=1, phase=RoundPhase.TRAIN, attempt=0,
        message="0" * 64, message_size=path.stat().st_size, deadline=0.0,
    )  # fmt: skip
    import pipelines.replies  # noqa: F401 - an agent has loaded it before the first round

    before, child = memory("VmRSS"), memory("VmRSS", worker._child.pid)
    message = path.read_bytes()
    reply = worker.handle(message, answer_bound(message))
    worker_peak = memory("VmHWM", worker._child.pid)

    class Effective:
        min_cohort = 1
        site_metrics = False

    item, _ = check_update(study, Effective(), asked, message, reply)  # type: ignore[arg-type]
    batch = Batch(batch_id="b" * 32, study_digest="0" * 64, site="site-00", part=0, last=True, items=(item,))
    meta = ParcelMeta(parcel_id=new_parcel_id(), assignment_id="a", study_digest="0" * 64, content_type="update")
    info = ParcelInfo(parcel_id=meta.parcel_id, study="0" * 64, site="site-00", content_type="update")
    spool.hold(meta, lambda target: seal(pack_batch(batch), target, info=info, recipients=[key.public], signer=key))
    worker.close()
    return {
        "model_bytes": model_bytes, "agent_kib": before, "agent_peak_kib": memory("VmHWM"), "worker_kib": child,
        "worker_peak_kib": worker_peak,
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[2] == "message":
        from corsia.bench_sites import study_of

        layers = tuple(int(n) for n in sys.argv[3:])
        size = instruction(study_of(["site-00"], layers, {"local_steps": 1}), Path(sys.argv[1]) / "message")
        sys.stdout.write(f"{size}\n")
    else:
        sys.stdout.write(json.dumps(main(Path(sys.argv[1]), tuple(int(n) for n in sys.argv[2:]))) + "\n")

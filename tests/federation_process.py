"""The federation process of the fault tests: the real loop and publisher; the signer's two answers made here.

`python -m tests.federation_process STATE_DIR MLFLOW_URI STUDY_ID` ends when the study is closed. With further
arguments, each a value of `CORSIA_FAULTS`, one process after the other dies where it is told, forked off this one,
which has imported all that they need; the last lives to the end. Prints what they died of as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

from central.federation.keys import RunKeys
from central.federation.publish import Publisher
from central.federation.runs import Federation
from central.registry import Registry
from central.store import Store
from privacy.envelope import SecretKey
from protocol.trust import Purpose

STUDY_KEY = SecretKey.from_bytes(b"\x07" * 32)
PUBLICATION_KEY = SecretKey.from_bytes(b"\x08" * 32)


def federation(root: Path, uri: str, stop: threading.Event) -> Federation:
    store = Store(root)
    publisher = Publisher(
        store=store,
        registry=Registry(uri),
        sign=lambda _digest, manifest: PUBLICATION_KEY.sign(Purpose.MANIFEST, manifest.encode()),
    )
    return Federation(
        store, root / "landing", RunKeys(root / "federation" / "keys"), publisher, lambda: STUDY_KEY.public, stop
    )


def one_after_the_other(root: Path, uri: str, study: str, faults: list[str]) -> list[int]:
    import mlflow  # noqa: F401 - warm, as are flwr and torch by what was imported above

    import pipelines.learners.survival  # noqa: F401

    ends = []
    for fault in [*faults, ""]:
        child = os.fork()
        if child == 0:
            os.environ["CORSIA_FAULTS"] = fault
            federation(root, uri, threading.Event()).attend(study)
            os._exit(0)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    return ends


if __name__ == "__main__":
    where, store, study_id, *told = sys.argv[1:]
    if told:
        sys.stdout.write(json.dumps(one_after_the_other(Path(where), store, study_id, told)) + "\n")
    else:
        federation(Path(where), store, threading.Event()).attend(study_id)

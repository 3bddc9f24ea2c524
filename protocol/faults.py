"""Named points at which a fault test kills the process.

`point(name)` does nothing unless `CORSIA_FAULTS` names it: `edge.spooled=/path/marker,...`. The first process
that reaches the point makes the marker and dies by SIGKILL; later ones pass, so that a restart goes on. With
`federation.collected#3=...` it dies when it is there for the third time: in every phase and step of a round alike.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

__all__ = ["POINTS", "point"]

POINTS: dict[str, str] = {
    "edge.accepted": "a study is stored at the site, nothing ran",
    "edge.reserved": "the ledger holds the spend, nothing is sealed",
    "edge.drawn": "a training answer is noised, nothing of it is on the disk",
    "edge.kept": "a noised training answer is kept, nothing is sealed",
    "edge.sealing": "a parcel is half sealed in the spool's temporary file",
    "edge.spooled": "a parcel is durable in the spool, nothing sent",
    "edge.delivering": "part of a parcel is sent",
    "edge.receipt": "the centre has committed, the site has not journalled the receipt",
    "source.files": "records pulled from a place at the hospital are on the disk, nothing knows them",
    "source.page": "a page of records is kept and marked, the next is not begun",
    "source.tidied": "a file of records is written anew, the old one is still the known one",
    "edge.withdrawn": "a withdrawal is in the spool, the site does not know that it is told",
    "gateway.chunk": "part of a parcel is on the gateway's disk",
    "gateway.commit": "the parcel is renamed into the landing zone, the database knows nothing",
    "gateway.committed": "database and log hold the parcel, the receipt is not sent",
    "vault.opened": "a parcel is open in memory, the lake has nothing",
    "vault.written": "the lake has the files, the database knows nothing",
    "erasure.begun": "the database says that a study is erased, its keys and data are there",
    "erasure.keys": "the study's keys are destroyed, its data are there",
    "erasure.parcels": "its landed parcels are removed, the lake or the run's blobs are there",
    "erasure.files": "all of its data are removed, the log knows nothing",
    "withdrawal.noted": "who withdrew is kept in the lake, the curated rows are there",
    "withdrawal.rewritten": "the lake has the batch with and without the rows, the database knows the first",
    "withdrawal.swept": "the rows are gone, the log knows nothing",
    "federation.instructed": "the instructions of a phase, or of a step of its masks, are out, no answer collected",
    "federation.collected": "the answers to them are in, nothing is made of them",
    "federation.checkpoint": "a phase's checkpoint is durable, the next phase is not begun",
    "federation.heeded": "an operator's new wish has been read, nothing is done about it",
    "federation.paused": "the run says that it is paused, or that it goes on again",
    "federation.ended": "the rounds are over, their model is not published",
    "federation.publish": "MLflow has the model, the manifest is not stored",
}

_reached: Counter[str] = Counter()


def point(name: str) -> None:
    """Die here, once, if the environment asks for it."""
    spec = os.environ.get("CORSIA_FAULTS")
    if not spec:
        return
    if name not in POINTS:
        raise AssertionError(f"unknown fault point {name!r}")
    _reached[name] += 1
    for entry in spec.split(","):
        key, _, marker = entry.partition("=")
        if key == name or key == f"{name}#{_reached[name]}":
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

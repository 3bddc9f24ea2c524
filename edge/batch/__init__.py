"""Where a site's heavy work runs: in a process of this machine, or on a node of the hospital's own cluster.

One interface for all: a worker is two pipes (`edge.worker`), and a *batch engine* is a command that gives two pipes.
For a cluster the command is `near.py`: it has Slurm or HTCondor start `far.py` on a node, which starts the very same
confined worker there, and everything between the two is sealed under a key of this one job (`channel.py`): rows of
patients cross the cluster's network as ciphertext. Policy, gate, ledger, spool and keys stay with the daemon.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.config import EdgeConfig
    from protocol.study import Lane

__all__ = ["command"]


def command(config: EdgeConfig, lane: Lane) -> list[str]:
    """How a worker for this lane is started; empty: as always, on this machine."""
    batch = config.batch
    if batch.engine == "local" or lane not in batch.lanes:
        return []
    said = batch.model_dump(mode="json", exclude={"lanes"}) | {"threads": config.limits.worker_threads}
    return [sys.executable, "-I", "-W", "ignore", "-m", "edge.batch.near", json.dumps(said)]

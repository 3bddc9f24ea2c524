"""The federation process of the fault tests: the real loop and publisher; the signer's two answers made here.

`python -m tests.federation_process STATE_DIR MLFLOW_URI STUDY_ID` ends when the study is closed.
"""

from __future__ import annotations

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


if __name__ == "__main__":
    federation(Path(sys.argv[1]), sys.argv[2], threading.Event()).attend(sys.argv[3])

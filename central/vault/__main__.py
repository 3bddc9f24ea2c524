"""`python -m central.vault --config central.toml`: the vault process. A unix socket, no network listener."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from central import ipc
from central.config import CentralConfig, enter_process
from central.operators import Operators
from central.store import Store
from central.trusted import SignerKeys
from central.vault.analysis import Analysis
from central.vault.compute import compute_of
from central.vault.exports import Exports
from central.vault.keys import StudyKeys
from central.vault.lake import Lake
from central.vault.opening import Opener
from central.vault.service import handlers, pack
from protocol.errors import ConflictError, CorsiaError

__all__ = ["main"]

log = logging.getLogger("central.vault")


def main() -> int:
    """Run until SIGTERM; what is under way is finished or safe to begin again."""
    try:
        _run(*enter_process("vault"))
    except CorsiaError as error:
        sys.stderr.write(f"error [{error.code}]: {error.message}\n")
        return error.exit_status
    return 0


def _run(config: CentralConfig, stop: threading.Event) -> None:
    root = config.state_dir / "vault"
    root.mkdir(exist_ok=True, mode=0o700)
    with _alone(root / "lock"):
        store = Store(config.state_dir)
        keys, lake = StudyKeys(root / "keys"), Lake.of(root)
        keys.recover()
        log.info("vault.start", extra={"fields": {"count": lake.recover()}})
        signer = SignerKeys(config.socket("signer"))
        landing = config.state_dir / "landing"
        compute = compute_of(config.compute)
        opener = Opener(
            store, landing=landing, state=root, keys=keys, lake=lake, study_key=signer.study_key, compute=compute
        )
        analysis = Analysis(store, lake, signer.publication_key, compute)
        exports = Exports(store, keys, Operators(config), analysis.table, pack, root / "exports")
        worker = threading.Thread(target=opener.run, args=(stop,), name="opener")
        worker.start()
        try:
            ipc.serve(config.socket("vault"), handlers(keys, analysis) | exports.handlers, stop)
        finally:
            stop.set()
            worker.join()
            compute.close()
    log.info("vault.stop")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError("conflict.running", "another vault holds this state folder") from None
        yield
    finally:
        os.close(lock)


if __name__ == "__main__":
    sys.exit(main())

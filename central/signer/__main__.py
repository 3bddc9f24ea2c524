"""`python -m central.signer --config central.toml`."""

from __future__ import annotations

import sys

from central import ipc
from central.config import enter_process
from central.signer import Signer
from protocol.errors import CorsiaError

__all__ = ["main"]


def main() -> int:
    """Answer on signer.sock until SIGTERM."""
    try:
        config, stop = enter_process("signer")
        with ipc.sole(config.state_dir / "signer" / "signer.lock"):
            ipc.serve(config.socket("signer"), Signer(config).handlers, stop)
    except CorsiaError as error:
        sys.stderr.write(f"error [{error.code}]: {error.message}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The vault's part of the wall's benchmark: opens each parcel as soon as it has landed, in memory, and removes it.

`python -m corsia.bench_wall_open KEY SENDER LANDING`: the study's key file, the site's identity as base64, the folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from privacy.envelope import PublicKey, read_key, unseal_into
from protocol.heap import keep_buffers

__all__ = ["main"]

_POLL_S = 0.002


class _Counted:
    """Takes bytes and keeps their number."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, data: memoryview) -> int:
        self.size += len(data)
        return len(data)


def main() -> int:
    """For each command: open parcels until so many bytes have come out, then say so."""
    keep_buffers()
    key, sender, landing = read_key(sys.argv[1]), PublicKey.from_base64(sys.argv[2]), Path(sys.argv[3])
    for line in sys.stdin:
        total, target = int(json.loads(line)["total"]), _Counted()
        while target.size < total:
            names = [entry.name for entry in os.scandir(landing) if entry.name.endswith(".parcel")]
            for name in names:
                with (landing / name).open("rb") as source:
                    unseal_into(source, target, key=key, sender=sender)  # type: ignore[arg-type]
                (landing / name).unlink()
            if not names:
                time.sleep(_POLL_S)
        sys.stdout.write(json.dumps({"bytes": target.size}) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())

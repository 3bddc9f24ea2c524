"""`python -m central.scorer`: one model, one table, one answer, by pipe. See `central.web.inference`.

In: manifest (JSON), weights (safetensors), rows (Parquet), each after its length as 8 bytes big-endian. Out: Parquet.
A refusal is one JSON line on standard error, and exit status 1. The parent has verified the manifest.
"""

from __future__ import annotations

import io
import json
import struct
import sys

from protocol.errors import CorsiaError
from protocol.process import guard

__all__ = ["main"]

_LENGTH = struct.Struct(">Q")


def main() -> int:
    """Read, score, write."""
    guard()
    import pandas as pd

    from pipelines.infer import Manifest, Scorer

    source = sys.stdin.buffer
    value, weights, rows = (source.read(_LENGTH.unpack(source.read(_LENGTH.size))[0]) for _ in range(3))
    try:
        scorer = Scorer(Manifest(value=json.loads(value), signature=b""), weights)
        # Without threads: Arrow's may be at work still when Python ends, and abort the process ("terminate called").
        scored = scorer.predict(pd.read_parquet(io.BytesIO(rows), use_threads=False))
    except CorsiaError as error:
        sys.stderr.write("\n" + json.dumps({"code": error.code, "message": error.message}) + "\n")
        return 1
    sink = io.BytesIO()
    scored.to_parquet(sink, index=False)
    sys.stdout.buffer.write(sink.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())

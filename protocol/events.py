"""Logs as JSON lines with allow-listed fields, so that nothing identifying can slip in by carelessness.

`log.info("parcel.landed", extra={"fields": {"parcel": parcel_id, "size_bytes": n}})`: the message is an event name,
the fields are ids, codes and numbers. Unknown fields and free text are dropped; tracebacks keep types and lines only.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

__all__ = ["FIELDS", "JsonFormatter", "configure"]

FIELDS = frozenset(
    "assignment attempt bytes code count counts dataset digest duration_s error error_id event files host "
    "index kind lane metric model offset parcel parcels part paused persons phase pid port process "
    "protocol records round rows rule run serial sequence sha256 site size size_bytes spool_bytes "
    "spool_parcels state status study version withheld".split()
)
_EVENT = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")
_WORD = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/+@ -]{0,127}$")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, process, event, fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; anything that is not an event name becomes `log.text`, its text dropped."""
        event = record.msg if isinstance(record.msg, str) and _EVENT.match(record.msg) else "log.text"
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "event": event,
        }
        fields = getattr(record, "fields", {})
        line.update({k: _safe(v) for k, v in fields.items() if k in FIELDS})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["at"] = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(record.exc_info[2])[-6:]]
        return json.dumps(line, sort_keys=True)


def configure(process: str, path: Path | None = None, level: int = logging.INFO) -> None:
    """Send all logging of this process to `path` (appended, mode 0600) or to stderr, as JSON lines."""
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handler = logging.FileHandler(path)
        path.chmod(0o600)
    handler.setFormatter(JsonFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)


def _safe(value: Any) -> Any:
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, dict):
        return {str(k)[:64]: _safe(v) for k, v in value.items() if isinstance(v, bool | int | float)}
    text = str(value)
    return text if _WORD.match(text) else "-"

"""The logs' allow-list: nothing but event names, ids, codes and numbers."""

from __future__ import annotations

import json
import logging

from protocol.events import JsonFormatter

CANARY = "Bardellini Rossana"


def line(message: object, **extra: object) -> dict[str, object]:
    record = logging.LogRecord("x", logging.INFO, "f.py", 1, message, None, None)
    record.fields = extra  # type: ignore[attr-defined]
    return dict(json.loads(JsonFormatter("test").format(record)))


def test_known_fields_pass() -> None:
    assert line("parcel.landed", parcel="ab12", size=7, counts={"rows": 3})["size"] == 7


def test_free_text_unknown_fields_and_long_values_are_dropped() -> None:
    assert CANARY not in json.dumps(line(f"could not read {CANARY}"))
    assert CANARY not in json.dumps(line("job.failed", patient=CANARY))
    assert CANARY not in json.dumps(line("job.failed", code=f"{CANARY}\n{CANARY}"))
    assert CANARY not in json.dumps(line("job.failed", counts={"a": CANARY}))


def test_a_traceback_keeps_types_and_lines_only() -> None:
    import sys

    try:
        raise ValueError(CANARY)
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f.py", 1, "job.failed", None, sys.exc_info())
    text = JsonFormatter("test").format(record)
    assert "ValueError" in text
    assert CANARY not in text

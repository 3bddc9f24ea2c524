"""Write docs/errors.md from the error tree: `python docs/errors.py`; a test checks that it is current."""

from __future__ import annotations

from pathlib import Path

from protocol.errors import CODES

HEAD = """# Errors

Every failure has a stable code, an exit status by *what the operator does next*, and a hint. With `--json` the
last line of stdout is `{"error": {"code", "message", "hint"}}`. What leaves a hospital is the code and an opaque
id, never the message. Made by `python docs/errors.py`.

Exit status 0 is success, 2 wrong usage (code `usage`), 130 interrupted.

| code | exit | class | meaning | what to do |
|---|---|---|---|---|
"""


def render() -> str:
    """The whole page."""
    rows = [
        f"| `{code}` | {entry.error.exit_status} | {entry.error.__name__} | {entry.summary} | {entry.hint} |"
        for code, entry in CODES.items()
    ]
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(render())

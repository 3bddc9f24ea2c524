"""Carries out docs/quickstart.md as two people would, each in a folder of its own, and says what it took.

    python -m tests.e2e.quickstart PAGE FOLDER

Run inside a network namespace (the page uses the default ports); the environment of each seat's commands is in
FOLDER/centre.json and FOLDER/hospital.json. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

STANDING = re.compile(r"corsia (central serve|edge run)\b")  # what runs until it is stopped
READY = {"central serve": "ready:", "edge run": "running"}


@dataclass
class Seat:
    """One person's terminal windows: a folder, an environment, what runs in it, and the most memory that took."""

    folder: Path
    env: dict[str, str]
    peak_bytes: int = 0
    spent_s: float = 0.0
    standing: list[subprocess.Popen[str]] = field(default_factory=list)
    under_way: list[int] = field(default_factory=list)

    def carry_out(self, block: str) -> str:
        started, found = time.monotonic(), STANDING.search(block)
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", f"exec {block.strip()}" if found else block],
            cwd=self.folder, env=self.env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.under_way.append(process.pid)
        assert process.stdout is not None
        if found:
            self.standing.append(process)
            said = ""
            while READY[found[1]] not in said:
                line = process.stdout.readline()
                if not line:
                    raise SystemExit(f"{block}\n{said}")
                said += line
        else:
            said, _ = process.communicate()
            if process.returncode != 0:
                raise SystemExit(f"{block}\n{said}")
        self.spent_s += time.monotonic() - started
        return said

    def watch(self) -> None:
        """Resident bytes of all that this seat runs now."""
        total = 0
        for pid in list(self.under_way):
            try:
                root = psutil.Process(pid)
                total += sum(p.memory_info().rss for p in (root, *root.children(recursive=True)))
            except psutil.NoSuchProcess:
                continue
        self.peak_bytes = max(self.peak_bytes, total)

    def stop(self) -> None:
        for process in reversed(self.standing):
            process.terminate()
        for process in self.standing:
            process.wait(120)


def blocks(page: str) -> list[tuple[str, str]]:
    """(seat, commands) of each block marked bash, by the heading above it."""
    found, seat = [], ""
    for heading, block in re.findall(r"^##+ ([^\n]*)$|^```bash\n(.*?)^```", page, re.M | re.S):
        if heading:
            seat = "hospital" if "hospital" in heading else "centre" if "centre" in heading else seat
        elif block:
            found.append((seat, block))
    return found


def main() -> None:
    """Do it."""
    page, folder = Path(sys.argv[1]).read_text(), Path(sys.argv[2])
    seats = {
        name: Seat(folder / name, os.environ | json.loads((folder / f"{name}.json").read_text()))
        for name in ("centre", "hospital")
    }
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            for seat in seats.values():
                seat.watch()

    threading.Thread(target=look, daemon=True).start()
    steps, said = [], ""
    try:
        for name, block in blocks(page):
            said = seats[name].carry_out(block)
            if "central invite" in block:
                seats["hospital"].env["JOIN_CODE"] = said.strip()
            steps.append([name, block.strip().splitlines()[-1]])
    finally:
        for seat in reversed(list(seats.values())):
            seat.stop()
        over.set()
    value = {name: {"seconds": round(s.spent_s, 1), "peak_mb": round(s.peak_bytes / 1e6)} for name, s in seats.items()}
    print(json.dumps(value | {"steps": steps, "last": said}))  # noqa: T201


if __name__ == "__main__":
    main()

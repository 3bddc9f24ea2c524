"""The guards of a process: what they set, and that every way into the product sets them."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_LOOK = (
    "import ctypes, os, resource;"
    "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE), oct(os.umask(0)))"
)


def test_a_guarded_process_leaves_no_core_and_its_files_to_nobody(tmp_path: Path) -> None:
    """Its child inherits limit and umask; that it is not dumpable each process says for itself."""
    code = f"from protocol.process import guard; guard(); {_LOOK}; {_LOOK.replace('oct(os.umask(0))', '0')}"
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.umask(0o022); {code}"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[0] == "0 0 0 0o77"
    died = subprocess.run(
        [sys.executable, "-c", f"from protocol.process import guard; guard(); import os; os.chdir({str(tmp_path)!r});"
         f"import resource; resource.getrlimit(4); os.kill(os.getpid(), {int(signal.SIGABRT)})"],
        cwd=ROOT, check=False,
    )  # fmt: skip
    assert died.returncode == -signal.SIGABRT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", sorted(
    p for folder in ("central", "edge", "corsia", "pipelines") for p in (ROOT / folder).rglob("*.py")
    if "__name__ == \"__main__\"" in p.read_text() and "bench" not in p.name
), ids=lambda p: str(p.relative_to(ROOT)))  # fmt: skip
def test_every_entry_is_guarded(path: Path) -> None:
    """A module that runs as a process enters by one of the four that set the guards, before all else."""
    text = path.read_text()
    assert re.search(r"\b(guard|enter_process|confine)\(|from edge.confined import main|cli import main", text)

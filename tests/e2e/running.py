"""One demo for all end-to-end tests, in a network namespace of its own where the kernel allows it.

There only loopback exists: any attempt to reach elsewhere fails, and the demo must not notice.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.outcome import outcome

_ROOT = os.geteuid() == 0
_PREFIX = [
    "unshare",
    "--net",
    *([] if _ROOT else ["--map-root-user"]),
    "sh",
    "-c",
    'ip link set lo up && exec "$@"',
    "sh",
]


def isolated() -> list[str]:
    """The command prefix that leaves nothing but loopback, or a skip."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("no iproute2: sudo apt-get install -y --no-install-recommends iproute2")
    if subprocess.run([*_PREFIX, "true"], capture_output=True).returncode != 0:
        pytest.skip("no network namespaces: this kernel does not allow unprivileged ones")
    return _PREFIX


@dataclass(frozen=True)
class Demo:
    """A finished demo that still runs."""

    out: Path
    summary: dict[str, Any]
    url: str
    process: subprocess.Popen[str]
    outcome: dict[str, Any]

    def entering(self) -> list[str]:
        """The command prefix that enters the demo's network namespace."""
        user = [] if _ROOT else ["--preserve-credentials", "--user"]
        return ["nsenter", *user, "--net", "--target", str(self.process.pid)]

    def inside(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the demo's network namespace."""
        return subprocess.run(
            [*self.entering(), *command], env=os.environ | env, capture_output=True, text=True, timeout=900
        )


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    out = tmp_path_factory.mktemp("demo") / "out"
    prefix = isolated()
    stderr = out.parent / "stderr.txt"
    aside = {name: out.parent / name.lower() for name in ("TMPDIR", "HOME")}  # what processes put there is searched too
    for folder in aside.values():
        folder.mkdir()
    with stderr.open("w") as errors:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "corsia", "demo", "--sites", "3", "--out", str(out), "--keep", "--json"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env=os.environ | {name: str(folder) for name, folder in aside.items()},
        )
    try:
        ready = out / "demo.json"
        while not ready.exists():  # the demo ends by itself when nothing comes forward any more
            if process.poll() is not None:
                pytest.fail(f"the demo did not finish:\n{stderr.read_text()[-4000:]}")
            time.sleep(0.2)
        summary = json.loads(ready.read_text())
        yield Demo(out, summary["summary"], summary["url"], process, outcome(out, summary["summary"]))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

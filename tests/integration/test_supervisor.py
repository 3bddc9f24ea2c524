"""The supervisor with real processes: ready line, kill -9, SIGTERM; and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from central import ipc
from central.config import CentralConfig, load_config
from central.supervisor import environment
from corsia.cli.init_central import init_central
from protocol.errors import UnavailableError
from tests.gatewaykit import at_free_ports, draft, eventually

# Signer and gateway alone: the others have tests of their own, and start slowly.
_RUN = """
import json, sys
from pathlib import Path
from central.supervisor import Supervisor
Supervisor(Path(sys.argv[1]), on_ready=lambda c: print(json.dumps({"ready": True}), flush=True),
           processes=("signer", "gateway")).run()
"""


def pid(config: CentralConfig, name: str) -> int:
    try:
        return int(ipc.call(config.socket(name), "ping", timeout_s=1.0)["pid"])
    except UnavailableError:
        return 0


def running(config: CentralConfig, name: str) -> int:
    """The id of a process, which may be too busy to say it at once; never 0, which to `kill` is our own group."""
    return int(eventually(lambda: pid(config, name), 60))


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def config(tmp_path: Path) -> CentralConfig:
    path = tmp_path / "central.toml"
    init_central(path, as_json=True)
    at_free_ports(path)
    return load_config(path)


@pytest.fixture
def supervisor(config: CentralConfig) -> Iterator[subprocess.Popen[str]]:
    path = config.state_dir.parent / "central.toml"
    process = subprocess.Popen([sys.executable, "-c", _RUN, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == {"ready": True}
    yield process
    if process.poll() is None:
        process.terminate()
        process.wait(60)
    process.stdout.close()


def test_no_proxy_stands_between_this_machine_and_itself() -> None:
    made = environment({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "intranet.example, localhost"})
    assert made["NO_PROXY"] == made["no_proxy"] == "intranet.example,localhost,127.0.0.1,::1"
    assert made["HTTP_PROXY"] == "http://proxy:3128"
    assert made["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment({})["no_proxy"] == "127.0.0.1,localhost,::1"


def test_a_killed_child_is_back(config: CentralConfig, supervisor: subprocess.Popen[str]) -> None:
    for name in ("gateway", "signer"):
        old = running(config, name)
        os.kill(old, signal.SIGKILL)
        eventually(lambda n=name, o=old: pid(config, n) not in (0, o), 60)
    assert supervisor.poll() is None
    for name in ("signer", "gateway"):
        for line in (config.state_dir / "logs" / f"{name}.jsonl").read_text().splitlines():
            assert json.loads(line)["process"] == name


def test_sigterm_ends_all(config: CentralConfig, supervisor: subprocess.Popen[str]) -> None:
    children = [running(config, name) for name in ("signer", "gateway")]
    supervisor.terminate()
    assert supervisor.wait(60) == 0
    assert not any(alive(child) for child in children)


def test_kill_of_the_supervisor_leaves_no_child(config: CentralConfig, supervisor: subprocess.Popen[str]) -> None:
    children = [running(config, name) for name in ("signer", "gateway")]
    supervisor.kill()
    supervisor.wait(60)
    eventually(lambda: not any(alive(child) for child in children), 60)


def test_a_second_supervisor_is_refused(config: CentralConfig, supervisor: subprocess.Popen[str]) -> None:
    command = [
        sys.executable,
        "-m",
        "corsia",
        "central",
        "serve",
        "--config",
        str(config.state_dir.parent / "central.toml"),
    ]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=180)
    assert done.returncode == 24
    assert json.loads(done.stdout.splitlines()[-1])["error"]["code"] == "conflict.running"


def cli(config: CentralConfig, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "corsia", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=config.state_dir.parent)


def test_the_command_line(config: CentralConfig, supervisor: subprocess.Popen[str]) -> None:
    folder = config.state_dir.parent
    code = cli(config, "central", "invite", "site-a")
    assert code.returncode == 0
    assert code.stdout.startswith("corsia1-")
    assert code.stdout.count("\n") == 1
    value = json.loads(cli(config, "central", "invite", "site-a", "--json").stdout)
    assert set(value) == {"site", "code"}
    (folder / "study.toml").write_text(draft())
    valid = json.loads(cli(config, "study", "validate", "study.toml", "--json").stdout)
    assert (valid["id"], valid["valid"]) == ("lung", True)
    done = cli(config, "study", "submit", "study.toml", "--config", "central.toml", "--json")
    assert done.returncode == 13  # site-a is not enrolled
    assert json.loads(done.stdout)["error"]["code"] == "permission.site"
    (folder / "bad.toml").write_text("lane = 3")
    bad = cli(config, "study", "validate", "bad.toml")
    assert bad.returncode == 11
    assert "input.study" in bad.stderr
    assert cli(config, "study", "show", "none", "--config", "central.toml").returncode == 16
    assert json.loads(cli(config, "study", "ls", "--config", "central.toml", "--json").stdout) == {"studies": []}
    status = json.loads(cli(config, "central", "status", "--json").stdout)
    assert status["processes"]["gateway"] is True
    assert status["processes"]["vault"] is False
    assert cli(config, "central", "revoke", "site-q").returncode == 24
    url = cli(config, "study", "ls", "--url", "http://127.0.0.1:9", "--token-file", str(config.token_path), "--json")
    assert url.returncode == 21

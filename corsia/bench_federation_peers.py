"""Other federations on this machine with the same small app, for `corsia bench federation`: what a round takes there.

The app is a logistic regression of four weights on 60 invented rows a site, one step a round, then an evaluation.
Flower runs as it comes: SuperLink and SuperNodes of the installed version, without TLS, telemetry off, dependency
installation off. NVFLARE runs in an environment of its own (`benchmarks/federation-peers.sh`) in its simulator. Each in
a process group of its own that is ended as a whole. Figures are the peer's own clock: from one round's end to the next.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from corsia.bench_consortium import percentile
from corsia.fleet import free_port

__all__ = ["flower", "nvflare"]

_FLOWER_PROJECT = """
[project]
name = "small"
version = "1.0.0"
dependencies = []
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "small:server"
clientapp = "small:client"
[tool.flwr.app.config]
rounds = 3
sites = 3
ends = "ends.json"
"""
_FLOWER_APP = """
import json, time
import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()
random = np.random.default_rng(7)
x = random.normal(size=(60, 4))
y = (x.sum(axis=1) > 0).astype(float)

def weights(message):
    return message.content["arrays"]["w"].numpy()

@client.train()
def train(message: Message, context: Context) -> Message:
    w = weights(message)
    w = w - 0.05 * x.T @ (1 / (1 + np.exp(-x @ w)) - y) / len(y)
    content = {"arrays": ArrayRecord({"w": Array(w)}), "metrics": MetricRecord({"num-examples": len(y)})}
    return Message(RecordDict(content), reply_to=message)

@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    right = float(((x @ weights(message) > 0) == (y > 0)).mean())
    content = {"metrics": MetricRecord({"accuracy": right, "num-examples": len(y)})}
    return Message(RecordDict(content), reply_to=message)

@server.main()
def main(grid: Grid, context: Context) -> None:
    config, ends = context.run_config, []
    def ended(number, arrays):
        ends.append(time.time())
        with open(config["ends"], "w") as target:
            json.dump(ends, target)
    n = int(config["sites"])
    strategy = FedAvg(min_train_nodes=n, min_evaluate_nodes=n, min_available_nodes=n)
    start = ArrayRecord({"w": Array(np.zeros(4))})
    strategy.start(grid, start, num_rounds=int(config["rounds"]), evaluate_fn=ended)
"""
_NVFLARE_CLIENT = """
import json, sys, time
import numpy as np
import nvflare.client as flare
from nvflare.app_common.abstract.fl_model import FLModel

random = np.random.default_rng(7)
x = random.normal(size=(60, 4))
y = (x.sum(axis=1) > 0).astype(float)
flare.init()
first, ends = flare.get_site_name() == "site-1", []
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    if first:
        ends.append(time.time())
        with open(sys.argv[1], "w") as target:
            json.dump(ends, target)
    (key, given), = model.params.items()  # NVFLARE's own small model, 3 x 3: four of its nine numbers are used
    made = np.array(given, dtype=np.float64)
    w = made.reshape(-1)[:4]
    right = float(((x @ w > 0) == (y > 0)).mean())
    w -= 0.05 * x.T @ (1 / (1 + np.exp(-x @ w)) - y) / len(y)
    flare.send(FLModel(params={key: made}, metrics={"accuracy": right}, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
"""
_NVFLARE_JOB = """
import sys
from nvflare.app_common.np.np_model_persistor import NPModelPersistor
from nvflare.app_common.workflows.fedavg import FedAvg
from nvflare.job_config.api import FedJob
from nvflare.job_config.script_runner import FrameworkType, ScriptRunner

script, ends, sites, rounds, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
job = FedJob(name="small", min_clients=sites)
job.to_server(NPModelPersistor(), id="persistor")
job.to_server(FedAvg(num_clients=sites, num_rounds=rounds))
runner = {"script": script, "script_args": ends, "framework": FrameworkType.NUMPY}
for number in range(sites):
    job.to(ScriptRunner(**runner), f"site-{number + 1}")
job.simulator_run(folder)
"""
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "DO_NOT_TRACK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}  # fmt: skip
Figures = dict[str, Any]


def flower(folder: Path, *, sites: int = 3, rounds: int = 3, timeout_s: float = 300.0) -> Figures:
    """Stock Flower: one SuperLink, so many SuperNodes, `flwr run`; `round_s` or `null` with a `reason`."""
    home, app, ends = folder / "home", folder / "app", folder / "ends.json"
    app.mkdir(parents=True)
    home.mkdir()
    (app / "pyproject.toml").write_text(_FLOWER_PROJECT)
    (app / "small.py").write_text(_FLOWER_APP)
    port = free_port()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    scripts, environment = Path(sys.executable).parent, {"FLWR_HOME": str(home), "PATH": _path()}
    where = ["--insecure", "--isolation", "subprocess"]
    link = [str(scripts / "flower-superlink"), *where, "--port", str(port), "--disable-runtime-dependency-installation"]
    with _group(folder, "superlink", link, environment):
        _listening(port)
        nodes = [
            _group(
                folder, f"supernode-{number}",
                [str(scripts / "flower-supernode"), *where, "--superlink", f"127.0.0.1:{port}", "--port",
                 str(free_port())],
                environment,
            )
            for number in range(sites)
        ]  # fmt: skip
        return _with(nodes, lambda: _flower_run(folder, app, ends, sites, rounds, timeout_s, environment))


def _flower_run(
    folder: Path, app: Path, ends: Path, sites: int, rounds: int, timeout_s: float, environment: Mapping[str, str]
) -> Figures:
    settings = f'rounds={rounds} sites={sites} ends="{ends}"'
    run = [str(Path(sys.executable).parent / "flwr"), "run", str(app), "bench", "--run-config", settings]
    for _ in range(5):  # its own patience with a SuperLink that has just started is short
        with _group(folder, "run", run, environment) as child:
            if child.wait(120) == 0:
                break
        time.sleep(2.0)
    found = _ends(ends, rounds + 1, timeout_s)
    return {"version": version("flwr"), "sites": sites, **_figures(found, folder)}


def nvflare(folder: Path, peers: Path | None, *, sites: int = 3, rounds: int = 6, timeout_s: float = 300.0) -> Figures:
    """NVFLARE's simulator in its own environment; `round_s` or `null` with a `reason`."""
    python = None if peers is None else peers / "nvflare" / "bin" / "python"
    if python is None or not python.exists():
        return {"round_s": None, "reason": "not there: benchmarks/federation-peers.sh makes its environment"}
    folder.mkdir(parents=True)
    script, job, ends = folder / "client.py", folder / "job.py", folder / "ends.json"
    script.write_text(_NVFLARE_CLIENT)
    job.write_text(_NVFLARE_JOB)
    command = [str(python.absolute()), str(job), str(script), str(ends), str(sites), str(rounds), str(folder / "work")]
    with _group(folder, "nvflare", command, {"PATH": os.environ.get("PATH", "")}):
        found = _ends(ends, rounds, timeout_s)
    asked = [str(python), "-c", "import importlib.metadata as m; print(m.version('nvflare'))"]
    found_version = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {"version": found_version, "sites": sites, **_figures(found, folder)}


def _figures(ends: list[float], folder: Path) -> Figures:
    """The first round starts processes and is left out."""
    rounds = [b - a for a, b in pairwise(ends)][1:]
    if not rounds:
        return {"round_s": None, "reason": f"did not come through a round in time; see {folder}"}
    return {"round_s": round(median(rounds), 3), "p90_s": round(percentile(rounds, 0.9), 3), "rounds": len(rounds)}


def _ends(path: Path, count: int, timeout_s: float) -> list[float]:
    """What the peer has noted, when it is all there or the time is over."""
    until = time.monotonic() + timeout_s
    found: list[float] = []
    while len(found) < count and time.monotonic() < until:
        time.sleep(0.5)
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):  # not yet, or half written
            continue
    return [float(end) for end in found]


def _listening(port: int, timeout_s: float = 60.0) -> None:
    """Wait until something answers there."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)


def _with(contexts: list[Any], action: Any) -> Figures:
    from contextlib import ExitStack

    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        made: Figures = action()
        return made


@contextmanager
def _group(
    folder: Path, name: str, command: list[str], environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, ended with all of its group."""
    kept = {k: v for k, v in os.environ.items() if "proxy" not in k.lower() and k != "PYTHONPATH"}
    with (folder / f"{name}.out").open("wb") as output:
        child = subprocess.Popen(
            command, env={**kept, **_QUIET, **environment}, cwd=folder, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            yield child
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(child.pid, number)
                except ProcessLookupError:
                    break
                time.sleep(1.0)
            child.wait()


def _path() -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"

"""Workers on a cluster: the same lane over sealed pipes, on a real Slurm, and by what a pool would be told."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edge.batch import command
from edge.batch.channel import LIFE_S, Reader, Writer, between
from edge.batch.config import BatchConfig
from edge.batch.engines import Settings, _dialled, condor_submit_text, far_command, srun_command
from edge.batch.near import _key_file
from edge.config import EdgeConfig
from protocol.errors import ConfigurationError, IntegrityError
from protocol.study import Lane

ROOT = Path(__file__).parents[2]
SLURM = "no Slurm: sudo apt-get install -y --no-install-recommends slurm-wlm munge iproute2"
KEY = b"k" * 32


def sent(*chunks: bytes) -> bytes:
    """What a writer makes of them."""
    here, there = socket.socketpair()
    with here, there:
        writer = Writer(here.fileno(), KEY, 0)
        for chunk in chunks:
            writer.write(chunk)
        here.shutdown(socket.SHUT_WR)
        parts = b""
        while part := there.recv(1 << 16):
            parts += part
        return parts


def read(raw: bytes, key: bytes = KEY, direction: int = 0) -> list[bytes]:
    inward, outward = os.pipe()
    os.write(outward, raw)
    os.close(outward)
    reader, found = Reader(inward, key, direction), []
    try:
        while (data := reader.read()) is not None:
            found.append(data)
    finally:
        os.close(inward)
    return found


def test_what_is_carried_is_sealed_and_in_order() -> None:
    raw = sent(b"rows of Bardellini", b"", b"more")
    assert b"Bardellini" not in raw
    assert read(raw) == [b"rows of Bardellini", b"", b"more"]
    first = 4 + 16 + 1 + 18
    for wrong in (raw[first:], raw[:first] * 2, raw[:-1], raw[:10] + bytes([raw[10] ^ 1]) + raw[11:],
                  b"\xff\xff\xff\xff" + raw[4:], b"\0\0\0\x01x"):  # fmt: skip
        with pytest.raises(IntegrityError):
            read(wrong)
    for key, direction in ((b"x" * 32, 0), (KEY, 1)):
        with pytest.raises(IntegrityError):
            read(raw, key, direction)


def test_both_directions_are_carried_until_one_end_goes() -> None:
    left, right = socket.socketpair()
    mine_in, to_mine = os.pipe()
    from_mine, mine_out = os.pipe()
    theirs_in, to_theirs = os.pipe()
    from_theirs, theirs_out = os.pipe()
    ends = [
        threading.Thread(target=between, args=(a, b, Writer(s.fileno(), KEY, d), Reader(s.fileno(), KEY, 1 - d), end))
        for a, b, s, d, end in (
            (mine_in, mine_out, left, 0, lambda: left.shutdown(socket.SHUT_RDWR)),
            (theirs_in, theirs_out, right, 1, lambda: os.close(theirs_out)),
        )
    ]
    for end in ends:
        end.start()
    large = os.urandom(3 << 20)
    back = threading.Thread(target=lambda: os.write(to_theirs, b"answer"))
    pushing = threading.Thread(
        target=lambda: [os.write(to_mine, large[i : i + 65536]) for i in range(0, 3 << 20, 65536)]
    )
    back.start()
    pushing.start()
    got = b""
    while len(got) < len(large):
        got += os.read(from_theirs, 1 << 20)
    assert got == large
    assert os.read(from_mine, 100) == b"answer"
    os.close(to_mine)  # the daemon's side ends: so does the node's
    assert os.read(from_theirs, 1) == b""
    os.close(to_theirs)
    for end in ends:
        end.join(4 * LIFE_S)
        assert not end.is_alive()
    left.close()
    right.close()


def test_a_nodes_end_does_not_go_before_all_that_it_said_has_come() -> None:
    """A cluster that ends a job throws away what its pipes still hold: the daemon's end hangs up first."""
    here, there = socket.socketpair()
    plain_in, from_worker = os.pipe()
    to_worker, plain_out = os.pipe()
    gone = threading.Event()
    writer, reader = Writer(there.fileno(), KEY, 1), Reader(there.fileno(), KEY, 0)
    node = threading.Thread(target=between, args=(plain_in, plain_out, writer, reader, gone.set))
    node.start()
    os.write(from_worker, b"done")
    os.close(from_worker)  # the worker has ended
    coming = Reader(here.fileno(), KEY, 1)
    assert coming.read() == b"done"
    assert coming.read() is None
    assert not gone.wait(0.5)
    here.shutdown(socket.SHUT_RDWR)
    assert gone.wait(4 * LIFE_S)
    node.join(4 * LIFE_S)
    for end in (here, there):
        end.close()
    os.close(to_worker)


def test_only_who_holds_the_jobs_key_is_taken_for_the_node() -> None:
    """A scanner of the hospital's network that dials first, and one that says something, end nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listening:
        for said in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\x10" + bytes(16)):
            with socket.create_connection(listening.getsockname()) as stranger:
                stranger.sendall(said)
        with socket.create_connection(listening.getsockname()) as node:
            writer = Writer(node.fileno(), KEY, 1)
            writer.write(b"")
            writer.write(b"hello")
            connection, reader = _dialled(listening, KEY)
            with connection:
                assert reader.read() == b"hello"


def test_a_key_is_not_laid_where_others_can_reach(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    with pytest.raises(ConfigurationError), _key_file(tmp_path, KEY):
        pass
    tmp_path.chmod(0o700)
    with _key_file(tmp_path, KEY) as path:
        assert path.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.iterdir())


def site(**batch: Any) -> EdgeConfig:
    return EdgeConfig.model_validate({"site": "site-a", "batch": batch})


def test_a_lane_goes_where_the_site_says() -> None:
    assert command(site(), Lane.EXTRACT) == []
    there = site(engine="slurm", shared="/shared/corsia", lanes=["extract"])
    assert command(there, Lane.TRAIN) == []
    assert "edge.batch.near" in command(there, Lane.EXTRACT)
    for wrong in ({"engine": "slurm"}, {"engine": "slurm", "shared": "here"},
                  {"engine": "htcondor", "shared": "/s"}, {"engine": "pbs"},
                  {"engine": "slurm", "shared": "/s", "partition": "a b"},
                  {"engine": "htcondor", "shared": "/s", "listen": "h:1", "options": ["queue"]}):  # fmt: skip
        with pytest.raises(ValidationError):
            BatchConfig.model_validate(wrong)


def settings(**more: Any) -> Settings:
    return Settings(shared="/s", cpus=4, time_limit_s=7200.0, threads=2, **more)


def test_srun_gets_no_environment_of_the_daemon_and_what_the_site_set() -> None:
    plan = settings(engine="slurm", partition="edge", options=("--gres=gpu:1",))
    words = srun_command(plan, far_command(plan, Path("/s/k"), 2 << 30), 2 << 30)
    for word in ("--export=NONE", "--cpus-per-task=4", "--mem=2560M", "--time=120", "--partition=edge", "--gres=gpu:1"):
        assert word in words
    assert words.index("--gres=gpu:1") < words.index(sys.executable)
    assert not any(word.startswith("--account") for word in words)


def test_a_pool_would_be_told_so() -> None:
    """The submit description is one that HTCondor's own bindings read, and its expressions are ClassAds."""
    classad2 = pytest.importorskip("classad2", reason="no htcondor bindings")
    htcondor2 = pytest.importorskip("htcondor2", reason="no htcondor bindings")
    pytest.importorskip("dask_jobqueue", reason="no dask-jobqueue")
    plan = settings(engine="htcondor", listen="10.0.0.1:0", options=('requirements=(OpSysAndVer == "Debian12")',))
    text = condor_submit_text(plan, far_command(plan, Path("/s/k"), 2 << 30, "10.0.0.1:5555"), 2 << 30)
    submit = htcondor2.Submit(text)
    assert submit["getenv"] == "False"
    assert submit["Executable"] == "/bin/sh"
    assert submit["Arguments"].endswith("edge.batch.far /s/k 2147483648 2 10.0.0.1:5555'\"")
    job = classad2.ClassAd()
    for name in ("DaskWorkerCores", "DaskWorkerMemory", "DaskWorkerDisk"):
        job[name] = int(submit[f"MY.{name}"])
    job["JobCurrentStartDate"] = 1000
    job["RequestCpus"] = classad2.ExprTree(submit["RequestCpus"])
    job["RequestMemory"] = classad2.ExprTree(submit["RequestMemory"])
    job["PeriodicRemove"] = classad2.ExprTree(submit["periodic_remove"].replace("time()", "9000"))
    assert job.eval("RequestCpus") == 4
    assert job.eval("RequestMemory") == 2560
    assert job.eval("PeriodicRemove") is True
    assert "JobBatchName" not in submit  # dask-jobqueue names the batch
    job["Requirements"] = classad2.ExprTree(submit["requirements"])
    machine = classad2.ClassAd({"OpSysAndVer": "Debian12"})
    assert job["Requirements"].eval(machine) is True


_POOL = """#!{python}
import subprocess, sys
import htcondor2
submit = htcondor2.Submit(open(sys.argv[-1]).read())
arguments = submit["Arguments"].strip('"').removeprefix("-c '").removesuffix("'")
nothing = subprocess.DEVNULL
subprocess.Popen([submit["Executable"], "-c", arguments], stdin=nothing, stdout=nothing, stderr=nothing,
                 start_new_session=True, env={{"PATH": "/usr/bin:/bin"}})
print("7.0 - 7.0")
"""


def outcome(command: list[str], **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def well(told: dict[str, Any]) -> None:
    assert told["rows"] == [3]
    assert told["source-failed"] is True
    assert told["running"] >= 1
    assert told["killed"] == "worker.killed"
    assert told["left"] == 0, "a worker, or its folder, outlived its daemon's end"
    assert told["keys"] == 0


@pytest.mark.full  # its parts are tested above; the same session runs on Slurm below
def test_a_lane_runs_where_a_pool_would_start_it(tmp_path: Path) -> None:
    """The whole way of HTCondor but the pool: `condor_submit` is replaced by one that starts what it reads."""
    pytest.importorskip("htcondor2", reason="no htcondor bindings")
    pytest.importorskip("dask_jobqueue", reason="no dask-jobqueue")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "condor_submit").write_text(_POOL.format(python=sys.executable))
    (tools / "condor_rm").write_text("#!/bin/sh\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    session = [sys.executable, "-W", "ignore", "-m", "tests.batch_session", str(tmp_path), "htcondor"]
    well(outcome(session, PATH=f"{tools}:{os.environ['PATH']}"))


def test_a_lane_runs_on_a_real_slurm(tmp_path: Path) -> None:
    if os.getuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "srun", "munged", "ip"))):
        pytest.skip(SLURM)
    cluster = Path(__file__).parents[1] / "slurm.sh"
    session = f"{sys.executable} -W ignore -m tests.batch_session {tmp_path} slurm {tmp_path}/slurm/slurm.conf"
    inner = f"{cluster} start && {session}; said=$?; {cluster} stop; exit $said"
    told = outcome(["unshare", "-n", "bash", "-c", f"ip link set lo up && ip addr add 192.0.2.1/32 dev lo && {inner}"],
                   WORKDIR=str(tmp_path))  # fmt: skip
    well(told)

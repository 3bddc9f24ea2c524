"""Code in a worker that means ill: what it tries against the machine, and what it tries to get past the gate.

Each attempt runs in a real worker process. Those against the machine are made in the child, which asserts how each
ended: a worker that came through has failed the test.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.config import Limits
from edge.updates import answer_bound, check_update
from edge.worker import Worker
from protocol.assignment import RoundInstruction, RoundPhase
from protocol.errors import CorsiaError, DisclosureRefused, WorkerError
from tests.unit.test_gate import effective, study
from tests.unit.test_worker import JOB, Rows

_PRELUDE = """
import ctypes, errno, mmap, os, signal, socket, subprocess, sys, time
from pathlib import Path
def refused(attempt, *errors):
    try:
        attempt()
    except OSError as error:
        assert not errors or error.errno in errors, error.errno
    else:
        raise AssertionError("it was let through")
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A site's state folder with a key in it."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    (folder / "identity.key").write_bytes(b"k" * 32)
    return folder


@pytest.fixture
def start(tmp_path: Path, state: Path) -> Iterator[Callable[..., Worker]]:
    """Workers whose lane and session are the given source; a kernel that lacks `needs` is a skip."""
    made: list[Worker] = []

    def worker(body: str = "pass", session: str = "return message", needs: str = "files") -> Worker:
        script = tmp_path / f"child{len(made)}.py"
        script.write_text(
            f"{_PRELUDE}\nSTATE = Path({str(state)!r})\nAGENT = {os.getpid()}\n"
            "def run(job, source, gate):\n" + textwrap.indent(textwrap.dedent(body), "    ") + "\n"
            "class Session:\n    def __init__(self, job, source): pass\n    def handle(self, message):\n"
            + textwrap.indent(textwrap.dedent(session), "        ")
            + "\nfrom edge.confined import main\nmain(load=lambda name: run, session=Session)\n"
        )
        child = Worker(
            Limits(worker_timeout_s=60.0), state / "work", argv=[sys.executable, "-I", "-W", "ignore", str(script)]
        )
        made.append(child)
        if needs:
            probe = Worker(Limits(worker_timeout_s=60.0), state / "work")
            try:
                probe._spawn()
                if needs in probe.missing:
                    pytest.skip(f"this kernel cannot confine: {needs}")
            finally:
                probe.close()
        return child

    yield worker
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("needs", "body"),
    [
        pytest.param("files", "refused((STATE / 'identity.key').read_bytes, 13)", id="reads the site's key"),
        pytest.param("files", "refused(lambda: os.listdir(STATE), 13)", id="lists the site's state"),
        pytest.param("files", "refused(lambda: Path('/etc/shadow').read_bytes(), 13)", id="reads a system secret"),
        pytest.param(
            "files",
            "for place in (STATE, Path('/tmp'), Path('/dev/shm'), Path('/var/tmp'), Path(sys.prefix)):\n"
            "    refused(lambda: (place / 'kept').write_text('x'), 13)\n"
            "Path('mine').write_text('x')",
            id="writes outside HOME",
        ),
        pytest.param(
            "files",
            "refused(lambda: os.rename(STATE / 'identity.key', 'stolen'), 13, 18)\n"
            "refused(lambda: os.link(STATE / 'identity.key', 'stolen'), 13, 18)\n"
            "refused(lambda: os.unlink(STATE / 'identity.key'), 13)\n"
            "refused(lambda: os.truncate(STATE / 'identity.key', 0), 13)\n"
            "os.symlink(STATE / 'identity.key', 'stolen')\n"
            "refused(Path('stolen').read_bytes, 13)",
            id="moves, links or cuts the key",
        ),
        pytest.param(
            "files",
            "for name in ('environ', 'mem', 'maps', 'cmdline', 'fd'):\n"
            "    path = Path(f'/proc/{AGENT}') / name\n"
            "    refused(lambda: os.listdir(path) if name == 'fd' else path.read_bytes(), 13, 1)",
            id="reads the agent's memory through proc",
        ),
        pytest.param(
            "calls",
            "buffer = ctypes.create_string_buffer(16)\n"
            "refused(lambda: call(101 if os.uname().machine == 'x86_64' else 117, 16, AGENT, 0, 0), 1)\n"
            "vector = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 16)\n"
            "number = 310 if os.uname().machine == 'x86_64' else 270\n"
            "refused(lambda: call(number, AGENT, vector, 1, vector, 1, 0), 1)",
            id="attaches to the agent",
        ),
        pytest.param("signals", "refused(lambda: os.kill(AGENT, 0), 1)", id="signals the agent"),
        pytest.param(
            "calls",
            "import resource\nrefused(lambda: resource.prlimit(AGENT, resource.RLIMIT_CPU, (0, 0)), 1)",
            id="limits the agent",
        ),
        pytest.param(
            "network",
            "refused(lambda: socket.create_connection(('192.0.2.1', 443), timeout=2), 101, 1)\n"
            "refused(lambda: socket.create_connection(('127.0.0.1', 1), timeout=2), 111, 1)",
            id="opens a connection",
        ),
        pytest.param("calls", "refused(lambda: socket.socket(socket.AF_UNIX), 1)", id="opens a socket by path"),
        pytest.param(
            "calls",
            "for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK):\n"
            "    refused(lambda: socket.socketpair(socket.AF_UNIX, kind), 1)\n"
            "one, other = socket.socketpair()\n"
            "one.sendall(b'x')\n"
            "assert other.recv(1) == b'x'",
            id="sends to a path from a pair",
        ),
        pytest.param("calls", "refused(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW), 1)", id="raw socket"),
        pytest.param(
            "files",
            "for program in ('/bin/sh', '/usr/bin/env', '/bin/cat'):\n"
            "    refused(lambda: subprocess.run([program], stdin=subprocess.DEVNULL), 13, 2)\n"
            "Path('tool').write_bytes(Path(sys.executable).resolve().read_bytes())\n"
            "refused(lambda: os.execv('tool', ['tool']), 13)",
            id="starts a program",
        ),
        pytest.param(
            "files",
            "code = 'import sys; open(sys.argv[1])'\n"
            "child = subprocess.run([sys.executable, '-I', '-c', code, str(STATE / 'identity.key')],"
            " capture_output=True)\n"
            "assert b'PermissionError' in child.stderr, child.stderr\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    try: open(STATE / 'identity.key')\n"
            "    except PermissionError: os._exit(7)\n"
            "    os._exit(0)\n"
            "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7",
            id="sends a child",
        ),
        pytest.param("calls", "refused(os.setsid, 1)\nrefused(lambda: os.setpgid(0, 0), 1)", id="leaves its group"),
        pytest.param(
            "calls",
            "Path('mine').write_text('x')\n"
            "refused(lambda: os.chmod(STATE / 'identity.key', 0o666), 1, 13)\n"
            "refused(lambda: os.utime(sys.executable, (1, 1)), 1)\n"
            "refused(lambda: os.setxattr('mine', 'user.kept', b'x'), 1)\n"
            "refused(lambda: call(29 if os.uname().machine == 'x86_64' else 194, 7, 4096, 0o1600), 1)",
            id="hides something with a file or in shared memory",
        ),
        pytest.param(
            "calls",
            "for flag in (0x10000000, 0x40000000, 0x00020000): refused(lambda: call(272, flag), 1)\n"
            "refused(lambda: call(165, b'none', b'/proc', b'tmpfs', 0, 0), 1)"
            if os.uname().machine == "x86_64" else "pass",
            id="makes a namespace or a mount",
        ),
        pytest.param(
            "calls",
            "number = 56 if os.uname().machine == 'x86_64' else 220\n"
            "def clone(flags, *, new):\n"
            "    made = libc.syscall(435, (ctypes.c_uint64 * 11)(flags, 0, 0, 0, signal.SIGCHLD), 88) if new else"
            " libc.syscall(number, flags | signal.SIGCHLD, 0, 0, 0, 0)\n"
            "    if made == 0: os._exit(0)\n"
            "    if made < 0: raise OSError(ctypes.get_errno(), '')\n"
            "    os.waitpid(made, 0)\n"
            "clone(0, new=False)\n"
            "for flag in (0x10000000, 0x50000000, 0x20000000, 0x02000000): refused(lambda: clone(flag, new=False), 1)\n"
            "refused(lambda: clone(0x10000000, new=True), 38)\n"
            "import threading\n"
            "thread = threading.Thread(target=int); thread.start(); thread.join()",
            id="starts a child in a namespace with every capability",
        ),
        pytest.param(
            "calls",
            "refused(lambda: call(294 if os.uname().machine == 'x86_64' else 26, 0), 1)",
            id="watches what others write",
        ),
    ],
)  # fmt: skip
def test_an_attempt_against_the_machine_ends_in_a_refusal(
    start: Callable[..., Worker], state: Path, needs: str, body: str
) -> None:
    worker = start(body, needs=needs)
    worker.run(JOB, Rows(), lambda _item: None)
    assert (state / "identity.key").read_bytes() == b"k" * 32


def test_nothing_stays_between_two_studies(start: Callable[..., Worker], state: Path) -> None:
    """A file in HOME, a child that outlives its round, a global: the next worker finds none of them."""
    leaving = "import builtins; builtins.kept = 1\nPath('kept').write_text('x')\nif os.fork() == 0: time.sleep(600)"
    first = start(leaving)
    first.start_training(JOB, Rows())
    assert first._home is not None
    home, group = first._home, first._child.pid if first._child else 0
    assert (home / "kept").exists()
    first.close()
    assert not home.exists()
    for _ in range(1200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("a child outlived its worker")
    second = start(
        "import builtins\n"
        "assert not hasattr(builtins, 'kept') and not Path('kept').exists()\n"
        f"refused(lambda: os.listdir({str(state / 'work')!r}), 13)"
    )
    second.run(JOB, Rows(), lambda _item: None)


def test_a_process_that_a_worker_starts_finds_our_packages(start: Callable[..., Worker]) -> None:
    """As those of torch DDP do, also where Corsia is a source tree, whose folder is closed."""
    start(
        "code = f'import sys; sys.path[:] = {sys.path!r}; import pipelines.learners, privacy.deid, protocol.study'\n"
        "child = subprocess.run([sys.executable, '-I', '-S', '-c', code], capture_output=True, text=True)\n"
        "assert child.returncode == 0, child.stderr"
    ).run(JOB, Rows(), lambda _item: None)


def test_a_swarm_of_children_is_bounded(start: Callable[..., Worker]) -> None:
    if os.geteuid() == 0:
        pytest.skip("the kernel bounds the processes of every user but root")
    worker = start(
        "made = []\n"
        "try:\n"
        "    while len(made) < 2000:\n"
        "        pid = os.fork()\n"
        "        if pid == 0: time.sleep(60); os._exit(0)\n"
        "        made.append(pid)\n"
        "except BlockingIOError: pass\n"
        "assert len(made) < 600, len(made)"
    )
    worker.run(JOB, Rows(), lambda _item: None)


# --- answers


_ANSWER = """
from pipelines import flower as f
import numpy as np
asked = f.message_from_bytes(message)
arrays, metrics = {"w": np.ones(2, dtype=np.float32)}, {"num-examples": 20}
content = lambda: f.RecordDict({f.ARRAYS: f.array_record(arrays), f.METRICS: f.metric_record(metrics)})
answer = lambda: f.message_to_bytes(f.reply(asked, content()))
"""


def instruction() -> RoundInstruction:
    return RoundInstruction(
        run="r", study_digest="0" * 64, site="site-a", round=1, phase=RoundPhase.TRAIN, attempt=0, message="0" * 64,
        message_size=1, deadline=0.0,
    )  # fmt: skip


def asked(shapes: dict[str, Any] | None = None, round_: int = 1) -> bytes:
    from central.federation.flower import identify
    from pipelines import flower as f

    identify(1)
    record = f.RecordDict({f.CONFIG: f.config_record(round_, shapes or {"w": ("float32", (2,))}, ())})
    return f.message_to_bytes(f.Message(record, 1, "train", group_id="0"), run_id=1, message_id=f"m{round_}")


def answered(worker: Worker, message: bytes) -> Any:
    worker.start_training(JOB, Rows())
    reply = worker.handle(message, answer_bound(message))
    return check_update(study("train"), effective(), instruction(), message, reply)


def test_an_honest_answer_passes(start: Callable[..., Worker]) -> None:
    item, checks = answered(start(session=_ANSWER + "return answer()", needs=""), asked())
    assert item.rows == 1
    assert all(check.ok for check in checks)


@pytest.mark.parametrize(
    "trick",
    [
        pytest.param("arrays['hidden'] = np.ones(2, dtype=np.float32)\nreturn answer()", id="an extra array"),
        pytest.param("arrays['Mario Rossi'] = arrays.pop('w')\nreturn answer()", id="text in a key"),
        pytest.param("arrays['w'] = np.zeros(50_000_000, dtype=np.float32)\nreturn answer()", id="a huge array"),
        pytest.param("arrays['w'] = np.array([1, np.nan], dtype=np.float32)\nreturn answer()", id="NaN"),
        pytest.param("arrays['w'] = np.array([1, -np.inf], dtype=np.float32)\nreturn answer()", id="infinity"),
        pytest.param("arrays['w'] = np.ones(2)\nreturn answer()", id="another dtype"),
        pytest.param("arrays['w'] = np.ones((1, 2), dtype=np.float32)\nreturn answer()", id="another shape"),
        pytest.param("arrays['w'] = np.full(2, 9e9, dtype=np.float32)\nreturn answer()", id="beyond the norm"),
        pytest.param("metrics['auc'] = 0.5\nreturn answer()", id="an undeclared metric"),
        pytest.param("metrics['Mario Rossi 1961'] = 1.0\nreturn answer()", id="text in a metric's name"),
        pytest.param("metrics['num-examples'] = [20, 1, 2]\nreturn answer()", id="a list for a number"),
        pytest.param(
            "made = content(); made['config'] = f.config_record(1, {}, ())\n"
            "return f.message_to_bytes(f.reply(asked, made))",
            id="a further record",
        ),
        pytest.param(
            "made = f.reply(asked, content()); made.metadata.group_id = 'Mario Rossi'\nreturn f.message_to_bytes(made)",
            id="text in the metadata",
        ),
        pytest.param(
            "made = f.reply(asked, content()); made.metadata.ttl = 1961.0227\nreturn f.message_to_bytes(made)",
            id="a date in the metadata",
        ),
        pytest.param("return answer() + b'Mario Rossi'", id="bytes after the end"),
        pytest.param("return message", id="the instruction itself"),
        pytest.param("return b'Mario Rossi'", id="no message"),
        pytest.param(
            "return f.message_to_bytes(f.error_reply(asked, 'Mario Rossi'))", id="text in an error"
        ),
    ],
)  # fmt: skip
def test_what_is_not_the_declared_answer_stays_here(start: Callable[..., Worker], trick: str) -> None:
    with pytest.raises((DisclosureRefused, WorkerError)) as caught:
        answered(start(session=_ANSWER + trick, needs=""), asked())
    assert caught.value.code in ("gate.update", "worker.failed")
    assert "Rossi" not in str(caught.value)


def test_the_answer_to_another_round_stays_here(start: Callable[..., Worker]) -> None:
    """Kept in the warm worker from the round before, and sent in its place."""
    session = _ANSWER + "first = globals().setdefault('first', [])\nfirst.append(answer())\nreturn first[0]"
    worker = start(session=session, needs="")
    worker.start_training(JOB, Rows())
    before, now = asked(round_=0), asked(round_=1)
    worker.handle(before, answer_bound(before))
    reply = worker.handle(now, answer_bound(now))
    with pytest.raises(CorsiaError) as caught:
        check_update(study("train"), effective(), instruction(), now, reply)
    assert caught.value.code == "gate.update"


def test_plausible_weights_are_bounded_and_no_more(start: Callable[..., Worker]) -> None:
    """What TRUST.md concedes: a value hidden in the low bits of weights passes, within shape, dtype and norm."""
    session = _ANSWER + "arrays['w'] = np.array([1.0, 1.0000001], dtype=np.float32)\nreturn answer()"
    item, _ = answered(start(session=session, needs=""), asked())
    assert item.rows == 1

"""The worker process: crash, silence, error codes, what it can see, what it may say, what it leaves behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from edge.config import Limits
from edge.worker import Stopped, Worker
from pipelines import Job, SourceFile
from protocol.errors import CorsiaError, DisclosureRefused, InputError, WorkerError
from protocol.parcel import Item, ItemKind
from protocol.study import Study

SECRET = "Bardellini Rosetta"
STUDY = Study.model_validate(
    {
        "schema": 1,
        "id": "one",
        "title": "t",
        "lane": "harvest",
        "purpose": "research",
        "legal_basis": "consent",
        "controller": "c",
        "ethics_reference": "e",
        "expires": datetime(2040, 1, 1, tzinfo=UTC),
        "sites": ["site-a"],
        "dataset": {"name": "cohort", "columns": ["age"]},
        "pipeline": {"name": "harvest"},
        "output": {"columns": [{"name": "age", "dtype": "int"}]},
    }
)
JOB = Job(study=STUDY, site="site-a", key=b"k" * 32, roles={"name": "identifier"})


class Rows:
    """A source of three rows and two files."""

    def table(self) -> pd.DataFrame | None:
        return pd.DataFrame({"name": [SECRET, None, "b"], "age": [1, 2, 3], "x": [0.5, float("nan"), 2.0]})

    def files(self) -> Iterator[SourceFile]:
        yield SourceFile("00000000.dcm", b"a" * (3 << 20))
        yield SourceFile("00000001.dcm", b"b")

    def documents(self, kind: str) -> Iterator[SourceFile]:
        yield SourceFile("00000001.json", kind.encode())


Make = Callable[..., Worker]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Workers whose lane is the given Python source of `def run(job, source, gate)`."""
    made: list[Worker] = []

    def worker(
        body: str, *, session: str = "", should_stop: Callable[[], bool] = lambda: False, **limits: Any
    ) -> Worker:
        script = tmp_path / f"child{len(made)}.py"
        lines = ["from protocol.parcel import Item, ItemKind", "import os, sys, time", "def run(job, source, gate):"]
        lines += [f"    {line}" for line in body.splitlines()]
        lines += ["class Session:", "    def __init__(self, job, source): pass", "    def handle(self, message):"]
        lines += [f"        {line}" for line in (session or "return message").splitlines()]
        lines += ["from edge.confined import main", "main(load=lambda name: run, session=Session)"]
        script.write_text("\n".join(lines))
        options = {"worker_timeout_s": 20.0} | limits
        argv = [sys.executable, "-I", "-W", "ignore", str(script)]
        made.append(Worker(Limits(**options), tmp_path / "work", argv=argv, should_stop=should_stop))
        return made[-1]

    yield worker
    for one in made:
        one.close()
    assert not (tmp_path / "work").exists() or list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
def test_cohorts_are_told_and_malformed_ones_end_the_worker(make: Make) -> None:
    outcome = make("gate.cohort(['a', 'b'], {'age': 3})\ngate.cohort([], {})").run(JOB, Rows(), lambda _item: None)
    assert [(told.persons, told.numbers) for told in outcome.cohorts] == [(("a", "b"), {"age": 3}), ((), {})]
    for data, numbers in ((b"{", {}), (b"[1]", {}), (b"3", {}), (b"[]", {"a": "x"}), (b"[]", None)):
        with pytest.raises(WorkerError):
            make(f"gate._pipe.tell({data!r}, op='cohort', numbers={numbers!r})").run(JOB, Rows(), lambda _item: None)


@pytest.mark.slow
def test_every_numeric_library_has_the_sites_threads(make: Make) -> None:
    body = "import numba, torch\ngate.withhold('threads-%d-%d' % (numba.get_num_threads(), torch.get_num_threads()))"
    assert make(body, worker_threads=1).run(JOB, Rows(), lambda _item: None).withheld == {"threads-1-1": 1}


def run(worker: Worker) -> tuple[list[Item], dict[str, int]]:
    items: list[Item] = []
    outcome = worker.run(JOB, Rows(), items.append)
    assert not worker.alive
    return items, outcome.withheld


def test_rows_and_files_go_in_and_results_come_out(make: Make) -> None:
    items, withheld = run(
        make(
            "t = source.table()\n"
            "assert source.table().equals(t) and list(t.columns) == ['name', 'age', 'x']\n"
            "assert t['name'].isna().tolist() == [False, True, False] and t['x'].isna().sum() == 1\n"
            "assert job.key == b'k' * 32 and job.roles == {'name': 'identifier'} and job.study.id == 'one'\n"
            "for _ in range(2): assert [(f.name, len(f.data)) for f in source.files()] == "
            "[('00000000.dcm', 3 << 20), ('00000001.dcm', 1)]\n"
            "assert [(f.name, f.data) for f in source.documents('fhir')] == [('00000001.json', b'fhir')]\n"
            "gate.withhold('consent', 2); gate.withhold('consent'); gate.progress(1, 2)\n"
            "gate.put(Item(kind=ItemKind.TABLE, name='a.parquet', data=b'x' * (5 << 20), persons=2, rows=3,"
            " meta={'hidden': 1}))"
        )
    )
    assert [(i.kind, i.name, len(i.data), i.persons, i.rows, i.meta) for i in items] == [
        (ItemKind.TABLE, "a.parquet", 5 << 20, 2, 3, {})
    ]
    assert withheld == {"consent": 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "error", "code"),
    [
        ("os.kill(os.getpid(), 9)", WorkerError, "worker.killed"),
        ("os._exit(3)", WorkerError, "worker.killed"),
        (f"raise KeyError({SECRET!r})", WorkerError, "worker.failed"),
        (f"raise type({SECRET!r}, (Exception,), {{}})()", WorkerError, "worker.failed"),
        ("raise SystemExit(0)", WorkerError, "worker.failed"),
        (
            f"from protocol.errors import InputError\nraise InputError('input.table', {SECRET!r})",
            InputError,
            "input.table",
        ),
        (
            f"from protocol.errors import DisclosureRefused\nraise DisclosureRefused('gate.k', {SECRET!r})",
            DisclosureRefused,
            "gate.k",
        ),
        ("gate.withhold('Mario Rossi')", WorkerError, "worker.failed"),
        ("gate.withhold('consent', -1)", WorkerError, "worker.failed"),
        ("for i in range(100): gate.withhold('r-%d' % i)", WorkerError, "worker.failed"),
        ("gate.put(Item(kind=ItemKind.TABLE, name='../x', data=b''))", WorkerError, "worker.failed"),
        ("gate.put(Item(kind=ItemKind.TABLE, name='x', data=b'', rows=-1))", WorkerError, "worker.failed"),
        ("gate._pipe.tell(b'', op='nonsense')\ntime.sleep(9)", WorkerError, "worker.failed"),
        ("gate._pipe.tell(b'', op='error', code='no.such')\ntime.sleep(9)", WorkerError, "worker.failed"),
        ("os.write(gate._pipe._out, b'\\xff' * 12)\ntime.sleep(9)", WorkerError, "worker.failed"),
        (
            "os.write(gate._pipe._out, b'\\0\\0\\0\\2' + b'\\0' * 8 + b'[]')\ntime.sleep(9)",
            WorkerError,
            "worker.failed",
        ),
        ("bytearray(1 << 30)", WorkerError, "worker.failed"),
    ],
)
def test_a_failure_crosses_as_its_code_only(make: Make, body: str, error: type[CorsiaError], code: str) -> None:
    worker = make(body, worker_memory_bytes=500_000_000)
    with pytest.raises(error) as caught:
        run(worker)
    assert caught.value.code == code
    assert "Bardellini" not in str(caught.value)
    assert not worker.alive


@pytest.mark.slow
def test_silence_is_ended(make: Make) -> None:
    started = time.monotonic()
    with pytest.raises(WorkerError) as caught:
        run(make("time.sleep(60)", worker_timeout_s=1.0))
    assert caught.value.code == "worker.killed"
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_a_stop_ends_the_wait(make: Make) -> None:
    stop = time.monotonic() + 1.0
    with pytest.raises(Stopped):
        run(make("time.sleep(60)", should_stop=lambda: time.monotonic() > stop))


@pytest.mark.slow
def test_what_a_lane_prints_goes_nowhere(tmp_path: Path) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        "import os, sys\n"
        "def run(job, source, gate):\n"
        f"    print({SECRET!r}); print({SECRET!r}, file=sys.stderr)\n"
        f"    for h in (1, 2): os.write(h, {SECRET!r}.encode())\n"
        "    import warnings; warnings.warn(source.table()['name'][0])\n"
        "from edge.confined import main\nmain(load=lambda name: run)\n"
    )
    parent = (
        "import sys\nfrom pathlib import Path\nfrom edge.config import Limits\nfrom edge.worker import Worker\n"
        "from tests.unit.test_worker import JOB, Rows\n"
        f"w = Worker(Limits(), Path({str(tmp_path / 'w')!r}), argv=[sys.executable, '-I', {str(script)!r}])\n"
        "w.run(JOB, Rows(), print)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, cwd=root, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.returncode == 0, done.stderr[-500:].replace(SECRET, "")
    assert "Bardellini" not in done.stdout + done.stderr


def test_the_child_sees_neither_environment_nor_descriptors(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORSIA_EDGE_STATE_DIR", "/state")
    monkeypatch.setenv("https_proxy", "http://proxy")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.delenv("CORSIA_FAULTS", raising=False)
    handle = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(handle, True)
    try:
        run(
            make(
                "assert not [n for n in os.environ if 'CORSIA' in n or 'proxy' in n.lower() or 'AWS' in n]\n"
                "assert os.environ['HOME'] == os.getcwd() == os.environ['TMPDIR']\n"
                "names = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')\n"
                "         if os.path.exists(f'/proc/self/fd/{n}')]\n"
                "kinds = {n.partition(':')[0] for n in names} - {'pipe', '/dev/null'}\n"
                "assert all(k.startswith('/proc/') for k in kinds), kinds\n"
                "import resource\n"
                "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\n"
                "import ctypes\n"
                "assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0\n"  # PR_GET_DUMPABLE
                "assert os.umask(0o077) == 0o077 and os.getsid(0) == os.getpid()\n"
                "open('left-behind', 'w').write('x')\n"
                "heavy = [m for m in ('edge.ledger', 'edge.identity', 'edge.spool', 'grpc') if m in sys.modules]\n"
                "assert not heavy, heavy"
            )
        )
    finally:
        os.close(handle)


def test_no_network_where_the_kernel_permits(make: Make) -> None:
    worker = make(
        "import socket\n"
        "names = [n for _, n in socket.if_nameindex()]\n"
        "assert names == ['lo'] or not names, names\n"
        "try: socket.create_connection(('127.0.0.1', 1), timeout=1)\n"
        "except OSError as error: assert error.errno in (101, 111, 99), error.errno"
    )
    if not worker_isolates(make):
        pytest.skip("this kernel lets no process make a network namespace")
    run(worker)


def worker_isolates(make: Make) -> bool:
    worker = make("pass")
    run(worker)
    return worker.isolated


def test_a_warm_worker_answers_again_and_dies_with_its_parent(make: Make) -> None:
    worker = make("gate.withhold('incomplete', 4)", session="return message[::-1]")
    assert worker.start_training(JOB, Rows()).withheld == {"incomplete": 4}
    assert worker.handle(b"abc") == b"cba"
    assert worker.handle(b"") == b""
    assert worker.alive
    assert worker.idle_s < 5
    worker.close()
    assert not worker.alive
    with pytest.raises(WorkerError):
        worker.handle(b"x")


def test_training_puts_no_items_and_a_failing_round_ends_the_worker(make: Make) -> None:
    with pytest.raises(WorkerError):
        make("gate.put(Item(kind=ItemKind.TABLE, name='x', data=b''))").start_training(JOB, Rows())
    worker = make("pass", session=f"raise ValueError({SECRET!r})")
    worker.start_training(JOB, Rows())
    with pytest.raises(WorkerError) as caught:
        worker.handle(b"x")
    assert caught.value.code == "worker.failed"
    assert "Bardellini" not in str(caught.value)


def test_an_error_of_source_or_gate_ends_the_worker(make: Make) -> None:
    worker = make("gate.put(Item(kind=ItemKind.TABLE, name='x', data=b''))\ntime.sleep(60)")

    def refuse(_item: Item) -> None:
        raise DisclosureRefused("gate.undeclared")

    with pytest.raises(DisclosureRefused):
        worker.run(JOB, Rows(), refuse)
    assert not worker.alive


def test_an_answer_beyond_its_limit_is_not_read(make: Make) -> None:
    worker = make("return", session="return b'x' * 5_000_000")
    worker.start_training(JOB, Rows())
    assert len(worker.handle(b"ask", 5_000_000)) == 5_000_000
    with pytest.raises(DisclosureRefused) as error:
        worker.handle(b"ask", 4_999_999)
    assert error.value.code == "gate.update"
    assert not worker.alive


@pytest.mark.slow
@pytest.mark.parametrize(("size", "code"), [(1 << 62, "worker.failed"), (7_000_000_000, "worker.killed")])
def test_a_frame_that_only_claims_its_size_takes_no_memory(make: Make, size: int, code: str) -> None:
    """A child that announces more than it may hold is ended; one that announces and then says nothing costs nothing."""
    claim = f"(2).to_bytes(4, 'big') + ({size}).to_bytes(8, 'big') + b'{{}}'"
    find = "pipe = next(o for o in gc.get_objects() if type(o).__name__ == '_Pipe')"
    worker = make(
        "return", session=f"import gc\n{find}\nos.write(pipe._out, {claim})\ntime.sleep(60)", worker_timeout_s=5.0
    )
    worker.start_training(JOB, Rows())
    before = _peak_kib()
    with pytest.raises(WorkerError) as error:
        worker.handle(b"ask")
    assert error.value.code == code
    assert _peak_kib() - before < 64 << 10


def _peak_kib() -> int:
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])

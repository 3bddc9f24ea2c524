"""For all tests: where the shared data lie, and the rule that under CI every skip has an allowed reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadFileScheduling

from tests.e2e.running import demo

if TYPE_CHECKING:
    from tests.servicekit import S3, Postgres

__all__ = ["demo"]

_SKIPPED: list[str] = []
_OVER_THE_DEMO = ("tests/e2e/test_demo.py", "tests/e2e/test_dashboard.py", "tests/fault/test_kill_points.py")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of reference data beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data: the reference data are not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A throw-away PostgreSQL; skips with the command to install it."""
    from tests.servicekit import postgres_server

    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3]:
    """A throw-away S3; skips with the command to install it."""
    from tests.servicekit import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def state_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A centre's state folder whose database is a file in it, and one whose database is on a server."""
    if request.param == "sqlite":
        yield tmp_path
        return
    from tests.servicekit import closing_connections

    request.getfixturevalue("postgres").put(tmp_path)
    with closing_connections():
        yield tmp_path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that look at the demo's processes and folders come first: its warm workers close when nobody uses them.

    After them those of full size, so that no core is left alone with one of them at the end.
    """
    demo_file = "tests/e2e/test_demo.py"
    items.sort(key=lambda item: (not item.nodeid.startswith(demo_file), item.get_closest_marker("full") is None))


class _Together(LoadFileScheduling):
    """A file stays on one worker, and so do the files that share the one demo.

    `--dist loadgroup` would say the same, but xdist 3.8 cannot tell groups to pytest 9.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "demo" if file in _OVER_THE_DEMO else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Together | None:
    return _Together(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        _SKIPPED.append(report.longrepr[2].removeprefix("Skipped: "))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    allowed_file = os.environ.get("CORSIA_SKIPS")
    if not allowed_file or exitstatus != 0:
        return
    lines = Path(allowed_file).read_text().splitlines()
    allowed = tuple(line for line in lines if line and not line.startswith("#"))
    foreign = sorted({reason for reason in _SKIPPED if not reason.startswith(allowed)})
    if foreign:
        print("\nskipped without an allowed reason:\n  " + "\n  ".join(foreign))  # noqa: T201
        session.exitstatus = 1

"""Which paths a worker may read, and what a kernel lacks: the pure parts of `pipelines.confinement`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipelines import confinement, syscalls


def test_a_state_folder_within_the_code_stays_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "opt"
    state = base / "corsia" / "state"
    for folder in (state, base / "corsia" / "lib", base / "other"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(confinement, "system_paths", lambda: [base, state / "venv"])
    (state / "venv").mkdir()
    found = set(confinement.libraries(state))
    assert found == {base / "corsia" / "lib", base / "other", state / "venv"}


def test_of_a_source_tree_the_packages_alone_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    for name in ("package", "demo-out", "corsia.egg-info"):
        (tree / name).mkdir(parents=True)
    (tree / "package" / "__init__.py").touch()
    (tree / "module.py").touch()
    (tree / "patients.csv").touch()
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [str(tree), str(site), ""])
    found = {path for path in confinement.system_paths() if path.is_relative_to(tmp_path)}
    assert found == {tree / "package", tree / "module.py", tree / "corsia.egg-info", site}


def test_every_jump_of_the_filter_stays_within_it_and_no_number_is_twice() -> None:
    for column, architecture in syscalls._ARCHITECTURES.values():
        numbers = [pair[column] for pair in syscalls.FORBIDDEN.values() if pair[column] is not None]
        assert len(numbers) == len(set(numbers))
        for families in ((), (2, 10, 16)):
            program = syscalls._filter(column, architecture, families)
            for at, line in enumerate(program):
                code, yes, no = int.from_bytes(line[:2], sys.byteorder), line[2], line[3]
                assert max(yes, no) + at + 1 <= len(program)
                if code == syscalls._RETURN:
                    assert (yes, no) == (0, 0)


def test_what_is_lacking_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for works, abi, network, lacks in (
        (True, 7, "none", ()),
        (True, 5, "shared", ("signals",)),
        (False, 0, "shared", confinement.LACKS),
        (False, 7, "none", ("calls",)),
    ):
        monkeypatch.setattr(syscalls, "forbid", lambda *, sockets, works=works: works)
        monkeypatch.setattr(confinement, "_abi", lambda _libc, abi=abi: abi)
        assert confinement.missing(network) == lacks

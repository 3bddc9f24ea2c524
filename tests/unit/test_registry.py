"""The digest of the code: one for the same files and versions, another for any change."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from pipelines import registry
from protocol.errors import PolicyRefused
from protocol.study import Lane


def test_every_lane_is_installed() -> None:
    assert {entry.lane for entry in registry.INSTALLED.values()} == {lane.value for lane in Lane}
    assert all(entry.version == "1" for entry in registry.INSTALLED.values())
    assert callable(registry.load("harvest"))
    assert callable(registry.load("extract"))


def test_what_is_not_installed_does_not_run() -> None:
    for name in ("os", "pipelines.harvest", "", "../x"):
        with pytest.raises(PolicyRefused):
            registry.load(name)


def test_digest_is_stable_and_covers_the_code() -> None:
    manifest = registry.code_manifest()
    assert registry.code_digest() == registry.code_digest()
    assert "file:pipelines/registry.py" in manifest
    assert "file:protocol/v1/fleet.proto" in manifest
    assert not any("__pycache__" in name for name in manifest)
    assert manifest["dependency:numpy"][0].isdigit()
    assert "dependency:urllib3" in manifest  # a dependency of a dependency
    assert "dependency:pytest-xdist" not in manifest


@pytest.fixture(name="copy")
def _copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(registry.__file__).parent, tmp_path / "pipelines"))


def digest(copy: Path, **versions: str) -> dict[str, str]:
    return registry.manifest_of({"pipelines": copy}, versions)


def test_manifest_of_a_copy_is_the_same(copy: Path) -> None:
    here = registry.manifest_of({"pipelines": Path(registry.__file__).parent}, {})
    assert digest(copy) == here


def test_any_change_changes_the_manifest(copy: Path) -> None:
    before = digest(copy)
    file = copy / "registry.py"
    stat = file.stat()
    text = file.read_bytes()
    file.write_bytes(text.replace(b"a", b"b", 1))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as large and, it says, as old as before
    changed = digest(copy)
    assert {k for k in before if before[k] != changed[k]} == {"file:pipelines/registry.py"}
    file.write_bytes(text)
    assert digest(copy) == before
    (copy / "new.py").write_text("")
    assert digest(copy) != before
    (copy / "new.py").unlink()
    file.rename(copy / "other.py")
    assert digest(copy) != before
    (copy / "other.py").rename(file)
    (copy / "__pycache__").mkdir(exist_ok=True)
    (copy / "__pycache__" / "x.pyc").write_bytes(b"x")
    assert digest(copy) == before
    assert digest(copy, numpy="1") != digest(copy, numpy="2")


def test_a_long_lived_process_notices_an_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = registry.code_digest()
    info = tmp_path / "torch-99.0.dist-info"
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert registry.code_digest() == before
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 99.0\n")
    assert registry.code_digest() != before

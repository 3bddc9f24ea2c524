"""Where sweeps run: in memory if the machine has such a folder, since they wait for nothing but the disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_SHM = Path("/dev/shm")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, else on the disk."""
    if not _SHM.is_dir():
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="corsia-seam-", dir=_SHM))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)

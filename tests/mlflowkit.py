"""A tracking store whose tables are made: MLflow takes seconds for them, so once for all tests of a process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from central.registry import Registry


@cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="corsia-mlflow-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Registry(f"sqlite:///{folder / 'mlflow.db'}").next_version("none")
    return folder / "mlflow.db"


def store_in(folder: Path) -> str:
    """The URI of a store of its own in this folder, made if it is not there."""
    path = folder / "mlflow.db"
    if not path.exists():
        shutil.copy(_template(), path)
    return f"sqlite:///{path}"

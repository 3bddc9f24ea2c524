"""The example plug-in, installed as a site would install it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent / "plugin"
KEY = "corsia-example==1.0.0"


def install(root: Path, *, change: tuple[str, str] | None = None, version: str = "1.0.0") -> Path:
    """Install it below a folder of plug-ins; `change` replaces a text of the source. Returns its folder."""
    source, target = root.parent / f"source-{root.name}-{version}", root / f"example-{version}"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE, source)
    module, project = source / "corsia_example" / "__init__.py", source / "pyproject.toml"
    project.write_text(project.read_text().replace('version = "1.0.0"', f'version = "{version}"'))
    if change is not None:
        assert change[0] in module.read_text()
        module.write_text(module.read_text().replace(*change))
    shutil.rmtree(target, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "--target", str(target), str(source)], check=True, timeout=120
    )
    return target

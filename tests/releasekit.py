"""Releases made from this source tree: wheelhouses and environments, small or whole."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("protocol", "privacy", "pipelines", "edge", "central", "corsia")

# pip as the documents call it, with what Corsia stands on taken from the environment at hand.
SMALL = {
    "PIP_NO_INDEX": "1",
    "PIP_NO_DEPS": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # "no" to isolation: an option that begins with no is set by 0
    "PIP_IGNORE_INSTALLED": "1",
    "PIP_REQUIRE_VIRTUALENV": "1",
}


def program(name: str, package: str = "") -> str:
    """A program of an installed package, or of the system: then the test skips where it is not.

    Args:
        package: the Debian package that brings it; empty: it came with this environment.
    """
    if package:
        if found := shutil.which(name):
            return found
        pytest.skip(f"no {name}: sudo apt-get install -y --no-install-recommends {package}")
    folders = [Path(sys.executable).parent, *(Path(p).parents[2] / "bin" for p in sys.path if p.endswith("-packages"))]
    return str(next(folder / name for folder in folders if (folder / name).exists()))


def tree(folder: Path) -> Path:
    """The source as it is distributed: what a checkout holds of it, and none of what was made there."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*PACKAGES, "deploy"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder)
    return folder


def wheelhouse(source: Path, out: Path, seat: str, **env: str) -> Path:
    """What `make wheelhouse` makes of a tree."""
    command = [sys.executable, str(source / "deploy" / "wheelhouse.py"), seat, str(out)]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def interpreter(folder: Path) -> Path:
    """A python whose `-m venv` also sees what is installed here (pip too), beneath what is installed there."""
    found = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    script = folder / "python3-with-packages"
    base = Path(sysconfig.get_config_var("BINDIR")) / version
    lines = "\\n".join(found)
    script.write_text(
        f'''#!/bin/sh
set -e
[ "$2" = venv ] || exec "{base}" "$@"
"{base}" -m venv --without-pip "$3"
printf "{lines}\\n" > "$3/lib/{version}/site-packages/zz-here.pth"
printf '#!/bin/sh\\nexec "%s/bin/python" -m pip "$@"\\n' "$(realpath "$3")" > "$3/bin/pip"
chmod +x "$3/bin/pip"
'''
    )
    script.chmod(0o755)
    return script

"""Make a folder from which Corsia installs without any index: `make wheelhouse SEAT=edge`.

    python deploy/wheelhouse.py SEAT OUT

SEAT is `edge`, `central`, or extras of pyproject.toml with commas (`edge,train`). OUT gets the wheels of Corsia and of
all that it stands on, at the versions of constraints.txt, `requirements.txt` with the SHA-256 of each, `SHA256SUMS` of
everything, and what installs it (`install.sh`, the units). Build it on the platform and Python of the target. pip's
settings (`PIP_*`) hold, so that a mirror may serve the wheels.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
CARRIED = ("constraints.txt", "LICENSE", "deploy/install.sh")


def build(seat: str, out: Path) -> list[str]:
    """Fill a new or empty folder; the lines of its requirements.

    Raises:
        ValueError: an extra that does not exist, or a folder that holds something.
        subprocess.CalledProcessError: pip could not get or build a wheel.
    """
    extras = [word.strip() for word in seat.split(",")]
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    unknown = sorted(set(extras) - set(known))
    if unknown:
        raise ValueError(f"no such extra: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty")
    out.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    target = f"{ROOT}[{','.join(extras)}]"
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), "-w", str(out), target], check=True)
    lines = [_line(path, extras) for path in sorted(out.glob("*.whl"))]
    (out / "requirements.txt").write_text("\n".join(lines) + "\n")
    for name in CARRIED:
        shutil.copy2(ROOT / name, out)
    for path in sorted((ROOT / "deploy" / "systemd").glob("corsia*")):
        shutil.copy2(path, out)
    sums = [f"{_digest(path)}  {path.name}" for path in sorted(out.iterdir()) if path.name != "SHA256SUMS"]
    (out / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    return lines


def _line(wheel: Path, extras: list[str]) -> str:
    name, version, _build, _tags = parse_wheel_filename(wheel.name)
    which = f"[{','.join(extras)}]" if name == "corsia" else ""
    return f"{name}{which}=={version} --hash=sha256:{_digest(wheel)}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Run it; 2 for a wrong call."""
    if len(sys.argv) != 3:
        print(__doc__)  # noqa: T201
        return 2
    out = Path(sys.argv[2])
    try:
        lines = build(sys.argv[1], out)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    service = "central" if "central" in sys.argv[1].split(",") else "edge"
    print(f"{out}: {len(lines)} wheels, {size:.0f} MB; at the target: sh install.sh {service}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())

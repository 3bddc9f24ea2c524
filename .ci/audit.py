"""Known vulnerabilities of the pinned packages: pip-audit where its service may be asked, else a local advisory file.

    CORSIA_AUDIT=online     ask the advisory service of PyPI by pip-audit, a request a package
    CORSIA_ADVISORIES=FILE  OSV records (https://ossf.github.io/osv-schema), a JSON list; no network

With neither it says that it did not run, and why, and ends well: `make check` needs no network, and asks a registry
nothing unless somebody wants it. With one that cannot be used it says so in a line and fails.
A hit that does not concern us is named in `ACCEPTED` with the reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
ACCEPTED: dict[str, str] = {}  # advisory id -> why it does not concern us


def pins(text: str) -> dict[str, Version]:
    """Name -> version of each pin."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def hits(advisories: list[dict[str, Any]], known: dict[str, Version]) -> Iterator[tuple[str, str, str]]:
    """(id, package, version) of each pin that an advisory affects."""
    for one in advisories:
        for affected in one.get("affected", []):
            package = affected.get("package", {})
            name = canonicalize_name(str(package.get("name", "")))
            if package.get("ecosystem") == "PyPI" and name in known and _affects(affected, known[name]):
                yield str(one["id"]), name, str(known[name])


def _affects(affected: dict[str, Any], version: Version) -> bool:
    if str(version) in affected.get("versions", []):
        return True
    for span in affected.get("ranges", []):
        if span.get("type") == "ECOSYSTEM" and _within(span.get("events", []), version):
            return True
    return False


def _within(events: list[dict[str, str]], version: Version) -> bool:
    inside = False
    for event in events:
        try:
            if "introduced" in event:
                inside = inside or event["introduced"] == "0" or version >= Version(event["introduced"])
            elif "fixed" in event and version >= Version(event["fixed"]):
                inside = False
            elif "last_affected" in event and version > Version(event["last_affected"]):
                inside = False
        except InvalidVersion:
            return True  # unsure means affected
    return inside


def main() -> int:
    """Run what can run; 0, or 1 with what was found."""
    local, online = os.environ.get("CORSIA_ADVISORIES"), os.environ.get("CORSIA_AUDIT") == "online"
    if local:
        known = pins(CONSTRAINTS.read_text())
        try:
            advisories = json.loads(Path(local).read_text())
            found = sorted(hit for hit in hits(advisories, known) if hit[0] not in ACCEPTED)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            print(f"audit: did not run: {local} is no list of OSV records ({type(error).__name__})")  # noqa: T201
            return 1
        for identifier, name, version in found:
            print(f"audit: {identifier}: {name} {version}")  # noqa: T201
        print(f"audit: {len(known)} pins against {local}: {len(found)} hits")  # noqa: T201
        return 1 if found else 0
    if online:
        return _online()
    print(  # noqa: T201
        "audit: did not run: no source of advisories. CORSIA_AUDIT=online asks pypi.org by pip-audit; "
        "CORSIA_ADVISORIES=FILE takes OSV records and needs no network (.ci/audit.py)"
    )
    return 0


def _online() -> int:
    """pip-audit's table, and its status; one line where it could not ask. A pin that it could not judge fails it."""
    ignored = [word for identifier in ACCEPTED for word in ("--ignore-vuln", identifier)]
    asked = ("-r", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--strict")
    command = [sys.executable, "-m", "pip_audit", *asked, *ignored]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if "Traceback (most recent call last)" not in done.stderr:
        print(done.stdout + done.stderr, end="")  # noqa: T201
        return done.returncode
    cause = done.stderr.rstrip().rpartition("\n")[2][:200]
    print(f"audit: did not run: pip-audit could not ask its service: {cause}")  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())

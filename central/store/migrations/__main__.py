"""Writes the next step from what `models.py` has and the steps so far do not: read it, then correct it.

    python -m central.store.migrations erasures "What became of a study's data at its end."

Then add its number to `REVISIONS` in `central/store/schema.py`. A column that is added to a table needs a
`server_default` for the rows that are there.
"""

from __future__ import annotations

import sys
from pathlib import Path

from alembic import command
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from central.store.models import Base
from central.store.schema import REVISIONS
from protocol.process import guard

__all__ = ["rendered"]

_HERE = Path(__file__).parent
_FILE = '''"""{doc}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{before}"


def upgrade() -> None:
    """Forward alone: going back is restoring the copy that was made before."""
'''


def rendered(doc: str) -> tuple[str, str]:
    """Number and text of the next step."""
    config, engine = Config(), create_engine("sqlite://")
    config.set_main_option("script_location", str(_HERE))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = produce_migrations(context, Base.metadata).upgrade_ops
    revision, code = f"{len(REVISIONS) + 1:04d}", render_python_code(found) if found is not None else "pass"
    lines = [line for line in code.splitlines() if "###" not in line]
    body = "\n".join(line if line.startswith("    ") or not line else f"    {line}" for line in lines)
    return revision, _FILE.format(doc=doc, revision=revision, before=REVISIONS[-1]) + body.rstrip() + "\n"


def main() -> None:
    """Write the file beside the others."""
    guard()
    name, doc = sys.argv[1:]
    revision, made = rendered(doc)
    path = _HERE / "versions" / f"{revision}_{name}.py"
    with path.open("x") as file:
        file.write(made)
    sys.stdout.write(f"wrote {path}; run ruff format, read it, and add {revision!r} to REVISIONS\n")


if __name__ == "__main__":
    main()

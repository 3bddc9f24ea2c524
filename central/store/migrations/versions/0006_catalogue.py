"""Which kinds of data a dataset has that a site tells of; remote tables in the lake."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Forward alone: going back is restoring the copy that was made before."""
    op.add_column("advertised", sa.Column("kinds", sa.JSON(), nullable=False, server_default="[]"))
    op.create_table(
        "remotes",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("rows", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("columns", sa.JSON(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("licence", sa.String(), nullable=False),
        sa.Column("terms", sa.String(), nullable=False),
        sa.Column("publisher", sa.String(), nullable=False),
        sa.Column("pulled_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )

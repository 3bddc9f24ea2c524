"""Which kinds of data a dataset has that a site tells of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Forward alone: going back is restoring the copy that was made before."""
    op.add_column("advertised", sa.Column("kinds", sa.JSON(), nullable=False, server_default="[]"))

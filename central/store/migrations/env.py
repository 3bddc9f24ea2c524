"""Alembic's entry point: the steps run on the connection, and in the transaction, that they are given."""

from __future__ import annotations

from alembic import context

from central.store.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()

"""Migrations on a connection that `store.database` opened; Alembic runs this file."""

from alembic import context
from sqlmodel import SQLModel

import labeler.store.tables.label_sets  # noqa: F401 - fills the metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=SQLModel.metadata, render_as_batch=connection.dialect.name == "sqlite"
)
with context.begin_transaction():
    context.run_migrations()

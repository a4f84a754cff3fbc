"""Counts that the source of the evidence does not give are NULL, not zero."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "density": sa.Float(),
    "max_activation": sa.Float(),
    "n_firings": sa.BigInteger(),
}


def upgrade() -> None:
    _allow_null(True)


def downgrade() -> None:
    _allow_null(False)


def _allow_null(nullable: bool) -> None:
    _of_saes(nullable)
    triggers = _triggers()
    with op.batch_alter_table("result") as result:
        for name, kind in _COLUMNS.items():
            result.alter_column(name, existing_type=kind, nullable=nullable)
    for statement in triggers:
        op.execute(sa.text(statement.replace(":", r"\:")))


def _of_saes(nullable: bool) -> None:
    if op.get_bind().dialect.name != "sqlite":
        op.alter_column("sae", "d_in", existing_type=sa.Integer(), nullable=nullable)
        return
    # Other tables refer to this one: SQLite would not drop it to put a copy in its place.
    default = "" if nullable else " NOT NULL DEFAULT 0"
    op.execute(f"ALTER TABLE sae ADD COLUMN d_in_allowed INTEGER{default}")
    op.execute("UPDATE sae SET d_in_allowed = d_in" if nullable else "UPDATE sae SET d_in_allowed = coalesce(d_in, 0)")
    op.execute("ALTER TABLE sae DROP COLUMN d_in")
    op.execute("ALTER TABLE sae RENAME COLUMN d_in_allowed TO d_in")


def _triggers() -> list[str]:
    # SQLite copies a table to change it, and does not copy its triggers, which maintain the search.
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        return []
    found = connection.execute(sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'result'"))
    return list(found.scalars())

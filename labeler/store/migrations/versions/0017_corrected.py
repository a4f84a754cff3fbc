"""The verdict that comes with a corrected text is called so; it was `better`."""

from alembic import op

revision = "0017"
down_revision = "0016"

_TABLES = ("review", "standing")


def upgrade() -> None:
    for table in _TABLES:
        op.execute(f"UPDATE {table} SET verdict = 'corrected' WHERE verdict = 'better'")


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"UPDATE {table} SET verdict = 'better' WHERE verdict = 'corrected'")

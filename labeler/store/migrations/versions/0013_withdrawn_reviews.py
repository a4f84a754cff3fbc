"""A review can be withdrawn: it no longer counts, and stays in the history."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("review", sa.Column("withdrawn_at", sa.DateTime(timezone=True)))
    op.add_column("review", sa.Column("withdrawn_by", sa.String()))


def downgrade() -> None:
    # Without the columns, a withdrawn review would count again.
    op.execute("DELETE FROM review WHERE withdrawn_at IS NOT NULL OR verdict = 'comment'")
    for name in ("withdrawn_by", "withdrawn_at"):
        op.drop_column("review", name)

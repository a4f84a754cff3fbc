"""The origin of a label: its alternatives, and why it was kept."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("result", sa.Column("origin", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("result", "origin")

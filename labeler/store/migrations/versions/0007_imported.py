"""The contexts of imported label sets."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "imported_contexts",
        sa.Column("label_set_id", sa.Integer(), sa.ForeignKey("label_set.id"), primary_key=True),
        sa.Column("feature_index", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("contexts", sa.JSON(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("imported_contexts")

"""Replies with log-probabilities or vectors, at a part of their price; batches in progress."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("llm_reply", sa.Column("detail", sa.JSON()))
    op.add_column("llm_reply", sa.Column("price_factor", sa.Float(), nullable=False, server_default="1"))
    op.create_table(
        "llm_batch",
        sa.Column("id", sa.String(), primary_key=True),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("endpoint", "path", "model", "purpose", "state")),
        sa.Column("n_requests", sa.Integer(), nullable=False),
        sa.Column("batch_id", sa.String()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_llm_batch_endpoint", "llm_batch", ["endpoint"])


def downgrade() -> None:
    op.drop_table("llm_batch")
    op.drop_column("llm_reply", "price_factor")
    op.drop_column("llm_reply", "detail")

"""Features that a run has claimed, so that two runs never pay for the same one."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "labeling_run",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("process", sa.String(), nullable=False),
        sa.Column("block_id", sa.Integer()),
        sa.Column("beat", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_labeling_run_block_id", "labeling_run", ["block_id"])
    op.create_table(
        "claim",
        sa.Column("work", sa.String(), primary_key=True),
        sa.Column("feature_index", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("run_id", sa.String(), sa.ForeignKey("labeling_run.id", ondelete="CASCADE"), nullable=False),
    )
    op.create_index("ix_claim_run_id", "claim", ["run_id"])


def downgrade() -> None:
    for table in ("claim", "labeling_run"):
        op.drop_table(table)

"""Jobs and their blocks."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def _zero(name: str, kind: type = sa.Integer) -> sa.Column[Any]:
    return sa.Column(name, kind(), nullable=False, server_default=sa.text("0"))


def upgrade() -> None:
    op.create_table(
        "job",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("evidence_id", sa.Integer(), sa.ForeignKey("evidence.id")),
        sa.Column("label_set_id", sa.Integer(), sa.ForeignKey("label_set.id")),
        sa.Column("features", sa.String()),
        sa.Column("gather", sa.JSON()),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("budget_usd", sa.Float()),
        sa.Column("budget_tokens", sa.BigInteger()),
        sa.Column("idempotency_key", sa.String(), unique=True),
        sa.Column("request_hash", sa.String(), nullable=False),
        sa.Column("n_features", sa.Integer(), nullable=False),
        sa.Column("n_blocks", sa.Integer(), nullable=False),
        _zero("turn", sa.BigInteger),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        *(sa.Column(name, sa.DateTime(timezone=True)) for name in ("started_at", "ended_at", "running_since")),
        _zero("done_before"),
    )
    op.create_index("ix_job_state", "job", ["state"])
    op.create_table(
        "block",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("job_id", sa.Integer(), sa.ForeignKey("job.id"), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        _zero("stage"),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("first", "last", "n_features")),
        sa.Column("chosen", sa.Text()),
        sa.Column("state", sa.String(), nullable=False),
        *(sa.Column(name, sa.String()) for name in ("reason", "owner")),
        _zero("beat", sa.BigInteger),
        *(_zero(name) for name in ("attempts", "wanted_back", "lost", "done_when_lost")),
        *(_zero(f"n_{state}") for state in ("labeled", "silent", "rare", "failed")),
        _zero("requests"),
        _zero("tokens_in", sa.BigInteger),
        _zero("tokens_out", sa.BigInteger),
        sa.Column("cost_usd", sa.Float(), server_default=sa.text("0")),
        *(sa.Column(name, sa.DateTime(timezone=True)) for name in ("started_at", "ended_at")),
        sa.UniqueConstraint("job_id", "number", name="uq_block"),
    )
    op.create_index("ix_block_job_state", "block", ["job_id", "state", "stage", "number"])
    op.create_index("ix_block_state", "block", ["state"])


def downgrade() -> None:
    op.drop_table("block")
    op.drop_table("job")

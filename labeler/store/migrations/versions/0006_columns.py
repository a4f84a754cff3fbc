"""Results by column, for counting and comparing; requests for activations; counters."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_PART = 4096  # features; labeler/store/base/columns.py


def upgrade() -> None:
    label_set = sa.ForeignKey("label_set.id")
    op.create_table(
        "result_change",
        sa.Column("label_set_id", sa.Integer(), label_set, primary_key=True),
        sa.Column("part", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("writer", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "result_column",
        sa.Column("label_set_id", sa.Integer(), sa.ForeignKey("label_set.id"), primary_key=True),
        sa.Column("part", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Numbers without a pattern: compression would cost time and gain nothing.
        op.execute("ALTER TABLE result_column ALTER COLUMN content SET STORAGE EXTERNAL")
    op.execute(
        "INSERT INTO result_change (label_set_id, part, writer, n) "
        f"SELECT DISTINCT label_set_id, feature_index / {_PART}, 0, 1 FROM result"
    )
    op.create_table(
        "activation_request",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("asked", sa.JSON(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "counter",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("label", sa.String(), primary_key=True),
        sa.Column("value", sa.Float(), nullable=False),
    )


def downgrade() -> None:
    for table in ("counter", "activation_request", "result_column", "result_change"):
        op.drop_table(table)

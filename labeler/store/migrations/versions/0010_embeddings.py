"""Embeddings of labels, and their signs, for search by meaning."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "embedding",
        sa.Column("model", sa.String(), primary_key=True),
        sa.Column("text_hash", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "embedding_signs",
        sa.Column("label_set_id", sa.Integer(), sa.ForeignKey("label_set.id"), primary_key=True),
        sa.Column("part", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("model", sa.String(), primary_key=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        *(sa.Column(name, sa.LargeBinary(), nullable=False) for name in ("text_hashes", "signs")),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Numbers without a pattern: compression would cost time and gain nothing.
        for table, column in (
            ("embedding", "content"),
            ("embedding_signs", "signs"),
            ("embedding_signs", "text_hashes"),
        ):
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL")


def downgrade() -> None:
    for table in ("embedding_signs", "embedding"):
        op.drop_table(table)

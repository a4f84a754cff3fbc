"""Names of a subject and an SAE for people, where any were given; otherwise their paths are read as names."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    for name in ("subject_name", "name"):
        op.add_column("sae", sa.Column(name, sa.String(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("sae") as table:
        for name in ("subject_name", "name"):
            table.drop_column(name)

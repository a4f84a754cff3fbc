"""Names by which people recognize a subject and an SAE, where they gave any; else paths give them on reading."""

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

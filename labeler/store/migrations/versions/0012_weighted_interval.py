"""The interval of the weighted score as columns, read from the stored scores."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_ENDS = ("low", "high")


def upgrade() -> None:
    for end in _ENDS:
        op.add_column("result", sa.Column(f"score_weighted_{end}", sa.Float(), nullable=True))
    if op.get_bind().dialect.name == "postgresql":
        found = "(SELECT (s->>'{end}')::float8 FROM json_array_elements(scores) s WHERE s->>'name' = 'simulation_weighted' LIMIT 1)"
    else:
        found = (
            "(SELECT json_extract(value, '$.{end}') FROM json_each(result.scores) "
            "WHERE json_extract(value, '$.name') = 'simulation_weighted' LIMIT 1)"
        )
    values = ", ".join(f"score_weighted_{end} = {found.format(end=end)}" for end in _ENDS)
    op.execute(f"UPDATE result SET {values} WHERE score_weighted IS NOT NULL")


def downgrade() -> None:
    with op.batch_alter_table("result") as table:
        for end in _ENDS:
            table.drop_column(f"score_weighted_{end}")

"""Every score as columns of its label set: all parts are read again."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

_PART = 4096  # features; labeler/store/base/columns.py
_WHOLE = -1  # in place of a part


def upgrade() -> None:
    # A part that is marked already is read again anyway.
    marked = "SELECT 1 FROM result_change c WHERE c.label_set_id = r.label_set_id AND c.part = r.feature_index / :part"
    op.execute(
        sa.text(
            "INSERT INTO result_change (label_set_id, part, writer, n) "
            f"SELECT DISTINCT label_set_id, feature_index / :part, 0, 1 FROM result r WHERE NOT EXISTS ({marked})"
        ).bindparams(part=_PART)
    )
    op.execute(sa.text("DELETE FROM result_column WHERE part = :whole").bindparams(whole=_WHOLE))


def downgrade() -> None:
    op.execute("DELETE FROM result_column")
    op.execute("DELETE FROM result_change")
    op.execute(
        sa.text(
            "INSERT INTO result_change (label_set_id, part, writer, n) "
            "SELECT DISTINCT label_set_id, feature_index / :part, 0, 1 FROM result"
        ).bindparams(part=_PART)
    )

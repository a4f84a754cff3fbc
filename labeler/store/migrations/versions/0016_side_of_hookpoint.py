"""An SAE that reads a module's input has the hookpoint `PATH:input`, as `--hookpoint` takes it; it was `PATH (input)`."""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.execute(
        "UPDATE sae SET hookpoint = substr(hookpoint, 1, length(hookpoint) - 8) || '\\:input' WHERE hookpoint LIKE '% (input)'"
    )


def downgrade() -> None:
    op.execute(
        "UPDATE sae SET hookpoint = substr(hookpoint, 1, length(hookpoint) - 6) || ' (input)' WHERE hookpoint LIKE '%\\:input'"
    )

"""The current reviews of labels, people's own labels in the search, and the filtered columns in the indices."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_SCORED = ("score", "feature_index", "score_low", "density")
_DENSE = ("density", "feature_index", "state", "score", "score_low")
_BEFORE = {"ix_result_score": _SCORED, "ix_result_density": _DENSE}
_AFTER = {
    "ix_result_score": (*_SCORED, "score_high"),
    "ix_result_density": (*_DENSE, "score_high"),
    "ix_result_feature": ("feature_index", "state", "score", "score_low", "score_high", "density"),
}

_NEWEST = (
    "INSERT INTO standing (label_set_id, feature_index, verdict, reviewed_label, text, reviewer, written_at) "
    "SELECT r.label_set_id, r.feature_index, r.verdict, r.reviewed_label, t.text, t.reviewer, t.created_at "
    "FROM review r LEFT JOIN review t ON t.id = (SELECT max(id) FROM review b WHERE b.verdict = 'better' "
    "AND b.label_set_id = r.label_set_id AND b.feature_index = r.feature_index) "
    "WHERE r.id = (SELECT max(id) FROM review b WHERE b.label_set_id = r.label_set_id "
    "AND b.feature_index = r.feature_index)"
)
_FOLLOW = (
    "CREATE OR REPLACE FUNCTION label_search_follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF TG_OP <> 'INSERT' THEN DELETE FROM label_search "
    "WHERE label_set_id = OLD.label_set_id AND feature_index = OLD.feature_index{machine}; END IF; "
    "IF TG_OP <> 'DELETE' AND NEW.label IS NOT NULL THEN INSERT INTO label_search (label_set_id, feature_index, document) "
    "VALUES (NEW.label_set_id, NEW.feature_index, to_tsvector('english', NEW.label)); END IF; "
    "RETURN NULL; END $$"
)
_POSTGRESQL = (
    "ALTER TABLE label_search ADD COLUMN by_person boolean NOT NULL DEFAULT false",
    "ALTER TABLE label_search DROP CONSTRAINT label_search_pkey",
    "ALTER TABLE label_search ADD PRIMARY KEY (label_set_id, feature_index, by_person)",
    _FOLLOW.format(machine=" AND NOT by_person"),
    "INSERT INTO label_search (label_set_id, feature_index, document, by_person) "
    "SELECT label_set_id, feature_index, to_tsvector('english', text), true FROM standing WHERE text IS NOT NULL",
)
_POSTGRESQL_BACK = (
    "DELETE FROM label_search WHERE by_person",
    _FOLLOW.format(machine=""),
    "ALTER TABLE label_search DROP COLUMN by_person",
    "ALTER TABLE label_search ADD PRIMARY KEY (label_set_id, feature_index)",
)
_PERSON = 1 << 31  # labeler/store/label_sets/search.py
_SQLITE = (
    "INSERT INTO label_search(rowid, label) "
    f"SELECT label_set_id * 4294967296 + {_PERSON} + feature_index, text FROM standing WHERE text IS NOT NULL",
)
_SQLITE_BACK = (f"DELETE FROM label_search WHERE rowid & {_PERSON} <> 0",)


def upgrade() -> None:
    for name in _BEFORE:
        op.drop_index(name, "result")
    for name, columns in _AFTER.items():
        op.create_index(name, "result", ["label_set_id", *columns])
    op.create_table(
        "standing",
        sa.Column("label_set_id", sa.Integer(), sa.ForeignKey("label_set.id"), primary_key=True),
        sa.Column("feature_index", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("verdict", sa.String(), nullable=False),
        *(sa.Column(name, sa.String()) for name in ("reviewed_label", "text", "reviewer")),
        sa.Column("written_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_standing_verdict", "standing", ["label_set_id", "verdict", "feature_index"])
    op.execute(_NEWEST)
    for statement in _POSTGRESQL if op.get_bind().dialect.name == "postgresql" else _SQLITE:
        op.execute(statement)
    # Columns that were made without densities are made again.
    op.execute(
        "INSERT INTO result_change (label_set_id, part, writer, n) SELECT label_set_id, part, 0, 1 FROM result_column "
        "WHERE part >= 0 AND name = 'figures' ON CONFLICT (label_set_id, part, writer) DO NOTHING"
    )


def downgrade() -> None:
    for statement in _POSTGRESQL_BACK if op.get_bind().dialect.name == "postgresql" else _SQLITE_BACK:
        op.execute(statement)
    op.drop_table("standing")
    for name in _AFTER:
        op.drop_index(name, "result")
    for name, columns in _BEFORE.items():
        op.create_index(name, "result", ["label_set_id", *columns])

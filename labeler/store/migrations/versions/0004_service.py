"""Reading for the service: sorted indices, full-text search, reviews, API keys."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_LAST = ("scores", "simulations", "label_table", "statistics")
_INDICES = {
    "ix_result_state": ("state", "feature_index"),
    "ix_result_score": ("score", "feature_index", "score_low", "density"),
    "ix_result_density": ("density", "feature_index", "state", "score", "score_low"),
}

_SQLITE_SEARCH = (
    "CREATE VIRTUAL TABLE label_search USING fts5(label, tokenize = 'porter unicode61')",
    "INSERT INTO label_search(rowid, label) SELECT label_set_id * 4294967296 + feature_index, label FROM result "
    "WHERE label IS NOT NULL",
    "CREATE TRIGGER label_search_insert AFTER INSERT ON result WHEN new.label IS NOT NULL BEGIN "
    "INSERT INTO label_search(rowid, label) VALUES (new.label_set_id * 4294967296 + new.feature_index, new.label); END",
    "CREATE TRIGGER label_search_delete AFTER DELETE ON result WHEN old.label IS NOT NULL BEGIN "
    "DELETE FROM label_search WHERE rowid = old.label_set_id * 4294967296 + old.feature_index; END",
    "CREATE TRIGGER label_search_update AFTER UPDATE ON result WHEN old.label IS NOT new.label BEGIN "
    "DELETE FROM label_search WHERE rowid = old.label_set_id * 4294967296 + old.feature_index; "
    "INSERT INTO label_search(rowid, label) SELECT new.label_set_id * 4294967296 + new.feature_index, new.label "
    "WHERE new.label IS NOT NULL; END",
)
_POSTGRESQL_SEARCH = (
    "CREATE TABLE label_search (label_set_id integer NOT NULL, feature_index integer NOT NULL, "
    "document tsvector NOT NULL, PRIMARY KEY (label_set_id, feature_index))",
    "INSERT INTO label_search SELECT label_set_id, feature_index, to_tsvector('english', label) FROM result "
    "WHERE label IS NOT NULL",
    "CREATE INDEX ix_label_search_document ON label_search USING gin (document)",
    "CREATE FUNCTION label_search_follow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF TG_OP <> 'INSERT' THEN DELETE FROM label_search "
    "WHERE label_set_id = OLD.label_set_id AND feature_index = OLD.feature_index; END IF; "
    "IF TG_OP <> 'DELETE' AND NEW.label IS NOT NULL THEN INSERT INTO label_search "
    "VALUES (NEW.label_set_id, NEW.feature_index, to_tsvector('english', NEW.label)); END IF; "
    "RETURN NULL; END $$",
    "CREATE TRIGGER label_search_insert AFTER INSERT ON result FOR EACH ROW WHEN (NEW.label IS NOT NULL) "
    "EXECUTE FUNCTION label_search_follow()",
    "CREATE TRIGGER label_search_delete AFTER DELETE ON result FOR EACH ROW WHEN (OLD.label IS NOT NULL) "
    "EXECUTE FUNCTION label_search_follow()",
    "CREATE TRIGGER label_search_update AFTER UPDATE ON result FOR EACH ROW "
    "WHEN (OLD.label IS DISTINCT FROM NEW.label) EXECUTE FUNCTION label_search_follow()",
)


def upgrade() -> None:
    sqlite = op.get_bind().dialect.name == "sqlite"
    for name in _INDICES:
        op.drop_index(name, "result")
    if sqlite:
        _put_long_columns_last()
    # The index holds the columns that filter beside the order, so that rows that do not match are never fetched.
    for name, columns in _INDICES.items():
        op.create_index(name, "result", ["label_set_id", *columns])
    for statement in _SQLITE_SEARCH if sqlite else _POSTGRESQL_SEARCH:
        op.execute(sa.text(statement.replace(":", r"\:")))
    _reviews()
    _api_keys()


def _put_long_columns_last() -> None:
    # SQLite reads a row from its beginning, page by page: a column after a long one costs the pages of the long one.
    columns = [c["name"] for c in sa.inspect(op.get_bind()).get_columns("result") if c["name"] not in _LAST]
    with op.batch_alter_table("result", recreate="always", partial_reordering=[(*columns, *_LAST)]):
        pass


def _reviews() -> None:
    op.create_table(
        "review",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("label_set_id", sa.Integer(), sa.ForeignKey("label_set.id"), nullable=False),
        sa.Column("feature_index", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        *(sa.Column(name, sa.String()) for name in ("text", "comment", "reviewed_label")),
        sa.Column("reviewer", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_review_label", "review", ["label_set_id", "feature_index"])


def _api_keys() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(), primary_key=True),
        *(sa.Column(name, sa.String(), nullable=False) for name in ("name", "scope", "rate", "sha256")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True)),
    )


def downgrade() -> None:
    for table in ("api_key", "review"):
        op.drop_table(table)
    for event in ("insert", "delete", "update"):
        op.execute(
            f"DROP TRIGGER label_search_{event}" + ("" if op.get_bind().dialect.name == "sqlite" else " ON result")
        )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION label_search_follow")
    op.execute("DROP TABLE label_search")
    for name in _INDICES:
        op.drop_index(name, "result")
        op.create_index(name, "result", ["label_set_id", name.removeprefix("ix_result_")])

"""The table behind labeler/store/label_sets/imported.py. A change here needs a migration."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel

NO_FOLDER = "imported:"  # precedes a file's name, in place of the path of an evidence folder


class ImportedContextsRow(SQLModel, table=True):
    """The contexts that an imported file carried for one feature. The evidence behind them may no longer exist."""

    __tablename__ = "imported_contexts"

    label_set_id: int = Field(primary_key=True, foreign_key="label_set.id")
    feature_index: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    contexts: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))


IMPORTED_CONTEXTS = SQLModel.metadata.tables["imported_contexts"]

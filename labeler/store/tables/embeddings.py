"""The tables behind search by meaning (labeler/store/label_sets/embeddings.py). A change here needs a migration."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary
from sqlmodel import Field, SQLModel


class EmbeddingRow(SQLModel, table=True):
    """The position of a text in a model's space, kept once, however many labels have that text."""

    __tablename__ = "embedding"

    model: str = Field(primary_key=True)
    text_hash: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    content: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


class EmbeddingSignsRow(SQLModel, table=True):
    """The signs of the embeddings of one part of a label set; a search reads these."""

    __tablename__ = "embedding_signs"

    label_set_id: int = Field(primary_key=True, foreign_key="label_set.id")
    part: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    model: str = Field(primary_key=True)
    # of the part's columns; -1: some labels are left out
    version: int = Field(sa_column=Column(BigInteger, nullable=False))
    text_hashes: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    signs: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


EMBEDDINGS, SIGNS = (SQLModel.metadata.tables[name] for name in ("embedding", "embedding_signs"))

"""The tables behind the columns of a label set (labeler/store/base/columns.py). A change here needs a migration."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, LargeBinary
from sqlmodel import Field, SQLModel


def _key() -> Column[int]:
    return Column(BigInteger, primary_key=True, autoincrement=False)


class ResultChangeRow(SQLModel, table=True):
    """A mark on a part whose columns are out of date. Each writer has a row of its own, so that none waits for another."""

    __tablename__ = "result_change"

    label_set_id: int = Field(primary_key=True, foreign_key="label_set.id")
    part: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    writer: int = Field(sa_column=_key())
    n: int = Field(sa_column=Column(BigInteger, nullable=False))


class ResultColumnRow(SQLModel, table=True):
    """The values of one column in one part; part -1 holds those of the whole label set."""

    __tablename__ = "result_column"

    label_set_id: int = Field(primary_key=True, foreign_key="label_set.id")
    part: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    name: str = Field(primary_key=True)
    version: int = Field(sa_column=Column(BigInteger, nullable=False))
    content: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


CHANGES, COLUMNS = (SQLModel.metadata.tables[name] for name in ("result_change", "result_column"))

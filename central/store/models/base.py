"""What every table of the central database has in common."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Integer, LargeBinary
from sqlalchemy.orm import DeclarativeBase

__all__ = ["Base"]


class Base(DeclarativeBase):
    """Common base; times are Unix seconds (float)."""

    # A whole number is of 64 bits on every database: bytes, rows and sequences outgrow 32.
    type_annotation_map = {  # noqa: RUF012
        dict[str, Any]: JSON,
        list[Any]: JSON,
        bytes: LargeBinary,
        int: BigInteger().with_variant(Integer(), "sqlite"),
    }

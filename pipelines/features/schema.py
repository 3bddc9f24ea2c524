"""What an extractor promises: the columns of its table, each with name, type, unit, definition and source.

Place: every module of `pipelines.features` that makes columns describes them here, before any record is read;
the disclosure gate releases nothing that no schema names. A schema depends on the study's parameters only, never
on the data. Imports nothing of the project but the errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from protocol.errors import InputError

__all__ = ["DTYPES", "Extractor", "Feature", "check_names"]

#: What a column may hold. `category` is text out of a finite list; free text is no feature.
DTYPES = ("float64", "int64", "bool", "category")


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of a feature table.

    Args:
        name: the column's name, unique within the table.
        dtype: one of `DTYPES`; missing values are allowed in each.
        unit: UCUM code, "1" for a pure number, "{count}" for counts, "" for categories.
        definition: one sentence a reader of the table can check the value against.
        source: where the definition comes from (standard, paper, file format).
    """

    name: str
    dtype: str
    unit: str
    definition: str
    source: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r} is none of {', '.join(DTYPES)}")


@runtime_checkable
class Extractor(Protocol):
    """A plug-in that makes one row per person."""

    name: str
    version: int

    def schema(self, parameters: Mapping[str, object]) -> tuple[Feature, ...]:
        """The columns made under these parameters, in order.

        Raises:
            InputError: `input.usage`, parameters that make no sense.
        """
        ...


def check_names(features: Sequence[Feature]) -> None:
    """Refuse a schema in which two columns have one name.

    Raises:
        InputError: `input.usage`, with the name.
    """
    seen: set[str] = set()
    for feature in features:
        if feature.name in seen:
            raise InputError("input.usage", f"two features are called {feature.name!r}")
        seen.add(feature.name)

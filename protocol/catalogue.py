"""What a site tells of its datasets: kinds, how many rows about, which columns, which lanes. Never a row or value."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["COLUMN_TYPES", "DATASET_KINDS", "ROUNDED_TO", "AdvertisedColumn", "AdvertisedDataset"]

COLUMN_TYPES = ("number", "text", "date", "key")
DATASET_KINDS = ("table", "dicom", "fhir", "genotypes", "matrix", "omop")
ROUNDED_TO = 10  # rows are told in tens


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvertisedColumn:
    """A column by its name, the role that the site gave it, and what its cells are (`COLUMN_TYPES`)."""

    name: str
    role: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvertisedDataset:
    """A dataset that studies may ask this site for.

    Attributes:
        rows: of its table, or where there is none the persons of its images; rounded down to tens; 0: fewer persons
            than the site's least cohort, or the site does not say.
        lanes: that the site's policy lets run on it.
        kinds: of data that it has (`DATASET_KINDS`); empty: the site does not say.
    """

    name: str
    rows: int
    columns: tuple[AdvertisedColumn, ...]
    lanes: tuple[str, ...]
    kinds: tuple[str, ...] = ()

"""Where each person of a table stands with consent today, read without any study: for who has withdrawn since.

Used by `edge/withdrawals.py`. Nothing here logs or keeps a value.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from edge.sources import consent, tabular

if TYPE_CHECKING:
    import pandas as pd

    from edge.sources import DatasetConfig

__all__ = ["PARTLY", "by_person", "standing"]

PARTLY = "partly"


def standing(dataset: DatasetConfig, today: date) -> dict[str, str]:
    """Normalised patient id -> "" (all of his rows may pass), `PARTLY`, `consent` or `withdrawn`.

    Empty where the site has no table, no consent column or no patient column: nobody can be told apart then.

    Raises:
        InputError: `input.table`, `input.column-missing`.
        StorageError: `storage.failed`.
    """
    rule = dataset.consent
    patient = next((name for name, role in dataset.columns.items() if role == "patient"), None)
    if not dataset.tabular or rule is None or patient is None:
        return {}
    names = [name for name in (patient, rule.column, rule.withdrawn_on) if name]
    frame = tabular.read(dataset, list(dict.fromkeys(names)), set(names))
    return by_person(frame, patient, consent.judge(frame, patient, rule, today))


def by_person(frame: pd.DataFrame, patient: str, reasons: pd.Series[str]) -> dict[str, str]:
    """Sum up the reasons of rows (`consent.judge`) by person."""
    found: dict[str, set[str]] = {}
    for person, reason in zip(consent.persons_of(frame, patient), reasons, strict=True):
        if person:
            found.setdefault(person, set()).add(reason)
    return {person: _summed(said) for person, said in found.items()}


def _summed(said: set[str]) -> str:
    if "withdrawn" in said:
        return "withdrawn"
    if said == {""}:
        return ""
    return PARTLY if "" in said else "consent"

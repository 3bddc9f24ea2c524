"""Consent: who may be seen by a lane. Missing, unknown or unclear means no.

Consent is said row by row. A withdrawal speaks for the person: it holds back all rows of the patient, and his files
pass only when every row of his consents. Patient ids are compared normalised, as pseudonyms are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

import pandas as pd

from privacy.deid.pseudonym import normalise_id
from protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from edge.sources import ConsentRule

__all__ = ["UNSELECTED", "Patients", "judge", "parse_date", "persons_of", "withdrawn_elsewhere"]

UNSELECTED = "unselected"
_COMPACT = re.compile(r"^\d{8}$")


def parse_date(text: str) -> date | None:
    """A day from ISO 8601 (`2024-05-31`, with or without a time) or DICOM (`20240531`); None when it is neither.

    Day-first and month-first forms are not guessed.
    """
    text = text.strip()
    try:
        if _COMPACT.match(text):
            return date(int(text[:4]), int(text[4:6]), int(text[6:]))
        return datetime.fromisoformat(text).date() if re.match(r"^\d{4}-\d{2}-\d{2}", text) else None
    except ValueError:
        return None


def judge(frame: pd.DataFrame, patient: str | None, rule: ConsentRule | None, today: date) -> pd.Series[str]:
    """For each row "" (may pass) or the reason why it is withheld: no-patient, consent, withdrawn.

    Args:
        frame: text columns `patient`, `rule.column` and `rule.withdrawn_on`; missing = NaN.
        patient: the patient column, if the site named one.
        rule: the site's consent rule; None lets every row pass that names its patient.
        today: withdrawals up to and on this day count. One that is no date counts as well.
    """
    reasons = pd.Series("", index=frame.index, dtype=object)
    if rule is not None:
        granted = {word.strip() for word in rule.granted}
        stated = frame[rule.column].fillna("").astype(object).map(lambda value: str(value).strip())
        reasons[~(stated.isin(granted) & (stated != ""))] = "consent"
        if rule.withdrawn_on is not None:
            gone = frame[rule.withdrawn_on].fillna("").astype(object).map(lambda v: _withdrawn(str(v), today))
            gone = gone.astype(bool)
            if patient is not None:
                persons = persons_of(frame, patient)
                gone |= persons.isin(set(persons[gone])) & (persons != "")
            reasons[gone & (reasons == "")] = "withdrawn"
    if patient is not None:
        reasons[persons_of(frame, patient) == ""] = "no-patient"
    return reasons


def withdrawn_elsewhere(
    frame: pd.DataFrame, patient: str | None, reasons: pd.Series[str], everyone: pd.DataFrame, judged: pd.Series[str]
) -> pd.Series[str]:
    """The reasons of some rows, once those of persons who have withdrawn in another row are held back too.

    Args:
        frame, reasons: the rows, as `judge` judged them by themselves.
        everyone, judged: all rows, likewise.
    """
    if patient is None:
        return reasons
    gone = set(persons_of(everyone, patient)[judged == "withdrawn"]) - {""}
    return reasons.mask((reasons == "") & persons_of(frame, patient).isin(gone), "withdrawn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patients:
    """Which patients' files may pass. Ids are normalised."""

    selected: frozenset[str]
    consenting: frozenset[str]
    withdrawn: frozenset[str]
    by_consent: bool

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        patient: str | None,
        reasons: pd.Series[str],
        chosen: pd.Series[bool],
        *,
        by_consent: bool,
        among: tuple[pd.DataFrame, pd.Series[str]] | None = None,
    ) -> Patients:
        """Sum up the rows by person.

        Args:
            frame, reasons: rows and why each is withheld (`judge`).
            chosen: which rows are selected.
            by_consent: whether the site has a rule of consent.
            among: all rows and their reasons, where `frame` has but some of them.

        Raises:
            ConfigurationError: `config.invalid` without a patient column: files could not be matched to rows.
        """
        if patient is None:
            raise ConfigurationError("config.invalid", "no column has the role 'patient'")
        chosen_persons = persons_of(frame, patient)[chosen]
        if among is not None:
            frame, reasons = among
        persons = persons_of(frame, patient)
        known = set(persons) - {""}
        refused = set(persons[reasons != ""])
        return cls(
            selected=frozenset(chosen_persons),
            consenting=frozenset(known - refused),
            withdrawn=frozenset(persons[reasons == "withdrawn"]),
            by_consent=by_consent,
        )

    def verdict(self, patient: str | None) -> str:
        """For a file's PatientID: "" (may pass), a reason to withhold, or `UNSELECTED` (not asked for)."""
        person = normalise_id(patient or "")
        if self.by_consent and person not in self.consenting:
            return "withdrawn" if person in self.withdrawn else "consent"
        return "" if person in self.selected else UNSELECTED


def persons_of(frame: pd.DataFrame, patient: str) -> pd.Series[str]:
    """The normalised patient id of each row; empty where there is none."""
    return frame[patient].fillna("").astype(object).map(lambda value: normalise_id(str(value)))


def _withdrawn(text: str, today: date) -> bool:
    if not text.strip():
        return False
    day = parse_date(text)
    return day is None or day <= today

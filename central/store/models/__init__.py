"""The tables of the central database, on SQLite and PostgreSQL alike; a module a noun, all of them known here.

No column holds data of a patient: ids, digests of ciphertext, counts, codes and signed documents only. Who uses the
centre is in `accounts`, as the OpenID provider names him.
"""

from __future__ import annotations

from central.store.models.base import Base
from central.store.models.landing import CheckpointRow, CuratedRow, LogRow, ParcelRow, RemoteRow, WitnessedRow
from central.store.models.people import AccessRow, AccountRow, DecisionRow, EventRow, RepeatedRow
from central.store.models.runs import ControlRow, RoundRow, RunRow
from central.store.models.sites import AdvertisedRow, CertificateRow, SiteRow
from central.store.models.studies import AssignmentRow, EntitlementRow, ErasureRow, StudyRow, WithdrawalRow
from central.store.models.versions import ModelDecisionRow, ModelRow, PredictionRow, PromotionRow

__all__ = [
    "AccessRow",
    "AccountRow",
    "AdvertisedRow",
    "AssignmentRow",
    "Base",
    "CertificateRow",
    "CheckpointRow",
    "ControlRow",
    "CuratedRow",
    "DecisionRow",
    "EntitlementRow",
    "ErasureRow",
    "EventRow",
    "LogRow",
    "ModelDecisionRow",
    "ModelRow",
    "ParcelRow",
    "PredictionRow",
    "PromotionRow",
    "RemoteRow",
    "RepeatedRow",
    "RoundRow",
    "RunRow",
    "SiteRow",
    "StudyRow",
    "WithdrawalRow",
    "WitnessedRow",
]

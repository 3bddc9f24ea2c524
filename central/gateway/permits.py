"""Whether announced parcels may land: the study is open, the assignment the site's own and not over.

Asked for many at once: what the database says of all of them is four queries. Nothing here knows their bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import bindparam, select

from central.config import LimitsConfig, SiteLimits
from central.erasure import ERASED
from central.gateway.landing import Announced
from central.gateway.quota import Landed
from central.store import Store
from central.store.models import AssignmentRow, ParcelRow, StudyRow
from protocol.assignment import AssignmentKind, State
from protocol.errors import CorsiaError, InputError, IntegrityError, PermissionRefused, StudyRefused
from protocol.parcel import ContentType
from protocol.study import Lane, Study, parse_study
from protocol.withdrawal import PREFIX

__all__ = ["Permits"]

CONTENT_OF_LANE = {
    Lane.HARVEST: ContentType.RECORDS,
    Lane.ANONYMIZE: ContentType.DEIDENTIFIED,
    Lane.EXTRACT: ContentType.FEATURES,
    Lane.TRAIN: ContentType.UPDATE,
}
MAX_WITHDRAWAL_BYTES = 32 << 20
# Apart from what else the site sends, which may have used its day up; one site can still not fill the disk of all.
WITHDRAWALS = LimitsConfig(site=SiteLimits(bytes_per_day=1_000_000_000, parcels_per_day=1000))


def _among(*columns: Any, of: Any) -> Any:
    """A query made once, for any number of ids."""
    return select(*columns).where(of.in_(bindparam("ids", expanding=True)))


_STUDIES = _among(StudyRow.digest, StudyRow.document, StudyRow.state, of=StudyRow.digest)
_ASSIGNED = _among(
    AssignmentRow.id, AssignmentRow.site, AssignmentRow.study_digest, AssignmentRow.kind, AssignmentRow.state,
    of=AssignmentRow.id,
)  # fmt: skip
_ANSWERED = (
    _among(ParcelRow.assignment_id, of=ParcelRow.assignment_id)
    .where(ParcelRow.content_type == ContentType.UPDATE.value)
    .distinct()
)
_COMMITTED = _among(ParcelRow, of=ParcelRow.id)
_parsed = lru_cache(maxsize=64)(parse_study)


class Permits:
    """What the database says of parcels that have been announced.

    Args:
        store: the central database.
        limits: how large a parcel may be, and how much a site may send.
    """

    def __init__(self, store: Store, limits: LimitsConfig) -> None:
        self._store = store
        self._max_parcel_bytes = limits.max_parcel_bytes
        self._landed = {False: Landed(store, limits), True: Landed(store, WITHDRAWALS, withdrawals=True)}

    def landed(self, entry: Announced) -> None:
        """Count a parcel that has landed against its site's quota."""
        self._landed[_is_withdrawal(entry)].add(entry.site, entry.what.size_bytes)

    def committed(self, ids: Sequence[str]) -> dict[str, ParcelRow]:
        """Those of the parcels that have landed."""
        with self._store.read() as session:
            return {row.id: row for row in session.scalars(_COMMITTED, {"ids": list(ids)})}

    def of(self, entries: Sequence[Announced]) -> list[Study | CorsiaError]:
        """The study of each parcel that may land; of each other one, why it may not."""
        assignments = list({entry.what.assignment_id for entry in entries})
        with self._store.read() as session:
            studies = {
                digest: (document, state)
                for digest, document, state in session.execute(
                    _STUDIES, {"ids": list({entry.what.study_digest for entry in entries})}
                )
            }
            assigned = {row[0]: row for row in session.execute(_ASSIGNED, {"ids": assignments})}
            answered = set(session.scalars(_ANSWERED, {"ids": assignments}))

        before: dict[bool, list[int]] = {False: [], True: []}  # in the same call and so of the same site

        def judge(entry: Announced) -> Study:
            what = entry.what
            if what.size_bytes > self._max_parcel_bytes:
                raise PermissionRefused("permission.size")
            document, state = studies.get(what.study_digest, (b"", ""))
            if not state:
                raise StudyRefused("study.unknown")
            assignment = assigned.get(what.assignment_id)
            study = _judged(entry, _parsed(document), state, assignment, what.assignment_id in answered)
            sizes = before[_is_withdrawal(entry)]
            self._landed[_is_withdrawal(entry)].check(entry.site, [*sizes, what.size_bytes])
            sizes.append(what.size_bytes)
            return study

        return [_result(judge, entry) for entry in entries]


def _judged(entry: Announced, study: Study, state: str, assignment: Any, answered: bool) -> Study:
    what = entry.what
    if _is_withdrawal(entry):
        _check_withdrawal(entry, study, state)
        return study
    study.check_valid_at(datetime.now(UTC))
    if (
        entry.site not in study.sites
        or assignment is None
        or (assignment.site, assignment.study_digest) != (entry.site, what.study_digest)
    ):
        raise PermissionRefused("permission.site")
    kind = AssignmentKind.ROUND if what.content_type is ContentType.UPDATE else AssignmentKind.STUDY
    if CONTENT_OF_LANE.get(study.lane) is not what.content_type or assignment.kind != kind.value:
        raise IntegrityError("parcel.context", "this lane does not send parcels of this content type")
    if kind is AssignmentKind.ROUND and answered:
        raise StudyRefused("study.replay", "the instruction has its one answer")
    if state != "open" or _is_over(kind, State(assignment.state)):
        raise StudyRefused("study.late")
    return study


def _is_withdrawal(entry: Announced) -> bool:
    return entry.what.content_type is ContentType.WITHDRAWAL


def _check_withdrawal(entry: Announced, study: Study, state: str) -> None:
    """Word that a consent was withdrawn answers no assignment, and may come when all else of the study is over.

    Its assignment is its own, made of its parcel's id: under another's it would be taken for that one's answer.
    """
    if entry.what.assignment_id != f"{PREFIX}{entry.what.parcel_id}":
        raise PermissionRefused("permission.site")
    if state == ERASED:
        raise StudyRefused("study.erased")
    if entry.site not in study.sites:
        raise PermissionRefused("permission.site")
    if entry.what.size_bytes > MAX_WITHDRAWAL_BYTES:
        raise InputError("input.message", "a withdrawal is larger than it can be")


def _is_over(kind: AssignmentKind, state: State) -> bool:
    """Whether nothing may come any more. A study's parcel that a steward sends again may come after its failure."""
    return state.final if kind is AssignmentKind.ROUND else state is State.EXPIRED


def _result(judge: Callable[[Announced], Study], entry: Announced) -> Study | CorsiaError:
    try:
        return judge(entry)
    except CorsiaError as error:
        return error

"""A study as the pinned key vouches for it: signature, digest, expiry, and that it is for this very site.

Place in the flow: assignment -> here -> policy -> approval, and once more before anything leaves. No network.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache

from edge.approvals import Approvals
from edge.identity import Identity
from edge.state import SiteState
from protocol.assignment import Assignment
from protocol.errors import IntegrityError, PermissionRefused, PolicyRefused, StudyRefused
from protocol.study import Study, parse_study, study_digest
from protocol.trust import Purpose

__all__ = ["check_may_leave", "parsed", "verified_study"]

parsed = lru_cache(maxsize=64)(parse_study)  # a run's study is looked at in each of its rounds


def verified_study(assignment: Assignment, identity: Identity) -> Study:
    """The study of an assignment, if the pinned key signed these bytes, for this site, and it has not expired.

    Raises:
        StudyRefused: `study.signature`, `study.expired`.
        PermissionRefused: `permission.site`.
        InputError: `input.study`.
    """
    if study_digest(assignment.document) != assignment.study_digest:
        raise StudyRefused("study.signature", "the document is not the one that the digest names")
    try:
        identity.study_key.verify(Purpose.STUDY, assignment.document, assignment.signature)
    except IntegrityError:
        raise StudyRefused("study.signature") from None
    study = parsed(assignment.document)
    study.check_valid_at(datetime.now(UTC))
    mine = identity.key.public.fingerprint
    if identity.site not in study.sites or study.roster.get(identity.site, mine) != mine:
        raise PermissionRefused("permission.site")
    return study


def check_may_leave(state: SiteState, approvals: Approvals, digest: str) -> None:
    """Look once more, at the last moment, whether a study's results may go.

    Raises:
        PolicyRefused: `policy.refused`.
        StudyRefused: `study.expired`, or `study.unknown` when this site does not know (any more) what it approved.
    """
    if approvals.refused(digest):
        raise PolicyRefused("policy.refused")
    record = state.study(digest)
    if record is None:
        raise StudyRefused("study.unknown")
    parsed(record.assignment.document).check_valid_at(datetime.now(UTC))

"""What left about one person: the site's own answer to a request for access (GDPR 15).

Place in the flow: beside the daemon, by a steward's command. The patient's id is asked for, used to make hashes and
pseudonyms, and forgotten; nothing is written but that there was a look-up, and nothing leaves.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field

from edge.account import Release, StudyLine, account
from edge.config import EdgeConfig
from edge.journal import Journal
from edge.lane import job_key
from edge.released import Released
from privacy.deid.pseudonym import Pseudonymizer, normalise_id
from protocol.errors import InputError

__all__ = ["About", "about"]

_PSEUDONYMOUS = ("anonymize", "extract")


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """One study in which the person is, or may be.

    Attributes:
        pseudonym: under which, where the lane uses one.
        sure: False: somebody is in these parcels, and the data do not say who.
        releases: those with the person, with the parcels that hold him or her alone.
    """

    study: StudyLine
    pseudonym: str
    sure: bool
    releases: list[Release] = field(default_factory=list)


def about(site: EdgeConfig, patient_id: str) -> list[About]:
    """The studies and parcels that hold something about a person, by what this site noted before they left.

    Raises:
        InputError: `input.usage` for an empty id.
        IntegrityError: `journal.chain`.
    """
    if not normalise_id(patient_id):
        raise InputError("input.usage", "no patient id was given")
    made = account(site)
    Journal(site.state_dir / "journal.jsonl").append("subject.looked-up")
    found = []
    with closing(Released(site.state_dir)) as kept:
        for study, releases in made.by_study():
            pseudonym = Pseudonymizer(job_key(site.state_dir, study.digest)).pseudonym(patient_id)
            parcels = kept.among(study.digest, (patient_id, pseudonym))
            parts = [part for one in releases if (part := _only(one, parcels)) is not None]
            if parts:
                sure = any(parcels.get(name, parcels.get("", False)) for one in parts for name in one.parcel_ids)
                shown = pseudonym if study.lane in _PSEUDONYMOUS else ""
                found.append(About(study=study, pseudonym=shown, sure=sure, releases=parts))
    return found


def _only(release: Release, parcels: dict[str, bool]) -> Release | None:
    """A release with those of its parcels that hold the person; None without one."""
    kept = [name for name in release.parcel_ids if name in parcels or "" in parcels]
    if not kept or release.withdrawal:
        return None
    return Release(
        study=release.study,
        assignment=release.assignment,
        part=release.part,
        first=release.first,
        last=release.last,
        parcels=len(kept),
        rows=release.rows,
        epsilon=release.epsilon,
        parcel_ids=kept,
    )

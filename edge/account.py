"""What left this site, release by release, read together from journal and state, for whoever has to answer for it.

Place in the flow: beside the daemon, by the steward's and the data protection officer's commands; reads, and writes
nothing. It knows studies, counts, sizes, times and budgets; nobody's data, id or pseudonym.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from edge.config import EdgeConfig
from edge.journal import Journal, Line
from edge.released import Released
from edge.state import SiteState
from protocol.assignment import Assignment, AssignmentKind, RoundInstruction
from protocol.errors import CorsiaError
from protocol.study import Lane, Study, parse_study
from protocol.withdrawal import PREFIX

__all__ = ["Account", "Release", "StudyLine", "account"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyLine:
    """A study as it was signed: what it is for, and on what grounds."""

    id: str
    digest: str
    title: str = ""
    lane: str = ""
    purpose: str = ""
    legal_basis: str = ""
    controller: str = ""
    ethics_reference: str = ""
    dataset: str = ""
    columns: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    recipient: str = ""  # fingerprint of the one key that can open what left
    noised: bool = False
    masked: bool = False


@dataclass(slots=True, kw_only=True)
class Release:
    """What one assignment let out; times are Unix seconds, `persons` None when it is not known.

    Attributes:
        part: names the round of a run.
        epsilon: the loss that the ledger reserved for it, None without noise.
        indexes: of the receipts in the log, for the parcels that have one.
        on_medium: how many parcels were copied to a medium and have no receipt yet.
        counted: how many left after a backup that this site was put back from, by the centre's signed receipts; between
            `first` and `last`, and about whom is not known.
        withdrawal: word that a consent was withdrawn: pseudonyms at most, and no data.
    """

    study: StudyLine
    assignment: str
    part: str = ""
    first: float = 0.0
    last: float = 0.0
    parcels: int = 0
    bytes: int = 0
    persons: int | None = None
    rows: int = 0
    epsilon: float | None = None
    on_medium: int = 0
    counted: int = 0
    withdrawal: bool = False
    indexes: list[int] = field(default_factory=list)
    parcel_ids: list[str] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Account:
    """Everything of a period; `ended` counts what was refused, failed or expired, by code, and did not leave."""

    site: str
    centre: str
    since: float | None
    until: float | None
    lines: int
    head: str
    releases: list[Release] = field(default_factory=list)
    ended: dict[str, int] = field(default_factory=dict)
    lookups: int = 0

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return asdict(self)

    def by_study(self) -> Iterator[tuple[StudyLine, list[Release]]]:
        """The releases of each study, in order of its first."""
        for study in dict.fromkeys(release.study for release in self.releases):
            yield study, [release for release in self.releases if release.study == study]


def account(site: EdgeConfig, *, since: float | None = None, until: float | None = None) -> Account:
    """Read what left.

    Args:
        since: Unix seconds; what left from then on. What was copied to a medium left then, whenever its receipt came.
        until: and before then.

    Raises:
        IntegrityError: `journal.chain`: an account of a damaged journal would be worth nothing.
        StorageError: the state cannot be read.
    """
    journal = Journal(site.state_dir / "journal.jsonl", readonly=True)
    site.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (
        closing(SiteState(site.state_dir / "state.db")) as state,
        closing(Released(site.state_dir)) as released,
    ):
        reader = _Reader(state, released, since, until)
        lines = journal.verify(each=reader.take)
        releases = reader.finish()
    return Account(
        site=site.site,
        centre=_centre(site),
        since=since,
        until=until,
        lines=lines,
        head=journal.head(),
        releases=releases,
        ended=dict(sorted(reader.ended.items())),
        lookups=reader.lookups,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parcel:
    """One parcel as the journal's surest line about its leaving has it; `count` where an old line names no parcel.

    Attributes:
        study: the digest that the line itself names, if it does.
        first, until: between which times it left.
        last: of the line.
    """

    assignment: str
    study: str
    first: float
    until: float
    last: float
    bytes: int
    how: str
    index: int | None = None
    count: int = 1


_LEFT = {"parcel.exported": "medium", "backup.counted": "counted", "parcel.delivered": "receipt"}
_SURER = ("medium", "counted", "receipt")


class _Reader:
    """Takes the journal's lines in order."""

    def __init__(self, state: SiteState, released: Released, since: float | None, until: float | None) -> None:
        self._state, self._released = state, released
        self._since, self._until = since, until
        self._studies: dict[str, StudyLine] = {}
        self._parcels: dict[str, _Parcel] = {}  # by id, in the order in which they left first
        self._passed: dict[str, tuple[int, int]] = {}  # assignment -> persons, rows
        self._spent: dict[str, float | None] = {}
        self._of: dict[str, str] = {}  # assignment, or the parcel of a withdrawal -> study digest
        self._at = self._started = self._gap = 0.0  # the line before; before the start; before what a restore lost
        self.ended: dict[str, int] = {}
        self.lookups = 0

    def take(self, line: Line) -> None:
        """One line."""
        name, fields = str(line.fields.get("assignment", "")), line.fields
        self._follow(line.event)
        if line.event == "assignment.received":
            self._of[name] = str(fields.get("study", ""))
        elif line.event == "parcel.planned" and "study" in fields:
            self._of[f"{PREFIX}{fields.get('parcel', '')}"] = str(fields["study"])
        elif line.event == "gate.passed":
            self._passed[name] = (int(fields.get("persons") or 0), int(fields.get("rows") or 0))
        elif line.event == "ledger.reserved":
            self._spent[name] = fields.get("epsilon")
        elif line.event in _LEFT:
            self._leave(name, line)
        elif line.event in ("assignment.refused", "assignment.failed", "assignment.expired") and self._within(line.at):
            code = str(fields.get("code", ""))
            self.ended[code] = self.ended.get(code, 0) + 1
        elif line.event == "subject.looked-up" and self._within(line.at):
            self.lookups += 1
        self._at = line.at

    def finish(self) -> list[Release]:
        """All releases, in order of time."""
        made: dict[str, Release] = {}
        for parcel_id, one in self._parcels.items():
            if not self._within(one.until, one.first):
                continue
            if one.assignment not in made:
                made[one.assignment] = self._release(one)
            _count(made[one.assignment], parcel_id, one)
        for release in made.values():
            if release.withdrawal:
                continue
            persons, release.rows = self._passed.get(release.assignment, (0, 0))
            release.epsilon = self._spent.get(release.assignment)
            counted = self._released.count(release.study.digest, release.parcel_ids)
            release.persons = None if release.counted else counted if counted is not None else (persons or None)
        return sorted(made.values(), key=lambda release: release.first)

    def _within(self, at: float, first: float | None = None) -> bool:
        """Whether what happened at a time, or at some time since `first`, may have been in the period."""
        begun = at if first is None else first
        return (self._since is None or at >= self._since) and (self._until is None or begun < self._until)

    def _follow(self, event: str) -> None:
        """Since when parcels may have left of which this journal has no lines: it was put back."""
        if event == "agent.started":
            self._started = self._at
        elif event in ("backup.restored", "backup.older"):
            self._gap = self._at if event == "backup.restored" else self._started

    def _leave(self, name: str, line: Line) -> None:
        """A parcel left; the surest line about it counts, and a second copy of that changes nothing."""
        fields, how = line.fields, _LEFT[line.event]
        first = min(self._gap, line.at) if how == "counted" else line.at
        parcel_id = str(fields.get("parcel") or f"-{line.seq}")
        known = self._parcels.get(parcel_id)
        if known and _SURER.index(known.how) >= _SURER.index(how):
            return
        self._parcels[parcel_id] = _Parcel(
            assignment=name,
            study=str(fields.get("study", "")),
            first=known.first if known else first,
            until=known.until if known else line.at,
            last=line.at,
            bytes=int(fields.get("bytes") or 0),
            how=how,
            index=int(fields.get("index") or 0) if how == "receipt" else None,
            count=int(fields.get("parcels") or 1),
        )

    def _release(self, one: _Parcel) -> Release:
        record, told = self._state.record(one.assignment), one.assignment.startswith(PREFIX)
        part = _part(record.assignment) if record else ""
        digest = record.assignment.study_digest if record else self._of.get(one.assignment, one.study)
        return Release(
            study=self._study(digest), assignment=one.assignment, part=part, first=one.first, last=one.last,
            withdrawal=told,
        )  # fmt: skip

    def _study(self, digest: str) -> StudyLine:
        if digest not in self._studies:
            record = self._state.study(digest)
            try:
                study = parse_study(record.assignment.document) if record else None
            except CorsiaError:
                study = None
            self._studies[digest] = study_line(study, digest) if study else StudyLine(id="-", digest=digest)
        return self._studies[digest]


def _count(release: Release, parcel_id: str, one: _Parcel) -> None:
    release.first, release.last = min(release.first, one.first), max(release.last, one.last)
    release.parcels += one.count
    release.bytes += one.bytes
    release.on_medium += one.count if one.how == "medium" else 0
    release.counted += one.count if one.how == "counted" else 0
    if one.index is not None:
        release.indexes.append(one.index)
    if not parcel_id.startswith("-"):
        release.parcel_ids.append(parcel_id)


def study_line(study: Study, digest: str) -> StudyLine:
    """What is said of a study."""
    wanted = study.dataset
    content = [name for name in ("images", "fhir", "genotypes", "matrix", "omop") if getattr(wanted, name)]
    role = "federation" if study.lane is Lane.TRAIN else "vault"
    return StudyLine(
        id=study.id,
        digest=digest,
        title=study.title,
        lane=study.lane.value,
        purpose=study.purpose,
        legal_basis=study.legal_basis,
        controller=study.controller,
        ethics_reference=study.ethics_reference,
        dataset=wanted.name,
        columns=tuple(wanted.columns),
        content=tuple(content),
        recipient=_fingerprint(study.recipient(role)),  # type: ignore[arg-type]
        noised=study.privacy.dp != "none",
        masked=study.privacy.secure_aggregation,
    )


def _fingerprint(key: str | None) -> str:
    from privacy.envelope import PublicKey

    return PublicKey.from_base64(key).fingerprint if key else ""


def _part(assignment: Assignment) -> str:
    if assignment.kind is not AssignmentKind.ROUND:
        return ""
    try:
        made = RoundInstruction.from_bytes(assignment.document)
    except CorsiaError:
        return "-"
    return f"{made.round}/{made.place}"


def _centre(site: EdgeConfig) -> str:
    from edge.storage import read_json

    if site.centre is not None:
        return site.centre.fleet
    return str(read_json(site.state_dir / "enrolment.json").get("fleet", ""))

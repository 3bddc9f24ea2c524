"""A PACS by DIMSE: studies, series and instances by C-FIND, the instances of a series by C-GET or C-MOVE.

What is remembered is as with DICOMweb: how many instances each study had. A PACS that does not tell their number has
each study looked into each time. One that gives not so many studies at once is asked by spans of StudyDate, where one
without a date is not found. What C-FIND lists and the retrieval does not bring is asked for again, and at last
set aside; but while the PACS gives nothing at all, of other studies neither, that is no record's fault, and it waits.

Where a PACS moves to us, we listen to its title and those that the site names beside it, and take instances of the
study that is asked for just then. Whatever else comes is refused and counted, and not a byte of it is kept.

Source: DICOM PS3.4, annex C (Query/Retrieve), PS3.7, 9.1.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.sources import association, instance
from edge.sources.inbox import Inbox
from edge.sources.origin import REFUSED, Bad, Gone, Known, Page, Part
from edge.sources.places import Dimse
from protocol.errors import InputError, StorageError, UnavailableError

if TYPE_CHECKING:
    from pydicom import Dataset
    from pynetdicom.association import Association

__all__ = ["FOREIGN", "DimseOrigin"]

FOREIGN = "foreign"  # of no study that was asked for

_PENDING = (0xFF00, 0xFF01)
_LEVELS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_CANCELLED = 0xFE00  # by the PACS itself: it has given as many matches as it gives at once
_MAX_CONTEXTS = 120
_AT_ONCE = 512  # instances of one retrieval
_PROBES = 8
_STORED, _NOT_AUTHORISED, _OUT_OF_RESOURCES = 0x0000, 0x0124, 0xA700  # PS3.7, annex C
_MAX_WAITING_BYTES = 1 << 36  # of what has come in a retrieval and is not yet kept
_NO_DESTINATION = 0xA801  # of some also when we have turned them away
_MAX_STRAYS = 1000  # that are told; those beyond are refused as well
_BEGINNING, _DAY = date(1900, 1, 1), timedelta(days=1)


class DimseOrigin:
    """See `origin.Origin`.

    Args:
        place: the PACS.
        folder: a private one, for what has come and is not yet kept; None for the system's own.

    Raises:
        ConfigurationError: `config.extra-missing`.
        UnavailableError: `unavailable.source` when `listen` cannot be listened on.
    """

    def __init__(self, place: Dimse, folder: Path | None = None) -> None:
        self._place = place
        self._inbox = Inbox(folder, min(place.max_bytes, _MAX_WAITING_BYTES))
        self._server = None
        self._reached = self._gave = 0  # associations that the PACS made with us, instances that came
        self._turned_away = 0  # associations that another title asked for
        self._asked, self._wanted = "", frozenset[str]()  # study and instances that are asked for just now
        self._strays: set[str] = set()  # instances of others, refused
        self._unable = False  # how the last retrieval ended
        self._studies_met: list[str] = []
        if place.listen is not None:
            ae = association.entity(place.calling, place.timeout_s)
            from pynetdicom import evt

            ae.require_called_aet = True
            ae.require_calling_aet = [place.aet, *place.callers]
            met = [(evt.EVT_ESTABLISHED, self._met), (evt.EVT_REJECTED, self._rejected)]
            self._server = association.serve(ae, place.listen, self._came, handlers=met)

    def close(self) -> None:
        """See `Origin.close`."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None
        self._inbox.close()

    def pages(self, known: Known) -> Iterator[Page]:
        """A page a study. See `Origin.pages`."""
        scope = f"{self._place.address} {self._place.aet} {sorted(self._place.modalities)}"
        with self._asking() as link:
            found = self._studies(link)
        studies = [(_text(one, "StudyInstanceUID"), _text(one, "NumberOfStudyRelatedInstances")) for one in found]
        self._studies_met = [uid for uid, _ in studies]
        for uid, count in studies:
            mark = f"{scope}:{uid}"
            if count in ("", "0") or known.mark(mark) != count:
                yield Page(mark=mark, version=count, items=self._instances(uid, count, known))
        strays = [Bad(key=f"foreign:{uid}", reason=FOREIGN) for uid in sorted(self._strays)]
        yield Page(mark=scope, version="", items=iter(strays))

    def count(self) -> int:
        """How many studies there are within the site's bounds; raises as `pages`."""
        with self._asking() as link:
            return len(self._studies(link))

    def _came(self, event: Any) -> int:
        """The status of one C-STORE. One that does not parse is taken if it was asked for, to be set aside."""
        uid, data = str(event.request.AffectedSOPInstanceUID), event.encoded_dataset()
        study = instance.study_of(data)
        ours = study == self._asked or (not study and uid in self._wanted)
        if not self._asked or not ours:
            if len(self._strays) < _MAX_STRAYS:
                self._strays.add(uid)
            return _NOT_AUTHORISED
        try:
            self._inbox.put(uid, data)
        except StorageError:
            return _OUT_OF_RESOURCES
        self._gave += 1
        return _STORED

    def _met(self, _event: Any) -> None:
        self._reached += 1

    def _rejected(self, _event: Any) -> None:
        self._turned_away += 1

    def _check_called(self) -> None:
        if self._turned_away and not self._reached:
            raise UnavailableError("unavailable.source", "who calls us is neither aet nor one of callers")

    # --- asking

    def _studies(self, link: Association) -> list[Dataset]:
        asked = {"StudyInstanceUID": "", "NumberOfStudyRelatedInstances": ""}
        try:
            return _find(link, "STUDY", asked | {"StudyDate": self._place.days})
        except _TooMany:
            first, last = self._place.since or _BEGINNING, self._place.until or datetime.now(UTC).date() + _DAY
            return list(self._halves(link, asked, first, last))

    def _halves(self, link: Association, asked: dict[str, str], first: date, last: date) -> Iterator[Dataset]:
        """The studies of a time of which the PACS gives too many at once, in halves, down to single days."""
        if first >= last:
            raise UnavailableError("unavailable.source", "the PACS does not list the studies of a single day")
        middle = first + (last - first) // 2
        for low, high in ((first, middle), (middle + _DAY, last)):
            try:
                yield from _find(link, "STUDY", asked | {"StudyDate": f"{low:%Y%m%d}-{high:%Y%m%d}"})
            except _TooMany:
                yield from self._halves(link, asked, low, high)

    def _instances(self, study: str, told: str, known: Known) -> Iterator[Part | Bad | Gone]:
        series: dict[str, dict[str, str]] = {}  # series -> instance -> class
        listed = 0
        with self._asking() as link:
            asked = {"StudyInstanceUID": study, "SeriesInstanceUID": "", "Modality": ""}
            for one in _find(link, "SERIES", asked):
                uid = _text(one, "SeriesInstanceUID")
                keys = {"StudyInstanceUID": study, "SeriesInstanceUID": uid, "SOPInstanceUID": "", "SOPClassUID": ""}
                found = {_text(i, "SOPInstanceUID"): _text(i, "SOPClassUID") for i in _find(link, "IMAGE", keys)}
                listed += len(found)
                if not self._place.modalities or _text(one, "Modality") in self._place.modalities:
                    series[uid] = found
        if told.isdigit() and listed < int(told):  # an answer was lost, or an instance came or went meanwhile
            yield Bad(key=f"{study}:listed", reason=REFUSED)
        else:
            yield Gone(f"{study}:listed")  # an earlier list may have been short
        for uid, instances in series.items():
            missing = [name for name in instances if not known.has(name)]
            for at in range(0, len(missing), _AT_ONCE):
                some = missing[at : at + _AT_ONCE]
                whole = len(some) == len(instances)
                yield from self._retrieved(study, uid, {name: instances[name] for name in some}, whole=whole)

    @contextmanager
    def _asking(self) -> Iterator[Association]:
        from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find

        ae = association.entity(self._place.calling, self._place.timeout_s)
        ae.add_requested_context(Find)
        with _released(
            association.associate(ae, self._place.address, self._place.aet, ca_file=self._place.ca_file)
        ) as link:
            yield link

    # --- retrieving

    def _retrieved(self, study: str, series: str, wanted: dict[str, str], *, whole: bool) -> Iterator[Part | Bad]:
        """What came of some instances of a series; where one of them ends the retrieval, each of the rest is asked for.

        Raises:
            UnavailableError: the PACS gives nothing at all; as `_files`.
        """
        missing, some = dict(wanted), [("SERIES", ""), *(("IMAGE", uid) for uid in wanted)]
        if not whole:
            some[0] = ("IMAGE", "\\".join(wanted))
        for level, uids in some:
            if level == "IMAGE" and "\\" not in uids and uids not in missing:
                continue
            keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series} | ({"SOPInstanceUID": uids} if uids else {})
            for uid, data in self._files(
                _identifier(level, keys), sorted(set(wanted.values()) - {""}), frozenset(wanted)
            ):
                missing.pop(uid, None)
                yield instance.part(uid, data)  # one that was not listed too: lists are not always whole
            if not self._unable:
                break
            self._check_place(study)
        yield from (Bad(key=uid, reason=REFUSED) for uid in missing)

    def _check_place(self, study: str) -> None:
        """Whether a retrieval failed because the PACS gives nothing now: it is asked for one instance of other studies.

        Raises:
            UnavailableError: nothing whatever comes, or the PACS does not reach us.
        """
        others = [uid for uid in self._studies_met if uid != study]
        for other in random.sample(others, min(_PROBES, len(others))):  # not the same each time
            if self._gave:
                return
            keys = {"StudyInstanceUID": other}
            with self._asking() as link:
                for level, keyword in list(_LEVELS.items())[1:]:
                    if found := _find(link, level, keys | {keyword: ""}):
                        keys[keyword] = _text(found[0], keyword)
            if len(keys) == len(_LEVELS):
                for _ in self._files(_identifier("IMAGE", keys), ()):
                    pass  # the site may not want it
        if not self._gave and (others or (self._server is not None and not self._reached)):
            self._check_called()
            raise UnavailableError("unavailable.source", "the PACS gives nothing now, or cannot reach us")

    def _files(
        self, identifier: Dataset, classes: Sequence[str], wanted: frozenset[str] = frozenset()
    ) -> Iterator[tuple[str, bytes]]:
        get = self._place.retrieve == "get"
        ae = association.entity(self._place.calling, self._place.timeout_s)
        roles = self._propose(ae, classes) if get else self._propose_move(ae)
        from pynetdicom import evt

        with self._expecting(_text(identifier, "StudyInstanceUID"), wanted), _released(
            association.associate(
                ae, self._place.address, self._place.aet, ca_file=self._place.ca_file,
                handlers=[(evt.EVT_C_STORE, self._came)] if get else (), roles=roles,
            )
        ) as link:  # fmt: skip
            from pynetdicom import sop_class

            if get:
                model = sop_class.StudyRootQueryRetrieveInformationModelGet
                answers = association.ask(link.send_c_get, identifier, model)
            else:
                model = sop_class.StudyRootQueryRetrieveInformationModelMove
                answers = association.ask(link.send_c_move, identifier, self._place.calling, model)
            self._unable = False
            for status, _ in answers:
                yield from self._inbox.taken()
                self._unable = _is_unable(status)
                if not self._unable:
                    if status.get("Status") == _NO_DESTINATION:
                        self._check_called()
                    _check(status)
            yield from self._inbox.taken()

    @contextmanager
    def _expecting(self, study: str, wanted: frozenset[str]) -> Iterator[None]:
        self._asked, self._wanted = study, wanted
        try:
            yield
        finally:
            self._asked, self._wanted = "", frozenset()

    @staticmethod
    def _propose(ae: Any, classes: Sequence[str]) -> list[Any]:
        from pynetdicom import StoragePresentationContexts, build_role
        from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Get

        named = list(classes) or [str(context.abstract_syntax) for context in StoragePresentationContexts]
        ae.add_requested_context(Get)
        for name in named[:_MAX_CONTEXTS]:
            ae.add_requested_context(name, association.syntaxes())
        return [build_role(name, scp_role=True, scu_role=True) for name in named[:_MAX_CONTEXTS]]

    @staticmethod
    def _propose_move(ae: Any) -> list[Any]:
        from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as Move

        ae.add_requested_context(Move)
        return []


@contextmanager
def _released(link: Association) -> Iterator[Association]:
    try:
        yield link
    except BaseException:
        link.abort()
        raise
    with suppress(UnavailableError):  # what was asked for is here
        link.release()


def _identifier(level: str, keys: dict[str, str]) -> Dataset:
    from pydicom import Dataset

    made = Dataset()
    made.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(made, keyword, value.split("\\") if "\\" in value else value)
    return made


class _TooMany(UnavailableError):
    """The PACS has not what it takes to list so much."""


def _find(link: Association, level: str, keys: dict[str, str]) -> list[Dataset]:
    """All matches.

    Raises:
        _TooMany: the PACS is out of resources; UnavailableError, InputError.
    """
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find

    found = []
    for status, match in association.ask(link.send_c_find, _identifier(level, keys), Find):
        code = int(status.Status) if "Status" in status else None
        if code is not None and (code >> 8 == 0xA7 or code == _CANCELLED):
            raise _TooMany("unavailable.source", "the PACS is out of resources, or lists not so much")
        if code is not None and code >> 12 == 0xC:  # of this moment, no word on the request
            raise UnavailableError("unavailable.source", "the PACS cannot list now")
        _check(status)
        if match is not None and status.Status in _PENDING:
            found.append(match)
        elif status.Status in _PENDING:
            raise UnavailableError("unavailable.source", "an answer cannot be read")
    wanted = _LEVELS[level]
    if any(not _text(one, wanted) for one in found):
        raise InputError("input.source", "the PACS lists something without its UID")
    return found


def _is_unable(status: Any) -> bool:
    """Whether a retrieval ended because the PACS could not do it: of this request, no word on the next one."""
    code = int(status.Status) if "Status" in status else 0
    return code == 0xA702 or code >> 12 == 0xC


def _check(status: Any) -> None:
    """Raises UnavailableError for a lost association, InputError for a failure; warnings say nothing."""
    if "Status" not in status:
        raise UnavailableError("unavailable.source", "the association was lost")
    code = int(status.Status)
    if code >> 8 == 0xA7:
        raise UnavailableError("unavailable.source", "the PACS is out of resources")
    if code not in (0, *_PENDING) and code >> 12 not in (0xB,):
        raise InputError("input.source", f"the PACS answers with status {code:04x}")


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value)

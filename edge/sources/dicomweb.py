"""A PACS by DICOMweb: studies and series by QIDO-RS, instances by WADO-RS one at a time over kept connections.

What is remembered is, for each study, how many instances it had: QIDO knows no "changed since", so every study is
listed each time, and only one whose number differs is looked into. Dates are asked for as ranges, ids exactly, since
servers understand wildcards each in their own way. What is listed and not given is asked for again, and at last set
aside; but while the PACS gives nothing at all, of other studies neither, that is no record's fault, and it waits.

Source: DICOM PS3.18, 10.4 (Retrieve), 10.6 (Search); multipart/related by RFC 2387.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from edge.sources import instance
from edge.sources.documents import TOO_LARGE
from edge.sources.origin import REFUSED, Bad, Gone, Known, Page, Part
from edge.sources.places import Dicomweb
from edge.sources.web import Refused, TooLarge, Web
from protocol.errors import InputError, UnavailableError

__all__ = ["DicomwebOrigin", "parts_of"]

_JSON = "application/dicom+json"
_FILE = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_LIMIT = 200
_PROBES = 8
_STUDY, _SERIES, _SOP, _COUNT, _MODALITY = "0020000D", "0020000E", "00080018", "00201208", "00080060"
_UID = re.compile(r"^[0-9.]{1,64}\Z")


class DicomwebOrigin:
    """See `origin.Origin`.

    Raises:
        ConfigurationError: as `Web`.
    """

    def __init__(self, place: Dicomweb) -> None:
        self._place, self._web = place, Web(place)
        self._gave = False

    def close(self) -> None:
        """See `Origin.close`."""
        self._web.close()

    def pages(self, known: Known) -> Iterator[Page]:
        """A page a study. See `Origin.pages`."""
        scope = f"{self._place.url} {sorted(self._place.modalities)}"
        for study in self._listed("studies", self._bounds() | {"includefield": _COUNT}, _STUDY):
            uid, count = _value(study, _STUDY), _value(study, _COUNT)
            mark = f"{scope}:{uid}"
            if count in ("", "0") or known.mark(mark) != count:
                yield Page(mark=mark, version=count, items=self._instances(uid, count, known))

    def count(self) -> int:
        """How many studies there are within the site's bounds; raises as `pages`."""
        return sum(1 for _ in self._listed("studies", self._bounds(), _STUDY))

    def _bounds(self) -> dict[str, str | int]:
        return {"StudyDate": self._place.days} if self._place.days else {}

    def _instances(self, study: str, told: str, known: Known) -> Iterator[Part | Bad | Gone]:
        wanted, listed, whole = self._place.modalities, 0, True
        for series in self._listed(f"studies/{study}/series", {"includefield": _MODALITY}, _SERIES):
            skip = bool(wanted) and _value(series, _MODALITY) not in wanted
            base = f"studies/{study}/series/{_value(series, _SERIES)}/instances"
            try:
                for one in self._listed(base, {}, _SOP):
                    uid, listed = _value(one, _SOP), listed + 1
                    if not skip and not known.has(uid):
                        yield self._instance(study, f"{base}/{uid}", uid)
            except Refused:  # a PACS that looks into its files to list them, and finds one damaged
                whole = False

        if not whole or (
            told.isdigit() and listed < int(told)
        ):  # an answer was lost, or an instance came or went meanwhile
            yield Bad(key=f"{study}:listed", reason=REFUSED)
        else:
            yield Gone(f"{study}:listed")  # an earlier list may have been short

    def _instance(self, study: str, path: str, uid: str) -> Part | Bad:
        try:
            answer = self._web.get(path, accept=_FILE)
        except Refused:
            self._check_place(study)
            return Bad(key=uid, reason=REFUSED)
        except TooLarge:
            return Bad(key=uid, reason=TOO_LARGE)
        self._gave = True
        files = parts_of(answer.content, answer.headers.get("Content-Type", ""))
        return instance.part(uid, files[0]) if len(files) == 1 else Bad(key=uid, reason=REFUSED)

    def _check_place(self, study: str) -> None:
        """Whether an instance was refused because the PACS gives nothing now: it is asked for one of other studies.

        Raises:
            UnavailableError: nothing whatever comes.
        """
        if self._gave:
            return
        others = [
            uid for one in self._listed("studies", self._bounds(), _STUDY) if (uid := _value(one, _STUDY)) != study
        ]
        for other in random.sample(others, min(_PROBES, len(others))):  # not the same each time
            with suppress(Refused, StopIteration):
                path = f"studies/{other}"
                for level, tag in (("series", _SERIES), ("instances", _SOP)):
                    path += f"/{level}/{_value(next(self._listed(f'{path}/{level}', {}, tag)), tag)}"
                self._web.get(path, accept=_FILE)
                return
        if others:
            raise UnavailableError("unavailable.source", "the PACS gives nothing now")

    def _listed(self, path: str, query: dict[str, str | int], key: str) -> Iterator[dict[str, Any]]:
        """All matches of a search, page by page; a server that knows no paging answers the same again.

        Raises:
            Refused: the list of one series; InputError: `input.source` for a longer one.
        """
        met: set[str] = set()
        while True:
            try:
                answer = self._web.get(path, {**query, "limit": _LIMIT, "offset": len(met)}, accept=_JSON)
            except Refused as refused:
                if refused.status == 404 and "/" in path:  # deleted since it was listed
                    return
                if path.endswith("/instances"):
                    raise
                raise InputError("input.source", f"the PACS answers a search with status {refused.status}") from None
            matches = _matches(answer.content, answer.status)
            new = [one for one in matches if _value(one, key) not in met]
            if any(not _UID.match(_value(one, key)) for one in new):
                raise InputError("input.source", "the PACS lists something without its UID")
            met.update(_value(one, key) for one in new)
            yield from new
            if not new:  # a shorter page proves nothing: servers have bounds of their own
                return


def _matches(content: bytes, status: int) -> list[dict[str, Any]]:
    import json

    try:
        value = json.loads(content) if content.strip() and status != 204 else []
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise InputError("input.source", "the PACS does not answer a search with DICOM JSON")
    return value


def _value(match: dict[str, Any], tag: str) -> str:
    element = match.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values and isinstance(values[0], str | int | float) else ""


def parts_of(content: bytes, content_type: str) -> list[bytes]:
    """The bodies of a multipart answer; the whole when it is none."""
    if not content_type.lower().startswith("multipart/"):
        return [content]
    found = re.search(r'boundary="?([^";,]{1,200})"?', content_type, re.IGNORECASE)
    if found is None:
        return []
    mark = b"--" + found[1].strip().encode()
    bodies = []
    at = content.find(mark)
    while at >= 0:
        at += len(mark)
        end = content.find(b"\r\n" + mark, at)
        head = content.find(b"\r\n\r\n", at)
        if content[at : at + 2] == b"--" or end < 0 or head < 0:
            break
        bodies.append(content[head + 4 : end] if head < end else b"")
        at = end + 2
    return bodies

"""A FHIR R4 server by Bulk Data: an export is asked for, waited for, and its NDJSON files are taken one by one.

Remembered are the export under way (so that a restart takes it up), each of its files, and its transaction time, from
which the next one starts. What the server says was deleted is forgotten. A file that holds fewer lines than the server
says was cut: it is taken again. Each is written to the disk as it comes, without a name there, and read line by line.

Source: HL7 FHIR Bulk Data Access 2.0.0, Bulk Data Export; RFC 7240 (Prefer).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from edge.sources.documents import TOO_LARGE
from edge.sources.fhirserver import FHIR_JSON, Lines, moment
from edge.sources.origin import Bad, Gone, Known, Page, Part
from edge.sources.places import FhirServer
from edge.sources.web import Answer, Refused, Web, wait_s
from edge.storage import named_errors
from protocol.errors import InputError, UnavailableError

__all__ = ["FhirExport"]

_NONE = "-"  # no export is under way
_PART_BYTES = 32 << 20
_MAX_LINE_BYTES = 64 << 20  # of one resource
_GZIP = b"\x1f\x8b"
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 0.1, 60.0


class FhirExport:
    """See `origin.Origin`.

    Args:
        place: the server.
        halted: asked while an export is waited for.
        folder: a private one, for the file that is being read; None for the system's own.

    Raises:
        ConfigurationError: as `Web`.
    """

    def __init__(
        self, place: FhirServer, halted: Callable[[], bool] = lambda: False, folder: Path | None = None
    ) -> None:
        self._place, self._web, self._halted, self._folder = place, Web(place), halted, folder
        scope = f"{place.url} {place.group or ''} {sorted(place.types)}"
        self._since, self._job = f"{scope} export:since", f"{scope} export:job"

    def close(self) -> None:
        """See `Origin.close`."""
        self._web.close()

    def count(self) -> int:
        """Whether the server answers: 1. It counts nothing without an export."""
        self._asked("metadata", accept=FHIR_JSON)
        return 1

    def pages(self, known: Known) -> Iterator[Page]:
        """A page a file. See `Origin.pages`."""
        job = known.mark(self._job)
        manifest = self._finished(job) if job not in ("", _NONE) else None
        if manifest is None:  # none is under way, or the server has forgotten it
            job = self._begin(known.mark(self._since))
            yield Page(mark=self._job, version=job, items=iter(()))
            manifest = self._finished(job)
        if manifest is None:
            raise UnavailableError("unavailable.source", "the export has expired")
        for deleted, entry in _outputs(manifest):
            mark = f"file:{entry['url']}"  # a server may call the files of each export the same
            if known.mark(mark) != str(manifest["transactionTime"]):
                items = self._deleted(entry) if deleted else self._file(entry)
                yield Page(mark=mark, version=str(manifest["transactionTime"]), items=items)
        yield Page(mark=self._since, version=str(manifest["transactionTime"]), items=iter(()))
        yield Page(mark=self._job, version=_NONE, items=iter(()))
        self._forget(job)

    def _begin(self, since: str) -> str:
        query = {"_type": ",".join(self._place.types), "_outputFormat": "application/fhir+ndjson"}
        if since:
            query["_since"] = since
        path = f"Group/{self._place.group}/$export" if self._place.group else "$export"
        answer = self._asked(path, query, accept=FHIR_JSON, headers={"Prefer": "respond-async"})
        job = answer.headers.get("Content-Location", "")
        if answer.status != 202 or not job:
            raise InputError("input.source", "the server does not begin an export")
        return str(job)

    def _finished(self, job: str) -> dict[str, Any] | None:
        while True:
            try:
                answer = self._web.get(job, accept="application/json")
            except Refused as refused:
                if refused.status in (404, 410):
                    return None
                raise InputError("input.source", f"the export failed with status {refused.status}") from None
            if answer.status != 202:
                return _manifest(answer.content)
            told = answer.headers.get("Retry-After", "")
            self._wait(max(_SHORTEST_WAIT_S, min(wait_s(told) if told else 1.0, _LONGEST_WAIT_S)))

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._halted():
                raise UnavailableError("unavailable.source", "the site is stopping")
            time.sleep(min(0.1, max(0.0, until - time.monotonic())))

    def _file(self, entry: dict[str, Any]) -> Iterator[Part | Bad | Gone]:
        lines, count = Lines(str(entry.get("type", ""))), 0
        for line in self._lines(entry):
            count += 1
            where = f"{entry['url']}#{count}"
            try:
                if line is None:
                    lines.bad(where, None, TOO_LARGE)
                else:
                    lines.add(json.loads(line), where)
            except (ValueError, RecursionError):
                lines.bad(where, line)
            if lines.size >= _PART_BYTES:
                yield from lines.items()
                lines = Lines(lines.kind)
        told = entry.get("count")
        if isinstance(told, int) and count < told:
            raise UnavailableError("unavailable.source", "a file of the export was cut")
        yield from lines.items()

    def _deleted(self, entry: dict[str, Any]) -> Iterator[Gone | Bad]:
        """Bundles of type transaction, whose requests are DELETEs."""
        for line in self._lines(entry):
            if line is None:
                yield Bad(key=f"{entry['url']}", reason=TOO_LARGE)
                continue
            try:
                entries = json.loads(line).get("entry", [])
                yield from (Gone(str(one["request"]["url"])) for one in entries)
            except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
                yield Bad(key=f"{entry['url']}", reason="unreadable", data=line)

    def _lines(self, entry: dict[str, Any]) -> Iterator[bytes | None]:
        """The lines of a file that is there whole, blank ones left out; None for one that is longer than a line may be.

        Raises:
            InputError: `input.export` for a file elsewhere, packed or too large, `input.source` when it is refused;
                StorageError, UnavailableError, AuthenticationError.
        """
        with named_errors("a file of an export"), tempfile.TemporaryFile(dir=self._folder) as file:
            self._fetch(str(entry["url"]), file)
            file.seek(0)
            if file.read(len(_GZIP)) == _GZIP:
                raise InputError("input.export", "a file of the export is packed, and not by Content-Encoding")
            file.seek(0)
            while line := file.readline(_MAX_LINE_BYTES):
                cut = rest = len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n")
                while rest:  # let go by, and never held
                    rest = not (line := file.readline(_MAX_LINE_BYTES)).endswith(b"\n") and bool(line)
                if cut:
                    yield None
                elif line.strip():
                    yield line

    def _fetch(self, url: str, file: IO[bytes]) -> None:
        try:
            self._web.fetch(url, file, accept="application/fhir+ndjson")
        except Refused as refused:
            raise InputError("input.source", f"the server answers with status {refused.status}") from None
        except InputError as error:
            raise InputError("input.export", error.message) from None

    def _asked(self, path: str, query: dict[str, str] | None = None, **more: Any) -> Answer:
        try:
            return self._web.get(path, query, **more)
        except Refused as refused:
            raise InputError("input.source", f"the server answers with status {refused.status}") from None

    def _forget(self, job: str) -> None:
        self._web.delete(job)


def _manifest(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not moment(str(value.get("transactionTime", ""))):
        raise InputError("input.source", "the export's manifest is none")
    return value


def _outputs(manifest: dict[str, Any]) -> Iterator[tuple[bool, dict[str, Any]]]:
    for deleted, key in ((False, "output"), (True, "deleted")):
        listed = manifest.get(key, [])
        for entry in listed if isinstance(listed, list) else []:
            if not isinstance(entry, dict) or not isinstance(entry.get("url"), str):
                raise InputError("input.source", "the export's manifest is none")
            yield deleted, entry

"""A FHIR R4 server by search: type by type in the order of change, page by page, each page kept before its successor.

What is remembered is, for each type, the newest `meta.lastUpdated` that was kept; the next pull begins with that
moment again, since others may bear the same. A server that does not sort by it is noticed, and a type then counts as
done at its end only. What a search does not tell is what was deleted: a full pull finds that out.

Source: HL7 FHIR R4, search (3.1.1), Bundle (2.36), resource meta (2.27.6).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from edge.sources.origin import Bad, Gone, Known, Page, Part
from edge.sources.places import FhirServer
from edge.sources.web import Refused, Web
from protocol.errors import InputError

__all__ = ["FHIR_JSON", "FhirSearch", "Lines", "moment"]

FHIR_JSON = "application/fhir+json"
_ID = re.compile(r"^[A-Za-z0-9\-.]{1,64}\Z")
_MAX_PAGES = 1_000_000


class FhirSearch:
    """See `origin.Origin`.

    Raises:
        ConfigurationError: as `Web`.
    """

    def __init__(self, place: FhirServer) -> None:
        self._place, self._web = place, Web(place)

    def close(self) -> None:
        """See `Origin.close`."""
        self._web.close()

    def count(self) -> int:
        """How many resources of the types there are, as the server says; raises as `pages`."""
        total = 0
        for kind in self._place.types:
            found = self._bundle(kind, {"_summary": "count"}).get("total")
            total += found if isinstance(found, int) else 0
        return total

    def pages(self, known: Known) -> Iterator[Page]:
        """A page a bundle. See `Origin.pages`."""
        for kind in self._place.types:
            mark = f"{self._place.url} search:{kind}"
            since = known.mark(mark)
            query = {"_sort": "_lastUpdated", "_count": str(self._place.page_size)}
            if since:
                query["_lastUpdated"] = f"ge{since}"
            yield from self._bundles(kind, mark, query, since)

    def _bundles(self, kind: str, mark: str, query: dict[str, str], since: str) -> Iterator[Page]:
        newest, sorted_so_far, url = since, True, ""
        met: set[str] = set()
        for _ in range(_MAX_PAGES):
            bundle = self._bundle(url or kind, None if url else query)
            lines = Lines(kind)
            for resource in _resources(bundle):
                lines.add(resource)
            moments = [m for m in lines.moments if m]
            sorted_so_far &= moments == sorted(moments, key=moment)
            sorted_so_far &= not moments or not newest or moment(moments[0]) >= moment(newest)
            newest = max([newest, *moments], key=moment)
            url = _next(bundle)
            url = kind + url if url.startswith("?") else url  # relative to what was asked for
            version = newest if sorted_so_far or not url else ""
            yield Page(mark=mark, version=version, items=lines.items())
            if not url:
                return
            if url in met:
                raise InputError("input.source", "the server's pages go round in a circle")
            met.add(url)

    def _bundle(self, path: str, query: dict[str, str] | None) -> dict[str, Any]:
        try:
            answer = self._web.get(path, query, accept=FHIR_JSON)
            value = json.loads(answer.content)
        except Refused as refused:
            raise InputError("input.source", f"the server answers a search with status {refused.status}") from None
        except (ValueError, RecursionError):
            raise InputError("input.source", "the server does not answer with JSON") from None
        if not isinstance(value, dict) or value.get("resourceType") != "Bundle":
            raise InputError("input.source", "the server does not answer a search with a Bundle")
        return value


@dataclass(slots=True)
class Lines:
    """Resources of one type on their way into one NDJSON file.

    Attributes:
        kind: the type; "" takes any.
        moments: `meta.lastUpdated` of each, "" for none.
        size: bytes of all that was taken or set aside.
    """

    kind: str
    moments: list[str] = field(default_factory=list)
    _kept: dict[str, bytes] = field(default_factory=dict)
    _bad: list[Bad] = field(default_factory=list)
    size: int = 0

    def add(self, resource: Any, where: str = "") -> None:
        """Take one resource, or set it aside. `where` names one that has no id, for as long as it stands there."""
        kind, name = ("", "") if not isinstance(resource, dict) else (resource.get("resourceType"), resource.get("id"))
        if kind == "OperationOutcome":
            return  # a server's word on its own answer
        if not isinstance(kind, str) or not isinstance(name, str) or not _ID.match(name) or self.kind not in ("", kind):
            data = json.dumps(resource, ensure_ascii=False).encode("utf-8", "replace")
            self.bad(f"{self.kind}:{where or data.decode()}", data)
            return
        meta = resource.get("meta")
        updated = meta.get("lastUpdated") if isinstance(meta, dict) else None
        self.moments.append(updated if isinstance(updated, str) and moment(updated) else "")
        line = json.dumps(resource, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        self._kept[f"{kind}/{name}"] = line
        self.size += len(line)

    def bad(self, key: str, data: bytes | None, reason: str = "unreadable") -> None:
        """Set something aside; without `data`, not even its bytes are kept."""
        self._bad.append(Bad(key=key, reason=reason, data=data))
        self.size += len(data or b"")

    def items(self) -> Iterator[Part | Bad | Gone]:
        """What was taken: one file, and what was set aside."""
        yield from self._bad
        if self._kept:
            yield Part(keys=tuple(self._kept), data=b"".join(self._kept.values()), suffix=".ndjson", lines=True)


def moment(text: str) -> float:
    """A FHIR instant as seconds; 0.0 when it is none."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _resources(bundle: dict[str, Any]) -> Iterator[Any]:
    listed = bundle.get("entry")
    entries: list[Any] = listed if isinstance(listed, list) else []
    for entry in entries:
        mode = entry.get("search", {}) if isinstance(entry, dict) else {}
        if isinstance(mode, dict) and mode.get("mode") == "outcome":
            continue
        yield entry.get("resource") if isinstance(entry, dict) else entry


def _next(bundle: dict[str, Any]) -> str:
    listed = bundle.get("link")
    links: list[Any] = listed if isinstance(listed, list) else []
    for link in links:
        if isinstance(link, dict) and link.get("relation") == "next" and isinstance(link.get("url"), str):
            return str(link["url"])
    return ""

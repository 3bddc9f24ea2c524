"""Studies as a notebook handles them: submit, follow, read the table.

`hub.studies` gives these; they call the API through the hub and keep nothing but ids.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from corsia import replies
from corsia.runs import Run
from corsia.tables import Listing, brief, html_table
from protocol.errors import InputError, UnavailableError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from corsia.answers import TableSummary
    from corsia.client import Hub

__all__ = ["Status", "Studies", "StudyHandle", "StudyTable"]

_POLL_S = 0.4


@dataclass(frozen=True, slots=True)
class Status:
    """Where a study stands. `value` is the API's whole answer."""

    value: Mapping[str, Any]

    @property
    def state(self) -> str:
        """`open`, `done`, `failed`, `closed` or `erased`."""
        return str(self.value["state"])

    @property
    def final(self) -> bool:
        """Whether nothing more will come."""
        return self.state != "open"

    @property
    def sites(self) -> dict[str, str]:
        """Each site's state."""
        return dict(self.value["sites"])

    @property
    def totals(self) -> dict[str, int]:
        """Records, files, columns, parcels, bytes, withheld."""
        return dict(self.value["totals"])

    @property
    def rounds(self) -> list[dict[str, Any]]:
        """Finished rounds with their metrics; empty but for training."""
        return list(self.value["rounds"])

    def news(self) -> list[str]:
        """One line a site and a round, for people."""
        lines = [
            f"{a['site']}: {a['state']}" + (f" [{a['code']}]" if a["code"] else "") for a in self.value["assignments"]
        ]
        for done in self.rounds:
            of = (self.value["run"] or {}).get("of", "?")
            metrics = [f"{k} {v:.4g}" for k, v in done["metrics"].items() if isinstance(v, int | float)]
            lines.append(" ".join([f"round {done['round']} of {of}", *metrics]))
        return lines

    def __repr__(self) -> str:
        return f"<study {self.value['id']}: {self.state}, {self.sites}>"

    def _repr_html_(self) -> str:
        rows = [[a["site"], a["state"], a["code"], brief(a["counts"])] for a in self.value["assignments"]]
        head = f"<p>{html.escape(self.value['title'])}: <b>{html.escape(self.state)}</b></p>"
        return head + html_table(("site", "state", "code", "counts"), rows)


class StudyHandle:
    """One submitted study."""

    def __init__(self, hub: Hub, study_id: str) -> None:
        self._hub = hub
        self.id = study_id

    def status(self) -> Status:
        """Where it stands now.

        Examples:
            >>> hub.studies["lung"].status().sites
            {'site-a': 'received', 'site-b': 'received'}
        """
        return Status(self._hub.request("GET", f"/studies/{quote(self.id, safe='')}"))

    def wait(self, timeout_s: float = 600.0) -> Status:
        """Wait in silence until it is final.

        Raises:
            UnavailableError: `unavailable.centre` when it is not final in time; the study goes on.
        """
        return self._follow(timeout_s, quiet=True)

    def watch(self, timeout_s: float = 600.0) -> Status:
        """Print what happens until it is final, then return its status.

        Raises:
            UnavailableError: `unavailable.centre` when it is not final in time; the study goes on.
        """
        return self._follow(timeout_s, quiet=False)

    @property
    def run(self) -> Run:
        """The federated run of a training study."""
        return Run(self._hub, self.id)

    def table(self) -> StudyTable:
        """Its curated rows over all sites."""
        return StudyTable(self._hub, self.id)

    def _follow(self, timeout_s: float, *, quiet: bool) -> Status:
        from rich.console import Console

        console = Console(highlight=False, quiet=quiet)
        until = time.monotonic() + timeout_s
        told: set[str] = set()
        while True:
            try:
                status = self.status()
            except UnavailableError:  # the web process may be starting again
                if time.monotonic() > until:
                    raise
            else:
                for line in status.news():
                    if line not in told:
                        told.add(line)
                        console.print(line, markup=False)
                if status.final:
                    console.print(f"{self.id}: {status.state}", markup=False, style="bold")
                    return status
                if time.monotonic() > until:
                    raise UnavailableError("unavailable.centre", f"study {self.id} is not final after {timeout_s:g} s")
            time.sleep(_POLL_S)

    def __repr__(self) -> str:
        return f"<study {self.id}>"

    def _repr_html_(self) -> str:
        return self.status()._repr_html_()


class Studies:
    """`hub.studies`: iterate, pick one by id, submit."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def submit(self, study: Mapping[str, Any] | str | Path) -> StudyHandle:
        """Submit a study: its fields, its TOML text, or the path of a TOML file.

        The same study again changes nothing.

        Raises:
            InputError: `input.study`, naming the field.
            StudyRefused: `study.exists`, `study.expired`.
            PermissionRefused: `permission.site`.

        Examples:
            >>> study = hub.studies.submit(draft)  # or Path("study.toml"), or its text
            >>> study.status().state
            'open'
        """
        if isinstance(study, Mapping):
            content, kind = json.dumps(study, default=_plain, allow_nan=False).encode(), "application/json"
        else:
            content, kind = _text_of(study), "application/toml"
        made = self._hub.request("POST", "/studies", content=content, headers={"Content-Type": kind})
        return StudyHandle(self._hub, str(made["id"]))

    def list(self) -> Listing:
        """All studies, newest first.

        Examples:
            >>> [row["id"] for row in hub.studies.list() if row["lane"] == "extract"]
            ['lung']
        """
        rows = self._hub.pages("/studies?limit=1000")
        return Listing(rows, ("id", "lane", "title", "state", "sites"))

    def __getitem__(self, study_id: str) -> StudyHandle:
        handle = StudyHandle(self._hub, study_id)
        handle.status()
        return handle

    def __iter__(self) -> Iterator[StudyHandle]:
        return (StudyHandle(self._hub, row["id"]) for row in self.list())

    def _repr_html_(self) -> str:
        return self.list()._repr_html_()


class StudyTable:
    """A study's curated rows over all sites."""

    def __init__(self, hub: Hub, study_id: str) -> None:
        self.hub = hub
        self.study = study_id

    def to_arrow(self) -> pa.Table:
        """As an Arrow table; the first columns are `site` and `provenance` (the batch a row came in)."""
        return replies.rows(self.hub.download(f"/studies/{quote(self.study, safe='')}/table"), self.hub.url)

    def to_pandas(self) -> pd.DataFrame:
        """As a DataFrame; dates are datetime64.

        Examples:
            >>> list(hub.table("lung").to_pandas().columns)
            ['site', 'provenance', 'age', 'sex']
        """
        frame: pd.DataFrame = self.to_arrow().to_pandas(date_as_object=False)
        return frame

    def summary(self) -> TableSummary:
        """Statistics per column; small groups are None.

        Examples:
            >>> hub.table("lung").summary()["rows"]
            12
        """
        told: TableSummary = self.hub.request("GET", f"/studies/{quote(self.study, safe='')}/summary")
        return told


def _text_of(study: str | Path) -> bytes:
    if isinstance(study, str):
        return study.encode()
    try:
        return study.read_bytes()
    except OSError:
        raise InputError("input.study", f"{study} cannot be read") from None


def _plain(value: Any) -> Any:
    if isinstance(value, date):  # and datetime
        return value.isoformat()
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"not a study's value: {type(value).__name__}")

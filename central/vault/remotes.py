"""Remote tables in the curated lake: what `corsia central harvest` pulled, encrypted under a key of its own.

    a new line of provenance -> the bytes, checked against it -> rows, original and provenance in the lake -> a row of
    the database -> the pulled file is removed

So a remote table is read, joined and erased like what came from a hospital: its key is destroyed, and with it every
copy. It is nobody's record, so nothing of it is withheld. Only tables whose licence stands in their line come here.
"""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlalchemy import select

from central.forms import framed
from central.remotes import REMOTE_PREFIX, erase, kept_of, provenance, table_of
from central.store import Store
from central.store.models import RemoteRow
from central.vault.contents import Entry
from central.vault.lake import Lake
from protocol.errors import CorsiaError, InputError, IntegrityError

__all__ = ["Remotes", "mentioned", "original", "rows_of_remote"]

_TABLE, _ORIGINAL, _PROVENANCE = "table.parquet", "original", "provenance.json"
_log = logging.getLogger("central.vault.remotes")


class Remotes:
    """Takes what was pulled into the lake, and destroys what is to be erased.

    Args:
        state_dir: the centre's, below which `harvested/` lies.
    """

    def __init__(self, store: Store, state_dir: Path, lake: Lake) -> None:
        self._store, self._state, self._lake = store, state_dir, lake
        self._seen: dict[str, tuple[int, int]] = {}

    def step(self) -> None:
        """Look once at every provenance that has changed; the failure of one stops no other."""
        for path in sorted((self._state / "harvested").glob("*/provenance.jsonl")):
            name = path.parent.name
            try:
                now = path.stat()
                stamp = (now.st_mtime_ns, now.st_size)
                if self._seen.get(name) != stamp:
                    self._look(name)
                    self._seen[name] = stamp
            except (CorsiaError, OSError) as error:
                code = error.code if isinstance(error, CorsiaError) else "storage.failed"
                _log.error("remote.failed", extra={"fields": {"dataset": name, "code": code}})
                if not isinstance(error, OSError):
                    self._seen[name] = stamp

    def _look(self, name: str) -> None:
        lines = provenance(self._state / "harvested" / name)
        if lines and lines[-1]["state"] == "erased":
            self._erase(name)
            return
        line = kept_of(lines)
        with self._store.read() as session:
            row = session.get(RemoteRow, name)
        if row is not None and row.state == "erased":  # of a backup: the mark beside its pulls is not in it
            erase(self._state, name)
        elif line and (row is None or row.sha256 != line["sha256"]):
            self._curate(name)

    def _curate(self, name: str) -> None:
        data, line = table_of(self._state, name)
        table, told = framed(data, line["format"]), json.dumps(line, sort_keys=True).encode()
        entries = [Entry(name=_TABLE, data=table), Entry(name=_ORIGINAL, data=data), Entry(name=_PROVENANCE, data=told)]
        path = self._lake.write(REMOTE_PREFIX + name, line["sha256"], entries)
        with self._store.begin() as session:
            session.merge(
                RemoteRow(
                    name=name, state="curated", sha256=line["sha256"], path=path, rows=table.num_rows,
                    columns=table.column_names, pulled_at=datetime.fromisoformat(line["at"]).timestamp(),
                    **{key: line[key] for key in ("url", "licence", "terms", "publisher")},
                )
            )  # fmt: skip
        (self._state / "harvested" / name / line["sha256"]).unlink(missing_ok=True)
        _log.info("remote.curated", extra={"fields": {"dataset": name, "count": table.num_rows}})

    def _erase(self, name: str) -> None:
        self._lake.destroy_key(REMOTE_PREFIX + name)
        with self._store.begin() as session:
            row = session.get(RemoteRow, name)
            if row is not None:
                row.state, row.path, row.rows, row.columns = "erased", "", 0, []
        self._lake.drop(REMOTE_PREFIX + name)
        _log.info("remote.erased", extra={"fields": {"dataset": name}})


def rows_of_remote(store: Store, lake: Lake, name: str) -> pa.Table:
    """A remote's curated rows.

    Raises:
        InputError: `input.usage` when there are none; as `Lake.tables`.
    """
    with store.read() as session:
        row = session.get(RemoteRow, name)
    if row is None or row.state != "curated":
        raise InputError("input.usage", f"there is no remote table {name!r}")
    return lake.tables(row.path)[0]


def mentioned(store: Store, lake: Lake, query: str) -> dict[str, pa.Table]:
    """The remote tables that a query may mean, as `remote_NAME`, hyphens as underscores. Raises as `Lake.tables`."""
    with store.read() as session:
        rows = session.scalars(select(RemoteRow).where(RemoteRow.state == "curated")).all()
    named = {f"remote_{row.name.replace('-', '_')}": row.path for row in rows}
    return {name: lake.tables(path)[0] for name, path in named.items() if name in query.lower()}


def original(state_dir: Path, name: str) -> tuple[bytes, dict[str, Any]]:
    """The last good bytes of a remote as they were pulled, with their line of provenance.

    Raises:
        InputError: `input.usage` when it was never pulled, or is erased; IntegrityError: `lake.damaged`.
    """
    line = kept_of(provenance(state_dir / "harvested" / name))
    if not line or (state_dir / "harvested" / name / line["sha256"]).exists():
        return table_of(state_dir, name)
    path = f"{REMOTE_PREFIX}{name}/{line['sha256']}"
    lake = Lake.of(state_dir / "vault")
    if json.loads(lake.read(f"{path}/{_PROVENANCE}"))["sha256"] != line["sha256"]:
        raise IntegrityError("lake.damaged", f"{name}: the lake holds other bytes than its provenance says")
    return lake.read(f"{path}/{_ORIGINAL}"), line

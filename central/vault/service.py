"""What the vault's socket answers: keys for the signer, tables and inference for the web process.

Requests come from processes of the centre under the same user; results go back as JSON. Nothing here is reachable
from the network.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from central.ipc import Handler
from central.remotes import REMOTE_PREFIX
from central.vault.analysis import Analysis
from central.vault.keys import StudyKeys
from protocol.errors import InputError

__all__ = ["MAX_QUERY", "MAX_TABLE_BYTES", "handlers", "pack"]

MAX_QUERY = 20_000  # characters of SQL
MAX_TABLE_BYTES = 512 << 20  # of a table in one answer, as compressed Parquet


def handlers(keys: StudyKeys, analysis: Analysis) -> dict[str, Handler]:
    """The methods of `vault.sock` by name."""
    return {
        "new_study_key": lambda request: {"key": keys.create(_study(request))},
        "remote": lambda request: _parquet(analysis.remote(_text(request, "name"))),
        "table": lambda request: _parquet(analysis.table(_text(request, "study"))),
        "summary": lambda request: analysis.summary(_text(request, "study")),
        "distributions": lambda request: analysis.distributions(_text(request, "study")),
        "sql": lambda request: _parquet(analysis.sql(_text(request, "study"), _text(request, "query", MAX_QUERY))),
        "analyse": lambda request: analysis.analyse(_text(request, "study"), _mapping(request, "request")),
        "predict": lambda request: _predict(analysis, request),
    }


def pack(table: pa.Table) -> bytes:
    """A table as a Parquet file.

    Raises:
        InputError: `input.rows` when it is too large for one answer.
    """
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    if sink.tell() > MAX_TABLE_BYTES:
        raise InputError("input.rows", "the table is too large for one answer")
    return sink.getvalue()


def _parquet(table: pa.Table) -> dict[str, Any]:
    return {"parquet": base64.b64encode(pack(table)).decode(), "rows": table.num_rows}


def _predict(analysis: Analysis, request: dict[str, Any]) -> dict[str, Any]:
    version, alias = request.get("version"), request.get("alias")
    if not (version is None or isinstance(version, int)) or not (alias is None or isinstance(alias, str)):
        raise InputError("input.usage", "version or alias")
    made = analysis.predict(_text(request, "model"), _text(request, "study"), version=version, alias=alias)
    return {"id": made.id, "model": made.model, "version": made.version, "rows": made.rows, "path": made.path}


def _study(request: dict[str, Any]) -> str:
    """The id of a new study; one of a remote table's part of the lake is none."""
    study = _text(request, "study")
    if study.startswith(REMOTE_PREFIX):
        raise InputError("input.study", f"no study's id begins with {REMOTE_PREFIX}")
    return study


def _text(request: dict[str, Any], name: str, longest: int = 128) -> str:
    value = request.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise InputError("input.usage", f"the request lacks {name}")
    return value


def _mapping(request: dict[str, Any], name: str) -> dict[str, Any]:
    value = request.get(name)
    if not isinstance(value, dict):
        raise InputError("input.usage", f"the request lacks {name}")
    return value

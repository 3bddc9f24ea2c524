"""`corsia deid link`: a patient's pseudonyms under a site's present and former keys, for the site alone.

Not here: rotation itself (a new key file, the old one kept for this), which keys the edge uses.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated

import typer

from privacy.deid.folders import write_private
from privacy.envelope.keyfile import read_seed
from protocol.errors import ConflictError, InputError
from protocol.validation import unread

__all__ = ["link"]


def link(
    ids: Annotated[Path, typer.Argument(help="Patient ids, one a line.")],
    target: Annotated[Path, typer.Argument(help="CSV for its owner alone; must not exist.")],
    key: Annotated[Path, typer.Option("--key", help="The present key: 32 raw bytes, mode 0600.")],
    retired: Annotated[list[Path] | None, typer.Option("--retired", help="A former key; may be repeated.")] = None,
    study: Annotated[str | None, typer.Option(help="Derive each key for this study first.")] = None,
) -> None:
    """Write the pseudonyms of patients under each key, one patient a row, one key a column; no patient id.

    With it a withdrawal reaches what was released under a former key. It links persons: keep it at the site.

    Example: corsia deid link withdrawn.txt link.csv --key 2027.key --retired 2026.key
    """
    from privacy.deid.pseudonym import KeyRing

    if target.exists():
        raise ConflictError("conflict.exists", f"{target} exists")
    try:
        lines = ids.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError("input.usage", f"{ids} cannot be read: {unread(error)}") from None
    ring = KeyRing(read_seed(key), [read_seed(one) for one in retired or ()])
    if study is not None:
        ring = ring.of_study(study)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(ring.key_ids)
    patients = [line for line in lines if line.strip()]
    writer.writerows(ring.pseudonyms(patient).values() for patient in patients)
    write_private(target, [table.getvalue().encode()])
    typer.echo(f"{len(patients)} patients, {len(ring.key_ids)} keys", err=True)

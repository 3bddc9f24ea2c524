"""The receipts in a site's journal against what the site has kept, and against the centre's log.

Place in the flow: `corsia log verify --state SITE`, beside the daemon; reads alone. A receipt counts by its line in the
journal, so that a lost or exchanged file is found too.
"""

from __future__ import annotations

import base64
from contextlib import closing
from pathlib import Path
from typing import Any

from edge.journal import Journal, Line
from edge.logview import LogView
from edge.spool import Spool
from edge.state import SiteState
from privacy.inclusion import Seen
from privacy.transparency import Tree
from protocol.errors import IntegrityError
from protocol.parcel import Receipt

__all__ = ["audit"]


def audit(state_dir: Path, export: dict[str, Any] | None) -> dict[str, Any]:
    """Check every delivery that the journal tells of, and the linked state.

    Args:
        export: the log, verified; None to check without it.

    Returns:
        `{"journalled": receipts in the journal, "linked": size of the newest linked state}`.

    Raises:
        IntegrityError: `log.proof`, or `journal.chain`.
    """
    kept = {receipt.parcel_id: receipt for _entry, receipt in Spool(state_dir / "spool", 1).receipts()}
    lines: list[Line] = []
    journal = Journal(state_dir / "journal.jsonl", readonly=True)
    journal.verify(each=lambda line: lines.append(line) if line.event == "parcel.delivered" else None)
    seen: list[Seen] = []
    for line in lines:
        receipt = _of(line, kept)
        if "size" in line.fields:
            root = bytes.fromhex(str(line.fields["checkpoint"]))
            seen.append(Seen(size=int(line.fields["size"]), root=root))
        if export is not None:
            _in_log(receipt, export)
    linked = _linked(state_dir)
    if export is not None:
        _same(export, [*seen, *([linked] if linked else [])])
    return {"journalled": len(lines), "linked": linked.size if linked else 0}


def _of(line: Line, kept: dict[str, Receipt]) -> Receipt:
    """The receipt of a line: by the file that was kept, else by the line itself."""
    fields = line.fields
    parcel, digest, index = str(fields.get("parcel")), str(fields.get("sha256")), int(fields.get("index") or 0)
    receipt = kept.get(parcel, Receipt(parcel_id=parcel, digest=digest, index=index, proof=(), checkpoint=""))
    if (receipt.digest, receipt.index) != (digest, index):
        raise IntegrityError("log.proof", "a receipt is not the one that was journalled")
    return receipt


def _in_log(receipt: Receipt, export: dict[str, Any]) -> None:
    leaves, leaf = export["leaves"], Receipt.leaf(receipt.parcel_id, receipt.digest)
    if receipt.index >= len(leaves) or base64.b64decode(leaves[receipt.index]) != leaf:
        raise IntegrityError("log.proof", "the log lacks a parcel whose receipt this site has journalled")


def _same(export: dict[str, Any], seen: list[Seen]) -> None:
    """The log must have every state that this site has seen."""
    tree = Tree()
    for leaf in export["leaves"]:
        tree.append(base64.b64decode(leaf))
    if any(one.size > tree.size or tree.root(one.size) != one.root for one in seen):
        raise IntegrityError("log.proof", "the log is not the one that this site has seen")


def _linked(state_dir: Path) -> Seen | None:
    if not (state_dir / "state.db").exists():
        return None
    with closing(SiteState(state_dir / "state.db")) as state:
        return LogView(state).linked

"""What takes two operators, from their own machines: admitting a site, exporting a study's rows.

The words are signed here, with the key that follows from an operator's token; the centre gets signatures alone. A
second operator approves what the first one signed, byte for byte, after looking at what it says.
"""

from __future__ import annotations

import base64
import io
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, urlencode

from protocol.errors import AuthenticationError, ConflictError, InputError
from protocol.study import parse_study, study_digest

if TYPE_CHECKING:
    from central.decisions import Admission, Export
    from corsia.client import Hub

__all__ = ["admit", "approve_export", "export", "open_export"]

_Asked = TypeVar("_Asked", "Admission", "Export")


def admit(hub: Hub, site: str, fingerprint: str = "") -> dict[str, Any]:
    """Say that an enrolled site is who it says: the first operator proposes, the second one's word admits it.

    Args:
        fingerprint: of the site's identity key, as the site told it. Who proposes must give it, for what the centre
            shows is what is in doubt; the second operator, without it, takes the first one's word.

    Returns:
        `{"site", "fingerprint", "state"}`; `open` until another operator does the same, then `approved`.

    Raises:
        InputError: `input.usage` when no such site is enrolled, or who proposes gives no fingerprint.
        AuthenticationError: `auth.fingerprint` when the centre shows another one.
        ConflictError: `conflict.state` when it is admitted already.
    """
    from central.decisions import Admission

    shown = next((row["fingerprint"] for row in hub.sites if row["name"] == site and not row["revoked"]), None)
    if shown is None:
        raise InputError("input.usage", f"no site {site} is enrolled")
    if fingerprint and fingerprint.lower() != shown:
        raise AuthenticationError("auth.fingerprint", f"the centre shows {shown} for {site}")
    me, _key = hub.operator()
    value = {"site": site, "fingerprint": shown}
    for row, asked in _open(hub, Admission, "admit", site):
        if asked.fingerprint == shown:
            state = row["state"] if row["proposed_by"] == me else _approve(hub, row)
            return {**value, "state": state, "proposed_by": row["proposed_by"]}
    if not fingerprint:
        raise InputError(
            "input.usage", "give the fingerprint as the site told it: what the centre shows proves nothing"
        )
    _propose(hub, Admission.new(operator=me, site=site, fingerprint=shown))
    return {**value, "state": "open", "proposed_by": me}


def export(hub: Hub, study: str, *, anew: bool = False) -> dict[str, Any]:
    """Ask for a study's rows, or see how far that is.

    Args:
        anew: ask again, as for rows that have come since.

    Returns:
        `{"id", "study", "state"}` of this operator's newest request: `open`, or `approved` (see `open_export`).
    """
    from central.decisions import Export

    me, _key = hub.operator()
    mine = [row for row in _decisions(hub, "export", study) if row["proposed_by"] == me]
    if anew or not mine:
        digest = study_digest(_document(hub, study))
        asked = Export.new(operator=me, study=study, digest=digest, at=int(time.time()))
        _propose(hub, asked)
        return {"id": asked.id, "study": study, "state": "open"}
    return {"id": mine[0]["id"], "study": study, "state": mine[0]["state"]}


def approve_export(hub: Hub, study: str) -> dict[str, Any]:
    """Approve another operator's open request for a study's rows.

    Raises:
        InputError: `input.usage` when none waits, or several do.
        PermissionRefused: `permission.second-person` for one's own.
    """
    from central.decisions import Export

    waiting = list(_open(hub, Export, "export", study))
    if len(waiting) != 1:
        raise InputError("input.usage", f"{len(waiting) or 'no'} requests for rows of {study} wait for approval")
    row, asked = waiting[0]
    return {"id": asked.id, "study": study, "state": _approve(hub, row), "proposed_by": row["proposed_by"]}


def open_export(hub: Hub, name: str, study: str) -> bytes:
    """The rows of an approved request (Parquet), opened with this operator's key.

    Raises:
        ConflictError: `conflict.state` while it waits for a second operator.
        IntegrityError: it is not sealed to this operator, or not by the study's key.
    """
    from central.vault.exports import SENDER
    from privacy.envelope import ParcelInfo, PublicKey, read_header, unseal

    document = _document(hub, study)
    raw = io.BytesIO(hub.download(f"/decisions/{quote(name, safe='')}/parcel"))
    kind = read_header(raw).info.content_type
    raw.seek(0)
    info = ParcelInfo(parcel_id=name, study=study_digest(document), site=SENDER, content_type=kind)
    _me, key = hub.operator()
    sender = PublicKey.from_base64(parse_study(document).recipient("vault") or "")
    return b"".join(unseal(raw, key=key, sender=sender, expect=info))


def _document(hub: Hub, study: str) -> bytes:
    """The study's signed bytes."""
    return str(hub.studies[study].status().value["document"]).encode()


def _decisions(hub: Hub, kind: str, subject: str) -> list[dict[str, Any]]:
    asked = urlencode({"kind": kind, "subject": subject, "limit": 1000})
    return hub.pages(f"/decisions?{asked}")


def _open(hub: Hub, kind: type[_Asked], action: str, subject: str) -> list[tuple[dict[str, Any], _Asked]]:
    """Open proposals with what they really say: that is what an approval signs."""
    found = []
    for row in _decisions(hub, action, subject):
        if row["state"] == "open":
            asked = kind.from_bytes(base64.b64decode(row["statement"]))
            said = asdict(asked)
            if said.get("site", said.get("study")) != subject or asked.id != row["id"]:
                raise ConflictError("conflict.state", "the proposal is not what the centre shows of it")
            found.append((row, asked))
    return found


def _propose(hub: Hub, asked: Admission | Export) -> None:
    from central.decisions import sign

    _me, key = hub.operator()
    body = {"statement": _text(asked.to_bytes()), "signature": _text(sign(asked, key))}
    hub.request("POST", "/decisions", json=body)


def _approve(hub: Hub, row: dict[str, Any]) -> str:
    from central.decisions import Approval, sign

    me, key = hub.operator()
    approval = Approval.of(base64.b64decode(row["statement"]), me)
    path = f"/decisions/{quote(row['id'], safe='')}/approval"
    hub.request("POST", path, json={"signature": _text(sign(approval, key))})
    return "approved"


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")

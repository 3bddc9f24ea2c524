"""Which published models this site accepts: signed, in the log, and never older than one accepted before.

Place in the flow: `scoring` and `corsia edge models rollback` bring a manifest -> signature (pinned publication key)
-> proof from the centre's log, which must extend what this site has seen -> serial -> state.db and journal. Nothing
the centre says besides is trusted: neither MLflow's aliases nor the assignment's word.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from edge.journal import Journal
from edge.logview import LogView, Prover
from edge.state import SiteState
from privacy.inclusion import verify_published
from protocol.errors import IntegrityError
from protocol.parcel import canonical_json

if TYPE_CHECKING:
    from edge.identity import Identity
    from pipelines.infer import Manifest

__all__ = ["accept", "roll_back"]


def accept(
    manifest: Manifest, raw: bytes, *, link: Prover, identity: Identity, state: SiteState, view: LogView,
    journal: Journal, assignment: str = "",
) -> None:  # fmt: skip
    """Accept a verified manifest, or refuse it for good.

    Args:
        manifest: its signature has been checked against the pinned key.
        raw: the document's bytes.
        assignment: under which it came, for the journal.

    Raises:
        IntegrityError: `model.manifest` when it names no place in the log, `log.proof` when it is not there or the
            log is not the one this site knows, `model.rollback` for a lower serial, or a lower version without a
            signed roll-back.
        UnavailableError: the centre does not answer now.
    """
    digest = hashlib.sha256(raw).hexdigest()
    about = {"model": manifest.name, "serial": manifest.serial, "sha256": digest}
    about |= {"assignment": assignment} if assignment else {}
    try:
        _in_log(manifest, link, identity, view)
        state.accept_model(
            manifest.name, manifest.alias, manifest.serial, manifest.version, digest, rollback=manifest.rollback
        )
    except IntegrityError as error:
        journal.append("model.refused", code=error.code, error_id=error.id, **about)
        raise
    journal.append("model.accepted", version=manifest.version, index=manifest.log_index, **about)


def roll_back(raw: bytes, *, link: Prover, identity: Identity, state: SiteState, journal: Journal) -> Manifest:
    """Take a signed roll-back without waiting for a study: from now on the newer version is refused here.

    Raises:
        IntegrityError: `model.rollback` when two operators did not sign this as a roll-back, or it is older than what
            was accepted; else as `accept`.
    """
    from pipelines.infer import verify_manifest

    manifest = verify_manifest(raw, identity.publication_key)
    if not manifest.rollback:
        raise IntegrityError("model.rollback", "the manifest is not a signed roll-back")
    accept(manifest, raw, link=link, identity=identity, state=state, view=LogView(state), journal=journal)
    return manifest


def _in_log(manifest: Manifest, link: Prover, identity: Identity, view: LogView) -> None:
    from pipelines.infer import log_leaf

    view.link(link)
    seen = view.linked
    proof = link.prove(manifest.log_index, seen.size if seen else 0)
    leaf = canonical_json(log_leaf(manifest.value))
    origin = identity.trust.log_origin
    view.extend(verify_published(proof, leaf, manifest.log_index, seen, identity.log_key, origin), seen)

"""`hub.log`: the centre's append-only log in a notebook, recomputed and checked on this side."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corsia.tables import html_table

if TYPE_CHECKING:
    from corsia.client import Hub

__all__ = ["Inclusion", "Log", "Verified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A log that was recomputed here and is what its signed checkpoints say; one that is not raises instead.

    Attributes:
        origin: the log's name.
        key: fingerprint of the key that its checkpoints are signed with.
        pinned: whether the key was given by who verified, not by the centre itself.
        entries: leaves under the newest checkpoint.
        checkpoints: how many signed ones were compared.
        pending: leaves after the newest checkpoint.

    Example:
        >>> print(Verified(origin="corsia/demo", key="SHA256:ab", pinned=False, entries=9, checkpoints=5, pending=0))
        corsia/demo: 9 entries under 5 checkpoints verified, 0 pending; the key is the centre's own word
    """

    origin: str
    key: str
    pinned: bool
    entries: int
    checkpoints: int
    pending: int

    def __str__(self) -> str:
        told = f"{self.entries} entries under {self.checkpoints} checkpoints verified, {self.pending} pending"
        return f"{self.origin}: {told}; {self._word}"

    def __repr__(self) -> str:
        return f"<log {self}>"

    def _repr_html_(self) -> str:
        rows: list[list[Any]] = [
            ["log", self.origin],
            ["verified on this side", "yes"],
            ["entries", self.entries],
            ["signed checkpoints", self.checkpoints],
            ["pending", self.pending],
            ["log key", self.key],
            ["", self._word],
        ]
        return html_table(("", ""), rows)

    @property
    def _word(self) -> str:
        return "the key is the one given" if self.pinned else "the key is the centre's own word"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inclusion:
    """That one leaf is in the log under a signed checkpoint (RFC 9162, section 2.1.3); verified on this side.

    Attributes:
        index: place of the leaf.
        leaf: its bytes.
        proof: the hashes beside its way up to the root.
        checkpoint: the signed text.
        size: leaves under that checkpoint.
    """

    index: int
    leaf: bytes
    proof: tuple[bytes, ...]
    checkpoint: str
    size: int

    @property
    def kind(self) -> str:
        """What the leaf is of: `parcel`, `study`, `model`, ...; empty when it does not say."""
        try:
            value = json.loads(self.leaf)
        except (ValueError, RecursionError):
            return ""
        return str(value.get("kind", "")) if isinstance(value, dict) else ""

    def __repr__(self) -> str:
        return f"<entry {self.index} of {self.size}: {self.kind or 'leaf'}, {len(self.proof)} hashes>"

    def _repr_html_(self) -> str:
        hashes = [f"{one.hex()[:16]}…" for one in self.proof]
        rows: list[list[Any]] = [["entry", self.index], ["of", self.size], ["kind", self.kind], ["proof", hashes]]
        return html_table(("", ""), rows)


class Log:
    """The centre's append-only log, checked on this side."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def export(self) -> dict[str, Any]:
        """Origin, log key, leaves and signed checkpoints: what `corsia log verify --file` reads."""
        return dict(self._hub.request("GET", "/log"))

    def verify(self, log_key: str | None = None) -> Verified:
        """Recompute the whole log here and check every checkpoint's signature.

        Args:
            log_key: the log's public key (base64) as a site pinned it; without it the centre's own word is taken.

        Raises:
            IntegrityError: `log.proof`.

        Example:
            >>> hub.log.verify()
            <log corsia/consortium: ... entries under ... checkpoints verified, 0 pending; the key is ... own word>
        """
        from privacy.envelope import PublicKey
        from privacy.transparency import verify_log

        export = _with_key(self.export(), log_key)
        found = verify_log(export)
        return Verified(
            origin=str(export["origin"]),
            key=PublicKey.from_base64(str(export["log_key"])).fingerprint,
            pinned=log_key is not None,
            entries=found["entries"],
            checkpoints=found["checkpoints"],
            pending=found["pending"],
        )

    def proof(self, index: int, log_key: str | None = None) -> Inclusion:
        """The inclusion proof of one leaf, verified here. Args and Raises as `verify`.

        Example:
            >>> hub.log.proof(0)
            <entry 0 of ...: parcel, ... hashes>
        """
        from privacy.envelope import PublicKey
        from privacy.transparency import open_checkpoint, verify_inclusion

        told = _with_key(dict(self._hub.request("GET", f"/log/proof/{int(index)}")), log_key)
        key = PublicKey.from_base64(str(told["log_key"]))
        state = open_checkpoint(told["checkpoint"], key, told["origin"])
        leaf, proof = base64.b64decode(told["leaf"]), tuple(bytes.fromhex(one) for one in told["proof"])
        verify_inclusion(leaf, int(index), state.size, list(proof), state.root)
        return Inclusion(index=int(index), leaf=leaf, proof=proof, checkpoint=told["checkpoint"], size=state.size)

    def __repr__(self) -> str:
        return f"<log of {self._hub.url}>"


def _with_key(told: Mapping[str, Any], log_key: str | None) -> dict[str, Any]:
    return dict(told) if log_key is None else {**told, "log_key": log_key}

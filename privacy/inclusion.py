"""Proof that something published is in the log, and that the log is the one this site has seen before.

Pure: a proof in, the newest checkpoint out. A centre that shows a site a model which it shows nobody else must put
it into the log, or fork the log; a fork does not extend what the site has seen.

Source: `docs/spec/log.md`; RFC 9162 sections 2.1.3 and 2.1.4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from privacy.checkpoint import Checkpoint, open_checkpoint
from privacy.envelope.keys import PublicKey
from privacy.transparency import verify_consistency, verify_inclusion
from protocol.errors import IntegrityError

__all__ = ["LogProof", "Seen", "hashes", "verify_published"]

_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogProof:
    """What a centre answers, unchecked.

    Attributes:
        checkpoint: text of its newest checkpoint.
        inclusion: audit path (hex) of the leaf to that checkpoint.
        consistency: proof (hex) from the checkpoint that was seen to that one.
    """

    checkpoint: str
    inclusion: tuple[str, ...] = ()
    consistency: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The largest state of the log that has been verified: its number of leaves and root (32 bytes)."""

    size: int
    root: bytes

    def to_text(self) -> str:
        """As it is kept."""
        return f"{self.size} {self.root.hex()}"

    @classmethod
    def from_text(cls, text: str) -> Seen:
        """Read what `to_text` wrote.

        Raises:
            IntegrityError: `log.proof` when it is damaged: without it no proof can be judged.
        """
        size, _, root = text.partition(" ")
        if not size.isdecimal() or not _HEX.fullmatch(root):
            raise IntegrityError("log.proof", "what was seen of the log is damaged")
        return cls(size=int(size), root=bytes.fromhex(root))

    def same(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint of the same size has the same root; True for any other size."""
        return checkpoint.size != self.size or checkpoint.root == self.root


def verify_published(
    proof: LogProof, leaf: bytes, index: int, seen: Seen | None, key: PublicKey, origin: str
) -> Checkpoint:
    """Check that a leaf (its bytes) stands at `index` of a log that extends `seen`; its newest checkpoint.

    Raises:
        IntegrityError: `log.proof`: not there, not signed by the log key, or another log than the one seen.
    """
    path, extension = hashes(proof.inclusion), hashes(proof.consistency)
    checkpoint = open_checkpoint(proof.checkpoint, key, origin)
    verify_inclusion(leaf, index, checkpoint.size, path, checkpoint.root)
    if seen is not None:
        verify_consistency(seen.size, checkpoint.size, seen.root, checkpoint.root, extension)
    return checkpoint


def hashes(texts: tuple[str, ...]) -> list[bytes]:
    """A proof's hashes.

    Raises:
        IntegrityError: `log.proof` when they are none, or too many.
    """
    if len(texts) > 65 or not all(_HEX.fullmatch(text) for text in texts):
        raise IntegrityError("log.proof", "the proof is malformed")
    return [bytes.fromhex(text) for text in texts]

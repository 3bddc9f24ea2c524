"""Proof that something published is in the log, and that the log is the one this site has seen before.

Pure: a proof in, the newest checkpoint out. A centre that shows a site a model which it shows nobody else must put
it into the log, or fork the log; a fork does not extend what the site has seen.

Source: `docs/spec/log.md`; RFC 9162 sections 2.1.3 and 2.1.4.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from privacy.checkpoint import Checkpoint, open_checkpoint
from privacy.envelope.keys import PublicKey
from privacy.transparency import verify_consistency, verify_inclusion
from protocol.errors import IntegrityError

__all__ = ["LogNews", "LogProof", "Seen", "hashes", "verify_growth", "verify_published"]

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
class LogNews:
    """What a centre says of its log at each heartbeat, unchecked.

    Attributes:
        size: of its newest checkpoint.
        checkpoint: its text; empty where the site has seen this size.
        links: size that the site has seen -> proof (hashes of 32 bytes) that the newest checkpoint extends it.
        witnessed: the newest checkpoint that witnesses signed, when the site asked and has not seen it.
    """

    size: int
    checkpoint: str = ""
    links: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)
    witnessed: str = ""


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


def verify_growth(
    news: LogNews, linked: Seen | None, others: Sequence[Seen], key: PublicKey, origin: str
) -> Seen | None:
    """Check that everything this site has seen is a beginning of the centre's newest checkpoint; which that is.

    A receipt proves its leaf under the checkpoint that it brought. Once that checkpoint is proved to be a beginning of
    a newer one, the leaf stands at the same index there (the newer tree's first leaves are the older tree's), and so on
    from each linked state to the next: it need not be proved again.

    Args:
        linked: the newest state that this was checked for before.
        others: states seen since, by receipts, which stand apart.

    Returns:
        The newest state; None where neither side knows any.

    Raises:
        IntegrityError: `log.proof`: the log shrank, forked, was rewritten, or is not proved to be the one.
    """
    seen = [*([linked] if linked is not None else ()), *others]
    if news.size < max((one.size for one in seen), default=0):
        raise IntegrityError("log.proof", "the log shrank: the centre shows fewer leaves than this site has seen")
    if news.checkpoint:
        checkpoint = open_checkpoint(news.checkpoint, key, origin)
        if checkpoint.size != news.size:
            raise IntegrityError("log.proof", "the checkpoint is not of the size that the centre names")
        newest = Seen(size=checkpoint.size, root=checkpoint.root)
    elif linked is not None and linked.size == news.size:
        newest = linked
    elif not seen and not news.size:
        return None
    else:
        raise IntegrityError("log.proof", "the centre names a size of its log and shows no checkpoint of it")
    for one in seen:
        verify_consistency(one.size, newest.size, one.root, newest.root, news.links.get(one.size, ()))
    return newest


def hashes(texts: tuple[str, ...]) -> list[bytes]:
    """A proof's hashes.

    Raises:
        IntegrityError: `log.proof` when they are none, or too many.
    """
    if len(texts) > 65 or not all(_HEX.fullmatch(text) for text in texts):
        raise IntegrityError("log.proof", "the proof is malformed")
    return [bytes.fromhex(text) for text in texts]

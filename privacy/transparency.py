"""An append-only log: Merkle tree, proofs, receipts, and the check of a whole exported log.

Pure: bytes in, hashes and proofs out; storing leaves is the caller's work. Leaves hold random ids and digests of
ciphertext only. Any proof, receipt or checkpoint that does not verify is `log.proof`.

Source: RFC 6962 section 2.1 (tree), RFC 9162 section 2.1.3.2 and 2.1.4.2 (verification); `docs/spec/log.md`. Signed
checkpoints are `privacy/checkpoint.py`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from privacy.checkpoint import ORIGIN, Checkpoint, open_checkpoint, sign_checkpoint
from privacy.envelope.keys import PublicKey
from privacy.note import unbase64
from protocol.errors import InputError, IntegrityError
from protocol.parcel import Receipt

__all__ = [
    "Checkpoint",
    "Tree",
    "leaf_hash",
    "open_checkpoint",
    "sign_checkpoint",
    "verify_consistency",
    "verify_inclusion",
    "verify_log",
    "verify_receipt",
]

HASH_BYTES = 32
_HEX = re.compile(r"[0-9a-f]{64}")
_EMPTY = hashlib.sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of a leaf: SHA-256(00 || leaf)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """A Merkle tree in memory that keeps the hash of every complete subtree: 64 bytes a leaf.

    Appending is O(1) on average, roots and proofs of any size up to the present are O(log n). Not thread-safe.
    """

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        """The number of leaves."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> int:
        """Add a leaf's bytes; its index."""
        index = self.size
        value, level = leaf_hash(leaf), 0
        self._levels[0] += value
        while len(self._levels[level]) % (2 * HASH_BYTES) == 0:
            stored = self._levels[level]
            value = hashlib.sha256(b"\x01" + stored[-2 * HASH_BYTES :]).digest()
            level += 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += value
        return index

    def root(self, size: int | None = None) -> bytes:
        """The root of the first `size` leaves (all of them if None).

        Raises:
            ValueError: for a size that the tree never had.
        """
        size = self._checked(size)
        return self._hash(0, size) if size else _EMPTY

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """The audit path of a leaf in the tree of `size` leaves, from the leaf upwards.

        Raises:
            ValueError: when there is no such leaf.
        """
        size = self._checked(size)
        if not 0 <= index < size:
            raise ValueError(f"no leaf {index} in a tree of {size}")
        start, end, path = 0, size, []
        while end - start > 1:
            middle = start + _split(end - start)
            if index < middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start = middle
        return path[::-1]

    def consistency(self, old: int, new: int | None = None) -> list[bytes]:
        """The proof that the tree of `old` leaves is a prefix of the tree of `new`; empty when old is 0 or new.

        Raises:
            ValueError: for sizes that the tree never had, or old > new.
        """
        new = self._checked(new)
        if not 0 <= old <= new:
            raise ValueError(f"no tree of {old} before one of {new}")
        if old in (0, new):
            return []
        start, end, whole, path = 0, new, True, []
        while old != end:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(start, middle))
                start, whole = middle, False
        return ([] if whole else [self._hash(start, end)]) + path[::-1]

    def _checked(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise ValueError(f"no tree of {size} leaves here")
        return size

    def _hash(self, start: int, end: int) -> bytes:
        """Hash of leaves [start, end), as RFC 6962 divides them: stored where complete, else joined from the right."""
        parts = []
        while start < end:
            level = (end - start).bit_length() - 1
            at = (start >> level) * HASH_BYTES
            parts.append(bytes(self._levels[level][at : at + HASH_BYTES]))
            start += 1 << level
        value = parts.pop()
        while parts:
            value = _node(parts.pop(), value)
        return value


def _split(size: int) -> int:
    """The largest power of two below `size` (> 1)."""
    return 1 << ((size - 1).bit_length() - 1)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf (its bytes, not its hash) stands at `index` of the tree of `size` leaves with this root.

    Raises:
        IntegrityError: `log.proof`.

    Source: RFC 9162 section 2.1.3.2.
    """
    if not 0 <= index < size:
        raise IntegrityError("log.proof", "the leaf is not within the tree")
    _check_hashes(proof, root)
    if not hmac.compare_digest(_climb(index, size - 1, leaf_hash(leaf), proof)[1], root):
        raise IntegrityError("log.proof", "the inclusion proof does not lead to the root")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of `new` leaves extends the tree of `old` leaves.

    Raises:
        IntegrityError: `log.proof`.

    Source: RFC 9162 section 2.1.4.2.
    """
    _check_hashes([*proof, old_root], new_root)
    if not 0 <= old <= new:
        raise IntegrityError("log.proof", "the log shrank")
    if old in (0, new):
        if proof or old_root != (new_root if old == new else _EMPTY) or (new == 0 and new_root != _EMPTY):
            raise IntegrityError("log.proof", "two roots of one size differ")
        return
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        raise IntegrityError("log.proof", "the consistency proof is too short")
    whole = old & -old  # the largest complete subtree at the old tree's right edge
    first, second = _climb((old - 1) // whole, (new - 1) // whole, path[0], path[1:])
    if not (hmac.compare_digest(first, old_root) and hmac.compare_digest(second, new_root)):
        raise IntegrityError("log.proof", "the log was rewritten: the consistency proof does not hold")


def _climb(node: int, last: int, start: bytes, proof: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Follow a path from `node` of a level whose last node is `last`: roots from left siblings alone, and from all."""
    first = second = start
    for sibling in proof:
        if last == 0:
            raise IntegrityError("log.proof", "the proof is too long")
        if node & 1 or node == last:
            first, second = _node(sibling, first), _node(sibling, second)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            second = _node(second, sibling)
        node, last = node >> 1, last >> 1
    if last:
        raise IntegrityError("log.proof", "the proof is too short")
    return first, second


def _check_hashes(proof: Sequence[bytes], root: bytes) -> None:
    if len(proof) > 65 or any(len(value) != HASH_BYTES for value in (*proof, root)):
        raise IntegrityError("log.proof", "the proof is malformed")


def verify_receipt(receipt: Receipt, log_key: PublicKey, origin: str) -> Checkpoint:
    """Check that a receipt proves its parcel to be in the log; the checkpoint it leads to.

    Raises:
        IntegrityError: `log.proof`.
    """
    checkpoint = _opened(receipt.checkpoint, log_key, origin)
    if not all(_HEX.fullmatch(value) for value in receipt.proof):
        raise IntegrityError("log.proof", "the receipt's proof is malformed")
    proof = [bytes.fromhex(value) for value in receipt.proof]
    leaf = Receipt.leaf(receipt.parcel_id, receipt.digest)
    verify_inclusion(leaf, receipt.index, checkpoint.size, proof, checkpoint.root)
    return checkpoint


_opened = lru_cache(maxsize=32)(open_checkpoint)  # parcels that landed together have one


def verify_log(export: Mapping[str, Any]) -> dict[str, Any]:
    """Check an exported log: every checkpoint against the leaves, one after the other, and every receipt.

    Args:
        export: `{"origin", "log_key", "leaves": [base64], "checkpoints": [text], "receipts": [{...}]}`, the members
            of a receipt as in `protocol.parcel.Receipt`. Who pins a key puts it into `log_key` before.

    Returns:
        `{"verified": True, "entries": leaves under the newest checkpoint, "checkpoints": m, "receipts": r, "pending":
        leaves after the newest checkpoint}`.

    Raises:
        IntegrityError: `log.proof` for anything that does not verify, or is malformed, or leaves without checkpoint.
    """
    origin, key = _log_identity(export)
    leaves = [unbase64(text) for text in _list(export, "leaves", str)]
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    states = [open_checkpoint(text, key, origin) for text in _list(export, "checkpoints", str)]
    receipts = [_receipt(value) for value in _list(export, "receipts", dict)]
    for receipt in receipts:
        states.append(verify_receipt(receipt, key, origin))
        if receipt.index >= len(leaves) or leaves[receipt.index] != Receipt.leaf(receipt.parcel_id, receipt.digest):
            raise IntegrityError("log.proof", "a receipt's parcel is not in the log")
    states.sort(key=lambda state: (state.size, state.time))
    _check_states(states, tree)
    covered = states[-1].size if states else 0
    if leaves and not covered:
        raise IntegrityError("log.proof", "no checkpoint covers the log's leaves")
    return {
        "verified": True,
        "entries": covered,
        "checkpoints": len(states) - len(receipts),
        "receipts": len(receipts),
        "pending": len(leaves) - covered,
    }


def _check_states(states: Sequence[Checkpoint], tree: Tree) -> None:
    if states and states[-1].size > tree.size:
        raise IntegrityError("log.proof", "leaves that a signed checkpoint covers are missing")
    for state in states:
        if not hmac.compare_digest(state.root, tree.root(state.size)):
            raise IntegrityError("log.proof", f"the leaves do not give the signed root at size {state.size}")
    for old, new in pairwise(states):
        verify_consistency(old.size, new.size, old.root, new.root, tree.consistency(old.size, new.size))


def _log_identity(export: Mapping[str, Any]) -> tuple[str, PublicKey]:
    origin, key = export.get("origin"), export.get("log_key")
    if not isinstance(origin, str) or not ORIGIN.fullmatch(origin) or not isinstance(key, str):
        raise IntegrityError("log.proof", "the export names no log and key")
    try:
        return origin, PublicKey.from_base64(key)
    except InputError:
        raise IntegrityError("log.proof", "the export's log key is not a public key") from None


def _list(export: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    value = export.get(name, [])
    if not isinstance(value, list) or not all(isinstance(entry, kind) for entry in value):
        raise IntegrityError("log.proof", f"{name}: malformed")
    return value


def _receipt(value: dict[str, Any]) -> Receipt:
    kinds = {"parcel_id": str, "digest": str, "index": int, "proof": list, "checkpoint": str}
    if {name: list if isinstance(entry, tuple) else type(entry) for name, entry in value.items()} != kinds:
        raise IntegrityError("log.proof", "a receipt is malformed")
    if not all(isinstance(text, str) for text in value["proof"]):
        raise IntegrityError("log.proof", "a receipt's proof is malformed")
    return Receipt(**{**value, "proof": tuple(value["proof"])})

"""Proof that a leaf is in the log this site knows: whatever is not that is `log.proof`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from privacy.envelope import SecretKey
from privacy.inclusion import LogProof, Seen, verify_published
from privacy.transparency import Checkpoint, Tree, sign_checkpoint
from protocol.errors import IntegrityError

KEY, OTHER = SecretKey.from_bytes(b"\x01" * 32), SecretKey.from_bytes(b"\x02" * 32)
ORIGIN = "corsia/test"


def tree(size: int, word: bytes = b"leaf") -> Tree:
    made = Tree()
    for at in range(size):
        made.append(b"%s %d" % (word, at))
    return made


def proof(log: Tree, index: int, seen: int, *, key: SecretKey = KEY, origin: str = ORIGIN) -> LogProof:
    state = Checkpoint(origin=origin, size=log.size, root=log.root(), time=7)
    return LogProof(
        checkpoint=sign_checkpoint(state, key),
        inclusion=tuple(value.hex() for value in log.inclusion(index)),
        consistency=tuple(value.hex() for value in log.consistency(seen)),
    )


@pytest.mark.parametrize(("size", "index", "seen"), [(1, 0, 0), (1, 0, 1), (9, 4, 5), (9, 8, 9), (64, 63, 33)])
def test_a_leaf_of_a_log_that_grew_verifies(size: int, index: int, seen: int) -> None:
    log = tree(size)
    known = Seen(size=seen, root=log.root(seen)) if seen else None
    made = verify_published(proof(log, index, seen), b"leaf %d" % index, index, known, KEY.public, ORIGIN)
    assert (made.size, made.root) == (size, log.root())
    assert known is None or Seen.from_text(known.to_text()) == known


def test_anything_else_is_refused() -> None:
    log = tree(9)
    known, good = Seen(size=5, root=log.root(5)), proof(log, 4, 5)
    other = tree(9, b"other")
    other_seen = Seen(size=5, root=other.root(5))
    hostile = [
        (proof(log, 4, 5, key=OTHER), b"leaf 4", 4, known),
        (proof(log, 4, 5, origin="corsia/other"), b"leaf 4", 4, known),
        (good, b"leaf 5", 4, known),
        (good, b"leaf 4", 5, known),
        (good, b"leaf 4", 9, known),
        (good, b"leaf 4", 4, other_seen),  # a fork: the leaf is there, the past is another
        (proof(tree(4), 3, 4), b"leaf 3", 3, known),  # shorter than what was seen
        (replace(good, consistency=()), b"leaf 4", 4, known),
        (replace(good, consistency=("0" * 64,) * 66), b"leaf 4", 4, known),
        (replace(good, inclusion=good.inclusion[:-1]), b"leaf 4", 4, known),
        (replace(good, inclusion=("zz", *good.inclusion[1:])), b"leaf 4", 4, known),
        (replace(good, inclusion=(good.inclusion[0] * 2, *good.inclusion[1:])), b"leaf 4", 4, known),
        (replace(good, checkpoint=""), b"leaf 4", 4, known),
        (replace(good, checkpoint=good.checkpoint.replace("\n9\n", "\n8\n")), b"leaf 4", 4, known),
        (replace(good, checkpoint="x" * 100_000), b"leaf 4", 4, known),
    ]
    verify_published(good, b"leaf 4", 4, known, KEY.public, ORIGIN)
    for made, leaf, index, seen in hostile:
        with pytest.raises(IntegrityError, match=r"log\.proof"):
            verify_published(made, leaf, index, seen, KEY.public, ORIGIN)


@pytest.mark.parametrize("text", ["", "7", "x " + "0" * 64, "7 " + "0" * 63, "-1 " + "0" * 64])
def test_a_damaged_view_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match=r"log\.proof"):
        Seen.from_text(text)

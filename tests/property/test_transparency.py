"""The log's proofs against the recursive definitions of RFC 6962, and its parsers against any input."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.messages import heard_of
from privacy.envelope import SecretKey
from privacy.note import parse_note
from privacy.transparency import (
    Checkpoint,
    Tree,
    open_checkpoint,
    sign_checkpoint,
    verify_consistency,
    verify_inclusion,
    verify_log,
)
from privacy.witness import WitnessKey
from protocol.errors import InputError, IntegrityError
from protocol.v1 import fleet_pb2 as pb

FULL = 20 if os.environ.get("CORSIA_FULL") else 1

KEY = SecretKey.from_bytes(b"\x31" * 32)
LIMIT = 300
LEAVES = [b"leaf %d" % i for i in range(LIMIT)]
TREE = Tree()
for _leaf in LEAVES:
    TREE.append(_leaf)


@cache
def mth(start: int, end: int) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    count = end - start
    if count == 0:
        return hashlib.sha256(b"").digest()
    if count == 1:
        return hashlib.sha256(b"\x00" + LEAVES[start]).digest()
    k = 1
    while 2 * k < count:
        k *= 2
    return hashlib.sha256(b"\x01" + mth(start, start + k) + mth(start + k, end)).digest()


def path(m: int, start: int, end: int) -> list[bytes]:
    """RFC 6962 section 2.1.1."""
    count = end - start
    if count == 1:
        return []
    k = 1
    while 2 * k < count:
        k *= 2
    if m < k:
        return [*path(m, start, start + k), mth(start + k, end)]
    return [*path(m - k, start + k, end), mth(start, start + k)]


def subproof(m: int, start: int, end: int, whole: bool) -> list[bytes]:
    """RFC 6962 section 2.1.2."""
    count = end - start
    if m == count:
        return [] if whole else [mth(start, end)]
    k = 1
    while 2 * k < count:
        k *= 2
    if m <= k:
        return [*subproof(m, start, start + k, whole), mth(start + k, end)]
    return [*subproof(m - k, start + k, end, False), mth(start, start + k)]


SIZES = st.integers(1, LIMIT)


@settings(max_examples=200 * FULL, deadline=None)
@given(SIZES, st.data())
def test_inclusion_is_the_definition(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    proof = TREE.inclusion(index, size)
    assert TREE.root(size) == mth(0, size)
    assert proof == path(index, 0, size)
    verify_inclusion(LEAVES[index], index, size, proof, TREE.root(size))
    other = data.draw(st.integers(0, size - 1).filter(lambda i: i != index)) if size > 1 else 1
    with pytest.raises(IntegrityError):
        verify_inclusion(LEAVES[index], other, size, proof, TREE.root(size))
    if proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        with pytest.raises(IntegrityError):
            verify_inclusion(LEAVES[index], index, size, proof[:at] + proof[at + 1 :], TREE.root(size))


@settings(max_examples=200 * FULL, deadline=None)
@given(SIZES, SIZES, st.data())
def test_consistency_is_the_definition(one: int, two: int, data: st.DataObject) -> None:
    old, new = sorted((one, two))
    proof = TREE.consistency(old, new)
    assert proof == subproof(old, 0, new, True)
    verify_consistency(old, new, TREE.root(old), TREE.root(new), proof)
    if old != new:
        wrong = data.draw(SIZES.filter(lambda n: n != old))
        with pytest.raises(IntegrityError):
            verify_consistency(old, new, TREE.root(wrong), TREE.root(new), proof)


@settings(max_examples=500 * FULL, deadline=None)
@given(
    st.integers(-3, 2**70),
    st.integers(-3, 2**70),
    st.lists(st.binary(max_size=33) | st.binary(min_size=32, max_size=32), max_size=70),
    st.binary(min_size=32, max_size=32),
)
def test_any_proof_is_refused_in_good_order(one: int, two: int, proof: list[bytes], root: bytes) -> None:
    with pytest.raises(IntegrityError):
        verify_inclusion(b"leaf", one, two, proof, root)
    with pytest.raises(IntegrityError):
        verify_consistency(one, two, root, hashlib.sha256(root).digest(), proof)


def test_a_leaf_costs_logarithmic_work() -> None:
    tree = Tree()
    for i in range(1 << 14):
        tree.append(i.to_bytes(4, "big"))
    assert len(tree.inclusion(1000)) == 14
    assert len(tree.consistency(12345)) <= 15


POINT = Checkpoint(origin="corsia/p", size=5, root=TREE.root(5), time=1)
TEXT = sign_checkpoint(POINT, KEY)


@settings(max_examples=200 * FULL, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.characters())
def test_a_changed_character_of_a_checkpoint(at: int, character: str) -> None:
    changed = TEXT[:at] + character + TEXT[at + 1 :]
    if changed != TEXT:
        with pytest.raises(IntegrityError) as caught:
            open_checkpoint(changed, KEY.public, "corsia/p")
        assert caught.value.code == "log.proof"


@settings(max_examples=200 * FULL, deadline=None)
@given(st.text(max_size=300) | st.text(alphabet="corsia/p 0123456789\n—=A", max_size=300))
def test_any_text_is_no_checkpoint(text: str) -> None:
    with pytest.raises(IntegrityError):
        open_checkpoint(text, KEY.public, "corsia/p")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.sampled_from([TEXT, KEY.public.to_base64()]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = ["origin", "log_key", "leaves", "checkpoints", "receipts"]


@settings(max_examples=200 * FULL, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), JSON), st.booleans())
def test_any_export(export: dict[str, object], keyed: bool) -> None:
    if keyed:
        export |= {"origin": "corsia/p", "log_key": KEY.public.to_base64()}
    try:
        assert verify_log(json.loads(json.dumps(export)))["entries"] == 0
    except IntegrityError as error:
        assert error.code == "log.proof"  # noqa: PT017


@settings(max_examples=200 * FULL, deadline=None)
@given(st.text(), st.lists(st.text(max_size=40), max_size=4))
def test_any_note_is_read_whole_or_refused(text: str, lines: list[str]) -> None:
    for note in (text, text + "\n\n" + "".join(f"— {line}\n" for line in lines)):
        with suppress(IntegrityError):
            assert str(parse_note(note)) == note


@settings(max_examples=200 * FULL, deadline=None)
@given(st.text() | st.text(alphabet="ab+/=Bw09").map(lambda text: f"w+00000000+{text}"))
def test_any_key_of_a_witness_is_read_whole_or_refused(text: str) -> None:
    with suppress(InputError):
        assert WitnessKey.from_vkey(text).vkey == text.strip()


@settings(max_examples=200 * FULL, deadline=None)
@given(st.binary(max_size=400))
def test_any_answer_to_a_heartbeat_is_a_value_or_refused(raw: bytes) -> None:
    reply = pb.ReportReply(log=pb.LogNews(size=3, links=[pb.LogLink(size=1, consistency=raw)]))
    if len(raw) % 32:
        with pytest.raises(InputError, match=r"input\.message"):
            heard_of(reply)
    else:
        log = heard_of(reply).log
        assert log is not None
        assert b"".join(log.links[1]) == raw

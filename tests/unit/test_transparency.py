"""The log's tree against the published RFC 6962 vectors; checkpoints; receipts; whole logs."""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from privacy.envelope import SecretKey
from privacy.transparency import (
    Checkpoint,
    Tree,
    leaf_hash,
    open_checkpoint,
    sign_checkpoint,
    verify_consistency,
    verify_inclusion,
    verify_log,
    verify_receipt,
)
from protocol.errors import InputError, IntegrityError
from protocol.parcel import Receipt

# The eight leaves and the values of the Certificate Transparency reference code (merkle_tree_test.cc).
LEAVES = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243")]
LEAVES += [bytes(range(0x50, 0x58)), bytes(range(0x60, 0x70))]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEFT = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
PAIR = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
RIGHT = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
FIFTH = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
LAST = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
INCLUSION = {
    (0, 1): [],
    (0, 8): [LEFT, PAIR, RIGHT],
    (5, 8): [FIFTH, LAST, ROOTS[4]],
    (2, 3): [ROOTS[2]],
    (1, 5): [ROOTS[1], PAIR, FIFTH],
}
CONSISTENCY = {
    (1, 1): [],
    (1, 8): [LEFT, PAIR, RIGHT],
    (6, 8): ["0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a", LAST, ROOTS[4]],
    (2, 5): [PAIR, FIFTH],
}
KEY = SecretKey.from_bytes(b"\x11" * 32)
ORIGIN = "corsia/test"


def tree_of(leaves: list[bytes]) -> Tree:
    tree = Tree()
    assert [tree.append(leaf) for leaf in leaves] == list(range(len(leaves)))
    return tree


TREE = tree_of(LEAVES)


def refused(call: Any, *args: Any) -> None:
    with pytest.raises(IntegrityError) as caught:
        call(*args)
    assert caught.value.code == "log.proof"


def test_roots() -> None:
    assert [TREE.root(size).hex() for size in range(9)] == ROOTS
    assert TREE.root() == TREE.root(8)
    assert leaf_hash(b"").hex() == ROOTS[1]


@pytest.mark.parametrize("case", INCLUSION)
def test_inclusion(case: tuple[int, int]) -> None:
    index, size = case
    proof = TREE.inclusion(index, size)
    assert [step.hex() for step in proof] == INCLUSION[case]
    verify_inclusion(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize("case", CONSISTENCY)
def test_consistency(case: tuple[int, int]) -> None:
    old, new = case
    proof = TREE.consistency(old, new)
    assert [step.hex() for step in proof] == CONSISTENCY[case]
    verify_consistency(old, new, TREE.root(old), TREE.root(new), proof)


def test_what_the_tree_never_had() -> None:
    for call in (
        lambda: TREE.root(9),
        lambda: TREE.root(-1),
        lambda: TREE.inclusion(8),
        lambda: TREE.inclusion(-1),
        lambda: TREE.inclusion(3, 3),
        lambda: TREE.consistency(9),
        lambda: TREE.consistency(5, 4),
        lambda: Tree().inclusion(0),
    ):
        with pytest.raises(ValueError, match="no "):
            call()


def test_wrong_inclusion_proofs() -> None:
    proof, root = TREE.inclusion(5), TREE.root()
    for leaf, index, size, path, top in (
        (LEAVES[4], 5, 8, proof, root),
        (LEAVES[5], 4, 8, proof, root),
        (LEAVES[5], 5, 6, proof, root),
        (LEAVES[5], 5, 9, proof, root),
        (LEAVES[5], 5, 8, proof[:-1], root),
        (LEAVES[5], 5, 8, [*proof, proof[0]], root),
        (LEAVES[5], 5, 8, proof[::-1], root),
        (LEAVES[5], 5, 8, [step[:31] for step in proof], root),
        (LEAVES[5], 5, 8, proof, TREE.root(7)),
        (LEAVES[5], 5, 8, proof, b""),
        (LEAVES[5], 8, 8, proof, root),
        (LEAVES[5], -1, 8, proof, root),
        (LEAVES[5], 5, 0, [], root),
        (LEAVES[5], 5, 2**63, [root] * 66, root),
        (leaf_hash(LEAVES[4]) + leaf_hash(LEAVES[5]), 2, 4, proof[1:], root),  # an inner node is no leaf
    ):
        refused(verify_inclusion, leaf, index, size, path, top)


def test_wrong_consistency_proofs() -> None:
    proof = TREE.consistency(6)
    for old, new, old_root, new_root, path in (
        (6, 8, TREE.root(5), TREE.root(), proof),
        (6, 8, TREE.root(6), TREE.root(7), proof),
        (5, 8, TREE.root(6), TREE.root(), proof),
        (8, 6, TREE.root(), TREE.root(6), proof),
        (6, 8, TREE.root(6), TREE.root(), proof[:-1]),
        (6, 8, TREE.root(6), TREE.root(), [*proof, proof[0]]),
        (6, 8, TREE.root(6), TREE.root(), []),
        (8, 8, TREE.root(), TREE.root(7), []),
        (8, 8, TREE.root(), TREE.root(), proof),
        (0, 8, TREE.root(1), TREE.root(), []),
        (0, 8, TREE.root(0), TREE.root(), proof),
        (0, 0, TREE.root(1), TREE.root(1), []),
        (-1, 8, TREE.root(1), TREE.root(), []),
    ):
        refused(verify_consistency, old, new, old_root, new_root, path)


# -- checkpoints -------------------------------------------------------------------------------------------------------

POINT = Checkpoint(origin=ORIGIN, size=8, root=TREE.root(), time=1_800_000_000)
TEXT = sign_checkpoint(POINT, KEY)


def test_checkpoint_text() -> None:
    lines = TEXT.split("\n")
    assert lines[:5] == [ORIGIN, "8", base64.b64encode(TREE.root()).decode(), "time 1800000000", ""]
    assert lines[5].startswith(f"— {ORIGIN} ")
    assert lines[6:] == [""]
    assert open_checkpoint(TEXT, KEY.public, ORIGIN) == POINT


def test_checkpoint_beside_a_witness() -> None:
    witness = f"— witness.example {base64.b64encode(b'1234' + b's' * 64).decode()}\n"
    body, _, notes = TEXT.partition("\n\n")
    assert open_checkpoint(TEXT + witness, KEY.public, ORIGIN) == POINT
    assert open_checkpoint(f"{body}\n\n{witness}{notes}", KEY.public, ORIGIN) == POINT
    refused(open_checkpoint, f"{body}\n\n{witness}", KEY.public, ORIGIN)
    refused(open_checkpoint, TEXT + witness * 20, KEY.public, ORIGIN)


def test_changed_checkpoints() -> None:
    for changed in (
        TEXT.replace("\n8\n", "\n7\n"),
        TEXT.replace("\n8\n", "\n08\n"),
        TEXT.replace("\n8\n", "\n+8\n"),
        TEXT.replace("\n8\n", "\n٨\n"),
        TEXT.replace("time 18", "time 19"),
        TEXT.replace("\ntime", "\nTime"),
        TEXT.replace("—", "-"),
        TEXT[:-1],
        TEXT + "\n",
        "\n" + TEXT,
        TEXT.replace("\n\n", "\nextra\n\n"),
        TEXT.replace("\n\n", "\n"),
        "",
        "\n\n",
        "\ud800\n\n",
        "x" * 100_000,
    ):
        refused(open_checkpoint, changed, KEY.public, ORIGIN)
    refused(open_checkpoint, TEXT, SecretKey.generate().public, ORIGIN)
    refused(open_checkpoint, TEXT, KEY.public, "corsia/other")
    other = sign_checkpoint(replace(POINT, origin="corsia/other"), KEY)
    refused(open_checkpoint, other, KEY.public, ORIGIN)


@pytest.mark.parametrize("origin", ["", "two words", "a+b", "line\nbreak", "é", "x" * 129])
def test_origin_is_one_plain_word(origin: str) -> None:
    with pytest.raises(InputError):
        sign_checkpoint(replace(POINT, origin=origin), KEY)


# -- receipts and logs -------------------------------------------------------------------------------------------------


def a_log(entries: int = 9) -> dict[str, Any]:
    """An export with a checkpoint at each odd size and a receipt for each parcel, as JSON gives it back."""
    tree, checkpoints, receipts, leaves = Tree(), [], [], []
    for i in range(entries):
        parcel, digest = f"{i:032x}", f"{i:064x}"
        leaves.append(Receipt.leaf(parcel, digest))
        tree.append(leaves[-1])
        text = sign_checkpoint(Checkpoint(origin=ORIGIN, size=i + 1, root=tree.root(), time=i), KEY)
        proof = tuple(step.hex() for step in tree.inclusion(i))
        receipts.append(asdict(Receipt(parcel_id=parcel, digest=digest, index=i, proof=proof, checkpoint=text)))
        if i % 2 == 0:
            checkpoints.append(text)
    export = {
        "origin": ORIGIN,
        "log_key": KEY.public.to_base64(),
        "leaves": [base64.b64encode(leaf).decode() for leaf in leaves],
        "checkpoints": checkpoints,
        "receipts": receipts,
    }
    parsed: dict[str, Any] = json.loads(json.dumps(export))
    return parsed


LOG = a_log()


def receipt(index: int = 4) -> Receipt:
    value = LOG["receipts"][index]
    return Receipt(**{**value, "proof": tuple(value["proof"])})


def test_receipt() -> None:
    assert verify_receipt(receipt(), KEY.public, ORIGIN).size == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"parcel_id": "f" * 32},
        {"digest": "f" * 64},
        {"index": 3},
        {"index": -1},
        {"index": 5},
        {"proof": ()},
        {"proof": ("zz",)},
        {"proof": ("00" * 32,)},
        {"proof": (" " * 64,)},
        {"checkpoint": ""},
        {"checkpoint": LOG["receipts"][5]["checkpoint"]},
    ],
)
def test_changed_receipts(changes: dict[str, Any]) -> None:
    refused(verify_receipt, replace(receipt(), **changes), KEY.public, ORIGIN)


def test_a_whole_log() -> None:
    assert verify_log(LOG) == {"verified": True, "entries": 9, "checkpoints": 5, "receipts": 9, "pending": 0}


def test_leaves_after_the_newest_checkpoint_are_counted_apart() -> None:
    log = copy.deepcopy(LOG)
    log["leaves"] += [base64.b64encode(b"new").decode()] * 2
    assert verify_log(log) | {"verified": True} == verify_log(LOG) | {"pending": 2}


def test_an_empty_log() -> None:
    empty = {"origin": ORIGIN, "log_key": KEY.public.to_base64(), "leaves": [], "checkpoints": []}
    assert verify_log(empty)["entries"] == 0


def _edit(path: list[Any], value: Any) -> dict[str, Any]:
    log: Any = copy.deepcopy(LOG)
    at = log
    for step in path[:-1]:
        at = at[step]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    changed: dict[str, Any] = log
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["leaves", 0], base64.b64encode(b"other").decode()),
        (["leaves", 3], None),
        (["leaves", 8], None),
        (["leaves", 0], "*"),
        (["leaves", 0], 5),
        (["leaves"], None),
        (["leaves"], {}),
        (["checkpoints", 1], LOG["checkpoints"][1].replace("\n3\n", "\n4\n")),
        (["checkpoints", 0], 1),
        (["checkpoints"], "x"),
        (["receipts", 2, "digest"], "0" * 64),
        (["receipts", 2, "index"], 3),
        (["receipts", 2, "index"], True),
        (["receipts", 2, "index"], "2"),
        (["receipts", 2, "proof"], [1]),
        (["receipts", 2, "proof"], None),
        (["receipts", 2, "extra"], 1),
        (["receipts", 2], 1),
        (["log_key"], "AAAA"),
        (["log_key"], SecretKey.generate().public.to_base64()),
        (["log_key"], None),
        (["origin"], "corsia/other"),
        (["origin"], 3),
    ],
)
def test_changed_logs(path: list[Any], value: Any) -> None:
    refused(verify_log, _edit(path, value))


def test_leaves_without_any_checkpoint() -> None:
    refused(verify_log, {**LOG, "checkpoints": [], "receipts": []})


def test_a_forked_log_is_found() -> None:
    fork = Tree()
    for i in range(5):
        fork.append(b"fork %d" % i)
    text = sign_checkpoint(Checkpoint(origin=ORIGIN, size=5, root=fork.root(), time=9), KEY)
    refused(verify_log, {**LOG, "checkpoints": [*LOG["checkpoints"], text]})

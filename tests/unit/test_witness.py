"""Signed notes and witnesses against the published examples of C2SP and of Go's `sumdb/note`; a quorum of keys."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from privacy.envelope import SecretKey
from privacy.note import key_id, parse_note
from privacy.witness import WitnessKey, WitnessSecret, check_quorum, witnessed_by
from protocol.errors import InputError, IntegrityError

# https://pkg.go.dev/golang.org/x/mod/sumdb/note
NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# https://c2sp.org/signed-note, https://c2sp.org/tlog-cosignature
POEM = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n"
    "\n"
    "— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3Ze"
    "kRwNtIc=\n"
)
_LOG_LINE = "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8="
_WITNESS_LINE = (
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA=="
)
SOFA = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    f"— example.com/behind-the-sofa {_LOG_LINE}\n"
    f"— witness.example.com/w1 {_WITNESS_LINE}\n"
)
LOG = SecretKey.from_bytes(b"\x01" * 32)
TEXT = sign_checkpoint(Checkpoint(origin="corsia/test", size=3, root=b"\x07" * 32, time=5), LOG)
ANNA, BRUNO, CARLA = (WitnessSecret(f"witness.example/{name}", bytes([at]) * 32) for at, name in enumerate("abc"))


def test_a_note_of_go() -> None:
    name, id_, encoded = NEUMANN.split("+")
    raw = base64.b64decode(encoded)
    assert key_id(name, raw[:1], raw[1:]).hex() == id_
    note = parse_note(NOTE)
    signature = note.by(name, bytes.fromhex(id_))
    assert signature is not None
    Ed25519PublicKey.from_public_bytes(raw[1:]).verify(signature, note.text.encode())
    assert str(note) == NOTE


def test_the_examples_of_c2sp() -> None:
    poem = parse_note(POEM)
    assert poem.text.endswith("sole:\n\ned è subito sera.\n")
    assert str(poem) == POEM
    sofa = parse_note(SOFA)
    log, witness = sofa.signatures
    assert (log.name, len(log.raw)) == ("example.com/behind-the-sofa", 64)
    assert (witness.name, witness.key.hex(), len(witness.raw)) == ("witness.example.com/w1", "8d66cf3f", 72)
    assert int.from_bytes(witness.raw[:8], "big") == 1679315147  # as the specification's own signed message says
    assert str(sofa) == SOFA


@pytest.mark.parametrize(
    "text",
    [
        "",
        "text\n",
        "text\n\n",
        NOTE[:-1],
        NOTE + "\n",
        NOTE.replace("— ", "- "),
        NOTE.replace("— ", "—  "),
        NOTE.replace("PeterNeumann", "Peter+Neumann"),
        NOTE.replace("PeterNeumann", ""),
        NOTE.replace("x08go", "x08g"),
        NOTE.replace("JnAM=", "JnAN="),  # bits beside the last byte
        NOTE.replace("answer", "ans\rwer"),
        "text\n\n— name x08gow==\n",
    ],
)
def test_what_is_no_note(text: str) -> None:
    with pytest.raises(IntegrityError, match=r"log\.proof"):
        parse_note(text)


def test_a_cosignature_is_over_header_time_and_body() -> None:
    made = ANNA.cosign(TEXT, 1679315147)
    line = made.removeprefix(TEXT)
    raw = base64.b64decode(line.split(" ")[2])
    assert raw[:4] == key_id("witness.example/a", b"\x04", ANNA.public.public)
    body = TEXT.partition("\n\n")[0] + "\n"
    message = b"cosignature/v1\ntime 1679315147\n" + body.encode()
    Ed25519PublicKey.from_public_bytes(ANNA.public.public).verify(raw[12:], message)
    assert open_checkpoint(made, LOG.public, "corsia/test").size == 3
    assert ANNA.public.signed_at(parse_note(made)) == 1679315147
    again = ANNA.cosign(BRUNO.cosign(made, 9), 10)  # one line a witness: the newer one
    assert again.count("witness.example/a") == 1
    assert ANNA.public.signed_at(parse_note(again)) == 10
    assert witnessed_by(again, [ANNA.public, BRUNO.public, CARLA.public]) == [ANNA.public, BRUNO.public]


def test_a_quorum_counts_keys() -> None:
    both = BRUNO.cosign(ANNA.cosign(TEXT, 5), 6)
    pinned = [ANNA.public, BRUNO.public, CARLA.public]
    check_quorum(both, pinned, 2)
    check_quorum(TEXT, pinned, 0)
    twin = WitnessSecret("witness.example/alias", bytes([0]) * 32)
    hostile = {
        "one": (ANNA.cosign(TEXT, 5), pinned),
        "none": (TEXT, pinned),
        "unknown": (both, [CARLA.public]),
        "twice": (twin.cosign(ANNA.cosign(TEXT, 5), 6), [ANNA.public, twin.public]),
        "moved": (both.replace("\n3\n", "\n4\n"), pinned),
        "time": (both.replace("time 5", "time 6"), pinned),
    }
    for text, keys in hostile.values():
        with pytest.raises(IntegrityError, match=r"log\.witness"):
            check_quorum(text, keys, 2)


def test_keys_as_text() -> None:
    assert WitnessKey.from_vkey(ANNA.public.vkey + "\n") == ANNA.public
    name, id_, key = ANNA.public.vkey.split("+", 2)
    for text in ("", name, f"{name}+{id_}", f"x{name}+{id_}+{key}", f"{name}+00000000+{key}", f"{name}+{id_}+{key}A",
                 NEUMANN, f"{name} {id_} {key}"):  # fmt: skip
        with pytest.raises(InputError, match=r"input\.usage"):
            WitnessKey.from_vkey(text)
    for name in ("", "two words", "a+b", "x" * 129):
        with pytest.raises(InputError, match=r"input\.usage"):
            WitnessSecret(name, b"\x00" * 32)

"""Writes `tests/vectors/envelope/`: parcels with one deviation each, built from the specification alone.

`Forge` follows docs/spec/envelope.md without using the parser or the stream of the product, so that the two check one
another; tests use it to build multi-chunk parcels too. ML-DSA signing is randomised: a new run writes other bytes.

    python tests/vectors/make_envelope.py
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.envelope import SecretKey

HERE = Path(__file__).parent / "envelope"
CHUNK = 1 << 20
SEEDS = {name: hashlib.sha256(f"corsia test vector {name}".encode()).digest() for name in ("sender", "vault", "other")}
KEYS = {name: SecretKey.from_bytes(seed) for name, seed in SEEDS.items()}
TEXT = b"Ciao dal reparto 12.\n"


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def hkdf(key: bytes, salt: bytes, info: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info.encode()).derive(key)


def nonce(index: int, last: bool) -> bytes:
    return index.to_bytes(11, "big") + bytes([last])


@dataclass(frozen=True, kw_only=True)
class Forge:
    """A parcel in the making; `replace` a field to deviate at one place."""

    payload: bytes = TEXT
    sender: str = "sender"
    signer: str = "sender"
    recipients: tuple[str, ...] = ("vault",)
    parcel: str = hashlib.sha256(b"parcel").hexdigest()[:32]
    study: str = "vector-study"
    site: str = "site-a"
    file_key: bytes = hashlib.sha256(b"a file key that only a test vector may fix").digest()
    wrap_parcel: str | None = None
    commitment: str | None = None
    context: bytes = b"corsia/v1/parcel"
    version: int = 1
    suite: int = 1
    header_edit: Callable[[dict[str, Any]], Any] = field(default=lambda header: header)
    raw_edit: Callable[[bytes], bytes] = field(default=lambda raw: raw)
    chunk_edit: Callable[[list[bytes], AESGCM], list[bytes]] = field(default=lambda chunks, cipher: chunks)
    digest_edit: Callable[[bytes], bytes] = field(default=lambda digest: digest)

    def header(self) -> bytes:
        sender = KEYS[self.sender].public.fingerprint
        sealed = []
        for name in self.recipients:
            public = KEYS[name].public
            info = {
                "content_type": "records",
                "context": "corsia/v1/wrap",
                "parcel": self.wrap_parcel or self.parcel,
                "recipient": public.fingerprint,
                "sender": sender,
                "site": self.site,
                "study": self.study,
                "suite": 1,
            }
            key = public.wrap(self.file_key, canonical(info))
            sealed.append({"fingerprint": public.fingerprint, "key": base64.b64encode(key).decode()})
        value = {
            "commitment": self.commitment or hkdf(self.file_key, b"", "corsia/v1/commitment").hex(),
            "content_type": "records",
            "parcel": self.parcel,
            "recipients": sorted(sealed, key=lambda entry: entry["fingerprint"]),
            "sender": sender,
            "site": self.site,
            "study": self.study,
        }
        return self.raw_edit(canonical(self.header_edit(value)))

    def chunks(self, cipher: AESGCM) -> list[bytes]:
        pieces = [self.payload[at : at + CHUNK] for at in range(0, len(self.payload), CHUNK)] or [b""]
        return [cipher.encrypt(nonce(i, i == len(pieces) - 1), piece, None) for i, piece in enumerate(pieces)]

    def parts(self) -> tuple[bytes, bytes, bytes, bytes]:
        """Prefix, header, payload, trailer."""
        header = self.header()
        prefix = struct.pack(">6sBBI", b"CORSIA", self.version, self.suite, len(header))
        key = hkdf(self.file_key, hashlib.sha256(prefix + header).digest(), "corsia/v1/payload")
        cipher = AESGCM(key)
        payload = b"".join(self.chunk_edit(self.chunks(cipher), cipher))
        digest = self.digest_edit(hashlib.sha256(prefix + header + payload).digest())
        return prefix, header, payload, b"\r\nCOREND" + digest + KEYS[self.signer].sign(self.context, digest)

    def build(self) -> bytes:
        return b"".join(self.parts())


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def edited(key: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda header: {**header, key: value}


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda header: {k: v for k, v in header.items() if k != key}


def _bytes_edits() -> dict[str, tuple[str, str, bytes]]:
    """Accidents and forgeries of one and the same whole parcel."""
    prefix, header, payload, trailer = Forge().parts()
    whole = prefix + header + payload + trailer
    body, end = len(prefix) + len(header), len(whole)
    sig = end - 3373
    size = struct.Struct(">I").pack
    return {
        "bad-magic": ("parcel.format", "first byte changed", flip(whole, 0)),
        "bad-version": ("parcel.version", "version 2", whole[:6] + b"\x02" + whole[7:]),
        "bad-suite": ("parcel.version", "suite 2", whole[:7] + b"\x02" + whole[8:]),
        "header-length-zero": ("parcel.format", "header of 0 bytes", whole[:8] + size(0) + whole[12:]),
        "header-length-4gib": ("parcel.format", "header of 2^32 - 1 bytes", whole[:8] + size(0xFFFFFFFF) + whole[12:]),
        "header-length-beyond-end": ("parcel.truncated", "header past the end", whole[:8] + size(60000) + whole[12:]),
        "header-length-short": ("parcel.format", "length 1 less", whole[:8] + size(len(header) - 1) + whole[12:]),
        "flipped-commitment": (
            "parcel.chunk",
            "another hex digit in the commitment",
            whole.replace(header[:20], header[:15] + (b"0" if header[15:16] != b"0" else b"1") + header[16:20], 1),
        ),
        "flipped-chunk": ("parcel.chunk", "a bit of the ciphertext changed", flip(whole, body)),
        "flipped-tag": ("parcel.chunk", "a bit of the tag changed", flip(whole, body + len(payload) - 1)),
        "flipped-marker": ("parcel.truncated", "no trailer marker where it belongs", flip(whole, body + len(payload))),
        "flipped-digest": ("parcel.chunk", "a bit of the trailer's digest changed", flip(whole, sig - 1)),
        "bad-ed25519-half": ("parcel.signature", "Ed25519 wrong, ML-DSA right", flip(whole, sig)),
        "bad-ml-dsa-half": ("parcel.signature", "ML-DSA wrong, Ed25519 right", flip(whole, end - 1)),
        "truncated-to-nothing": ("parcel.truncated", "an empty file", b""),
        "truncated-in-magic": ("parcel.truncated", "3 bytes", whole[:3]),
        "truncated-in-prefix": ("parcel.truncated", "10 bytes", whole[:10]),
        "truncated-in-header": ("parcel.truncated", "half of the header", whole[: body // 2]),
        "truncated-in-payload": ("parcel.truncated", "the last tag and the trailer are cut", whole[: body + 5]),
        "truncated-in-trailer": ("parcel.truncated", "the last byte is missing", whole[:-1]),
        "payload-removed": ("parcel.truncated", "header and trailer only", prefix + header + trailer),
        "trailing-byte": ("parcel.truncated", "one byte after the trailer", whole + b"\n"),
    }


def _signed_edits() -> dict[str, tuple[str, str, bytes]]:
    """What a dishonest or broken sender could sign."""
    both = Forge(recipients=("vault", "other"))
    zero = "0" * 64
    return {
        "ok-text": ("success", "one recipient, 21 bytes", Forge().build()),
        "ok-empty": ("success", "an empty payload", Forge(payload=b"").build()),
        "ok-two-recipients": ("success", "two recipients, a study digest", replace(both, study=zero).build()),
        "header-not-canonical": (
            "parcel.format",
            "a space after the first colon",
            Forge(raw_edit=lambda raw: raw.replace(b'":', b'": ', 1)).build(),
        ),
        "header-duplicate-member": (
            "parcel.format",
            "site given twice",
            Forge(raw_edit=lambda raw: raw.replace(b'"site":', b'"site":"site-b","site":', 1)).build(),
        ),
        "header-unknown-field": ("parcel.format", "a member `time`", Forge(header_edit=edited("time", 1)).build()),
        "header-missing-field": ("parcel.format", "no `site`", Forge(header_edit=without("site")).build()),
        "header-not-json": ("parcel.format", "not JSON", Forge(raw_edit=lambda raw: b"!" + raw[1:]).build()),
        "header-recipients-unordered": (
            "parcel.format",
            "recipients in descending order",
            replace(both, header_edit=lambda h: {**h, "recipients": h["recipients"][::-1]}).build(),
        ),
        "header-no-recipients": ("parcel.format", "no recipient", Forge(header_edit=edited("recipients", [])).build()),
        "wrong-recipient": ("parcel.key", "sealed to another key only", Forge(recipients=("other",)).build()),
        "wrong-sender": ("parcel.signature", "made by another", Forge(sender="other", signer="other").build()),
        "sender-lies": ("parcel.signature", "the header names one who did not sign", Forge(signer="other").build()),
        "wrong-purpose": ("parcel.signature", "signed as a study", Forge(context=b"corsia/v1/study").build()),
        "commitment-mismatch": ("parcel.key", "the commitment is to another key", Forge(commitment=zero).build()),
        "sealed-key-lifted": (
            "parcel.key",
            "the file key was sealed for another id",
            Forge(wrap_parcel="0" * 32).build(),
        ),
        "last-flag-wrong": (
            "parcel.chunk",
            "the only chunk is not marked as the last",
            Forge(chunk_edit=lambda _, cipher: [cipher.encrypt(nonce(0, False), TEXT, None)]).build(),
        ),
    }


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for old in HERE.iterdir():
        old.unlink()
    for name, (expect, why, data) in sorted((_bytes_edits() | _signed_edits()).items()):
        about: dict[str, Any] = {"expect": expect, "why": why, "open_with": "vault", "verify_with": "sender"}
        if expect == "success":
            about["payload_base64"] = base64.b64encode(b"" if name == "ok-empty" else TEXT).decode()
        (HERE / f"{name}.parcel").write_bytes(data)
        (HERE / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n")
    keys = {name: {"seed": SEEDS[name].hex(), "fingerprint": KEYS[name].public.fingerprint} for name in KEYS}
    (HERE / "keys.txt").write_text(
        "These keys are public: for test vectors only.\n" + json.dumps(keys, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()

"""Sealed parcels: the one form in which data leaves a hospital.

    with open(path, "wb") as target:
        seal(pack_batch(batch), target, info=info, recipients=[study_key], signer=identity)
    with open(path, "rb") as source:
        payload = b"".join(unseal(source, key=secret, sender=site_key, expect=info))

`header` is the readable part, `keys` signs and wraps, `stream` seals and opens; the format is
`docs/spec/envelope.md`. `rest` keeps objects that stay where they are (`docs/spec/lake.md`), `shred` destroys a key.
No network, and no files but key files (`keyfile`, locked by a passphrase in `locked`).
"""

from privacy.envelope.header import Header, ParcelInfo, new_parcel_id, read_header
from privacy.envelope.keyfile import read_key, read_public, write_key, write_public
from privacy.envelope.keys import PublicKey, SecretKey
from privacy.envelope.shred import destroy_key
from privacy.envelope.stream import Structure, inspect, seal, unseal, unseal_into, verify

__all__ = [
    "Header",
    "ParcelInfo",
    "PublicKey",
    "SecretKey",
    "Structure",
    "destroy_key",
    "inspect",
    "new_parcel_id",
    "read_header",
    "read_key",
    "read_public",
    "seal",
    "unseal",
    "unseal_into",
    "verify",
    "write_key",
    "write_public",
]

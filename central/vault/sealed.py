"""How a file of the lake is kept: tables by Parquet's modular encryption, everything else as a sealed object.

Both are AES-256-GCM under keys that open with the study's lake key alone, and both are bound to their place in the
lake: a file that is moved or exchanged does not open. Only this module knows pyarrow's encryption.

Source: Apache Parquet modular encryption (PARQUET-1178); `docs/spec/lake.md`.
"""

from __future__ import annotations

import base64
import errno
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.envelope.keys import derive
from privacy.envelope.rest import keep, read
from protocol.errors import CorsiaError, IntegrityError, StorageError

__all__ = ["named", "read_object", "read_table", "write_object", "write_table"]

_ENCRYPTED = b"PARE"  # the magic of a Parquet file whose footer is encrypted too
_NONCE_BYTES = 12
Open = Callable[[], AbstractContextManager[BinaryIO]]
_ABSENT = (None, errno.ENOENT, errno.ENOTDIR)  # Arrow says by an OSError without a number that it cannot read a file


class _Wrapper(pe.KmsClient):  # type: ignore[misc]
    """Wraps a file's own key under the study's lake key, with the file's place as associated data."""

    def __init__(self, key: bytes, place: str) -> None:
        super().__init__()
        self._cipher, self._place = AESGCM(derive(key, "corsia/v1/lake-table")), place

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, key_bytes, master_key_identifier.encode()))

    def unwrap_key(self, wrapped_key: str | bytes, master_key_identifier: str) -> bytes:
        raw = base64.b64decode(wrapped_key)
        return self._cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], self._place.encode())


def write_table(table: pa.Table, target: BinaryIO, *, key: bytes, place: str) -> None:
    """Write a table as Parquet, all columns and the footer encrypted under a fresh key of this file."""
    configuration = pe.EncryptionConfiguration(
        footer_key=place, uniform_encryption=True, plaintext_footer=False, double_wrapping=False,
        data_key_length_bits=256,
    )  # fmt: skip
    made = _factory(key, place).file_encryption_properties(pe.KmsConnectionConfig(), configuration)
    with pq.ParquetWriter(target, table.schema, compression="zstd", encryption_properties=made) as writer:
        writer.write_table(table)


def read_table(opened: Open, *, key: bytes, place: str) -> pa.Table:
    """A table of the lake, in memory.

    Raises:
        IntegrityError: `lake.damaged`, also for a file that is not encrypted, or not there.
        StorageError: `storage.failed`: the disk, or this process's limits; another time it may go.
    """
    try:
        with opened() as source:
            if source.read(len(_ENCRYPTED)) != _ENCRYPTED:
                raise IntegrityError("lake.damaged")
            source.seek(0)
            properties = _factory(key, place).file_decryption_properties(pe.KmsConnectionConfig())
            return pq.ParquetFile(source, decryption_properties=properties).read()
    except MemoryError:  # Arrow's is of its other exceptions too
        raise
    except OSError as error:
        raise named(error) from None
    except (pa.ArrowException, InvalidTag, ValueError):
        raise IntegrityError("lake.damaged") from None


def write_object(data: bytes, target: BinaryIO, *, key: bytes, place: str) -> None:
    """Write any other file."""
    keep([data], target, key=derive(key, "corsia/v1/lake-object"), place=place)


def read_object(opened: Open, *, key: bytes, place: str) -> bytes:
    """The bytes of any other file. Raises as `read_table`."""
    try:
        with opened() as source:
            return b"".join(read(source, key=derive(key, "corsia/v1/lake-object"), place=place))
    except OSError as error:
        raise named(error) from None


def named(error: OSError) -> CorsiaError:
    """What a failed reading means: what is not there, or is no such file, is damage; all else may pass."""
    return IntegrityError("lake.damaged") if error.errno in _ABSENT else StorageError("storage.failed")


def _factory(key: bytes, place: str) -> pe.CryptoFactory:
    """A new one each time: a factory remembers unwrapped keys, also of a study that is erased meanwhile."""
    return pe.CryptoFactory(lambda _configuration: _Wrapper(key, place))

"""An S3 bucket as the centre uses it: objects that are written once, read whole and removed.

Place in the flow: below the lake and the blobs, where `STATE/objects.toml` (mode 0600) names a bucket; without that
file both are folders under the state folder. What lies in it is ciphertext (lake) or what sites may fetch (blobs).
An object is made by a conditional write (`If-None-Match: *`), so that two writers cannot both believe to have made it;
large ones by parts, which are conditional at their completion. A service that takes no notice of the condition is
refused, and so is a bucket that keeps versions, or has kept some: what was withdrawn or erased would stay in it.

Source: Amazon S3 API reference, PutObject and CompleteMultipartUpload (`If-None-Match`).
"""

from __future__ import annotations

import errno
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, BinaryIO, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from protocol import toml
from protocol.errors import ConfigurationError, ConflictError, StorageError
from protocol.validation import first_fault

if TYPE_CHECKING:
    from botocore.client import BaseClient

__all__ = ["FILE", "Bucket", "ObjectsConfig", "bucket_of", "read_bucket"]

FILE = "objects.toml"
PART_BYTES = 64 << 20
_IN_MEMORY_BYTES = 16 << 20
_TRIED = "tried/"
_LOOPBACK = ("http://127.0.0.1", "http://localhost", "http://[::1]")


class ObjectsConfig(BaseModel):
    """STATE/objects.toml.

    Attributes:
        endpoint: of the S3 service; `http` on loopback alone.
        bucket: which is the centre's own; made by its administrator.
        prefix: before all names.
        region: as the service wants it in signatures.
        access_key: with `secret_key`, of an account that may read, write and list this bucket and nothing else.
        ca_file: certificates to trust instead of the system's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+/?$", max_length=512)]
    bucket: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
    prefix: Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]+/)*$", max_length=256)] = ""
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")] = "us-east-1"
    access_key: Annotated[str, Field(min_length=1, max_length=256)]
    secret_key: Annotated[str, Field(min_length=1, max_length=256, repr=False)]
    ca_file: Path | None = None

    @field_validator("endpoint")
    @classmethod
    def _protected(cls, value: str) -> str:
        if not value.startswith(("https://", *_LOOPBACK)):
            raise ValueError("https, but on loopback")
        return value


class Bucket:
    """Objects under one prefix of one bucket; safe for several threads."""

    def __init__(self, config: ObjectsConfig) -> None:
        self._config, self._bucket, self._prefix = config, config.bucket, config.prefix
        self._client = _client(config)

    def __reduce__(self) -> tuple[type[Bucket], tuple[ObjectsConfig]]:
        return Bucket, (self._config,)  # a worker dials for itself

    def check(self) -> None:
        """See that the bucket is there, keeps no versions, and makes an object once: tried, on one of its own.

        Raises:
            ConfigurationError: `config.invalid` when it keeps versions (or did, which are there still), or when its
                service writes over what a conditional write must leave. StorageError: `storage.failed`.
        """
        with _named():
            found = self._client.get_bucket_versioning(Bucket=self._bucket)
            self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1)
        if found.get("Status"):
            raise ConfigurationError("config.invalid", "the bucket keeps versions: what is erased would stay in it")
        self._try_condition()

    def _try_condition(self) -> None:
        name = f"{_TRIED}{secrets.token_hex(8)}"
        where = {"Bucket": self._bucket, "Key": self._prefix + name}
        self.put_new(name, BytesIO(b"once"))
        try:
            for in_parts in (False, True):
                with suppress(ConflictError), _named():
                    if in_parts:
                        self._put_parts(where, BytesIO(b"twice"))
                    else:
                        self._client.put_object(**where, Body=b"twice", IfNoneMatch="*")
                    raise ConfigurationError("config.invalid", "the object store does not honour conditional writes")
        finally:
            self.remove(name)

    def put_new(self, name: str, source: BinaryIO) -> None:
        """Make an object of a whole file, once.

        Raises:
            ConflictError: `conflict.exists`: there is one of this name, which stays as it is.
            StorageError: `storage.failed`: it is not there, or whole.
        """
        size = source.seek(0, 2)
        source.seek(0)
        where = {"Bucket": self._bucket, "Key": self._prefix + name}
        with _named():
            if size <= PART_BYTES:
                self._client.put_object(**where, Body=source.read(), IfNoneMatch="*")
            else:
                self._put_parts(where, source)

    def _put_parts(self, where: dict[str, str], source: BinaryIO) -> None:
        upload = {**where, "UploadId": self._client.create_multipart_upload(**where)["UploadId"]}
        try:
            parts: list[dict[str, Any]] = []
            while data := source.read(PART_BYTES):
                number = len(parts) + 1
                made = self._client.upload_part(**upload, PartNumber=number, Body=data)
                parts.append({"PartNumber": number, "ETag": made["ETag"]})
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:
            self._client.abort_multipart_upload(**upload)
            raise

    @contextmanager
    def new(self, name: str) -> Iterator[BinaryIO]:
        """A file to be written, which is an object at the end. Raises as `put_new`."""
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as half:
            stream = cast(BinaryIO, half)
            yield stream
            self.put_new(name, stream)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """An object's bytes, to be read and sought in.

        Raises:
            FileNotFoundError: there is none. StorageError: `storage.failed`.
        """
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as copy:
            with _named():
                body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"]
                with body:
                    shutil.copyfileobj(body, cast(IO[bytes], copy), 1 << 20)
            copy.seek(0)
            yield cast(BinaryIO, copy)

    def exists(self, name: str) -> bool:
        """Whether there is such an object. Raises: StorageError."""
        return name in self.names(name)

    def names(self, prefix: str) -> list[str]:
        """All names that begin so, sorted.

        Raises:
            StorageError: `storage.failed`.
        """
        found: list[str] = []
        with _named():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                found += [str(one["Key"])[len(self._prefix) :] for one in page.get("Contents", ())]
        return sorted(found)

    def remove(self, name: str) -> None:
        """Remove an object; one that is gone already is no error. Raises: StorageError."""
        with _named():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def clear(self, prefix: str) -> int:
        """Remove all whose names begin so; returns how many. Raises: StorageError."""
        found = self.names(prefix)
        for name in found:
            self.remove(name)
        return len(found)


def bucket_of(state_dir: Path) -> Bucket | None:
    """The bucket of a centre, None where its objects lie in folders.

    Raises:
        ConfigurationError: as `read_bucket`.
    """
    path = state_dir / FILE
    return read_bucket(path) if path.exists() else None


def read_bucket(path: Path) -> Bucket:
    """The bucket that a secret file names.

    Raises:
        ConfigurationError: `config.invalid`; no secret is in the message.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigurationError("config.invalid", f"{path} is readable by others: chmod 600 it")
        return Bucket(ObjectsConfig.model_validate(toml.read(path.read_bytes())))
    except ValidationError as error:
        raise ConfigurationError("config.invalid", f"{path}: {first_fault(error, whole='file')}") from None
    except (OSError, ValueError):
        raise ConfigurationError("config.invalid", f"{path} cannot be read") from None


def _client(config: ObjectsConfig) -> BaseClient:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=config.endpoint,
        region_name=config.region,
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key,
        verify=None if config.ca_file is None else str(config.ca_file),
        config=Config(
            s3={"addressing_style": "path"}, connect_timeout=10, read_timeout=60, max_pool_connections=32,
            retries={"mode": "standard", "max_attempts": 4},
        ),
    )  # fmt: skip


@contextmanager
def _named() -> Iterator[None]:
    """The service's errors by what they mean here."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in ("PreconditionFailed", "ConditionalRequestConflict"):
            raise ConflictError("conflict.exists", "an object of this name is there") from None
        if code in ("NoSuchKey", "404"):
            raise FileNotFoundError(errno.ENOENT, "no such object") from None
        raise StorageError("storage.failed", f"the object store answers {code[:64]}") from None
    except BotoCoreError as error:
        raise StorageError("storage.failed", f"the object store: {type(error).__name__}") from None

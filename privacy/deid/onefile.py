"""One file of a batch, in a worker process: read, de-identify, look again, write beside its final place.

    worker = Worker(settings)
    outcome = worker.process("scans/a.dcm", 1)      # a temporary file in the target, or a reason; never both

An outcome holds numbers, codes and keyed digests: no value and no name. Not here: which files, in which order, the
final name (`batch.py`).
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from protocol.errors import CorsiaError, DisclosureRefused, InputError, StorageError

__all__ = ["PARTIAL", "Outcome", "Settings", "Worker", "read_regular", "storage_error", "write_file"]

PARTIAL = ".part"
MAX_FILE_BYTES = 4 << 30
_ARCHIVES = (b"PK\3\4", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a batch is done with.

    Attributes:
        key: 32 bytes.
        profile, options, language: as on the command line.
        target: folder of the results, exists.
        quarantine: folder for copies of what was not passed; None for no copies.
        allow_risky: with clean-pixel-data, classes of screenshots and photographs are cleaned instead of refused.
    """

    key: bytes
    target: Path
    profile: str = "basic"
    options: frozenset[str] = frozenset()
    language: str = "it"
    quarantine: Path | None = None
    allow_risky: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one file.

    Attributes:
        number: of the file in the batch.
        digest: of the input, keyed; "" when it could not be read.
        reason: error code; "" when it came out clean.
        kind: of what is no DICOM: archive, symlink, special, unreadable, other; else "".
        uid, output, person: new SOP Instance UID, SHA-256 of the result, keyed digest of the pseudonym.
        partial: name of the temporary file in the target.
        hits, exclusions, elements: tallies of the second look and of the engine.
    """

    number: int
    digest: str = ""
    reason: str = ""
    kind: str = ""
    uid: str = ""
    output: str = ""
    person: str = ""
    partial: str = ""
    hits: dict[str, int] = field(default_factory=dict)
    exclusions: dict[str, int] = field(default_factory=dict)
    elements: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {name: value for name, value in asdict(self).items() if value and name not in ("number", "partial")}


class Worker:
    """Holds one engine; serves any number of files.

    Attributes:
        engine: of the settings' profile.
    """

    def __init__(self, settings: Settings) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        from privacy.deid.dicom import DicomEngine
        from privacy.deid.profiles import load
        from privacy.deid.pseudonym import Pseudonymizer

        self._settings = settings
        chosen = load(settings.profile, settings.options)
        extra: dict[str, Any] = {}
        if "clean-pixel-data" in chosen.options:
            from privacy.deid.pixels import PixelCleaner, PixelPolicy

            extra["pixels"] = PixelCleaner(PixelPolicy(allow_risky=settings.allow_risky))
        text = None
        if any(option.startswith("clean-") for option in chosen.options - {"clean-pixel-data"}):
            from privacy.deid.text import TextEngine

            text = TextEngine(settings.language)  # type: ignore[arg-type]
        self.engine = DicomEngine(Pseudonymizer(settings.key), profile=chosen, text=text, **extra)
        self._digest_key = hmac.digest(settings.key, b"corsia/deid/batch", "sha256")
        # The tag is never seen, only its HMAC is: so the same nonce may serve for all.
        self._hash = AESGCM(hmac.digest(settings.key, b"corsia/deid/batch/hash", "sha256"))

    def process(self, path: str, number: int) -> Outcome:
        """De-identify one file.

        Raises:
            StorageError: the result or the quarantine copy cannot be written.
        """
        try:
            data = read_regular(path)
        except InputError as error:
            return Outcome(number=number, reason=error.code, kind=error.message)
        digest = self.digest(data)
        outcome, result = self._deidentify(data, number, digest)
        if result is None:
            self.keep_back(data, outcome)
            return outcome
        partial = f".{number}-{os.getpid()}{PARTIAL}"
        write_file(self._settings.target / partial, result)
        return Outcome(
            number=number, digest=digest, uid=outcome.uid, output=hashlib.sha256(result).hexdigest(),
            person=outcome.person, partial=partial, exclusions=outcome.exclusions, elements=outcome.elements,
        )  # fmt: skip

    def _deidentify(self, data: bytes, number: int, digest: str) -> tuple[Outcome, bytes | None]:
        from privacy.deid import residual

        try:
            result = self.engine.deidentify(data)
            look = residual.inspect(data, result.data, self._settings.options)
        except (InputError, DisclosureRefused, RecursionError, MemoryError) as error:
            code = error.code if isinstance(error, CorsiaError) else "input.dicom"
            return Outcome(number=number, digest=digest, reason=code, kind=_kind(data, code)), None
        if look.hits:
            back = Outcome(
                number=number, digest=digest, reason="gate.residual", hits=look.hits, exclusions=look.exclusions
            )
            return back, None
        passed = Outcome(
            number=number, digest=digest, uid=result.sop_instance_uid, person=self.digest(result.pseudonym.encode()),
            exclusions=look.exclusions, elements=result.counts,
        )  # fmt: skip
        return passed, result.data

    def digest(self, data: bytes) -> str:
        """Keyed, so that it tells nothing to who has not the key: HMAC of a universal hash (GHASH) of the bytes.

        Source: Carter and Wegman 1981 (a keyed function of a universal hash); NIST SP 800-38D (GHASH).
        """
        return hmac.digest(self._digest_key, self._hash.encrypt(bytes(12), b"", data), "sha256").hex()[:32]

    def keep_back(self, data: bytes, outcome: Outcome) -> None:
        """Copy a file that was not passed, for its owner alone, under its number and reason."""
        if self._settings.quarantine is not None:
            write_file(self._settings.quarantine / f"{outcome.number:08d}-{outcome.reason}.dcm", data, rename=True)


def write_file(path: Path, data: bytes, *, rename: bool = False) -> None:
    """Write for the owner alone; with `rename` under another name first. The batch syncs once, at its end.

    Raises:
        StorageError: `storage.full`, `storage.failed`.
    """
    place = path.with_name(f".{path.name}-{os.getpid()}{PARTIAL}") if rename else path
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        finally:
            os.close(descriptor)
        if rename:
            place.replace(path)
    except OSError as error:
        place.unlink(missing_ok=True)
        raise storage_error(error) from None


def storage_error(error: OSError) -> StorageError:
    """The project's error for one of the disk."""
    return StorageError.of(error, error.strerror or "the disk refused")


def read_regular(path: str) -> bytes:
    """The bytes of a regular file.

    Raises:
        InputError: `input.dicom`, with a fixed word: symlink, special, unreadable, large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        word = {errno.ELOOP: "symlink", errno.ENXIO: "special"}.get(error.errno or 0, "unreadable")
        raise InputError("input.dicom", word) from None
    with open(descriptor, "rb") as file:
        try:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise InputError("input.dicom", "special")
            if about.st_size > MAX_FILE_BYTES:
                raise InputError("input.dicom", "large")
            return file.read()
        except OSError:
            raise InputError("input.dicom", "unreadable") from None


def _kind(data: bytes, code: str) -> str:
    if code != "input.dicom":
        return ""
    if data.startswith(_ARCHIVES) or data[257:262] == b"ustar":
        return "archive"
    return "" if data[128:132] == b"DICM" else "other"

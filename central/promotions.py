"""What two operators say when a version of a model gets an alias: the statements that they sign.

Pure: values in, canonical bytes out. A statement names all that is decided (model, version, weights, alias, and which
serial the alias has now), so that a signature given once cannot be used for anything else or a second time.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass

from privacy.envelope import PublicKey, SecretKey
from protocol.errors import AuthenticationError, InputError, IntegrityError
from protocol.parcel import canonical_json
from protocol.trust import Purpose

__all__ = ["MAX_STATEMENT_BYTES", "Approval", "Proposal", "check", "sign"]

MAX_STATEMENT_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One operator asks that a version get an alias.

    Attributes:
        id: random, 32 hex digits.
        operator: who asks.
        weights: SHA-256 (hex) of the version's weights.
        rollback: the version is lower than the one that has the alias now.
        replaces: serial of the manifest that has the alias now; 0 for none.
    """

    id: str
    operator: str
    name: str
    version: int
    weights: str
    alias: str
    rollback: bool
    replaces: int

    @classmethod
    def new(cls, **fields: str | int | bool) -> Proposal:
        """A proposal under a fresh id."""
        return cls(id=secrets.token_hex(16), **fields)  # type: ignore[arg-type]

    def to_bytes(self) -> bytes:
        """What is signed."""
        return canonical_json({"action": "propose", **asdict(self)})

    @classmethod
    def from_bytes(cls, raw: bytes) -> Proposal:
        """Read one.

        Raises:
            InputError: `input.message`.
        """
        value = _read(raw, "propose")
        kinds = {"id": str, "operator": str, "name": str, "version": int, "weights": str, "alias": str,
                 "rollback": bool, "replaces": int}  # fmt: skip
        if {name: type(entry) for name, entry in value.items()} != kinds:
            raise InputError("input.message", "malformed proposal")
        return cls(**value)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Another operator agrees. `proposal` is the SHA-256 (hex) of the proposal's bytes."""

    operator: str
    proposal: str

    @classmethod
    def of(cls, proposal: bytes, operator: str) -> Approval:
        """The approval of exactly these bytes."""
        return cls(operator=operator, proposal=hashlib.sha256(proposal).hexdigest())

    def to_bytes(self) -> bytes:
        """What is signed."""
        return canonical_json({"action": "approve", **asdict(self)})


def sign(statement: Proposal | Approval, key: SecretKey) -> bytes:
    """An operator's signature (context `Purpose.PROMOTION`)."""
    return key.sign(Purpose.PROMOTION, statement.to_bytes())


def check(statement: Proposal | Approval, signature: bytes, key: PublicKey) -> None:
    """Check an operator's signature.

    Raises:
        AuthenticationError: `auth.operator`.
    """
    try:
        key.verify(Purpose.PROMOTION, statement.to_bytes(), signature)
    except IntegrityError:
        raise AuthenticationError("auth.operator") from None


def _read(raw: bytes, action: str) -> dict[str, object]:
    try:
        if len(raw) > MAX_STATEMENT_BYTES:
            raise ValueError("size")
        value = json.loads(raw)
        if not isinstance(value, dict) or value.pop("action", None) != action:
            raise ValueError("action")
        return value
    except (ValueError, RecursionError):
        raise InputError("input.message", "malformed statement of an operator") from None

"""What the egress gate says of a result: each rule as it fell out, and the counts of what passed."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import CorsiaError, DisclosureRefused, PolicyRefused

__all__ = ["Check", "Passed", "refusal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One rule of the gate as it fell out; `reason` names no value."""

    rule: str
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What passed: distinct persons, rows of tables, DICOM files, FHIR documents, bytes to be sealed."""

    persons: int
    rows: int
    files: int
    bytes: int
    documents: int = 0


def refusal(code: str, reason: str) -> CorsiaError:
    """The error of a rule's code."""
    return PolicyRefused(code, reason) if code.startswith("policy.") else DisclosureRefused(code, reason)

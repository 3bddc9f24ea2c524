"""The site's word on each study: given to the exact signed bytes and to the code that is installed now.

Place in the flow: after policy, before any row is read, for every lane and again for every round. Held in
`state.db` at the site; the centre cannot approve in its place. This module decides nothing on data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from edge.state import SiteState
from protocol.errors import ApprovalRequired, PolicyRefused

__all__ = ["Approval", "Approvals", "Verdict"]


class Verdict(StrEnum):
    """Where a study stands with the site's steward."""

    PENDING = "pending"
    APPROVED = "approved"
    SUSPENDED = "suspended"  # approved, but the installed code has changed since
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A study's approval: `approver` is `policy` or `steward`, `code_digest` what it was given for."""

    verdict: Verdict
    approver: str = ""
    code_digest: str = ""


class Approvals:
    """Approvals over the site's state.

    Args:
        state: where they are kept.
        code_digest: tells the digest of the code installed now (`pipelines.registry.code_digest`).
        plugin: tells the digest of the plug-in that a study names, empty without one (`edge.plugins.PluginCode`).
    """

    def __init__(
        self, state: SiteState, code_digest: Callable[[], str], plugin: Callable[[str], str] = lambda _study: ""
    ) -> None:
        self._state = state
        self._code_digest, self._plugin = code_digest, plugin

    def code(self, study_digest: str) -> str:
        """The digest of all code that would run for a study now."""
        code, plugin = self._code_digest(), self._plugin(study_digest)
        return hashlib.sha256(f"{code} {plugin}".encode()).hexdigest() if plugin else code

    def look(self, study_digest: str) -> Approval:
        """What holds for a study now, without changing anything."""
        row = self._state.approval(study_digest)
        if row is None:
            return Approval(verdict=Verdict.PENDING)
        decision, approver, code_digest = row
        if decision == Verdict.REFUSED:
            return Approval(verdict=Verdict.REFUSED, approver=approver, code_digest=code_digest)
        same = code_digest == self.code(study_digest)
        verdict = Verdict.APPROVED if same else Verdict.SUSPENDED
        return Approval(verdict=verdict, approver=approver, code_digest=code_digest)

    def refused(self, study_digest: str) -> bool:
        """Whether the steward has refused a study, or withdrawn its approval."""
        row = self._state.approval(study_digest)
        return row is not None and row[0] == Verdict.REFUSED.value

    def require(self, study_digest: str, mode: Literal["auto", "manual"]) -> Approval:
        """Let a study that policy allows pass, or say what is missing.

        With `auto` the policy itself approves, again after each change of the code; a steward's refusal holds
        in both modes.

        Raises:
            ApprovalRequired: `approval.pending`, `approval.changed`.
            PolicyRefused: `policy.refused`.
        """
        approval = self.look(study_digest)
        if approval.verdict is Verdict.REFUSED:
            raise PolicyRefused("policy.refused")
        if approval.verdict is Verdict.APPROVED:
            return approval
        if mode == "auto":
            return self.approve(study_digest, approver="policy")
        raise ApprovalRequired("approval.pending" if approval.verdict is Verdict.PENDING else "approval.changed")

    def approve(self, study_digest: str, *, approver: str = "steward") -> Approval:
        """Approve these bytes with this code."""
        code_digest = self.code(study_digest)
        self._state.set_approval(study_digest, Verdict.APPROVED.value, approver, code_digest)
        return Approval(verdict=Verdict.APPROVED, approver=approver, code_digest=code_digest)

    def refuse(self, study_digest: str) -> Approval:
        """Refuse a study, or withdraw an approval."""
        code_digest = self.code(study_digest)
        self._state.set_approval(study_digest, Verdict.REFUSED.value, "steward", code_digest)
        return Approval(verdict=Verdict.REFUSED, approver="steward", code_digest=code_digest)

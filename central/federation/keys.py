"""The run keys: one secret key a training study, made here, never leaving this process.

A run key opens the study's updates and signs its round instructions; the study names its public half.
"""

from __future__ import annotations

from central.keys import KeyFolder
from privacy.envelope import PublicKey, SecretKey

__all__ = ["RunKeys"]


class RunKeys(KeyFolder):
    """The federation's keys."""

    def public(self, study_id: str) -> PublicKey:
        """The public key of a study's run, made when first asked for.

        Raises:
            InputError: `input.study` for an id that is no slug.
            StudyRefused: `study.erased`.
        """
        return self.made(study_id).public

    def secret(self, study_id: str) -> SecretKey:
        """The run key. Raises as `load`."""
        return self.load(study_id)

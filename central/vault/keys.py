"""The study keys: one secret key a study, made here, never leaving this process.

Only `central/vault/` reads these folders. A study has two: one that its parcels are sealed to, whose public half goes
to the signer, which writes it into the study, and one under which its part of the lake is kept.
"""

from __future__ import annotations

from central.keys import KeyFolder

__all__ = ["StudyKeys"]


class StudyKeys(KeyFolder):
    """The vault's keys."""

    def create(self, study_id: str) -> str:
        """Make the key of a study, or find the one that exists; returns the public half as base64.

        Raises:
            InputError: `input.study` for an id that is no slug; nothing is written.
            StudyRefused: `study.erased`.
        """
        return self.made(study_id).public.to_base64()

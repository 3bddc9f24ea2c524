"""A study's part of the lake, decrypted into a folder: for the harness that searches it, on the centre's own machine.

The lake holds ciphertext alone, so a search for what must not be in it would prove nothing. Only the user who may read
the vault's keys can do this, and what he makes is plaintext: the caller removes it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from central.vault import Lake

__all__ = ["opened"]


def opened(vault: Path, study: str, into: Path) -> Path:
    """Write every table, image, document and report of a study to `into/study/batch/name`; returns `into/study`.

    Args:
        vault: the vault's folder, with lake and keys.

    Raises:
        IntegrityError: `lake.damaged`.
        StudyRefused: `study.erased`.
    """
    lake, made = Lake.of(vault), into / study
    for folder in lake.folders(study):
        target = made / folder
        target.mkdir(parents=True, mode=0o700)
        for entry in lake.entries(f"{study}/{folder}"):
            with open(os.open(target / entry.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                if isinstance(entry.data, pa.Table):
                    pq.write_table(entry.data, file)
                else:
                    file.write(entry.data)
    return made

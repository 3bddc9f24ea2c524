"""Bases of a reference genome out of an indexed FASTA (.fa with .fai), mapped, never read whole."""

from __future__ import annotations

import mmap
from pathlib import Path

from pipelines.features.genomics.builds import chromosome
from protocol.errors import InputError

__all__ = ["Fasta"]


class Fasta:
    """An open FASTA file; `close` it, or use it as a context.

    Args:
        path: plain text FASTA; its index stands beside it with the suffix `.fai` added (`samtools faidx`).

    Raises:
        InputError: `input.variants` when one of the two does not read.
    """

    def __init__(self, path: Path) -> None:
        self._index: dict[str, tuple[int, int, int, int]] = {}
        try:
            for line in Path(f"{path}.fai").read_text().splitlines():
                name, *numbers = line.split("\t")
                length, offset, bases, width = (int(number) for number in numbers[:4])
                if not 0 < bases <= width:
                    raise ValueError
                self._index[chromosome(name)] = length, offset, bases, width
            with path.open("rb") as source:
                self._data = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            raise InputError("input.variants", "the reference FASTA or its .fai does not read") from None

    def __enter__(self) -> Fasta:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the mapping."""
        self._data.close()

    def fetch(self, chrom: str, start: int, end: int) -> str:
        """Upper-case bases start..end, 1-based, both included; "" outside the sequence."""
        entry = self._index.get(chrom)
        if entry is None or not 1 <= start <= end <= entry[0]:
            return ""
        _, offset, bases, width = entry
        first, last = (offset + (pos - 1) // bases * width + (pos - 1) % bases for pos in (start, end))
        return self._data[first : last + 1].replace(b"\n", b"").replace(b"\r", b"").decode("ascii", "replace").upper()

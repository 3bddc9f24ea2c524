"""Noise that hides a site, added by the federation: once, to the sum of the sites' clipped updates.

Place in the flow: `collect` -> here -> `rounds`, in the place of `mean`. Under masks the same is done to the unmasked
sum (`pipelines.masking.decode_update`). What the strategy is given is one answer that stands for all, so that whatever
it makes of it is covered by the noise. Drawn again after a crash before the checkpoint: nobody has seen the first.
"""

from __future__ import annotations

import numpy as np

from central.federation.masked import Total
from pipelines import clipping
from pipelines.flower import Arrays
from pipelines.masking import decode_update
from protocol.study import Study

__all__ = ["Noised"]


class Noised:
    """The model that sites' answers make together, with the study's noise; one answer at a time is in memory.

    Args:
        received: the model that the sites were sent.
    """

    def __init__(self, study: Study, received: Arrays) -> None:
        self._study, self._received = study, received
        self._total = np.zeros(sum(value.size for value in received.values()), np.int64)
        self._sites: list[str] = []

    def add(self, site: str, arrays: Arrays, examples: int) -> None:
        """One site's answer, which weighs as any other's.

        Raises:
            InputError: `input.message` for one that is further from the received model than the study's clip.
        """
        del examples
        self._total += clipping.steps(self._received, arrays, self._study.privacy.reach)
        self._sites.append(site)

    def total(self) -> Total:
        """What they make together; of no answer, nothing."""
        if not self._sites:
            return Total(arrays={}, examples=0, sites=())
        ring = np.append(self._total, np.int64(len(self._sites))).view(np.uint64)
        arrays, sites = decode_update(self._study, self._received, ring)
        return Total(arrays=arrays, examples=sites, sites=tuple(sorted(self._sites)))

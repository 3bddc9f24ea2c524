"""Noise that hides a site, added by the federation: once, to the sum of the sites' clipped updates.

Place in the flow: `collect` -> here -> `rounds`. Under masks the same is done to the unmasked sum
(`pipelines.masking.decode_update`). What the strategy is given is one answer that stands for all, so that whatever it
makes of it is covered by the noise. Drawn again after a crash before the checkpoint: nobody has seen the first.
"""

from __future__ import annotations

import numpy as np

from central.federation.masked import Total
from pipelines import clipping
from pipelines.flower import ARRAYS, Arrays, Message, arrays_of
from pipelines.masking import decode_update
from protocol.study import Study

__all__ = ["noised"]


def noised(study: Study, received: Arrays, replies: list[tuple[str, Message]]) -> Total:
    """The model that these sites' answers make together, with the study's noise.

    Args:
        received: the model that the sites were sent.
        replies: at least one, each no further from it than the study's clip.
    """
    reach = study.privacy.reach
    total = np.zeros(sum(value.size for value in received.values()), np.int64)
    for _, message in replies:
        total += clipping.steps(received, arrays_of(message.content.array_records[ARRAYS]), reach)
    ring = np.append(total, np.int64(len(replies))).view(np.uint64)
    arrays, sites = decode_update(study, received, ring)
    return Total(arrays=arrays, examples=sites, sites=tuple(site for site, _ in replies))

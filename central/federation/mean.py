"""The weighted mean of sites' answers, taken one at a time and let go: memory for one model, however many sites.

The arithmetic is that of Flower's FedAvg, operation for operation, so that the mean over all sites asked is bit-equal
to what Flower makes of all their answers at once (ADR 8). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from central.federation.masked import Total
from pipelines.flower import Arrays, Shapes

__all__ = ["Mean"]

_BLOCK = 1 << 18  # elements weighted at once


class Mean:
    """A mean, or a sum, in the making.

    Args:
        shapes: names, dtypes and shapes of each answer, which has been judged.
        rows: of each site that was asked: what it weighs.
        summed: add the answers as they are (`newton`).
    """

    def __init__(self, shapes: Shapes, rows: Mapping[str, int], *, summed: bool = False) -> None:
        self._names, self._summed = tuple(shapes), summed
        self._asked = sum(rows.values())
        self._arrays: Arrays = {}
        self._examples = 0
        self.sites: tuple[str, ...] = ()

    def add(self, site: str, arrays: Mapping[str, np.ndarray[Any, Any]], examples: int) -> None:
        """Add one site's answer; sites come in the order of their names, so that the mean is the same in every run."""
        if self.sites and site <= self.sites[-1]:
            raise AssertionError("mean: answers out of order")
        share = examples / max(self._asked, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            for name in self._names:
                self._add(name, arrays[name], share)
        self._examples += examples
        self.sites = (*self.sites, site)

    def total(self) -> Total:
        """The mean over those that answered, their rows and names; this object is empty then."""
        arrays, self._arrays = self._arrays, {}
        if not self._summed and self._examples != self._asked:
            for array in arrays.values():
                np.multiply(array, self._asked / self._examples, out=array)
        return Total(arrays=arrays, examples=self._examples, sites=self.sites)

    def _add(self, name: str, array: np.ndarray[Any, Any], share: float) -> None:
        if name not in self._arrays:
            self._arrays[name] = array.copy() if self._summed else np.asarray(array * share)
            return
        made, taken = self._arrays[name].reshape(-1), array.reshape(-1)
        for start in range(0, made.size, _BLOCK):
            part = taken[start : start + _BLOCK]
            made[start : start + _BLOCK] += part if self._summed else part * share

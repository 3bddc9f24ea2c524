"""One site's patients and their image samples, held small, and given to the engine batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.learners.images import Augment, ImageCase, augmented
from privacy.deid.pseudonym import normalise_id
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ImageFeed", "ImageRows", "gathered", "people"]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageRows:
    """One site's patients and their samples.

    Attributes:
        x: float16 or float32 (samples, *size).
        y: float64 (patients,): 0/1, or a number.
        owner: int64 (samples,): the patient of each; a patient's samples lie together.
        dropped: rows of the table without outcome or image.
        withheld: files (`unreadable`) and patients (`image`) that were set aside.
        mask: bool, as `x`, where regions are learned.
        moments: float64 (patients, 2): mean and mean square of each patient's intensities.
    """

    x: Array
    y: Array
    owner: Array
    dropped: int
    withheld: Mapping[str, int]
    mask: Array | None
    moments: Array

    @property
    def count(self) -> int:
        """How many patients take part."""
        return len(self.y)


class ImageFeed:
    """Samples in standard units with a channel in front; augmented where there is a seed."""

    def __init__(
        self, rows: ImageRows, preprocessing: Arrays, augment: Augment, transform: Callable[[Array], Array],
        seed: int | None,
    ) -> None:  # fmt: skip
        self._rows, self._augment, self._transform, self._seed = rows, augment, transform, seed
        self._mean, self._scale = (np.float32(preprocessing[name][0]) for name in ("mean", "scale"))
        mean, scale = preprocessing["outcome"]
        self._y = ((rows.y - mean) / scale).astype(np.float32)

    def __len__(self) -> int:
        return len(self._rows.x)

    def batch(self, at: Array, step: int) -> tuple[Array, Array]:
        """See `engine.Feed`; targets are outcomes, or masks with a channel."""
        x = (self._rows.x[at].astype(np.float32) - self._mean) / self._scale
        mask = None if self._rows.mask is None else self._rows.mask[at]
        if self._seed is not None:
            for i, sample in enumerate(at.tolist()):
                draw = np.random.default_rng([self._seed, step, sample])
                own = None if mask is None else mask[i]
                x[i], changed = augmented(x[i], own, self._augment, draw)
                if mask is not None:
                    mask[i] = changed
        target = self._y[self._rows.owner[at]] if mask is None else mask[:, None].astype(np.float32)
        return self._transform(x[:, None]), target


def people(frame: pd.DataFrame, patient: str) -> list[str]:
    """The patients of the table's rows, in the form under which DICOM names them."""
    people = [normalise_id(str(value)) for value in frame[patient]]
    if len(set(people)) != len(people):
        raise InputError("input.table", "a patient has two rows")
    return people


def gathered(cases: list[ImageCase], outcomes: list[float], *, dropped: int, withheld: Mapping[str, int]) -> ImageRows:
    """Patients' samples in one array; the cases are let go one by one."""
    counts = [len(case.x) for case in cases]
    x = np.empty((sum(counts), *cases[0].x.shape[1:]), cases[0].x.dtype)
    mask = None if cases[0].mask is None else np.zeros(x.shape, np.bool_)
    moments, start = np.empty((len(cases), 2)), 0
    for i, count in enumerate(counts):
        case = cases[i]
        x[start : start + count] = case.x
        if mask is not None and case.mask is not None:
            mask[start : start + count] = case.mask
        values = case.x.astype(np.float64)
        moments[i] = values.mean(), np.square(values).mean()
        start += count
    return ImageRows(
        x=x, y=np.array(outcomes), owner=np.repeat(np.arange(len(cases)), counts), dropped=dropped,
        withheld=withheld, mask=mask, moments=moments,
    )  # fmt: skip

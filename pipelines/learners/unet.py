"""Images to a region: a small U-Net learned from RTSTRUCT or SEG masks, in slices or volumes.

As `imaging`, but the target is the mask of each patient, so neither an outcome nor, where the site asks for no
consent, a table is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from pipelines.learners.images import ImageCase, gridded, meant
from pipelines.learners.imaging import Channels, ImageLearner, ImageSettings
from pipelines.learners.samples import ImageRows, people
from protocol.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from pipelines.features.cases import Case

__all__ = ["UNetLearner", "UNetSettings"]

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]
Shapes = dict[str, tuple[str, tuple[int, ...]]]
_SUMS = ("rows", "loss", "dice", "common", "either")


class UNetSettings(ImageSettings):
    """Of learner `unet`.

    Attributes:
        channels: width at each depth; `size` must be a multiple of 2 ** (depths - 1).
        roi: name or glob of the region; without it a mask must have one region.
        threshold: of fractional SEG objects: voxels with at least this share are inside.
    """

    task: Literal["binary"] = "binary"
    channels: Channels = (8, 16, 32)
    roi: Annotated[str, Field(max_length=128)] | None = None
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _halves(self) -> UNetSettings:
        if any(n % 2 ** (len(self.channels) - 1) for n in self.size):
            raise ValueError("size: must be multiples of 2 ** (len(channels) - 1)")
        return self


class UNetLearner(ImageLearner):
    """Segmentation. See `pipelines.learners.Learner` for the methods' contract."""

    name = "unet"
    settings_type: ClassVar[type[ImageSettings]] = UNetSettings
    settings: UNetSettings
    tableless = True
    crossed = "Model updates, and sums over patients of mean intensities and overlaps"
    notes = ("Regions are those of the sites' RTSTRUCT or SEG objects; one patient counts once.",)
    _masked = True

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.outputs = ("voxels", "volume_ml")

    def _check_columns(self, features: tuple[str, ...], outcome: tuple[str, ...] | None) -> None:
        if features or outcome:
            raise InputError("input.study", "training: give features = [] and outcome = []")

    def case(self, case: Case) -> ImageCase | None:
        """A patient's samples and masks, or None for one without image or mask."""
        from pipelines.features import series
        from pipelines.features.cases import Case as Kept
        from pipelines.features.cases import fitting

        groups = series.group(case.images)
        images = [image for members in groups.values() if meant(members, self.settings) for image in members]
        if not images or not case.masks:
            return None
        kept = Kept(case.first, images, case.masks)
        found, region = fitting(kept, self.settings.roi, self.settings.threshold)
        return gridded(found, self.settings, region)

    def predicted_case(self, case: Case) -> ImageCase | None:
        """A patient's samples alone."""
        return super().case(case)

    def _outcomes(self, frame: pd.DataFrame | None, patient: str | None) -> dict[str, float] | None:
        """The table's patients; None, everybody, where the site has no table."""
        if frame is None:
            return None
        if patient is None or patient not in frame.columns:
            raise InputError("input.table", "images need the table's patient")
        return dict.fromkeys(people(frame, patient), 0.0)

    def sums(self, rows: ImageRows, least: int) -> Arrays:
        """As of images; there is no outcome."""
        return super().sums(rows, least) | {"outcome": np.zeros(2)}

    def _agreed_outcome(self, sums: Arrays) -> Array:
        return np.array([0.0, 1.0])

    # -- training, scores and predictions --------------------------------------------------------------------------

    def build(self, settings: Mapping[str, Any]) -> torch.nn.Module:
        """The network."""
        from pipelines.learners.nets import UNet

        del settings
        return UNet(self.settings.channels, self.settings.dimensions)

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean logistic loss over voxels, and one minus the soft overlap (Dice) of each sample.

        Source: Milletari et al. 2016, "V-Net", 3DV, section 3 (here with plain sums below the line, and 1 added).
        """
        import torch

        each = torch.nn.functional.binary_cross_entropy_with_logits(output, target, reduction="none").flatten(1)
        inside, wanted = torch.sigmoid(output).flatten(1), target.flatten(1)
        dice = (2 * (inside * wanted).sum(dim=1) + 1) / (inside.sum(dim=1) + wanted.sum(dim=1) + 1)
        return each.mean(dim=1) + 1 - dice

    def scoring(self) -> Shapes:
        """float64 (1,): patients, their losses and overlaps, and voxels that are in both and in either region."""
        return {name: ("float64", (1,)) for name in _SUMS}

    def score(self, model: Arrays, preprocessing: Arrays, rows: ImageRows) -> Arrays:
        """Sums over patients; where mask and prediction are both empty the overlap is 1."""
        from pipelines.learners import engine

        device = engine.device_of(self._compute.device)
        feed, at = self.feed(rows, preprocessing, None), 0
        sums = np.zeros((len(rows.x), 3))  # of each sample: loss, common and either voxels
        for out in engine.batched(self.module, model, feed, self._local.batch, device):
            here = slice(at, at + len(out))
            wanted = feed.batch(np.arange(at, at + len(out)), 0)[1]
            sums[here, 0] = self._lost(out, wanted)
            inside = (out > 0).reshape(len(out), -1)
            true = wanted.reshape(len(out), -1) > 0
            sums[here, 1], sums[here, 2] = (inside & true).sum(axis=1), inside.sum(axis=1) + true.sum(axis=1)
            at += len(out)
        lost, common, either = (np.bincount(rows.owner, weights=column) for column in sums.T)
        each = lost / np.bincount(rows.owner)
        dice = np.where(either > 0, 2 * common / np.maximum(either, 1.0), 1.0)
        values = (float(rows.count), each.sum(), dice.sum(), common.sum(), either.sum())
        return {name: np.array([float(value)]) for name, value in zip(_SUMS, values, strict=True)}

    def _lost(self, out: Array, wanted: Array) -> Array:
        import torch

        return np.asarray(self.loss(torch.from_numpy(out), torch.from_numpy(wanted)).double().numpy())

    def metrics(self, sums: Arrays) -> dict[str, float]:
        """`dice` a patient, `dice-pooled` over all voxels, `loss`."""
        rows, either = float(sums["rows"][0]), float(sums["either"][0])
        if rows <= 0:
            return {}
        told = {name: float(sums[name][0]) / rows for name in ("dice", "loss")}
        return told | ({"dice-pooled": 2 * float(sums["common"][0]) / either} if either > 0 else {})

    def predicted(self, model: Arrays, preprocessing: Arrays, rows: ImageRows, case: ImageCase) -> dict[str, float]:
        """Voxels of the grid inside the region, and their volume."""
        voxels = float((self.outputs_of(model, preprocessing, rows) > 0).sum())
        return {"voxels": voxels, "volume_ml": voxels * case.voxel_ml}

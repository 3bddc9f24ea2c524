"""How radiomic features are computed: everything that changes a number, in one value with one digest.

A settings file is TOML with the fields of `Settings` as its keys; what is left out has its default. The published
IBSI configurations A to E are written out in `docs/radiomics.md`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from pipelines.features.ibsi.roi import Interpolator
from protocol import toml
from protocol.errors import InputError
from protocol.parcel import canonical_json

__all__ = ["Settings"]

RULES = 2  # raised whenever the same settings give other numbers
_WIDTH = 25.0
_LARGEST = 1e6
# As users write them (lower case, without blanks and signs) -> the endings of tags that they select.
_AGGREGATIONS = {
    "2d": ("2D", "2D_avg", "2D_comb"),
    "2davg": ("2D", "2D_avg"),
    "2daveraged": ("2D", "2D_avg"),
    "2dcomb": ("2D", "2D_comb"),
    "2dslicemerged": ("2D", "2D_comb"),
    "25d": ("2_5D", "2_5D_avg", "2_5D_comb"),
    "25davg": ("2_5D", "2_5D_avg"),
    "25ddirectionmerged": ("2_5D", "2_5D_avg"),
    "25dcomb": ("2_5D", "2_5D_comb"),
    "25dmerged": ("2_5D", "2_5D_comb"),
    "3d": ("3D", "3D_avg", "3D_comb"),
    "3davg": ("3D", "3D_avg"),
    "3daveraged": ("3D", "3D_avg"),
    "3dcomb": ("3D", "3D_comb"),
    "3dmerged": ("3D", "3D_comb"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one extraction. Intensities are in the image's unit (HU for CT), lengths in mm.

    Attributes:
        bin_width: fixed bin size; 25 when neither it nor `bin_count` is given.
        bin_count: fixed bin number, from the region's minimum to its maximum.
        bin_origin: where bins of fixed size begin: `roi_min`, `zero` (edges at multiples of the width, as pyradiomics
            has them) or a number; without it the lower end of `intensity_range`, else the region's minimum.
        resample_mm: new spacing: one number for all axes, or one each for slices, rows and columns; 0 = keep.
        interpolator: of the image: `linear`, `spline` (cubic) or `nearest`. The mask is interpolated linearly and cut
            at 0.5, by the nearest voxel with `nearest`.
        intensity_rounding: round interpolated intensities to integers, as IBSI says for CT.
        intensity_range: lowest and highest intensity that are kept; either may be infinite.
        outlier_sigma: keep only what lies within so many standard deviations of the mean.
        aggregation: which of the ways to add up texture matrices, by dimension (`3D`) or by name (`2.5D merged`, or as
            tags end: `2_5D_comb`); all when None.
        ivh_bin_width: fixed bin size of the intensity-volume histogram; without it and `ivh_bin_count` intensities are
            taken as they are.
        ivh_bin_count: fixed bin number of the intensity-volume histogram.
        mask_threshold: of a fractional SEG, above 0 to 1: voxels with at least this fraction are inside. Without it
            a fractional SEG is refused.
    """

    bin_width: float | None = None
    bin_count: int | None = None
    bin_origin: float | Literal["roi_min", "zero"] | None = None
    resample_mm: float | tuple[float, float, float] = 0.0
    interpolator: Interpolator = "linear"
    intensity_rounding: bool = False
    intensity_range: tuple[float, float] | None = None
    outlier_sigma: float | None = None
    aggregation: str | tuple[str, ...] | None = None
    ivh_bin_width: float | None = None
    ivh_bin_count: int | None = None
    mask_threshold: float | None = None

    def __post_init__(self) -> None:
        """Check every field and bring it to one form.

        Raises:
            InputError: `input.usage` naming the field.
        """
        if self.bin_width is None and self.bin_count is None:
            object.__setattr__(self, "bin_width", _WIDTH)
        for one, two in (("bin_width", "bin_count"), ("ivh_bin_width", "ivh_bin_count")):
            if getattr(self, one) is not None and getattr(self, two) is not None:
                raise _wrong(one, f"not together with {two}")
            self._number(one)
            self._count(two)
        self._number("outlier_sigma")
        self._number("mask_threshold")
        if self.mask_threshold is not None and self.mask_threshold > 1:
            raise _wrong("mask_threshold", "a number above 0, at most 1")
        if not isinstance(self.intensity_rounding, bool):
            raise _wrong("intensity_rounding", "true or false")
        if self.interpolator not in get_args(Interpolator):
            raise _wrong("interpolator", f"one of {', '.join(get_args(Interpolator))}")
        if self.bin_origin not in (None, "roi_min", "zero"):
            if not _is_number(self.bin_origin):
                raise _wrong("bin_origin", "roi_min, zero or a number")
            object.__setattr__(self, "bin_origin", float(self.bin_origin))
        object.__setattr__(self, "resample_mm", _spacing(self.resample_mm))
        object.__setattr__(self, "intensity_range", _range(self.intensity_range))
        object.__setattr__(self, "aggregation", _aggregation(self.aggregation))

    def _number(self, name: str) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if not _is_number(value) or not 0 < value <= _LARGEST:
            raise _wrong(name, "a number above 0")
        object.__setattr__(self, name, float(value))

    def _count(self, name: str) -> None:
        value = getattr(self, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65_535):
            raise _wrong(name, "a whole number from 1 to 65535")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Settings:
        """Settings from a parsed TOML table.

        Raises:
            InputError: `input.usage` for an unknown key or a value that does not fit.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise _wrong(unknown[0], f"not a setting; settings are {', '.join(sorted(known))}")
        given: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        return cls(**given)

    @classmethod
    def from_toml(cls, text: str) -> Settings:
        """Settings from the text of a TOML file.

        Raises:
            InputError: `input.usage`, also when the text is no TOML.
        """
        try:
            values = toml.read(text.encode())
        except ValueError:
            raise InputError("input.usage", "the settings are not TOML") from None
        return cls.of(values)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """`resample_mm` for each axis."""
        return self.resample_mm  # type: ignore[return-value]  # brought to this form in __post_init__

    @property
    def aggregations(self) -> frozenset[str] | None:
        """The endings of tags that `aggregation` selects; None for all."""
        if self.aggregation is None:
            return None
        return frozenset(end for name in self.aggregation for end in _AGGREGATIONS[_plain(name)])

    @property
    def origin(self) -> float | Literal["roi_min", "zero"]:
        """Where bins of fixed size begin."""
        if self.bin_origin is not None:
            return self.bin_origin
        lower = self.intensity_range[0] if self.intensity_range else -math.inf
        return lower if math.isfinite(lower) else "roi_min"

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the settings and the rules that are fixed."""
        stated = asdict(self) | {"extractor": "corsia-ibsi", "rules": RULES}
        if self.intensity_range:
            stated["intensity_range"] = [bound if math.isfinite(bound) else None for bound in self.intensity_range]
        if (chosen := self.aggregations) is not None:
            stated["aggregation"] = sorted(chosen)
        return hashlib.sha256(canonical_json(stated)).hexdigest()


def _wrong(name: str, what: str) -> InputError:
    return InputError("input.usage", f"settings: {name}: {what}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _spacing(value: Any) -> tuple[float, float, float]:
    values = value if isinstance(value, tuple | list) else (value,) * 3
    if len(values) != 3 or not all(_is_number(v) and (v == 0 or 0.01 <= v <= 1000) for v in values):
        raise _wrong("resample_mm", "a number of mm, or three for slices, rows and columns; 0 = keep")
    return float(values[0]), float(values[1]), float(values[2])


def _range(value: Any) -> tuple[float, float] | None:
    if value is None:
        return None
    numbers = isinstance(value, tuple | list) and all(_is_number(v) or v in (math.inf, -math.inf) for v in value)
    if not numbers or len(value) != 2 or not value[0] < value[1]:
        raise _wrong("intensity_range", "two numbers, the lower one first")
    return float(value[0]), float(value[1])


def _aggregation(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = (value,) if isinstance(value, str) else value
    valid = isinstance(names, tuple | list) and names and all(isinstance(n, str) for n in names)
    if not valid or not all(_plain(name) in _AGGREGATIONS for name in names):
        raise _wrong("aggregation", "2D, 2.5D or 3D, or of these averaged, slice-merged, direction-merged, merged")
    return tuple(names)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())

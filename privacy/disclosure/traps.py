"""DataSHIELD's disclosure traps as a site's settings; each is a check that refuses, and says by which rule.

Place: the egress gate calls them on what a lane wants to release; `pipelines.features.statistics` on what it sums.
Everything counts persons, never rows, so that a doubled row makes nobody safe (dsBase#251); a missing value is a
cell, a level and a group like any other. Not here: memory of earlier releases (`differencing.py`).

Source: dsBase 6.3 `listDisclosureSettingsDS` (names and defaults); dsBase issues 250 and 251 (holes).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from privacy.disclosure.classes import class_ids
from protocol.errors import DisclosureRefused

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

__all__ = [
    "Traps",
    "blurred_range",
    "check_columns",
    "check_levels",
    "check_missing",
    "check_model",
    "check_neighbours",
    "check_noise",
    "check_quantiles",
    "check_subset",
    "check_table",
    "check_text",
    "persons_by",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traps:
    """A site's thresholds. The names are DataSHIELD's without `nfilter.`; `of` reads them with it.

    Attributes:
        tab: persons in any non-empty cell of a table, the cell of missing values included.
        missing: persons without a value, where there are any: a sum over the others gives them away by difference.
        subset: persons in a subset, and in what is left without it.
        glm: parameters of a model, as a share of its persons.
        string: characters of a text argument.
        string_short: characters of a short text argument (a name, a level).
        knn: nearest neighbours.
        levels_density: levels of a column, as a share of its persons.
        levels_max: levels of a column.
        noise: least variance of added noise, as a share of the variance of the data.
        quantile_low: smallest quantile that may be shown.
        quantile_high: greatest quantile that may be shown.
        range_blur: by which share of its span a range is widened.
        queries: numbers that may be released on the values of one column, as a multiple of its persons, ever.
        dominance_n: so many persons ...
        dominance_k: ... may not hold more than this share of a sum.
        dominance_p: the second largest must not know the largest to within this share of it.
    """

    tab: int = 3
    missing: int = 3
    subset: int = 3
    glm: float = 0.33
    string: int = 80
    string_short: int = 20
    knn: int = 3
    levels_density: float = 0.33
    levels_max: int = 40
    noise: float = 0.25
    quantile_low: float = 0.05
    quantile_high: float = 0.95
    range_blur: float = 0.05
    queries: float = 1.0
    dominance_n: int = 2
    dominance_k: float = 0.85
    dominance_p: float = 0.10

    def __post_init__(self) -> None:
        counts = (
            self.tab,
            self.missing,
            self.subset,
            self.string,
            self.string_short,
            self.knn,
            self.levels_max,
            self.dominance_n,
        )
        shares = (self.glm, self.levels_density, self.noise, self.range_blur, self.dominance_k, self.dominance_p)
        if min(counts) < 1 or not all(0 <= share <= 1 for share in shares) or self.queries <= 0:
            raise ValueError("a trap is out of range")
        if not 0 <= self.quantile_low < self.quantile_high <= 1:
            raise ValueError("the quantiles are not in order")

    @classmethod
    def of(cls, settings: Mapping[str, float]) -> Traps:
        """Settings under DataSHIELD's names (`nfilter.levels.max`, `nfilter.stringShort`) or ours.

        Raises:
            ValueError: for a name that is no trap, or a value out of range.
        """
        known = {field.name: field.type for field in fields(cls)}
        found: dict[str, float] = {}
        for name, value in settings.items():
            plain = name.removeprefix("nfilter.").replace("stringShort", "string_short").replace(".", "_").casefold()
            if plain not in known:
                raise ValueError(f"no trap is called {name!r}")
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name!r} is no number")
            if plain in found:
                raise ValueError(f"{name!r} is set twice")
            if known[plain] == "int" and value != int(value):
                raise ValueError(f"{name!r} is a whole number")
            found[plain] = int(value) if known[plain] == "int" else float(value)
        return cls(**found)  # type: ignore[arg-type]


def persons_by(values: pd.Series, persons: pd.Series | None = None) -> dict[object, int]:
    """Distinct persons of each value, a missing value as None; without persons each row is one."""
    import pandas as pd

    ids = class_ids(pd.DataFrame({"v": values.to_numpy()}), ["v"])
    who = pd.Series(range(len(values))) if persons is None else persons.reset_index(drop=True)
    counted = who.groupby(ids).nunique(dropna=False)
    first = pd.Series(ids).drop_duplicates()
    cells = values.reset_index(drop=True)
    return {None if pd.isna(cells[i]) else cells[i]: int(counted[ids[i]]) for i in first.index}


def check_table(counts: Iterable[int], traps: Traps) -> None:
    """A frequency table, its cells of missing values included: each is empty or holds `tab` persons.

    Raises:
        DisclosureRefused: `gate.cells`.
    """
    if any(0 < count < traps.tab for count in counts):
        raise DisclosureRefused("gate.cells", f"nfilter.tab: a cell has fewer than {traps.tab} persons")


def check_missing(missing: int, traps: Traps) -> None:
    """Persons without a value: nobody, or enough.

    Raises:
        DisclosureRefused: `gate.cells`.
    """
    if 0 < missing < traps.missing:
        raise DisclosureRefused("gate.cells", f"fewer than {traps.missing} persons lack a value that the others have")


def check_subset(chosen: int, total: int, traps: Traps) -> None:
    """A subset of `chosen` out of `total` persons: it and what is left are empty or of `subset` persons.

    Raises:
        DisclosureRefused: `gate.subset`.
    """
    if chosen < traps.subset or 0 < total - chosen < traps.subset:
        raise DisclosureRefused(
            "gate.subset", f"nfilter.subset: a subset or its complement has fewer than {traps.subset} persons"
        )


def check_model(parameters: int, persons: int, traps: Traps) -> None:
    """A model, or a covariance matrix by its columns: parameters at most a share of the persons.

    Raises:
        DisclosureRefused: `gate.parameters`.
    """
    if parameters > traps.glm * persons:
        raise DisclosureRefused(
            "gate.parameters", f"nfilter.glm: more parameters than {traps.glm:g} of the persons; nothing was fitted"
        )


def check_columns(frame: pd.DataFrame, traps: Traps, persons: pd.Series | None = None) -> None:
    """Columns of a model, covariance or cross-product: none may single out a few persons.

    Refuses a column in which all but a few persons have one value: its product with another column is, but for a
    constant, those few persons' values (dsBase#250). Missing values count as a value.

    Raises:
        DisclosureRefused: `gate.parameters` for their number, `gate.dominance` for such a column.
    """
    people = len(frame) if persons is None else int(persons.nunique())
    check_model(frame.shape[1], people, traps)
    for name in frame.columns:
        counts = persons_by(frame[name], persons)
        if len(counts) > 1 and people - max(counts.values()) < traps.tab:
            raise DisclosureRefused(
                "gate.dominance", f"a column differs from one value for fewer than {traps.tab} persons"
            )
        check_missing(counts.get(None, 0), traps)


def check_levels(counts: Mapping[object, int], persons: int, traps: Traps) -> None:
    """Levels of a category column that would be shown by name.

    Raises:
        DisclosureRefused: `gate.levels` for too many, `gate.cells` for one of too few persons.
    """
    if len(counts) > traps.levels_max:
        raise DisclosureRefused("gate.levels", f"nfilter.levels.max: more than {traps.levels_max} levels")
    if len(counts) > traps.levels_density * persons:
        raise DisclosureRefused(
            "gate.levels", f"nfilter.levels.density: more levels than {traps.levels_density:g} of the persons"
        )
    check_table(counts.values(), traps)


def check_quantiles(probabilities: Sequence[float], persons: int, traps: Traps) -> None:
    """Quantiles: inside the site's bounds, with `tab` persons beyond each on either side.

    Raises:
        DisclosureRefused: `gate.quantile`.
    """
    for p in probabilities:
        if not (math.isfinite(p) and traps.quantile_low <= p <= traps.quantile_high):
            low, high = traps.quantile_low, traps.quantile_high
            raise DisclosureRefused("gate.quantile", f"quantiles are shown from {low:g} to {high:g} only")
        if min(p, 1 - p) * persons < traps.tab:
            raise DisclosureRefused("gate.quantile", f"fewer than {traps.tab} persons lie beyond a quantile")


def check_neighbours(neighbours: int, persons: int, traps: Traps) -> None:
    """Nearest neighbours: at least `knn`, and `knn` fewer than there are persons.

    Raises:
        DisclosureRefused: `gate.neighbours`.
    """
    if not traps.knn <= neighbours <= persons - traps.knn:
        raise DisclosureRefused("gate.neighbours", f"nfilter.kNN: from {traps.knn} to that many fewer than all persons")


def check_noise(share: float, traps: Traps) -> None:
    """Variance of noise as a share of that of the data.

    Raises:
        DisclosureRefused: `gate.noise`.
    """
    if not (math.isfinite(share) and share >= traps.noise):
        raise DisclosureRefused("gate.noise", f"nfilter.noise: at least {traps.noise:g} of the variance")


def check_text(text: str, traps: Traps, *, short: bool = False) -> None:
    """A text argument: short enough to carry no data in, and printable.

    Raises:
        DisclosureRefused: `gate.text`.
    """
    limit = traps.string_short if short else traps.string
    if len(text) > limit or not text.isprintable():
        rule = "nfilter.stringShort" if short else "nfilter.string"
        raise DisclosureRefused("gate.text", f"{rule}: at most {limit} printable characters")


def blurred_range(values: npt.NDArray[np.float64], traps: Traps) -> tuple[float, float]:
    """A range that tells no person's value: the bounded quantiles, widened, then rounded outward.

    Widening the true ends by a share of the span could be undone by arithmetic; rounding the quantiles cannot.

    Raises:
        DisclosureRefused: `gate.quantile` for too few values.
    """
    import numpy as np

    kept = np.asarray(values, dtype=np.float64)
    kept = kept[np.isfinite(kept)]
    check_quantiles([traps.quantile_low, traps.quantile_high], len(kept), traps)
    low, high = (float(q) for q in np.quantile(kept, [traps.quantile_low, traps.quantile_high]))
    if high <= low:
        raise DisclosureRefused("gate.quantile", "nearly all values are equal: there is no range to show")
    margin = traps.range_blur * (high - low)
    step = 10.0 ** (math.floor(math.log10(high - low)) - 1)
    return math.floor((low - margin) / step) * step, math.ceil((high + margin) / step) * step

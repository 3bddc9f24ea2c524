"""Sums and means that are one person's value in disguise.

Values are summed by person first, so that a doubled row is no second person (dsBase#251). The rules look at the sum
and at what is left of it after the commonest value is taken from everybody, so that a vector of zeros and a one, or
of a constant and an odd one, times a column is seen for what it is (dsBase#250).

Source: Hundepool et al., Statistical Disclosure Control (2012), 4.2: (n, k) dominance and p% rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.disclosure.traps import Traps, check_missing
from protocol.errors import DisclosureRefused

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    Floats = npt.NDArray[np.float64]

__all__ = ["check_dominance", "contributions"]


def contributions(values: Floats, persons: pd.Series | None = None) -> Floats:
    """What each person adds to the sum; missing values add nothing and nobody.

    Args:
        values: float64 [rows].
        persons: for each row, whose it is; without, each row is a person.

    Returns:
        float64, one entry a person with a value.
    """
    import numpy as np
    import pandas as pd

    series = pd.Series(np.asarray(values, dtype=np.float64))
    known = np.isfinite(series)
    if persons is None:
        return np.asarray(series[known], dtype=np.float64)
    grouped = series[known].groupby(persons.reset_index(drop=True)[known].to_numpy(), dropna=False)
    return np.asarray(grouped.sum(), dtype=np.float64)


def check_dominance(values: Floats, traps: Traps, persons: pd.Series | None = None) -> None:
    """A sum or mean of these values: of enough persons, enough of whom matter, none of whom dominates.

    Raises:
        DisclosureRefused: `gate.cells` for fewer than `tab` persons with a value, or `missing` without;
            `gate.dominance` for the rest.
    """
    import numpy as np

    added = contributions(values, persons)
    total = len(values) if persons is None else int(persons.nunique(dropna=False))
    if len(added) < traps.tab:
        raise DisclosureRefused("gate.cells", f"nfilter.tab: fewer than {traps.tab} persons have a value")
    check_missing(total - len(added), traps)
    levels, counts = np.unique(added, return_counts=True)
    commonest = levels[int(np.argmax(counts))]
    apart = added - commonest
    if 0 < int((apart != 0).sum()) < traps.tab or 0 < int((added != 0).sum()) < traps.tab:
        raise DisclosureRefused("gate.dominance", f"fewer than {traps.tab} persons make the sum what it is")
    for sizes in (np.sort(np.abs(added))[::-1], np.sort(np.abs(apart))[::-1]):
        whole = float(sizes.sum())
        if whole == 0:
            continue
        if float(sizes[: traps.dominance_n].sum()) > traps.dominance_k * whole:
            raise DisclosureRefused(
                "gate.dominance", f"{traps.dominance_n} persons hold more than {traps.dominance_k:.0%} of a sum"
            )
        if len(sizes) > 2 and whole - float(sizes[0]) - float(sizes[1]) < traps.dominance_p * float(sizes[0]):
            raise DisclosureRefused("gate.dominance", f"the largest value is known to within {traps.dominance_p:.0%}")

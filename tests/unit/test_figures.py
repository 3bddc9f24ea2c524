"""Figures show themselves in a notebook, also before pyplot has been used there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from corsia.figures import blank, model_figure
from protocol.errors import InputError

VARIANTS = pd.DataFrame(
    {
        "chrom": ["1", "1", "2"],
        "pos": [10, 20, 5],
        "id": ["a", "b", "c"],
        "log10_p": [-1.0, -8.0, np.nan],
        "status": ["ok", "ok", "guard"],
    }
)


def shown(figure: object) -> bytes:
    return figure._repr_png_()  # type: ignore[attr-defined, no-any-return]


def test_a_figure_shows_itself() -> None:
    figure = blank(2, 1)
    empty = shown(figure)
    assert empty.startswith(b"\x89PNG")
    figure.subplots().plot([1, 2])
    assert shown(figure) != empty


def test_a_model_is_drawn_by_what_its_table_holds() -> None:
    manhattan = model_figure(VARIANTS)
    assert len(manhattan.axes) == 2
    assert shown(manhattan)
    (bars,) = model_figure(pd.DataFrame({"feature": ["age", "sex"], "weight": [0.3, -0.2]})).axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ["sex", "age"]
    with pytest.raises(InputError, match="neither"):
        model_figure(pd.DataFrame({"feature": ["age"]}))

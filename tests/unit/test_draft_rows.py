"""Rows to be scored, from any spreadsheet's CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corsia.drafts.rows import read_rows
from protocol.errors import InputError


def test_only_the_models_columns_are_read(tmp_path: Path) -> None:
    path = tmp_path / "nuovi.csv"
    path.write_bytes("Cognome;Età;Città;Peso\nRossi;61;Forlì;70,5\nBianchi;?;Cantù;<40\n".encode("cp1252"))
    frame = read_rows(path, ["Età", "Città", "Peso"], missing=["-9"])
    assert list(frame.columns) == ["Età", "Città", "Peso"]
    assert frame["Città"].tolist() == ["Forlì", "Cantù"]
    assert frame["Età"][0] == 61
    assert np.isnan(frame["Età"][1])
    with pytest.raises(InputError, match=r"no column 'Eta'; did you mean 'Età'"):
        read_rows(path, ["Eta"])
    with pytest.raises(InputError, match=r"altri\.csv: does not exist"):
        read_rows(tmp_path / "altri.csv", ["Età"])


def test_one_row_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "uno.csv"
    path.write_text('età,peso\n61,"70,5"\n')
    assert read_rows(path, ["peso", "età"]).loc[0].tolist() == [70.5, 61]

"""Rows to be scored, from any spreadsheet's CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from corsia.drafts.column import Kind
from corsia.drafts.file import read_file
from corsia.drafts.rows import read_rows
from corsia.drafts.site import dataset_config
from edge.sources.table import read
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


@pytest.mark.parametrize("delimiter", [";", ","])
@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        pytest.param(["1,5", "2,5", "4"], Kind.NUMBER, id="decimal commas"),
        pytest.param(["+1,5", "-2,5", "4"], Kind.NUMBER, id="signs"),
        pytest.param([",5", "0,7", "1"], Kind.NUMBER, id="no whole part"),
        pytest.param(["1,5e3", "2", "4"], Kind.NUMBER, id="exponents"),
        pytest.param(["1.234,5", "2.345,5", "0,5"], Kind.CATEGORY, id="marks of thousands"),
        pytest.param(["1,5", "2.5", "4"], Kind.CATEGORY, id="both decimal marks"),
        pytest.param(["038.0", "250.1", "410.9"], Kind.CATEGORY, id="codes of ICD-9"),
        pytest.param(["١", "٢", "٣"], Kind.CATEGORY, id="digits of another script"),
    ],
)
def test_a_draft_and_the_site_agree_on_what_is_a_number(
    tmp_path: Path, delimiter: str, cells: list[str], kind: Kind
) -> None:
    path = tmp_path / "a.csv"
    lines = [f'40{delimiter}"{cell}"' for cell in cells * 20]
    path.write_text("\n".join([f"x{delimiter}valore", *lines]) + "\n")
    file = read_file(path)
    site = read(path, ["valore"], (), file.form)["valore"]
    assert file.columns["valore"].kind is kind
    assert pd.api.types.is_numeric_dtype(site.dtype) == (kind is Kind.NUMBER)
    assert file.columns["valore"].present == int(site.notna().sum()) == len(lines)
    told = any("read as words" in note for note in file.notes)
    assert told == (kind is Kind.CATEGORY and cells[0][0].isascii())


def test_levels_keep_their_commas_and_missing_numbers_compare_by_value(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("stadio;peso\n" + "T1,N0;70,5\nT2,N1;-9,0\n" * 20)
    file = read_file(path, missing=["-9"])
    assert set(file.columns["stadio"].levels) == {"T1,N0", "T2,N1"}
    site = read(path, ["stadio", "peso"], (), file.form)
    assert set(site["stadio"]) == {"T1,N0", "T2,N1"}
    assert file.columns["peso"].present == int(site["peso"].notna().sum()) == 20


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_first_line_that_names_the_delimiter_is_no_header(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes("sep=;\r\nnota, altro;peso\r\na,b;70,5\r\nc,d;80\r\n".encode(encoding))
    file = read_file(path)
    assert list(file.columns) == ["nota, altro", "peso"]
    assert read(path, ["peso"], (), file.form)["peso"].tolist() == [70.5, 80.0]
    path.write_bytes("sep=;\r\na;b\r\n1;2;3\r\n".encode(encoding))
    with pytest.raises(InputError, match="line 3 has 3 fields"):
        read_file(path)


@pytest.mark.parametrize(
    ("heading", "is_patient"),
    [("Cod. Paziente", True), ("patient_id", True), ("N. nosologico", True), ("Nome paziente", False)],
)
def test_a_column_of_record_numbers_names_the_patient(tmp_path: Path, heading: str, is_patient: bool) -> None:
    """Else a person with two rows would count as two, and the numbers would be levels that the study names."""
    path = tmp_path / "a.csv"
    path.write_text(f"{heading};peso\n" + "".join(f"P{i // 2:03d};{50 + i}\n" for i in range(40)))
    file = read_file(path)
    config = dataset_config(file, ["peso"], table="a.csv")
    assert (file.columns[heading].role == "patient") is is_patient
    assert not is_patient or file.columns[heading].kind is Kind.IDENTIFIER
    assert (config["columns"].get(heading) == "patient", config.get("row_is_person", False)) == (
        is_patient, not is_patient
    )  # fmt: skip

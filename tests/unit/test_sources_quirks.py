"""Tables as hospitals write them: Latin-1, decimal commas, delimiters at the line's end, days of Excel."""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge.config import DatasetConfig
from edge.sources import consent, tabular
from protocol.errors import InputError

ROLES = {"codice": "patient", "età": "quasi", "glicemia": "value", "visita": "date"}
LINES = [
    "codice;età;glicemia;visita",
    "A001;61;5,4;2024-02-01;",
    "A002;47;12,25;2024-02-29;",
    "A003;;n.d.;;",
    "",
    ";;;;",
    "A004;39;1.234,5;2024-03-01;",
]


def dataset(path: Path, **more: object) -> DatasetConfig:
    return DatasetConfig.model_validate({"table": path, "columns": ROLES, **more})


def test_an_italian_export_is_read_as_it_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("\r\n".join(LINES).encode("latin-1"))
    form = {"encoding": "latin-1", "decimal": ",", "missing": ["n.d."], "numeric": ["glicemia"]}
    frame = tabular.read(dataset(path, format=form), list(ROLES), {"codice", "visita"})
    assert list(frame["codice"]) == ["A001", "A002", "A003", "A004"]
    assert frame["età"].fillna(-1).tolist() == [61, 47, -1, 39]
    assert frame["glicemia"].fillna(-1).tolist() == [5.4, 12.25, -1, -1], "1.234,5 may be either: it counts as missing"
    with pytest.raises(InputError, match=r"input\.table"):
        tabular.read(dataset(path), list(ROLES), {"codice", "visita"})  # not UTF-8, and nobody guesses


@pytest.mark.parametrize("last", ["A2;61;5,4;2024-02-01", "A2;61;5,4;2024-02-01;;", "A2;61;5;4;2024-02-01"])
def test_a_row_that_ends_otherwise_than_the_first_is_refused(tmp_path: Path, last: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("\n".join([LINES[0], "A001;61;5,4;2024-02-01;", last]))
    with pytest.raises(InputError, match="line 3 has"):
        tabular.read(dataset(path), list(ROLES), {"codice", "visita"})


def test_days_of_excel_are_days(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    assert book.active is not None
    rows = [
        ("A001", 61, 5.4, datetime(2024, 2, 29, tzinfo=UTC).replace(tzinfo=None)),
        ("A002", 47, 7, datetime(2024, 3, 1, 13, 30, tzinfo=UTC).replace(tzinfo=None)),
        ("A003", 5, 1, None),
    ]
    for row in (tuple(ROLES), *rows):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    frame = tabular.read(dataset(tmp_path / "t.xlsx"), list(ROLES), {"codice", "visita"})
    days = [consent.parse_date(str(cell)) for cell in frame["visita"].fillna("")]
    assert [None if day is None else day.isoformat() for day in days] == ["2024-02-29", "2024-03-01", None]
    assert list(frame["glicemia"]) == [5.4, 7.0, 1.0]


def test_a_formula_counts_by_its_value_and_without_one_is_refused(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook()
    assert book.active is not None
    book.active.append(tuple(ROLES))
    book.active.append(("A001", 61, "=2.7*2", '=IF(B2="","2024-02-29","")'))
    book.save(tmp_path / "bare.xlsx")  # as programs do that compute nothing
    with pytest.raises(InputError, match="line 2 has a formula without its value"):
        tabular.read(dataset(tmp_path / "bare.xlsx"), list(ROLES), {"codice", "visita"})
    with zipfile.ZipFile(tmp_path / "bare.xlsx") as bare, zipfile.ZipFile(tmp_path / "saved.xlsx", "w") as saved:
        for name in bare.namelist():
            data = bare.read(name)
            if name.endswith("sheet1.xml"):  # as Excel saves it
                data = data.replace(b"2.7*2</f><v />", b"2.7*2</f><v>5.4</v>").replace(b'"D2"', b'"D2" t="str"')
            saved.writestr(name, data)
    frame = tabular.read(dataset(tmp_path / "saved.xlsx"), list(ROLES), {"codice", "visita"})
    assert frame[["glicemia", "visita"]].fillna("").to_numpy().tolist() == [[5.4, ""]]

"""Tables of real hospitals: quirks read right, or refused with a code that names no value."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from edge.config import Consent, DatasetConfig, Policy
from edge.sources import DatasetSource
from protocol.errors import ConfigurationError, CorsiaError, InputError, PolicyRefused
from protocol.study import Condition, Dataset, Lane, Output, Pipeline, Study

TODAY = date(2024, 6, 15)
ROLES = {"id": "patient", "age": "value", "name": "identifier", "seen": "date"}
HEAD = "id,age,name,seen,consent,gone"


def study(columns: tuple[str, ...] = ("age",), where: tuple[Condition, ...] = (), **more: Any) -> Study:
    return Study(
        schema=1,
        id="s",
        title="t",
        lane=Lane.HARVEST,
        purpose="research",
        legal_basis="consent",
        controller="c",
        ethics_reference="e",
        expires=datetime(2040, 1, 1, tzinfo=UTC),
        sites=("a",),
        dataset=Dataset(name="d", columns=columns, where=where),
        pipeline=Pipeline(name="harvest"),
        output=Output(files=True),
    )


def source(tmp_path: Path, text: str | bytes, *, roles: dict[str, str] | None = None, **more: Any) -> DatasetSource:
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    consent = more.pop("consent", Consent(column="consent", granted=("yes",), withdrawn_on="gone"))
    config = DatasetConfig(
        table=path,
        columns=ROLES if roles is None else roles,
        consent=consent,
        policy=Policy(require_consent=more.pop("require_consent", consent is not None)),
    )
    return DatasetSource(config, study(**more), today=TODAY)


def open_source(tmp_path: Path, text: str | bytes, **more: Any) -> DatasetSource:
    return source(tmp_path, text, consent=None, **more)


def table(s: DatasetSource) -> pd.DataFrame:
    frame = s.table()
    assert frame is not None
    return frame


def code(s: DatasetSource) -> str:
    with pytest.raises(CorsiaError) as error:
        s.table()
    assert "SECRET" not in str(error.value)
    return error.value.code


@pytest.mark.parametrize(
    ("consent", "gone", "reason"),
    [
        ("yes", "", ""),
        (" yes ", "", ""),
        ("yes", "2024-06-16", ""),
        ("yes", "2024-06-15", "withdrawn"),
        ("yes", "20200101", "withdrawn"),
        ("yes", "2020-01-01T10:00:00+02:00", "withdrawn"),
        ("yes", "31/12/2030", "withdrawn"),
        ("yes", "soon", "withdrawn"),
        ("no", "", "consent"),
        ("", "", "consent"),
        ("YES", "", "consent"),
        ("maybe", "2020-01-01", "consent"),
    ],
)
def test_consent_each_way(tmp_path: Path, consent: str, gone: str, reason: str) -> None:
    s = source(tmp_path, f"{HEAD}\np1,50,N,2024-01-01,{consent},{gone}\n")
    assert len(table(s)) == (reason == "")
    assert s.withheld == ({reason: 1} if reason else {})


def test_row_without_patient_is_withheld(tmp_path: Path) -> None:
    s = source(tmp_path, f"{HEAD}\n ,50,N,,yes,\np1,1,N,,yes,\n")
    assert table(s)["id"].tolist() == ["p1"]
    assert s.withheld == {"no-patient": 1}


def test_withdrawal_speaks_for_the_person(tmp_path: Path) -> None:
    s = source(tmp_path, f"{HEAD}\np1,50,N,,yes,\n P1,51,N,,yes,2020-01-01\np2,3,N,,yes,\n")
    assert table(s)["id"].tolist() == ["p2"]
    assert s.withheld == {"withdrawn": 2}


def test_consent_is_required_but_not_configured(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        source(tmp_path, "id\n", consent=None, require_consent=True)


def test_without_consent_all_rows_pass(tmp_path: Path) -> None:
    s = open_source(tmp_path, "id,age,name,seen\np1,1,a,\np2,2,b,\n")
    assert len(table(s)) == 2
    assert s.withheld == {}


def test_consent_column_that_looks_like_numbers(tmp_path: Path) -> None:
    rule = Consent(column="ok", granted=("1",))
    text = "id,ok\np1,1\np2,0\np3,\n"
    s = source(tmp_path, text, roles={"id": "patient", "ok": "value"}, consent=rule, columns=())
    frame = table(s)
    assert frame["id"].tolist() == ["p1"]
    assert s.withheld == {"consent": 2}


QUIRKS = {
    "bom": "﻿id,age,name,seen\np1,1,a,\n",
    "semicolons": "id;age;name;seen\np1;1;a;\n",
    "tabs": "id\tage\tname\tseen\np1\t1\ta\t\n",
    "empty lines": "\n\nid,age,name,seen\n\np1,1,a,\n\n,,,\n",
    "spaces in the header": "id, age , name,seen\np1,1,a,\n",
    "windows": "id,age,name,seen\r\np1,1,a,\r\n",
    "quotes": '"id","age","name","seen"\n"p1","1","a",""\n',
    "other columns": "x,id,age,name,seen,\nq,p1,1,a,,\n",
}


@pytest.mark.parametrize("name", QUIRKS)
def test_quirks(tmp_path: Path, name: str) -> None:
    frame = table(open_source(tmp_path, QUIRKS[name]))
    assert frame.columns.tolist() == ["id", "age", "name", "seen"]
    assert frame.loc[0, ["id", "age", "name"]].tolist() == ["p1", 1, "a"]
    assert frame["seen"].isna().all()


def test_quoted_newline_and_delimiter(tmp_path: Path) -> None:
    frame = table(open_source(tmp_path, 'id,age,name,seen\np1,1,"a\n;,""b""",\np2,2,c,\n'))
    assert frame["name"].tolist() == ['a\n;,"b"', "c"]


REFUSED = {
    "latin-1": ("id,age,name,seen\np1,1,SECRETò,\n".encode("latin-1"), "input.table"),
    "utf-16": ("id,age,name,seen\np1,1,SECRET,\n".encode("utf-16"), "input.table"),
    "binary": (b"id,age,name,seen\np1,1,SECRET\0,\n", "input.table"),
    "short row": (b"id,age,name,seen\np1,1\n", "input.table"),
    "long row": (b"id,age,name,seen\np1,1,SECRET,,,\n", "input.table"),
    "open quote swallows rows": (b'id,age,name,seen\np1,1,"SECRET,\np2,2,b,\n', "input.table"),
    "text after a quote": (b'id,age,name,seen\np1,1,"SEC"RET,\n', "input.table"),
    "duplicate column": (b"id,age,age,name,seen\np1,1,2,SECRET,\n", "input.table"),
    "empty": (b"", "input.table"),
    "missing column": (b"id,name,seen\np1,SECRET,\n", "input.column-missing"),
    "not parquet": (b"PAR1 SECRET", "input.table"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    raw, expected = REFUSED[name]
    assert code(open_source(tmp_path, raw)) == expected


def test_absent_table(tmp_path: Path) -> None:
    s = open_source(tmp_path, "id\n")
    (tmp_path / "t.csv").unlink()
    assert code(s) == "input.table"


def test_missing_columns_are_named(tmp_path: Path) -> None:
    text = "id,age,name,seen\np1,1,a,\n"
    with pytest.raises(InputError, match="'consent'"):
        source(tmp_path, text).table()
    with pytest.raises(InputError, match="'height'"):
        open_source(tmp_path, text, columns=("height",)).table()
    where = (Condition(column="stage", op="==", value=1),)
    with pytest.raises(InputError, match="'stage'"):
        open_source(tmp_path, text, where=where).table()


def test_columns_without_a_role_are_refused(tmp_path: Path) -> None:
    text = "id,age,name,seen,hiv\np1,1,a,,1\n"
    with pytest.raises(PolicyRefused):
        open_source(tmp_path, text, columns=("hiv",)).table()
    with pytest.raises(PolicyRefused):
        open_source(tmp_path, text, where=(Condition(column="hiv", op="==", value=1),)).table()
    assert "hiv" not in table(open_source(tmp_path, text))


ROWS = "id,age,name,seen\n" + "".join(
    f"{i},{age},{name},{seen}\n"
    for i, age, name, seen in [
        ("p1", "40", "ann", "2020-01-01"),
        ("p2", "50", "bob", "20210101"),
        ("p3", "", "", ""),
        ("p4", "60", "40", "2022-01-01 10:00"),
    ]
)


@pytest.mark.parametrize(
    ("column", "op", "value", "expected"),
    [
        ("age", "==", 40, ["p1"]),
        ("age", "!=", 40, ["p2", "p4"]),
        ("age", "<", 50, ["p1"]),
        ("age", "<=", 50.0, ["p1", "p2"]),
        ("age", ">", 50, ["p4"]),
        ("age", ">=", 50, ["p2", "p4"]),
        ("age", "in", (40, 60), ["p1", "p4"]),
        ("age", "not-null", None, ["p1", "p2", "p4"]),
        ("name", "==", "ann", ["p1"]),
        ("name", "!=", "ann", ["p2", "p4"]),
        ("name", "<", "b", ["p1", "p4"]),
        ("name", "in", ("ann", "40"), ["p1", "p4"]),
        ("seen", ">=", "2021-01-01", ["p2", "p4"]),
        ("seen", "==", "2022-01-01", ["p4"]),
    ],
)
def test_conditions(tmp_path: Path, column: str, op: Any, value: Any, expected: list[str]) -> None:
    s = open_source(tmp_path, ROWS, where=(Condition(column=column, op=op, value=value),))
    frame = table(s)
    assert frame["id"].tolist() == expected
    assert frame.index.tolist() == list(range(len(expected)))
    assert s.withheld == {}


@pytest.mark.parametrize(
    ("column", "op", "value"),
    [
        ("age", "==", "40"),
        ("age", "==", None),
        ("age", "in", 40),
        ("age", "==", (40,)),
        ("age", "in", (40, "x")),
        ("age", "<", True),
        ("seen", "<", "yesterday"),
    ],
)
def test_conditions_that_make_no_sense(tmp_path: Path, column: str, op: Any, value: Any) -> None:
    s = open_source(tmp_path, ROWS, where=(Condition(column=column, op=op, value=value),))
    assert code(s) == "input.study"


def test_what_cannot_be_compared_is_withheld(tmp_path: Path) -> None:
    s = open_source(tmp_path, ROWS, where=(Condition(column="name", op="<", value=100),))
    assert table(s)["id"].tolist() == ["p4"]
    assert s.withheld == {"unreadable": 2}


def test_types_are_conservative(tmp_path: Path) -> None:
    text = "id,a,b,c,d,e,f,g\n1,1,1,007,1234567890123456,yes,NA,1e2\n2,2,NA,8,2,no,Smith,-.5\n"
    roles = dict.fromkeys("abcdefg", "value") | {"id": "patient"}
    frame = table(open_source(tmp_path, text, roles=roles, columns=("a",)))
    assert frame["id"].tolist() == ["1", "2"]
    assert str(frame["a"].dtype) == "int64"
    assert str(frame["b"].dtype) == "float64"
    assert np.isnan(frame["b"][1])
    assert frame["c"].tolist() == ["007", "8"]
    assert frame["d"].tolist() == ["1234567890123456", "2"]
    assert frame["e"].tolist() == ["yes", "no"]
    assert frame["f"].tolist() == ["NA", "Smith"]
    assert frame["g"].tolist() == [100.0, -0.5]


def test_decimal_comma_of_italian_exports(tmp_path: Path) -> None:
    text = "id;a;b\n1;1,5;1.500\n2;2;3,5\n"
    roles = {"id": "patient", "a": "value", "b": "value"}
    frame = table(open_source(tmp_path, text, roles=roles, columns=()))
    assert frame["a"].tolist() == [1.5, 2.0]
    assert frame["b"].tolist() == ["1.500", "3,5"]


def test_parquet_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    pd.DataFrame(
        {
            "id": [1.0, 2.0, np.nan],
            "age": [1, 2, 3],
            "name": ["a", None, "c"],
            "seen": pd.to_datetime(["2020-01-01", None, "2020-01-03"]),
        }
    ).to_parquet(path)
    s = open_source(tmp_path, path.read_bytes())
    frame = table(s)
    assert frame["id"].tolist() == ["1", "2"]
    assert frame["seen"].fillna("").tolist() == ["2020-01-01", ""]
    assert frame["age"].tolist() == [1, 2]
    assert s.withheld == {"no-patient": 1}


def test_table_cannot_be_changed_through_the_answer(tmp_path: Path) -> None:
    s = open_source(tmp_path, ROWS)
    frame = table(s)
    frame.loc[:, "age"] = 0
    assert table(s)["age"].max() == 60


# -- tables that are not plain CSV UTF-8


def formatted(tmp_path: Path, raw: bytes, roles: dict[str, str], **form: Any) -> pd.DataFrame:
    path = tmp_path / "f.csv"
    path.write_bytes(raw)
    config = DatasetConfig.model_validate(
        {
            "table": path, "columns": roles, "format": form, "policy": {"require_consent": False},
            "row_is_person": "patient" not in roles.values(),
        }
    )  # fmt: skip
    return table(DatasetSource(config, study(columns=tuple(roles)), today=TODAY))


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-16"])
def test_a_table_in_another_encoding(tmp_path: Path, encoding: str) -> None:
    raw = "età;città\n61;Forlì\n".encode(encoding)
    frame = formatted(tmp_path, raw, {"età": "value", "città": "value"}, encoding=encoding)
    assert frame.loc[0].tolist() == [61, "Forlì"]
    with pytest.raises(InputError, match="say `encoding`"):
        formatted(tmp_path, raw, {"età": "value"})


def test_words_for_missing_values_and_decimal_commas(tmp_path: Path) -> None:
    raw = b'a,b,c,d\n"1,5",?,-9,x\n-9.0,2,<3,?\n"2,5",ND,4,y\n'
    frame = formatted(
        tmp_path, raw, dict.fromkeys("abcd", "value"), missing=["?", "nd", "-9"], decimal=",", numeric=["c"]
    )
    assert frame["a"].tolist()[::2] == [1.5, 2.5]
    assert np.isnan(frame["a"][1])
    assert frame["b"].isna().tolist() == [True, False, True]
    assert frame["c"].isna().tolist() == [True, True, False]
    assert frame["d"].isna().tolist() == [False, True, False]


def test_text_columns_keep_their_words(tmp_path: Path) -> None:
    frame = formatted(tmp_path, b"id,x\n?,1\n-9,2\n", {"id": "patient", "x": "value"}, missing=["-9"])
    assert frame["id"].tolist() == ["?", "-9"]


def test_strokes_part_fields_too(tmp_path: Path) -> None:
    assert formatted(tmp_path, b"a|b\n1|2\n", {"a": "value", "b": "value"}).loc[0].tolist() == [1, 2]


def test_a_table_names_the_patient_or_says_that_a_row_is_one(tmp_path: Path) -> None:
    values: dict[str, Any] = {"table": tmp_path / "t.csv", "columns": {"age": "value"}}
    assert DatasetConfig.model_validate({**values, "row_is_person": True}).row_is_person
    for wrong in (values, {**values, "columns": {"id": "patient"}, "row_is_person": True}):
        with pytest.raises(ValueError, match="row_is_person"):
            DatasetConfig.model_validate(wrong)

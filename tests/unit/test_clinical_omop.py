"""OMOP CDM 5.4 into events: zips, folders, quirks, and the sample against a second computation in SQL."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines import SourceFile
from pipelines.features import history, omop
from protocol.errors import InputError

SAMPLE = Path(__file__).parents[2] / ".." / "shared" / "data" / "omop_synthea27nj" / "Synthea27Nj_5.4.zip"
TABLES = {
    "person": "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,birth_datetime\n"
    "1,8507,1950,,,\n2,8532,1980,6,15,1980-06-15 00:00:00\n3,0,1990,1,1,\n",
    "condition_occurrence": "condition_occurrence_id,person_id,condition_concept_id,condition_start_date,"
    "condition_source_concept_id\n1,1,10,2020-01-01,11\n2,2,0,2020-01-01,0\n3,9,10,2020-01-01,11\n",
    "drug_exposure": "drug_exposure_id,person_id,drug_concept_id,drug_exposure_start_date,drug_exposure_end_date,"
    "days_supply,drug_source_concept_id\n1,1,20,2020-01-01,2020-01-10,,0\n2,1,20,2020-01-05,2020-01-08,10,0\n",
    "measurement": "measurement_id,person_id,measurement_concept_id,measurement_date,operator_concept_id,"
    "value_as_number,unit_concept_id,unit_source_value,measurement_source_concept_id\n"
    "1,1,30,2020-01-01,0,90,40,,0\n2,1,30,2020-02-01,4171756,5,40,,0\n3,2,30,2020-02-01,4172703,5.5,0,mmol/L,0\n"
    "4,2,30,2020-03-01,,77,0,,0\n",
    "observation": "observation_id,person_id,observation_concept_id,observation_date,value_as_number,unit_concept_id,"
    "unit_source_value,observation_source_concept_id\n",
    "procedure_occurrence": "procedure_occurrence_id,person_id,procedure_concept_id,procedure_date,"
    "procedure_source_concept_id\n",
    "concept": "concept_id,vocabulary_id,concept_code\n10,SNOMED,22298006\n11,ICD10CM,I21.9\n20,RxNorm,83367\n"
    "30,LOINC,2345-7\n40,UCUM,mg/dL\n50,ATC,C10AA\n",
    "concept_ancestor": "ancestor_concept_id,descendant_concept_id\n50,20\n",
    "cdm_source": "cdm_source_name,cdm_version\nX,v5.4.1\n",
}


def zipped(tables: dict[str, str], **names: Any) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in tables.items():
            archive.writestr(names.get(name, f"{name}.csv"), text)
        archive.writestr("__MACOSX/._PERSON.csv", b"\x00\x05rubbish")
        archive.writestr("notes/README.txt", "nothing")
    return target.getvalue()


def read(*data: bytes, **more: Any) -> Any:
    return omop.read([SourceFile(f"{i:08d}.zip", one) for i, one in enumerate(data)], **more)


def test_a_zip_in_any_case_and_folder_is_read() -> None:
    events = read(zipped(TABLES, person="cdm/PERSON.CSV", concept="vocab/Concept.csv"))
    assert events.persons["sex"].tolist() == ["M", "F", "U"]
    assert events.persons["birth_year"].tolist() == [1950, 1980, 1990]
    codes = set(zip(events.rows["system"], events.rows["code"], strict=True))
    assert {("snomed", "22298006"), ("icd10cm", "I21.9"), ("rxnorm", "83367"), ("loinc", "2345-7")} <= codes
    assert events.findings.counts["no-patient"] == 1
    assert events.findings.counts["no-code"] == 1
    assert events.findings.counts["comparator"] == 1


def test_loose_files_are_known_by_their_header_in_every_format() -> None:
    files = []
    for name, text in TABLES.items():
        frame = pd.read_csv(io.StringIO(text))
        if name == "measurement":
            target = io.BytesIO()
            frame["measurement_date"] = pd.to_datetime(frame["measurement_date"])
            frame.rename(columns=str.upper).to_parquet(target)
            files.append(target.getvalue())
        elif name == "concept":
            files.append(frame.to_csv(sep="\t", index=False).encode())
        elif name == "person":
            files.append(gzip.compress(("﻿" + text).encode()))
        else:
            files.append(text.replace("\n", "\r\n").encode())
    events, plain = omop_events(files), read(zipped(TABLES))
    columns = ["person", "kind", "system", "code", "day", "value", "unit", "days"]
    for made in (events, plain):
        made.rows.sort_values(columns, inplace=True)
    assert events.rows[columns].reset_index(drop=True).equals(plain.rows[columns].reset_index(drop=True))


def omop_events(files: list[bytes]) -> Any:
    return omop.read([SourceFile(f"{i:08d}.bin", data) for i, data in enumerate(reversed(files))])


@pytest.mark.parametrize("missing", ["person", "concept", "measurement", "drug_exposure"])
def test_a_missing_table_is_one_clear_error(missing: str) -> None:
    with pytest.raises(InputError, match=f"'{missing}' is missing") as caught:
        read(zipped({name: text for name, text in TABLES.items() if name != missing}))
    assert caught.value.code == "input.omop"


def test_other_versions_missing_columns_and_broken_zips_are_refused() -> None:
    with pytest.raises(InputError, match="not of CDM version"):
        read(zipped(TABLES | {"cdm_source": "cdm_source_name,cdm_version\nX,6.0\n"}))
    with pytest.raises(InputError, match="has no column 'year_of_birth'"):
        read(zipped(TABLES | {"person": "person_id,gender_concept_id\n1,8507\n"}))
    with pytest.raises(InputError, match="damaged"):
        read(zipped(TABLES)[:2000])


def test_a_bomb_is_refused() -> None:
    with pytest.raises(InputError, match="too large"):
        read(zipped(TABLES | {"concept": TABLES["concept"] + "\n" * 30_000_000}))


def test_drugs_units_and_ancestors() -> None:
    parameters = history.parameters_of(
        {
            "index": {"date": "2020-01-03"},
            "features": [
                {
                    "kind": "drug",
                    "name": "statin",
                    "of": {"system": "atc", "descendants_of": ["C10AA"]},
                    "statistics": ["any", "count", "days"],
                    "window": {"start": 0, "end": 30},
                },
                {
                    "kind": "measurement",
                    "name": "glucose",
                    "of": {"system": "loinc", "codes": ["2345-7"]},
                    "unit": "mmol/L",
                    "statistics": ["last"],
                },
                {"kind": "charlson"},
                {"kind": "age"},
            ],
        }
    )
    events = read(zipped(TABLES), ancestors=history.ancestors(parameters))
    frame = history.extract(events, parameters)
    # 1 to 10 January and, by days of supply, 5 to 14 January: from the 3rd on, 12 days; one starts before the window
    assert frame.loc["1", "statin_days"] == 12
    assert frame.loc["1", "statin_count"] == 1
    assert frame["statin_any"].tolist() == [True, False, False]
    assert frame.loc["1", "glucose_last"] == pytest.approx(90 / 18.0156)
    assert frame.loc["2", "glucose_last"] == 5.5
    assert frame["charlson"].tolist() == [1, 0, 0]
    assert frame["age"].tolist() == [69, 39, 30]
    assert events.findings.counts["unit-missing"] == 1
    assert events.findings.counts["birth-partial"] == 1


def test_ancestors_without_the_table_are_one_clear_error() -> None:
    tables = {name: text for name, text in TABLES.items() if name != "concept_ancestor"}
    with pytest.raises(InputError, match="concept_ancestor"):
        read(zipped(tables), ancestors={("atc", "C10AA")})


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_file(), reason="the OMOP sample is not there")
def test_the_sample_gives_what_sql_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    sample = SAMPLE.resolve().read_bytes()
    monkeypatch.chdir(tmp_path)
    zipfile.ZipFile(io.BytesIO(sample)).extractall(tmp_path)
    parameters = history.parameters_of(
        {
            "index": {"first": {"system": "loinc", "codes": ["2339-0"]}},
            "features": [
                {
                    "kind": "measurement",
                    "name": "sbp",
                    "of": {"system": "loinc", "codes": ["8480-6"]},
                    "unit": "mm[Hg]",
                    "statistics": ["last", "first", "mean", "min", "max", "count", "slope"],
                    "window": {"start": -3650, "end": 1825},
                },
                {
                    "kind": "codes",
                    "name": "visits",
                    "of": {"system": "snomed", "prefixes": ["1"]},
                    "window": {"end": 0},
                },
            ],
        }
    )
    events = read(sample)
    frame = history.extract(events, parameters)
    query = """
      with m as (select * from read_csv('MEASUREMENT.csv', all_varchar = true)),
      c as (select * from read_csv('CONCEPT.csv', all_varchar = true)),
      i as (select person_id, min(cast(measurement_date as date)) as d from m
            where measurement_concept_id = '3000483' group by 1),
      s as (select m.person_id, cast(measurement_date as date) as d, cast(value_as_number as double) as v,
                   date_diff('day', i.d, cast(measurement_date as date)) as o, cast(measurement_id as int) as n
            from m join i using (person_id) where measurement_concept_id = '3004249')
      select person_id, arg_max(v, (d, n)), arg_min(v, (d, n)), avg(v), min(v), max(v), count(*),
             regr_slope(v, date_diff('day', date '1970-01-01', d) / 365.25)
      from s where o between -3650 and 1825 group by 1 order by 1
    """
    rows = duckdb.connect().sql(query).fetchall()
    assert len(rows) == len(frame) == 10
    for person, *expected in rows:
        found = frame.loc[person].tolist()[:7]
        assert found == pytest.approx(expected, rel=1e-9)
    assert events.findings.counts["no-index"] == 18
    everything = """
      with i as (select person_id, min(cast(measurement_date as date)) as d from 'MEASUREMENT.csv'
                 where measurement_concept_id = 3000483 group by 1),
      e as (select person_id, condition_concept_id as c, condition_start_date as d from 'CONDITION_OCCURRENCE.csv'
            union all select person_id, procedure_concept_id, procedure_date from 'PROCEDURE_OCCURRENCE.csv'
            union all select person_id, measurement_concept_id, measurement_date from 'MEASUREMENT.csv'
            union all select person_id, observation_concept_id, observation_date from 'OBSERVATION.csv')
      select i.person_id, count(*) filter (where vocabulary_id = 'SNOMED' and concept_code like '1%' and e.d <= i.d)
      from i join e using (person_id) join 'CONCEPT.csv' c on c.concept_id = e.c group by 1
    """
    for person, count in duckdb.connect().sql(everything).fetchall():
        assert frame.loc[str(person), "visits"] == count

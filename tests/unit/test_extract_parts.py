"""Lane 3 with every kind of source: images, genomes, records and context of one patient meet in one row."""

from __future__ import annotations

import json
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipelines import SourceFile, extract
from privacy.deid.pseudonym import Pseudonymizer
from protocol.errors import CorsiaError
from protocol.study import Lane
from tests.unit.test_harvest import MemoryGate, MemorySource, job

N = 60
IDS = [f"P{i:03d}" for i in range(N)]
KEY = Pseudonymizer(bytes(range(32)))
TABLE = pd.DataFrame(
    {
        "id": IDS,
        "age": np.arange(N) % 40 + 30,
        "region": [("ITC4", "ITH5", "ITI4")[i % 3] for i in range(N)],
        "visit": [f"2021-03-{i % 28 + 1:02d}" for i in range(N)],
    }
)
ROLES = {"id": "patient", "age": "value", "region": "quasi", "visit": "date"}


def bundle(i: int) -> dict[str, Any]:
    patient = {
        "resourceType": "Patient",
        "id": f"f{i}",
        "gender": "female" if i % 2 else "male",
        "birthDate": "1960-05-01",
        "identifier": [{"system": "urn:hospital", "value": IDS[i]}],
    }
    measured = {
        "resourceType": "Observation",
        "id": f"o{i}",
        "status": "final",
        "subject": {"reference": f"urn:uuid:f{i}"},
        "code": {"coding": [{"system": "http://loinc.org", "code": "2160-0"}]},
        "effectiveDateTime": "2021-01-05",
        "valueQuantity": {"value": 1.0 + i / 100, "system": "http://unitsofmeasure.org", "code": "mg/dL"},
    }
    entries = [{"fullUrl": f"urn:uuid:{r['id']}", "resource": r} for r in (patient, measured)]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def vcf(draw: np.random.Generator, variants: int = 80) -> tuple[bytes, np.ndarray]:
    calls = draw.binomial(2, 0.4, (variants, N))
    head = "##fileformat=VCFv4.2\n##contig=<ID=1,length=249250621>\n"
    head += '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    head += "\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT", *IDS]) + "\n"
    words = ("0/0", "0/1", "1/1")
    lines = [
        "\t".join(["1", str(1000 + 10 * v), f"rs{v}", "A", "G", ".", "PASS", ".", "GT", *(words[c] for c in row)])
        for v, row in enumerate(calls)
    ]
    return (head + "\n".join(lines) + "\n").encode(), calls


def pgs(weights: np.ndarray) -> str:
    rows = [f"rs{v}\t1\t{1000 + 10 * v}\tG\tA\t{w:.6f}" for v, w in enumerate(weights)]
    head = "###PGS CATALOG SCORING FILE\n#format_version=2.0\n#pgs_id=PGS000001\n#genome_build=GRCh37\n"
    return head + "rsID\tchr_name\tchr_position\teffect_allele\tother_allele\teffect_weight\n" + "\n".join(rows) + "\n"


def counts(draw: np.random.Generator) -> bytes:
    frame = pd.DataFrame(draw.poisson(50, (N, 30)), index=IDS, columns=[f"G{g}" for g in range(30)])
    return frame.to_csv().encode()


@pytest.fixture(name="everything", scope="module")
def _everything() -> tuple[MemorySource, dict[str, Any], np.ndarray, np.ndarray]:
    draw = np.random.default_rng(7)
    data, calls = vcf(draw)
    weights = draw.normal(size=len(calls)).round(6)
    source = MemorySource(TABLE.copy(), [])
    source.kinds = {
        "fhir": [SourceFile(f"{i:08d}.json", json.dumps(bundle(i)).encode()) for i in range(N)],
        "genotypes": [SourceFile("00000001.vcf", data)],
        "matrix": [SourceFile("00000001.csv", counts(draw))],
    }
    weather = "area,day,population,pm10\n" + "".join(
        f"{area},2021-02-{day:02d},4000000,{value}\n"
        for area, value in (("ITC4", 40), ("ITH5", 30), ("ITI4", 20))
        for day in range(1, 29)
    )
    parameters = {
        "index": "visit",
        "history": {
            "index": {"column": True},
            "features": [
                {
                    "kind": "measurement",
                    "name": "creatinine",
                    "of": {"system": "loinc", "codes": ["2160-0"]},
                    "unit": "umol/L",
                    "statistics": ["last"],
                    "window": {"start": -365, "end": 0},
                }
            ],
        },
        "genomics": {"build": "GRCh37", "scores": {"PRS": pgs(weights)}},
        "matrix": {"sets": "S1\tx\t" + "\t".join(f"G{g}" for g in range(10)) + "\n"},
        "context": {
            "table": weather,
            "area": "region",
            "join": {"scheme": "nuts2", "columns": [{"name": "pm10"}], "start": -60, "end": 0},
        },
    }
    return source, parameters, calls, weights


OUTPUT = {
    "pseudonym": "string", "age": "float", "creatinine_*": "float", "score_*": "float", "set_*": "float",
    "context_*": "float",
}  # fmt: skip


def work(parameters: dict[str, Any], **more: Any) -> extract.Job:
    made = job(ROLES, OUTPUT, lane=Lane.EXTRACT, parameters=parameters, min_cohort=10, **more)
    asked = {"columns": ("age",), "images": False, "fhir": True, "genotypes": True, "matrix": True}
    dataset = made.study.dataset.model_copy(update=asked)
    return replace(made, study=made.study.model_copy(update={"dataset": dataset}), patient_system="urn:hospital")


def test_all_parts_of_a_patient_meet_in_one_row(everything: Any) -> None:
    source, parameters, calls, weights = everything
    gate = MemoryGate()
    extract.run(work(parameters), source, gate)
    rows = gate.tables()[0].to_pandas().set_index("pseudonym")
    assert len(rows) == N
    assert set(rows.columns) == {"age", "creatinine_last", "score_PRS", "set_S1", "context_pm10"}
    one = rows.loc[KEY.pseudonym(IDS[6])]
    assert one["age"] == TABLE.age[6]
    assert one["creatinine_last"] == pytest.approx(1.06 * 88.42, rel=1e-3)
    assert one["context_pm10"] == 40.0
    exact = pd.Series(calls.T @ weights, index=[KEY.pseudonym(i) for i in IDS])
    assert float((rows["score_PRS"] - exact[rows.index]).abs().max()) < 0.05 * float(exact.std())
    assert gate.withheld == {}
    assert all(not any(i.encode() in item.data for i in IDS) for item in gate.items)


def test_persons_without_consent_are_not_even_part_of_a_mean(everything: Any) -> None:
    source, parameters, *_ = everything
    some = MemorySource(TABLE.iloc[:40].reset_index(drop=True), [])
    some.kinds = source.kinds
    gate, again = MemoryGate(), MemoryGate()
    extract.run(work(parameters), some, gate)
    assert len(gate.tables()[0]) == 40
    assert json.loads(gate.items[-1].data)["counts"]["no-index"] == N - 40
    cut = MemorySource(TABLE.iloc[:40].reset_index(drop=True), [])
    matrix = pd.read_csv(BytesIO(source.kinds["matrix"][0].data), index_col=0).iloc[:40]
    cut.kinds = source.kinds | {"matrix": [SourceFile("00000001.csv", matrix.to_csv().encode())]}
    extract.run(work(parameters), cut, again)
    assert gate.tables()[0].equals(again.tables()[0])


def test_a_person_who_lacks_a_part_is_dropped_or_kept_as_the_study_says(everything: Any) -> None:
    source, parameters, *_ = everything
    some = MemorySource(TABLE.copy(), [])
    some.kinds = source.kinds | {"fhir": source.kinds["fhir"][5:]}
    gate = MemoryGate()
    extract.run(work(parameters), some, gate)
    assert len(gate.tables()[0]) == N - 5
    assert gate.withheld == {"no-part": 5}
    gate = MemoryGate()
    extract.run(work(parameters | {"join": "left"}), some, gate)
    rows = gate.tables()[0].to_pandas()
    assert len(rows) == N
    assert int(rows["creatinine_last"].isna().sum()) == 5


def test_a_bad_record_is_told_by_its_opaque_name_and_the_others_go_on(everything: Any) -> None:
    source, parameters, *_ = everything
    some = MemorySource(TABLE.copy(), [])
    broken = [SourceFile("00000999.json", b'{"resourceType": "Bundle", "entry": [')]
    some.kinds = source.kinds | {"fhir": [*source.kinds["fhir"], *broken]}
    gate = MemoryGate()
    extract.run(work(parameters), some, gate)
    report = json.loads(gate.items[-1].data)
    assert [e["record"] for e in report["errors"]] == ["00000999.json"]
    assert len(gate.tables()[0]) == N


def test_events_and_questionnaires_of_the_table_itself() -> None:
    visits = pd.DataFrame(
        {
            "id": [i for i in IDS[:20] for _ in range(2)],
            "when": ["2021-01-01", "2021-02-01"] * 20,
            "icd": ["I10", "E11.9"] * 20,
            "vocabulary": "icd10",
            **{f"q{n}": [1, 2] * 20 for n in range(1, 10)},
        }
    )
    roles = {"id": "patient", "when": "date", "icd": "text", "vocabulary": "text"}
    roles |= {f"q{n}": "value" for n in range(1, 10)}
    features = [
        {"kind": "codes", "name": "diabetes", "of": {"system": "icd10", "prefixes": ["E11"]}, "output": "any"},
        {
            "kind": "measurement",
            "name": "mood",
            "of": {"system": "questionnaire", "codes": ["phq-9"]},
            "unit": "{score}",
            "statistics": ["last"],
        },
    ]
    parameters = {
        "history": {"features": features},
        "events": {"code": "icd", "system": "vocabulary", "day": "when"},
        "questionnaires": {"phq-9": [f"q{n}" for n in range(1, 10)]},
        "day": "when",
    }
    output = {"pseudonym": "string", "diabetes": "bool", "mood_last": "float"}
    made = job(roles, output, lane=Lane.EXTRACT, parameters=parameters, min_cohort=10)
    dataset = made.study.dataset.model_copy(update={"columns": ()})
    gate = MemoryGate()
    extract.run(replace(made, study=made.study.model_copy(update={"dataset": dataset})), MemorySource(visits, []), gate)
    rows = gate.tables()[0].to_pandas()
    assert len(rows) == 20
    assert rows["diabetes"].all()
    assert set(rows["mood_last"]) == {18.0}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"genomics": {"build": "GRCh38", "scores": {"PRS": pgs(np.ones(40))}}}, "input."),
        ({"genomics": {"build": "GRCh37"}}, "input.study"),
        ({"genomics": {"build": "GRCh37", "scores": {"ONE": pgs(np.ones(2))}}}, "gate.genotype"),
        ({"matrix": {"sets": "S1\tx\tNOT\tTHERE\n"}}, "gate.genotype"),
        ({"index": "nothing"}, "input.column-missing"),
        ({"wearables": {"signals": ["mood"]}, "day": "visit"}, "input.study"),
        ({"context": {"table": "area,day", "area": "region", "join": {"scheme": "postcode"}}}, "input.study"),
        ({"history": {"features": []}}, "input.study"),
        ({"extra": 1}, "input.study"),
    ],
)
def test_what_cannot_be_made_is_one_clear_refusal(everything: Any, change: dict[str, Any], code: str) -> None:
    source, parameters, *_ = everything
    gate = MemoryGate()
    with pytest.raises(CorsiaError) as refused:
        extract.run(work(parameters | change), source, gate)
    assert refused.value.code.startswith(code)
    assert gate.items == []

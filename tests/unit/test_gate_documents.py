"""The gate over FHIR, and over l and t: a worker that lies about either is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pandas as pd
import pytest

from edge.gate import EgressGate
from edge.residual import Residual
from privacy.deid.fhir import FhirEngine
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.text import TextEngine
from protocol.errors import DisclosureRefused
from protocol.parcel import Item, ItemKind
from tests.unit.test_gate import ROLES, SOURCE, dicom, effective, pseudonyms, refused, report, study, table
from tests.unit.test_sources_documents import bundle, lines, observation, patient

OUTPUT = {"documents": True, "files": True, "columns": [
    {"name": n, "dtype": t} for n, t in (("pseudonym", "string"), ("age", "int"), ("sex", "string"), ("score", "float"))
]}  # fmt: skip
SYSTEM = {"system": "urn:corsia:key", "code": "0" * 16}


def gate(**changes: Any) -> EgressGate:
    asked, rows = study("anonymize", output=changes.pop("output", OUTPUT)), changes.pop("table", SOURCE)
    return EgressGate(asked, effective(**changes), roles=ROLES, table=rows)


def marked(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "meta": {"tag": [SYSTEM]}} | more


def document(value: Any, name: str = "P1.json") -> Item:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Item(kind=ItemKind.DOCUMENT, name=name, data=data, persons=99, rows=99)


def test_what_the_engine_made_passes_and_is_written_anew() -> None:
    engine = FhirEngine(Pseudonymizer(b"k" * 32), TextEngine("it"))
    source = bundle(patient("MRN00001", name=[{"family": "Bardellini", "given": ["Rosetta"]}]), observation(None))
    made = json.dumps(engine.deidentify(source), indent=3).encode()
    mine = gate()
    mine.residual.add_fhir(json.dumps(source).encode())
    passed = mine.check(document(made + b"   "))
    assert json.loads(passed.data) == json.loads(made)
    assert b"   " not in passed.data
    assert (passed.persons, passed.rows, passed.meta) == (1, 3, {})
    assert mine.passed.documents == 1
    assert mine.passed.persons == 1


@pytest.mark.parametrize(
    "value",
    [
        marked(note="di MRN00001"),
        marked(identifier=[{"value": "mrn00001"}]),
        marked(code="MRN00001"),
        marked(**{"MRN00001": 1}),
        marked(div="<p>Rosetta Bardellini3</p>"),
        marked(data=base64.b64encode(b"visto BARDELLINI3 ROSETTA ieri").decode()),
        marked(data="not base64!"),
        marked(contained=[{"a": [["Bardellini3 Rosetta"]]}]),
        marked(name=[{"text": "Giuseppina Vanzetti"}]),
        marked(telecom=[{"value": "+39 333 1234567"}]),
        marked(address=[{"line": ["via Lunga 12"]}]),
        marked(contact="Vanzetti Giuseppina"),
        marked(valueInteger=33312345678),
        b"\n".join([json.dumps(marked()).encode(), json.dumps(marked(x="via Lunga 12")).encode()]),
    ],
)
def test_identities_anywhere_in_a_document(value: Any) -> None:
    mine = gate()
    mine.residual.add_fhir(lines(
        patient("33312345678", name=[{"family": "Vanzetti", "given": ["Giuseppina", "Maria"]}],
                telecom=[{"value": "+39 333 1234567"}], address=[{"line": ["via Lunga 12"]}])
    ))  # fmt: skip
    name = "P1.ndjson" if isinstance(value, bytes) else "P1.json"
    refused(lambda: mine.check(document(value, name)), "gate.residual")


@pytest.mark.parametrize(
    "item",
    [
        document(b"{"),
        document([]),
        document({}),
        document({"resourceType": "Patient"}),
        document(b"[" * 100_000),
        document(marked(value=float("inf"))),
        document(marked(), "report.json"),
        document(marked(), "a.xml"),
        document(marked(), "../a.json"),
        document(b""),
    ],
)
def test_what_is_no_deidentified_fhir_is_refused(item: Item) -> None:
    refused(lambda: gate().check(item), "gate.undeclared")


def test_documents_must_be_declared_and_only_in_lane_two() -> None:
    refused(lambda: gate(output={"files": True}).check(document(marked())), "gate.undeclared")
    extract = EgressGate(study("extract"), effective(), roles=ROLES, table=SOURCE)
    refused(lambda: extract.check(document(marked())), "gate.undeclared")


def test_days_and_codes_that_look_like_ids_do_not_stop_a_study() -> None:
    mine = Residual()
    mine.add(["2024", "8302", "10509002", "1", "254637007"])
    coding = [{"system": "http://loinc.org", "code": "8302-2"}]
    when = {"effectiveDateTime": "2024-05-31T10:00:00+02:00", "birthDate": "2024"}
    fine = marked(coding=coding, code="10509002", rank="1", **when)
    assert not mine.in_fhir(json.dumps(fine).encode())
    assert mine.in_fhir(json.dumps(marked(id="1")).encode())
    assert mine.in_fhir(json.dumps(marked(note="paziente 8302")).encode())


def test_persons_of_documents_files_and_tables_are_the_same() -> None:
    mine = gate()
    mine.check(document(marked(identifier=[{"system": "urn:corsia:pseudonym", "value": "PSEUDO1"}])))
    mine.check(dicom())
    assert mine.passed.persons == 1


def released(scores: list[float], ages: list[int]) -> Item:
    return table({"pseudonym": pseudonyms(len(scores)), "age": ages, "sex": ["F"] * len(scores), "score": scores})


AGES = [50] * 4 + [60] * 4


@pytest.mark.parametrize(
    ("scores", "l_value", "t_value", "code"),
    [
        ([1.0, 2.0, 1.0, 2.0] * 2, 2, None, ""),
        ([1.0, 1.0, 1.0, 1.0] + [1.0, 2.0] * 2, 2, None, "gate.diversity"),
        ([1.0, 2.0, 1.0, 2.0] * 2, 3, None, "gate.diversity"),
        ([1.0, 2.0, 1.0, 2.0] * 2, None, 0.1, ""),
        ([1.0] * 4 + [2.0] * 4, None, 0.4, "gate.diversity"),
        ([1.0] * 4 + [2.0] * 4, None, 0.5, ""),
    ],
)
def test_l_and_t_are_reckoned_on_what_leaves(
    scores: list[float], l_value: float | None, t_value: float | None, code: str
) -> None:
    mine = gate(l=l_value, t=t_value, sensitive=("score",))
    item = released(scores, AGES)
    if code:
        refused(lambda: mine.check(item), code)
        assert [c.rule for c in mine.checks if not c.ok] == ["l" if l_value else "t"]
    else:
        mine.check(item)
        assert {"k", "l" if l_value else "t"} <= {c.rule for c in mine.checks}


def test_a_second_table_could_be_joined_to_the_first() -> None:
    mine, who = gate(), pseudonyms(6)
    mine.check(table({"pseudonym": who, "age": [50] * 3 + [60] * 3}))
    refused(
        lambda: mine.check(table({"pseudonym": who, "sex": ["F", "M"] * 3}, name="other.parquet")), "gate.undeclared"
    )


def test_a_sensitive_column_that_does_not_leave_asks_for_nothing() -> None:
    gate(l=5, sensitive=("other",)).check(released([1.0] * 8, AGES))


def test_words_of_reports_that_tables_hold_as_well_pass_and_others_do_not() -> None:
    source = SOURCE.assign(score=["private", "unknown", "distinct"] * 4, sex=["Rosetta", "score"] * 6)
    mine = gate(table=source)
    mine.check(report({"actions": {"private": 3, "unknown": 1}, "rules": {"score": "kept"}}))
    refused(lambda: mine.check(report({"rules": {"Rosetta": 1}})), "gate.undeclared")
    question = "quante volte ha dormito meno di cinque ore nelle ultime due settimane, secondo il paziente"
    long = EgressGate(study("anonymize", output=OUTPUT), effective(), roles=ROLES | {question: "value"}, table=SOURCE)
    long.check(report({"rules": {question: "kept"}}))
    refused(lambda: gate().check(report({"rules": {question: "kept"}})), "gate.undeclared")


def test_random_tables_never_pass_below_l() -> None:
    import numpy as np

    generator = np.random.default_rng(3)
    seen = set()
    for _ in range(60):
        frame = pd.DataFrame({"age": generator.integers(0, 2, 12), "score": generator.integers(0, 3, 12)})
        least = frame.groupby("age")["score"].nunique().min()
        holds = least >= 2 and frame.groupby("age").size().min() >= 3
        seen.add(bool(holds))
        item = released(frame["score"].astype(float).tolist(), frame["age"].tolist())
        try:
            gate(l=2, sensitive=("score",)).check(item)
            assert holds
        except DisclosureRefused:
            assert not holds
    assert seen == {True, False}

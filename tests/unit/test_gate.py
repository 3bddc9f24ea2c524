"""Each rule of the egress gate can fire, and what is right passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from corsia.synthetic import ct_series
from edge.gate import EgressGate, check_update
from edge.policy import Effective
from edge.residual import Residual
from protocol.assignment import RoundInstruction, RoundPhase
from protocol.errors import CorsiaError, DisclosureRefused, InputError, PolicyRefused
from protocol.parcel import Item, ItemKind, canonical_json
from protocol.study import Study

ROLES = {
    "pid": "patient",
    "name": "identifier",
    "note": "text",
    "seen": "date",
    "sex": "quasi",
    "age": "quasi",
    "score": "value",
}
COLUMNS = [
    ("pseudonym", "string"),
    ("pid", "string"),
    ("name", "string"),
    ("note", "string"),
    ("seen", "date"),
    ("sex", "string"),
    ("age", "int"),
    ("score", "float"),
    ("ok", "bool"),
    ("original_*", "float"),
]
SOURCE = pd.DataFrame(
    {
        "pid": [f"MRN{i:05d}" for i in range(12)],
        "name": [f"Bardellini{i} Rosetta" for i in range(12)],
        "note": ["stabile dal controllo"] * 12,
        "seen": ["2024-05-31"] * 12,
        "sex": ["F"] * 12,
        "age": [50] * 12,
        "score": [0.5] * 12,
    }
)


def study(lane: str = "extract", **changes: Any) -> Study:
    base: dict[str, Any] = {
        "schema": 1,
        "id": "one",
        "title": "t",
        "lane": lane,
        "purpose": "research",
        "legal_basis": "scientific-research",
        "controller": "c",
        "ethics_reference": "e",
        "expires": datetime(2040, 1, 1, tzinfo=UTC),
        "sites": ["site-a"],
        "dataset": {"name": "cohort", "columns": ["pid", "age", "score", "sex", "seen", "note"]},
        "pipeline": {"name": lane},
        "output": {"columns": [{"name": n, "dtype": t} for n, t in COLUMNS], "files": lane != "extract"},
    }
    if lane == "train":
        base |= {
            "output": {},
            "training": {
                "learner": "survival",
                "features": ["age"],
                "outcome": ["seen", "score"],
                "max_norm": 10.0,
                "metrics": ["auc"],
                "publish": {"model": "m"},
            },
        }
    return Study.model_validate(base | changes)


def effective(**changes: Any) -> Effective:
    value: dict[str, Any] = {
        "k": 3,
        "min_cohort": 5,
        "max_bytes": 100_000_000,
        "max_bytes_per_year": 10**9,
        "epsilon": None,
    }
    return Effective(**(value | changes))


def gate(lane: str = "extract", asked: Study | None = None, **changes: Any) -> EgressGate:
    return EgressGate(asked or study(lane), effective(**changes), roles=ROLES, table=SOURCE)


def table(columns: dict[str, Any], name: str = "t.parquet", **options: Any) -> Item:
    target = BytesIO()
    made = pa.table(columns) if not isinstance(columns, pa.Table) else columns
    pq.write_table(made, target, **options)
    return Item(kind=ItemKind.TABLE, name=name, data=target.getvalue(), persons=999, rows=999, meta={"x": 1})


def report(value: Any) -> Item:
    raw = value if isinstance(value, bytes) else canonical_json(value)
    return Item(kind=ItemKind.REPORT, name="report.json", data=raw)


def dicom(change: Callable[[Any], None] = lambda _d: None, *, patient: str = "PSEUDO1") -> Item:
    from pydicom import dcmread

    dataset = dcmread(BytesIO(ct_series({"PatientID": patient, "PatientName": "ANON"}, seed=1, slices=1, size=16)[0]))
    dataset.PatientIdentityRemoved = "YES"
    change(dataset)
    target = BytesIO()
    dataset.save_as(target)
    return Item(kind=ItemKind.DICOM, name="1.dcm", data=target.getvalue(), persons=7, rows=7)


def private(dataset: Any) -> None:
    dataset.private_block(0x99, "X", create=True).add_new(1, "UN", b"MRN00001")


def pseudonyms(count: int) -> list[str]:
    return [f"PAAAAAAAAAAAAAA{i:02d}" for i in range(count)]


def refused(call: Callable[[], Any], code: str, error: type[CorsiaError] = DisclosureRefused) -> None:
    with pytest.raises(error) as caught:
        call()
    assert caught.value.code == code
    assert "Bardellini" not in str(caught.value)
    assert "MRN0" not in str(caught.value)


def test_a_good_table_passes_and_is_written_anew() -> None:
    made = gate()
    item = made.check(table({"pseudonym": pseudonyms(6), "original_mean": [0.5] * 6, "age": [1] * 6}))
    assert (item.persons, item.rows, item.meta) == (6, 6, {})
    assert pq.read_table(BytesIO(item.data)).column_names == ["pseudonym", "original_mean", "age"]
    passed = made.finish()
    assert (passed.persons, passed.rows, passed.files, passed.bytes) == (6, 6, 0, len(item.data))
    assert {c.rule for c in made.checks} >= {"kind", "columns", "dtype", "residual", "bytes", "cohort"}
    assert all(c.ok for c in made.checks)


def test_nothing_hides_in_metadata() -> None:
    secret = b"MRN00001-MRN00001"
    made = pa.table({"pseudonym": pseudonyms(6)}).replace_schema_metadata({b"note": secret})
    field = pa.field("age", pa.int64(), metadata={b"hidden": secret})
    made = made.append_column(field, pa.array([1] * 6))
    item = gate().check(table(made))
    assert secret not in item.data
    assert pq.read_schema(BytesIO(item.data)).metadata is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lane", "item", "code"),
    [
        ("extract", dicom(), "gate.undeclared"),
        ("extract", Item(kind=ItemKind.MESSAGE, name="message.bin", data=b""), "gate.undeclared"),
        ("train", table({"age": [1]}), "gate.undeclared"),
        ("extract", table({"age": [1]}, name="../t.parquet"), "gate.undeclared"),
        ("extract", table({"age": [1]}, name="mario.csv"), "gate.undeclared"),
        ("extract", table({"age": [1]}, name="mrn00001.parquet"), "gate.residual"),
        ("extract", table({"other": [1]}), "gate.undeclared"),
        ("extract", table({"age": [1.5]}), "gate.undeclared"),
        ("extract", table({"age": ["1"]}), "gate.undeclared"),
        ("extract", table({"score": ["1"]}), "gate.undeclared"),
        ("extract", table({"ok": [1]}), "gate.undeclared"),
        ("extract", table({"seen": ["yesterday"]}), "gate.undeclared"),
        ("extract", table({"age": [[1]]}), "gate.undeclared"),
        ("extract", table({"score": pa.array([{"a": 1.0}])}), "gate.undeclared"),
        ("extract", table({"name": ["x"]}), "gate.undeclared"),
        ("extract", table({"note": ["x"]}), "gate.undeclared"),
        ("extract", table({"seen": ["2024-05-31"]}), "gate.undeclared"),
        ("anonymize", table({"pid": ["x"]}), "gate.undeclared"),
        ("harvest", table({"name": ["x"]}), "gate.undeclared"),
        ("harvest", table({"ok": [True]}), "gate.undeclared"),
        ("extract", Item(kind=ItemKind.TABLE, name="t.parquet", data=b"PAR1junkPAR1"), "gate.undeclared"),
        ("anonymize", table({"pseudonym": pseudonyms(3), "sex": ["F", "F", "M"]}), "gate.k"),
        ("anonymize", table({"pseudonym": ["PA", "PA", "PA"], "sex": ["F"] * 3}), "gate.k"),
        ("anonymize", table({"sex": ["F", "F", None]}), "gate.k"),
        ("anonymize", table({"pseudonym": ["P"], "note": ["il paziente MRN00001 torna"]}), "gate.residual"),
        ("anonymize", table({"pseudonym": ["P"], "note": ["visto BARDELLINI3  ROSETTA"]}), "gate.residual"),
        ("anonymize", table({"pseudonym": ["MRN00003"]}), "gate.residual"),
        ("anonymize", table({"note": pa.array(["MRN00001"]).dictionary_encode()}), "gate.residual"),
        ("anonymize", table({"note": pa.array(["xMRN00001x"], pa.large_string())}), "gate.residual"),
        ("anonymize", dicom(patient="MRN00001"), "gate.residual"),
        ("anonymize", dicom(lambda d: setattr(d, "ImageComments", "di bardellini2 rosetta")), "gate.residual"),
        ("anonymize", dicom(private), "gate.residual"),
        ("anonymize", dicom(lambda d: setattr(d, "PixelData", b"MRN00001" + d.PixelData[8:])), "gate.residual"),
        ("anonymize", dicom(lambda d: setattr(d, "PatientIdentityRemoved", "NO")), "gate.residual"),
        ("anonymize", Item(kind=ItemKind.DICOM, name="1.dcm", data=b"\0" * 200), "gate.residual"),
        ("extract", report(b'{ "a": 1}'), "gate.undeclared"),
        ("extract", report([1]), "gate.undeclared"),
        ("extract", report(b"\xff"), "gate.undeclared"),
        ("extract", report({"a": "x" * 65}), "gate.undeclared"),
        ("extract", report({"x" * 65: 1}), "gate.undeclared"),
        ("extract", report({"a": ["line\nbreak"]}), "gate.undeclared"),
        ("extract", report({"a": {"b": ["Stabile dal controllo"]}}), "gate.undeclared"),
        ("extract", report({"MRN00001": 1}), "gate.undeclared"),
        ("extract", report({"a": "for bardellini1 rosetta"}), "gate.undeclared"),
        ("extract", Item(kind=ItemKind.REPORT, name="other.json", data=b"{}"), "gate.undeclared"),
    ],
)  # fmt: skip
def test_each_rule_fires(lane: str, item: Item, code: str) -> None:
    made = gate(lane)
    refused(lambda: made.check(item), code)
    assert (
        [c.rule for c in made.checks if not c.ok]
        or "Parquet" in item.data.decode("latin-1")
        or item.data[:4] == b"PAR1"
    )


def test_dates_bools_floats_and_empty_columns_are_of_their_types() -> None:
    columns = {
        "seen": ["2024-05-31", None],
        "ok": [True, None],
        "score": [1, 2],
        "age": pa.nulls(2),
        "sex": pa.array(["F", "F"]).dictionary_encode(),
    }
    gate("harvest", study("harvest", dataset={"name": "cohort", "columns": list(columns)})).check(table(columns))
    days = pa.array([datetime(2024, 5, 31, tzinfo=UTC).date()])
    gate("anonymize").check(table({"seen": days, "pseudonym": ["P"]}))


def test_a_k_anonymous_table_counts_persons_over_quasi_columns() -> None:
    columns = {"pseudonym": pseudonyms(6), "sex": ["F"] * 3 + ["M"] * 3, "score": [0.1 * i for i in range(6)]}
    gate("anonymize").check(table(columns))
    refused(lambda: gate("anonymize", k=4).check(table(columns)), "gate.k")


@pytest.mark.parametrize(("lane", "fires"), [("anonymize", True), ("extract", True), ("harvest", True)])
def test_the_cohort_counts_distinct_persons_not_claims(lane: str, fires: bool) -> None:
    column = "pid" if lane == "harvest" else "pseudonym"
    few = {column: ["PA", "PB", "PC", "PD"] * 3}
    made = gate(lane)
    made.check(table(few))
    refused(made.finish, "gate.cohort")
    made = gate(lane)
    made.check(table({column: pseudonyms(5)}))
    assert made.finish().persons == 5


def test_a_harvest_on_consent_has_no_minimum_cohort() -> None:
    made = gate("harvest", study("harvest", legal_basis="consent"))
    made.check(table({"pid": ["a"]}))
    assert made.finish().persons == 1


def test_tables_without_persons_count_at_most_the_sources() -> None:
    made = gate("anonymize", min_cohort=13)
    made.check(table({"score": [0.5] * 500}))
    refused(made.finish, "gate.cohort")


def test_persons_of_files_and_tables_are_the_same_persons() -> None:
    made = gate("anonymize", min_cohort=3)
    made.check(dicom(patient="PAAAAAAAAAAAAAA00"))
    made.check(table({"pseudonym": pseudonyms(2)}))
    assert made.passed.persons == 2
    assert made.passed.files == 1
    refused(made.finish, "gate.cohort")


def test_bytes_of_all_items_together() -> None:
    item = table({"pseudonym": pseudonyms(6)})
    size = len(gate().check(item).data)
    for limit, code, error in (
        (100_000_000, "", CorsiaError),
        (2 * size - 1, "policy.bytes", PolicyRefused),
    ):
        made = gate(max_bytes=limit)
        made.check(item)
        if code:
            refused(lambda made=made: made.check(item), code, error)  # type: ignore[misc]
    declared = study(output={"columns": [{"name": "pseudonym", "dtype": "string"}], "max_bytes": 2 * size - 1})
    made = gate(asked=declared, max_bytes=2 * size - 1)
    made.check(item)
    refused(lambda: made.check(item), "gate.bytes")


def test_a_harvest_may_hold_what_lanes_two_and_three_may_not() -> None:
    made = gate("harvest")
    made.check(table({"pid": ["MRN00001"], "note": ["MRN00001 torna"]}))
    made.check(report({"columns": ["age"], "rows": 1, "ratio": 0.5, "ok": True, "none": None}))
    made.check(dicom(lambda d: setattr(d, "PatientIdentityRemoved", "NO"), patient="MRN00001"))


# --- residual


def test_values_learned_from_files_are_looked_for() -> None:
    residual = Residual()
    residual.add_dicom(dicom(lambda d: setattr(d, "PatientName", "Zanetti^Ugo"), patient="XY-778").data)
    residual.add_dicom(b"not dicom")
    assert residual.in_text("sig. Zanetti Ugo")
    assert residual.in_text("cartella xy-778.")
    assert not residual.in_text("Zanetti")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("offset", [0, 1, 7, 8, (1 << 20) - 4, (1 << 20) + 3])
def test_raw_bytes_in_every_encoding_and_place(encoding: str, offset: int) -> None:
    residual = Residual()
    residual.add(["Nicolò Perù", "77712"])
    noise = np.random.default_rng(1).integers(0, 256, 3 << 20, dtype=np.uint8).tobytes()
    assert not residual.in_bytes(noise)
    assert residual.in_bytes(noise[:offset] + "NICOLÒ PERÙ".encode(encoding) + noise)
    if "16" in encoding:
        assert residual.in_bytes(noise[:offset] + "77712".encode(encoding) + noise)


@pytest.mark.parametrize(
    ("value", "text", "found"),
    [
        ("12345678", "2.25.99912345678111", False),  # a UID contains it by chance
        ("12345678", "cart. 12345678", True),
        ("123456789012", "2.25.991234567890121", True),
        ("1234", "0.1234", False),
        ("1234", "id 1234, letto 3", True),
        ("MRN-77", "mrn 77", True),
        ("abc", "abc", True),
        ("abc", "abc def", False),
        ("Anonymous", "anonymous", False),
        ("", "anything", False),
        (float("nan"), "nan", False),
        (1234567.0, "n. 1234567", True),
    ],
)
def test_words_numbers_and_chance(value: object, text: str, found: bool) -> None:
    residual = Residual()
    residual.add([value])
    assert residual.in_text(text) is found


def test_a_short_digit_value_in_longer_numbers_of_raw_bytes() -> None:
    residual = Residual()
    residual.add(["12345678"])
    assert not residual.in_bytes(b"1.2.3.9912345678.4 ")
    assert not residual.in_bytes(b"0.12345678 ")
    assert residual.in_bytes(b"id=12345678 ")


# --- updates


def instruction(phase: RoundPhase = RoundPhase.TRAIN, round_: int = 1) -> RoundInstruction:
    return RoundInstruction(
        run="r",
        study_digest="0" * 64,
        site="site-a",
        round=round_,
        phase=phase,
        attempt=0,
        message="0" * 64,
        message_size=1,
        deadline=0.0,
    )


@pytest.fixture
def exchange() -> Callable[..., tuple[bytes, bytes]]:
    from central.federation.flower import identify
    from pipelines import flower as f

    identify(1)

    def made(
        arrays: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        *,
        kind: str = "train",
        declared: Any = None,
        round_: int = 1,
        shown: tuple[str, ...] = (),
    ) -> tuple[bytes, bytes]:
        shapes = declared or {"w": ("float32", (2,))}
        record = f.RecordDict({f.CONFIG: f.config_record(round_, shapes, shown)})
        message = f.message_to_bytes(f.Message(record, 1, kind, group_id="0"), run_id=1, message_id="m")
        content = f.RecordDict(
            {
                f.ARRAYS: f.array_record(arrays or {"w": np.ones(2, dtype=np.float32)}),
                f.METRICS: f.metric_record({"num-examples": 20} if metrics is None else metrics),
            }
        )
        return message, f.message_to_bytes(f.reply(f.message_from_bytes(message), content))

    return made


def test_a_good_update_passes(exchange: Callable[..., tuple[bytes, bytes]]) -> None:
    message, reply = exchange()
    item, checks = check_update(study("train"), effective(), instruction(), message, reply)
    assert (item.kind, item.data, item.meta) == (ItemKind.MESSAGE, reply, {})
    assert all(c.ok for c in checks)
    message, reply = exchange(metrics={"num-examples": 20, "auc": 0.5}, shown=("auc",))
    _, checks = check_update(study("train"), effective(site_metrics=True), instruction(), message, reply)
    assert "site-metrics" in {check.rule for check in checks}
    big = {"w": np.full(2, 1e6, dtype=np.float64)}
    message, reply = exchange(big, kind="query.prepare", declared={"w": ("float64", (2,))}, round_=0)
    check_update(study("train"), effective(), instruction(RoundPhase.PREPARE, 0), message, reply)


def test_the_loss_that_qfedavg_weighs_sites_by_passes_in_such_a_study_alone(
    exchange: Callable[..., tuple[bytes, bytes]],
) -> None:
    message, reply = exchange(metrics={"num-examples": 20, "train-loss": 0.5}, shown=("train-loss",))
    may = effective(site_metrics=True)
    refused(lambda: check_update(study("train"), may, instruction(), message, reply), "gate.update")
    asked = study("train")
    assert asked.training is not None
    fair = asked.model_copy(update={"training": asked.training.model_copy(update={"strategy": "qfedavg"})})
    assert check_update(fair, may, instruction(), message, reply)[0].data == reply
    refused(lambda: check_update(fair, effective(), instruction(), message, reply), "gate.update")
    message, reply = exchange(metrics={"num-examples": 20, "train-loss": 0.5})  # nobody asked for it
    refused(lambda: check_update(fair, may, instruction(), message, reply), "gate.update")


def test_a_sites_own_metrics_pass_only_where_the_site_says_so(exchange: Callable[..., tuple[bytes, bytes]]) -> None:
    message, reply = exchange(metrics={"num-examples": 20, "auc": 0.5}, shown=("auc",))
    refused(lambda: check_update(study("train"), effective(), instruction(), message, reply), "gate.update")
    message, reply = exchange(metrics={"num-examples": 20}, shown=("auc",))  # asked for, and left out
    _, checks = check_update(study("train"), effective(), instruction(), message, reply)
    assert "site-metrics" not in {check.rule for check in checks}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"arrays": {"v": np.ones(2, dtype=np.float32)}}, "gate.update"),
        ({"arrays": {"w": np.ones(3, dtype=np.float32)}}, "gate.update"),
        ({"arrays": {"w": np.ones(2, dtype=np.float64)}}, "gate.update"),
        ({"arrays": {"w": np.ones(2, dtype=np.float32), "x": np.ones(1)}}, "gate.update"),
        ({"arrays": {"w": np.array([1, np.nan], dtype=np.float32)}}, "gate.update"),
        ({"arrays": {"w": np.array([1, np.inf], dtype=np.float32)}}, "gate.update"),
        ({"arrays": {"w": np.full(2, 8.0, dtype=np.float32)}}, "gate.update"),
        ({"metrics": {}}, "gate.update"),
        ({"metrics": {"num-examples": 0}}, "gate.update"),
        ({"metrics": {"num-examples": -3}}, "gate.update"),
        ({"metrics": {"num-examples": 2.5}}, "gate.update"),
        ({"metrics": {"num-examples": [1, 2]}}, "gate.update"),
        ({"metrics": {"num-examples": 20, "auc": 0.5}}, "gate.update"),
        ({"metrics": {"num-examples": 20, "auc": float("nan")}, "shown": ("auc",)}, "gate.update"),
        ({"metrics": {"num-examples": 20, "auc": 0.51234}, "shown": ("auc",)}, "gate.update"),
        ({"metrics": {"num-examples": 20, "other": 1.0}, "shown": ("other",)}, "gate.update"),
        ({"metrics": {"num-examples": 4}}, "gate.cohort"),
        ({"kind": "evaluate"}, "gate.update"),
        ({"round_": 2}, "gate.update"),
    ],
)
def test_an_update_that_is_not_the_declared_one(
    exchange: Callable[..., tuple[bytes, bytes]], changes: dict[str, Any], code: str
) -> None:
    message, reply = exchange(**changes)
    refused(lambda: check_update(study("train"), effective(), instruction(), message, reply), code)


def test_bytes_that_are_no_reply_and_an_error_reply(exchange: Callable[..., tuple[bytes, bytes]]) -> None:
    from pipelines import flower as f

    message, reply = exchange()
    other, _ = exchange(round_=3)
    for raw in (b"", b"\xff" * 20, reply + b"\0", message):
        refused(lambda raw=raw: check_update(study("train"), effective(), instruction(), message, raw), "gate.update")  # type: ignore[misc]
    named = f.message_to_bytes(f.error_reply(f.message_from_bytes(message), "input.rows"))
    with pytest.raises(CorsiaError) as caught:
        check_update(study("train"), effective(), instruction(), message, named)
    assert caught.value.code in ("input.rows", "gate.update")
    with pytest.raises((InputError, DisclosureRefused)):
        check_update(study("train"), effective(), instruction(), other, reply)


def test_reports_of_the_real_lanes_pass() -> None:
    value = {"lane": "harvest", "pipeline": "harvest 1", "columns": ["age"], "rows": 3, "persons": 3, "files": 0}
    assert json.loads(gate().check(report(value)).data) == value

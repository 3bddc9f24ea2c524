"""The study file: strict reading, round trip, expiry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import tomli_w

from protocol.errors import InputError, StudyRefused
from protocol.study import Lane, dump_study, parse_study, study_digest


def draft(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "schema": 1, "id": "s-1", "title": "t", "lane": "harvest", "purpose": "research",
        "legal_basis": "consent", "controller": "c", "ethics_reference": "e",
        "expires": datetime(2030, 1, 1, tzinfo=UTC), "sites": ["site-a"],
        "dataset": {"name": "lung", "columns": ["age"]}, "pipeline": {"name": "harvest"},
        "output": {"columns": [{"name": "age", "dtype": "int"}]},
    }  # fmt: skip
    return base | changes


def toml(**changes: object) -> bytes:
    return tomli_w.dumps({k: v for k, v in draft(**changes).items() if v is not None}).encode()


def test_round_trip_keeps_the_study_and_its_digest() -> None:
    study = parse_study(toml())
    again = parse_study(dump_study(study))
    assert again == study
    assert study.lane is Lane.HARVEST
    assert len(study_digest(dump_study(study))) == 64


def test_a_study_of_before_asks_for_no_documents_and_promises_no_l() -> None:
    study = parse_study(toml())
    assert not any(getattr(study.dataset, kind) for kind in ("fhir", "genotypes", "matrix", "omop"))
    assert not study.output.documents
    assert (study.privacy.l, study.privacy.t, study.privacy.sensitive) == (None, None, ())
    whole = parse_study(toml(output={"documents": True}, privacy={"l": 2, "t": 0.4, "sensitive": ["age"]}))
    assert parse_study(dump_study(whole)) == whole


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"colour": "red"}, "colour"),
        ({"lane": "fly"}, "lane"),
        ({"schema": 2}, "schema"),
        ({"id": "Has Space"}, "id"),
        ({"sites": []}, "sites"),
        ({"sites": ["a", "a"]}, "twice"),
        ({"expires": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001
        ({"training": {"learner": "survival", "features": [], "outcome": [], "publish": {"model": "m"}}}, "training"),
        ({"lane": "train"}, "training"),
        ({"lane": "infer"}, "model"),
        ({"output": {}}, "output"),
        ({"privacy": {"k": 0}}, "k"),
        ({"privacy": {"dp": "sample"}}, "epsilon"),
        ({"privacy": {"l": 2}}, "sensitive"),
        ({"privacy": {"t": 0.5}}, "sensitive"),
        ({"privacy": {"t": 0, "sensitive": ["age"]}}, "t"),
        ({"dataset": {"name": "l", "signals": True}}, "signals"),
        ({"dataset": {"name": "l", "where": [{"column": "a", "op": "drop", "value": 1}]}}, "op"),
        ({"output": {"columns": [{"name": "age", "dtype": "object"}]}}, "dtype"),
        ({"title": None}, "title"),
    ],
)
def test_bad_studies_are_refused_naming_the_field(changes: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        parse_study(toml(**changes))
    assert caught.value.code == "input.study"


def test_a_study_publishes_a_candidate_and_never_straight_to_champion() -> None:
    training = {"learner": "survival", "features": ["a"], "outcome": ["t"], "publish": {"model": "m"}}
    changes = {"lane": "train", "output": {}, "training": training}
    parsed = parse_study(toml(**changes)).training
    assert parsed is not None
    assert parsed.publish.alias == "candidate"
    training["publish"] = {"model": "m", "alias": "champion"}
    with pytest.raises(InputError, match=r"training\.publish\.alias.*candidate.*corsia model promote") as caught:
        parse_study(toml(**changes))
    assert caught.value.code == "input.study"


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"a = ", b"[" * 5000, b"x" * 300_000, b""])
def test_bytes_that_are_no_study(raw: bytes) -> None:
    with pytest.raises(InputError) as caught:
        parse_study(raw)
    assert caught.value.code == "input.study"


def test_expiry() -> None:
    study = parse_study(toml())
    study.check_valid_at(study.expires - timedelta(seconds=1))
    with pytest.raises(StudyRefused) as caught:
        study.check_valid_at(study.expires)
    assert caught.value.code == "study.expired"


def test_output_globs() -> None:
    study = parse_study(toml(output={"columns": [{"name": "original_*", "dtype": "float"}]}))
    assert study.output.column("original_glcm_Contrast") is not None
    assert study.output.column("age") is None

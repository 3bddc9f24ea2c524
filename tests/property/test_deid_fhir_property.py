"""Any JSON under any resource type: planted names do not survive, the result is JSON, twice is the same."""

from __future__ import annotations

import json
import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.deid.fhir import FhirEngine
from privacy.deid.fhir_files import parse, render
from privacy.deid.fhir_r4 import elements
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.text import TextEngine
from protocol.errors import DisclosureRefused, InputError

TOKENS = ["Zorbelli", "Quarzoni", "Wexfordini", "QX-7788-ZK", "+39 333 7654321"]
TYPES = [
    "Patient",
    "Observation",
    "Bundle",
    "Encounter",
    "Practitioner",
    "Questionnaire",
    "Claim",
    "Binary",
]
_NAMES = sorted({name for kind in TYPES for name in elements(kind)} | {
    "reference", "display", "value", "system", "coding", "text", "div", "status", "resource", "entry", "fullUrl", "url",
    "extension", "valueString", "contentType", "data", "family", "given", "line", "resourceType", "Zorbelli",
})  # fmt: skip
_ENGINE = FhirEngine(Pseudonymizer(b"p" * 32), TextEngine("en"), reference_year=2021)
_LEAF = (
    st.sampled_from([f"{a}{token}{b}" for token in TOKENS for a in ("", "Patient/", "seen: ") for b in ("", " here")])
    | st.sampled_from(["2020-01-01", "text/plain", "final", "http://loinc.org", "urn:uuid:x", "#a"])
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | st.text(max_size=8)
)
_JSON = st.recursive(
    _LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=5),
    max_leaves=25,
)
_RESOURCE = st.builds(
    lambda kind, body: body | {"resourceType": kind},
    st.sampled_from(TYPES),
    st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=8),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(resource=_RESOURCE)
def test_planted_names_go_from_any_json(resource: dict[str, Any]) -> None:
    try:
        clean = render(_ENGINE.deidentify(resource, TOKENS))
    except InputError:  # a type or an element of another version, at the top or further in
        return
    assert json.loads(clean)["resourceType"] in TYPES
    for token in TOKENS:
        assert token.casefold() not in clean.casefold()
    assert render(_ENGINE.deidentify(resource, TOKENS)) == clean


@settings(max_examples=40, deadline=None)
@given(depth=st.integers(1, 2000), listed=st.booleans())
def test_any_depth_is_handled_or_refused(depth: int, listed: bool) -> None:
    value: Any = "Zorbelli"
    for _ in range(depth):
        value = [value] if listed else {"item": value}
    try:
        clean = render(_ENGINE.deidentify({"resourceType": "Questionnaire", "item": value}, TOKENS))
    except InputError:
        assert depth > 60
    else:
        assert "Zorbelli" not in clean


_WHOLE = json.dumps(
    {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [
            {"resource": {"resourceType": "Patient", "id": "1", "name": [{"family": "Zorbelli", "given": ["Ugo"]}]}},
            {"resource": {"resourceType": "Observation", "subject": {"reference": "Patient/1"}, "status": "final",
                          "effectiveDateTime": "2020-01-01", "valueQuantity": {"value": 1.5, "unit": "kg"},
                          "note": [{"text": "Zorbelli Ugo is well \u00e8 \ud83d\ude00"}]}},
        ],
    }
).encode()  # fmt: skip
_SPLICES = (
    b"", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\ud800", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    b"\x00",
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"-0", b"null", b"true", b"[" * 200, b'{"a":' * 200,
    b'"resourceType": "Patient",', b'"resourceType": 7,', b'"id": {"a": 1},', b'"status": ["x"],', b'"entry": {},',
    b'"name": [[["Zorbelli"]]],', b'"subject": "Patient/1",', b'"fullUrl": [],', b'"contained": [{}],', b"\n", b"\r\n",
)  # fmt: skip


def test_broken_json_is_refused_or_clean() -> None:
    draw = random.Random(7)  # noqa: S311
    refused = 0
    for _ in range(10_000 if os.environ.get("CORSIA_FULL") else 500):
        data = bytearray(_WHOLE)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(data) + 1)
            data[at : at + draw.choice((0, 0, 1, 2, 9))] = draw.choice(_SPLICES)
        try:
            clean = render(_ENGINE.deidentify(parse(bytes(data)), TOKENS)).encode()
        except (InputError, DisclosureRefused):
            refused += 1
        else:
            assert not any(token.casefold().encode() in clean.lower() for token in TOKENS)
    assert refused


@pytest.mark.parametrize(
    "data",
    [
        b'{"resourceType": "Basic", "id": "a", "id": "Zorbelli"}',
        b'{"resourceType": "Basic", "x": NaN}',
        b'{"resourceType": "Basic", "id": "\\ud800"}',
        b'{"resourceType": "Basic", "id": "\xed\xa0\x80"}',
        b'{"resourceType": "Basic", "x": ' + b"9" * 5000 + b"}",
        b'{"resourceType": "Basic"} {}',
        b'"Basic"',
    ],
)
def test_what_readers_understand_in_different_ways_is_refused(data: bytes) -> None:
    with pytest.raises(InputError) as caught:
        parse(data)
    assert caught.value.code == "input.fhir"
    assert "Zorbelli" not in caught.value.message


def test_a_byte_order_mark_and_other_encodings_are_read() -> None:
    for codec in ("utf-8-sig", "utf-16", "utf-32"):
        assert parse(_WHOLE.decode().encode(codec)) == json.loads(_WHOLE)

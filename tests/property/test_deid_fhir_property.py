"""Any JSON under any resource type: planted names do not survive, the result is JSON, twice is the same."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from privacy.deid.fhir import FhirEngine
from privacy.deid.fhir_files import render
from privacy.deid.fhir_r4 import elements
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.text import TextEngine
from protocol.errors import InputError

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
    "Nonesuch",
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
    clean = render(_ENGINE.deidentify(resource, TOKENS))
    assert json.loads(clean)["resourceType"] in [*TYPES, "Basic"]
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

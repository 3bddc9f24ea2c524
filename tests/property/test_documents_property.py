"""FHIR of any shape: what names somebody without consent never passes, and no reader ends in anything but its error."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import documents
from edge.residual import Residual
from edge.sources.fhir import Records
from tests.fuzzkit import COUNT

_HEADS = ("Observation", "Encounter", "Organization", "Group", "Parameters", "Provenance", "List")
_KEYS = ("subject", "patient", "focus", "entity", "extension", "value", "contained", "target", "member", "who")
_YES, _NO = ("p1", "p2"), ("p3", "unknown")


def _reference(who: str) -> dict[str, str]:
    return {"reference": f"Patient/{who}"}


_leaf = st.one_of(
    st.sampled_from([*_YES, *_NO]).map(_reference),
    st.sampled_from([{"reference": "Practitioner/d"}, {"reference": "Group/1"}, {"display": "x"}, "text", 1, None]),
)
_tree = st.recursive(
    _leaf,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_KEYS), inner, max_size=3)),
    max_leaves=6,
)
_resource = st.builds(
    lambda kind, body: {"resourceType": kind, **body},
    st.sampled_from(_HEADS),
    st.dictionaries(st.sampled_from(_KEYS), _tree, max_size=4),
)
_bundle = st.lists(_resource, max_size=4).map(
    lambda inner: {"resourceType": "Bundle", "entry": [{"resource": one} for one in inner]}
)


def _verdict(patient: str) -> str:
    return "" if patient in _YES else "consent"


@settings(max_examples=COUNT, deadline=None)
@given(value=st.one_of(_resource, _bundle, st.lists(_bundle, max_size=1).map(
    lambda b: {"resourceType": "Bundle", "entry": [{"resource": one} for one in b]})))  # fmt: skip
def test_nobody_without_consent_is_named_in_what_passes(
    tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("fhir") / "a.json"
    path.write_text(json.dumps(value))
    withheld: Counter[str] = Counter()
    passed = [file.data.decode() for file in Records(path, _verdict, None).files(withheld)]
    assert not [who for who in _NO for text in passed if f'Patient/{who}"' in text]
    counted = sum(withheld.values()) + sum(text.count('"resourceType"') for text in passed)
    assert counted >= json.dumps(value).count('"resourceType": "O')


@settings(max_examples=COUNT, deadline=None)
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=60).map(str.encode),
                      _tree.map(lambda v: json.dumps(v).encode())))  # fmt: skip
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    residual = Residual()
    residual.add(["MRN00001"])
    residual.add_fhir(data)
    assert residual.in_fhir(data) in (True, False)
    try:
        documents.read(data)
    except ValueError:
        return

"""Join codes, trust bundles and signature purposes."""

from __future__ import annotations

import base64
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import InputError
from protocol.trust import JoinCode, Purpose, TrustBundle, site_of_uri, site_uri

FULL = 20 if os.environ.get("CORSIA_FULL") else 1

CODE = JoinCode(
    site="site-a", ca=b"c" * 32, study_key=b"s" * 32, secret=b"x" * 24, enrolment="centre:7444", fleet="centre:7443"
)
BUNDLE = TrustBundle(
    ca_pem="-----BEGIN CERTIFICATE-----\n",
    study_key="AA==",
    publication_key="BB==",
    log_key="CC==",
    log_origin="corsia/c",
)


def test_join_code_round_trip() -> None:
    text = CODE.encode()
    assert text.startswith("corsia1-")
    assert text.isascii()
    assert not set(text) & set(" \n\t=+/")
    assert JoinCode.decode(text) == CODE
    assert JoinCode.decode(f"  {text}\n") == CODE


@pytest.mark.parametrize(
    "text", ["", "corsia1-", "corsia1", "corsia2-AAAA", "corsia1-****", "corsia1-é", "corsia1-AAAAA"]
)
def test_not_a_join_code(text: str) -> None:
    with pytest.raises(InputError) as caught:
        JoinCode.decode(text)
    assert caught.value.code == "input.usage"


@settings(max_examples=500 * FULL, deadline=None)
@given(st.integers(0, len(CODE.encode()) - 1), st.sampled_from("ABab01-_*é"))
def test_a_mistyped_character_is_found(at: int, character: str) -> None:
    text = CODE.encode()
    changed = text[:at] + character + text[at + 1 :]
    try:
        # the last character of base64 may carry unused bits: then the same code was typed in another way
        assert JoinCode.decode(changed) == CODE
        assert changed == text or at == len(text) - 1
    except InputError as error:
        assert error.code == "input.usage"  # noqa: PT017


@settings(max_examples=100 * FULL, deadline=None)
@given(st.integers(0, len(CODE.encode()) - 1))
def test_a_cut_join_code(size: int) -> None:
    with pytest.raises(InputError):
        JoinCode.decode(CODE.encode()[:size])


@settings(max_examples=200 * FULL, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_as_a_join_code(raw: bytes) -> None:
    with pytest.raises(InputError):
        JoinCode.decode("corsia1-" + base64.urlsafe_b64encode(raw).decode())


def test_bundle_round_trip_and_canonical_form() -> None:
    raw = BUNDLE.to_bytes()
    assert TrustBundle.from_bytes(raw) == BUNDLE
    assert list(json.loads(raw)) == sorted(json.loads(raw))
    assert TrustBundle.from_bytes(raw).to_bytes() == raw


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b"1", b"\xff", b'{"ca_pem": 1}', b'"ca_pem"'])
def test_malformed_bundles(raw: bytes) -> None:
    with pytest.raises(InputError) as caught:
        TrustBundle.from_bytes(raw)
    assert caught.value.code == "input.message"


def test_purposes_differ_and_carry_their_version() -> None:
    purposes = [value for name, value in vars(Purpose).items() if name.isupper()]
    assert len(set(purposes)) == len(purposes) >= 8
    assert all(purpose.startswith(b"corsia/v1/") for purpose in purposes)


def test_site_uris() -> None:
    assert site_of_uri(site_uri("site-a")) == "site-a"
    for foreign in ("", "corsia:site:", "https://site-a", "CORSIA:SITE:site-a"):
        assert site_of_uri(foreign) is None

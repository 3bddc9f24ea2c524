"""Tokens that a provider never made, or not for this centre: each is refused with its code."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from central.identity.provider import Provider, challenge
from central.identity.settings import ANY_AUDIENCE, IdentityConfig, RolesConfig
from protocol.errors import AuthenticationError, ConfigurationError, UnavailableError

RSA, EC, STRANGER = RSAKey.generate_key(2048), ECKey.generate_key("P-256"), RSAKey.generate_key(2048)


class Peer:
    """A provider's description, keys and answers; what it says can be changed."""

    def __init__(self) -> None:
        peer, self.asked = self, list[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                peer.asked.append(self.path)
                status, body = peer.pages.get(self.path, (404, {}))
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        self.pages: dict[str, tuple[int, Any]] = {
            "/.well-known/openid-configuration": (200, {
                "issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token", "jwks_uri": f"{self.issuer}/jwks",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
            }),
            "/jwks": (200, {"keys": [
                RSA.as_dict(private=False, kid="r", use="sig"), EC.as_dict(private=False, kid="e"),
            ]}),
        }  # fmt: skip
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        value = {"iss": self.issuer, "sub": "u-1", "aud": "corsia", "iat": now, "exp": now + 600, "name": "Anna",
                 "groups": ["hbd"]} | changes  # fmt: skip
        return {name: one for name, one in value.items() if one is not None}

    def token(self, key: Any = RSA, header: dict[str, Any] | None = None, **changes: Any) -> str:
        full = {"alg": "RS256", "kid": "r"} | (header or {})
        return str(jwt.encode(full, self.claims(**changes), key, algorithms=[full["alg"]]))


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.server.shutdown()
    made.server.server_close()


def provider(peer: Peer, **changes: Any) -> Provider:
    value = {"issuer": peer.issuer, "client_id": "corsia", "device_client_id": "cli", "audience": "https://corsia.example",
             "redirect_uri": "http://127.0.0.1:1/auth/callback", "roles": RolesConfig(researcher=("hbd",))}  # fmt: skip
    return Provider(IdentityConfig.model_validate(value | changes))


def part(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def unsigned(peer: Peer) -> str:
    return f"{part(json.dumps({'alg': 'none'}).encode())}.{part(json.dumps(peer.claims()).encode())}."


def by_public_key(peer: Peer) -> str:
    """The classic confusion: an HMAC keyed with the public key."""
    head = json.dumps({"alg": "HS256", "kid": "r"}).encode()
    signed = f"{part(head)}.{part(json.dumps(peer.claims()).encode())}"
    return f"{signed}.{part(hmac.digest(RSA.as_pem(private=False), signed.encode(), 'sha256'))}"


FORGED: dict[str, Callable[[Peer], str]] = {
    "another's key": lambda p: p.token(STRANGER),
    "no such key": lambda p: p.token(STRANGER, {"kid": "new"}),
    "no signature": unsigned,
    "public key as secret": by_public_key,
    "an algorithm that is not listed": lambda p: p.token(header={"alg": "RS512"}),
    "another issuer": lambda p: p.token(iss="https://elsewhere.example"),
    "the issuer with a slash": lambda p: p.token(iss=p.issuer + "/"),
    "another client": lambda p: p.token(aud="other"),
    "ours and others', by another": lambda p: p.token(aud=["corsia", "other"], azp="other"),
    "ours and others', by nobody": lambda p: p.token(aud=["corsia", "other"]),
    "ended": lambda p: p.token(exp=int(time.time()) - 120),
    "no end": lambda p: p.token(exp=None),
    "no subject": lambda p: p.token(sub=None),
    "an empty subject": lambda p: p.token(sub=""),
    "a subject that is a number": lambda p: p.token(sub=7),
    "not yet": lambda p: p.token(nbf=int(time.time()) + 600),
    "made in the future": lambda p: p.token(iat=int(time.time()) + 600),
    "garbage": lambda p: "eyJhbGciOiJSUzI1NiJ9.e30.AAAA",
    "nothing": lambda p: "",
    "deep": lambda p: "eyJ" + "A" * 4000 + ".." ,
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_id_token_is_refused(peer: Peer, case: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        provider(peer).person(FORGED[case](peer))
    assert caught.value.code == "auth.provider"
    assert "u-1" not in str(caught.value)


def test_a_good_one_tells_who_it_is(peer: Peer) -> None:
    ours = provider(peer)
    person = ours.person(peer.token(), nonce=None)
    assert (person.issuer, person.subject, person.name, person.groups) == (peer.issuer, "u-1", "Anna", ("hbd",))
    assert ours.person(peer.token(EC, {"alg": "ES256", "kid": "e"}, aud="cli")).subject == "u-1"
    wlcg = ours.person(peer.token(groups=None, **{"wlcg.groups": ["/hbd", "/hbd/admins/", "/", 7]}))
    assert wlcg.groups == ("hbd", "hbd/admins")
    assert ours.person(peer.token(name="a\x00\n<b>" + "x" * 500)).name == "a<b>" + "x" * 124
    with pytest.raises(AuthenticationError):
        ours.person(peer.token(nonce="theirs"), nonce="ours")
    with pytest.raises(AuthenticationError):
        ours.person(peer.token(iat=int(time.time()) - 700), fresh_s=600)
    assert peer.asked.count("/jwks") == 1, "its keys are kept"


def test_groups_that_the_token_does_not_tell_are_asked_for(peer: Peer) -> None:
    ours, bare = provider(peer), peer.token(groups=None)
    peer.pages["/userinfo"] = (200, {"sub": "u-1", "groups": ["/hbd"]})
    assert ours.person(bare, "access").groups == ("hbd",)
    peer.pages["/userinfo"] = (401, {})
    assert ours.person(bare, "access").groups == ()
    peer.pages["/userinfo"] = (200, {"sub": "somebody else", "groups": ["hbd"]})
    with pytest.raises(AuthenticationError):
        ours.person(bare, "access")


@pytest.mark.parametrize("none", [[], {}, "hbd"])
def test_a_claim_that_tells_of_no_group_is_the_last_word(peer: Peer, none: Any) -> None:
    ours = provider(peer)
    peer.pages["/userinfo"] = (200, {"sub": "u-1", "groups": ["/hbd"]})
    for claims in ({"groups": none}, {"groups": none, "wlcg.groups": ["hbd"]}, {"wlcg.groups": none}):
        token = peer.token(**claims)
        assert ours.person(token, "access").groups == ()
    assert peer.asked.count("/userinfo") == 0


def test_an_access_token_is_for_our_audience(peer: Peer) -> None:
    ours = provider(peer)
    told = ours.access(peer.token(aud="https://corsia.example"))
    assert told.issued <= time.time() < told.until
    assert told.anybody is False
    assert ours.access(peer.token(aud=[ANY_AUDIENCE])).anybody is True
    for audience in ("corsia", "cli", "https://corsia.example/", None):
        with pytest.raises(AuthenticationError):
            ours.access(peer.token(aud=audience))
    with pytest.raises(AuthenticationError) as caught:
        provider(peer, audience="").access(peer.token(aud=""))
    assert caught.value.code == "auth.token"


def test_a_new_key_is_found_and_asked_for_seldom(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = provider(peer)
    ours.person(peer.token())
    peer.pages["/jwks"] = (200, {"keys": [STRANGER.as_dict(private=False, kid="new")]})
    token = peer.token(STRANGER, {"kid": "new"})
    for _ in range(5):
        with pytest.raises(AuthenticationError):
            ours.person(token)
    assert peer.asked.count("/jwks") == 1, "a flood of forged tokens is no flood of questions"
    monkeypatch.setattr("central.identity.provider._AGAIN_S", 0.0)
    assert ours.person(token).subject == "u-1"


def test_a_provider_that_is_not_what_is_pinned(peer: Peer) -> None:
    about = peer.pages["/.well-known/openid-configuration"][1]
    for changed in ({"jwks_uri": "http://elsewhere.example/jwks"}, {"jwks_uri": "file:///etc/passwd"}, {"jwks_uri": 7}):
        peer.pages["/.well-known/openid-configuration"] = (200, about | changed)
        with pytest.raises(UnavailableError) as caught:
            provider(peer).person(peer.token())
        assert caught.value.code == "unavailable.provider"
    peer.pages["/.well-known/openid-configuration"] = (200, about | {"issuer": "https://elsewhere.example"})
    with pytest.raises(AuthenticationError):
        provider(peer).person(peer.token())
    for page in ((500, {}), (200, b"x" * (2 << 20)), (200, b"not json"), (200, []), (302, {})):
        peer.pages["/.well-known/openid-configuration"] = page
        with pytest.raises(UnavailableError):
            provider(peer).person(peer.token())


def test_the_challenge_is_that_of_rfc_7636() -> None:
    assert challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_what_cannot_be_safe_is_no_configuration(tmp_path: Path) -> None:
    good = {"issuer": "https://iam.example/", "client_id": "c", "redirect_uri": "https://c.example/auth/callback"}
    wrong: list[dict[str, Any]] = [
        {"issuer": "http://iam.example/"}, {"redirect_uri": "http://c.example/auth/callback"},
        {"redirect_uri": "https://c.example/elsewhere"}, {"algorithms": ["none"]}, {"algorithms": ["HS256"]},
        {"audience": "c"}, {"audience": ANY_AUDIENCE}, {"scopes": ["profile"]}, {"unknown": 1}, {"session_hours": 0},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(ValueError, match=r"."):
            IdentityConfig.model_validate(good | change)
    secret = tmp_path / "secret"
    secret.write_text("s")
    secret.chmod(0o644)
    config = IdentityConfig.model_validate(good | {"client_secret_file": secret})
    with pytest.raises(ConfigurationError) as caught:
        config.secret()
    assert caught.value.code == "config.key-mode"

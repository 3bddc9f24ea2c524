"""The way through a hospital's proxy: CONNECT with and without a login, and one that opens TLS, told by its code."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from corsia.doctor import examine
from edge.config import Delivery
from edge.identity import Identity, enrol
from edge.route import Route
from edge.uplink import Uplink
from protocol.assignment import SiteReport
from protocol.errors import AuthenticationError, ConfigurationError, CorsiaError
from tests.proxykit import interception, proxying
from tests.uplinkkit import Authority, Centre, entry, noise

LOGIN = "us@er:p%w:rd"
REPORT = SiteReport(version="1", paused=False, spool_parcels=0, spool_bytes=0, ledger_head="", journal_head="")


@pytest.fixture(scope="module")
def centre() -> Iterator[Centre]:
    made = Centre().start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def identity(centre: Centre, tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return centre.enrol(tmp_path_factory.mktemp("site") / "state")


def route(address: str, folder: Path, login: str = "", mode: int = 0o600) -> Route:
    if not login:
        return Route.of(Delivery(proxy=f"http://{address}"))
    path = folder / "proxy.auth"
    path.write_text(login + "\n")
    path.chmod(mode)
    return Route.of(Delivery(proxy=f"http://{address}", proxy_auth=path))


def refused(call, code: str) -> CorsiaError:  # type: ignore[no-untyped-def]
    with pytest.raises(CorsiaError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize("login", ["", LOGIN])
def test_everything_goes_through_a_proxy_that_connects(
    centre: Centre, identity: Identity, tmp_path: Path, login: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with proxying(login) as proxy:
        way = route(proxy.address, tmp_path, login)
        uplink = Uplink(identity, route=way)
        parcel = entry(noise(3_000_000), tmp_path)
        with parcel.path.open("rb") as read:
            assert uplink.deliver(parcel, read, lambda: False).digest == parcel.digest
        uplink.close()
        assert proxy.heads
        assert all(head.startswith(f"CONNECT {centre.fleet} ".encode()) for head in proxy.heads)
        made = enrol("site-a", tmp_path / "new", centre.code(), route=way)
        assert made.site == "site-a"
        assert any(centre.enrolment.encode() in head for head in proxy.heads)
    assert "p%w" not in repr(way) + caplog.text


def test_a_proxy_that_refuses_is_named(centre: Centre, identity: Identity, tmp_path: Path) -> None:
    with proxying(LOGIN) as proxy:
        for login in ("", "us@er:wrong"):
            uplink = Uplink(identity, route=route(proxy.address, tmp_path, login))
            error = refused(lambda up=uplink: up.report(REPORT), "auth.proxy")
            assert isinstance(error, AuthenticationError)
            assert "wrong" not in str(error)
            uplink.close()
        refused(
            lambda: enrol("site-a", tmp_path / "x", centre.code(), route=route(proxy.address, tmp_path)), "auth.proxy"
        )


@pytest.mark.parametrize("newest", [None, ssl.TLSVersion.TLSv1_2])
def test_a_proxy_that_opens_tls_is_told_from_a_false_centre(
    identity: Identity, tmp_path: Path, newest: ssl.TLSVersion | None
) -> None:
    with proxying(intercept=interception(tmp_path, Authority("Hospital Inspection"), newest=newest)) as proxy:
        uplink = Uplink(identity, route=route(proxy.address, tmp_path))
        error = refused(lambda: uplink.report(REPORT), "auth.intercepted")
        assert "Hospital Inspection" in str(error)
        assert identity.fleet in str(error)
        uplink.close()


def test_doctor_says_in_one_line_what_it_must_exempt(centre: Centre, tmp_path: Path) -> None:
    identity = centre.enrol(tmp_path / "state")
    folder = tmp_path / "proxy"
    folder.mkdir()
    host, port = identity.fleet.split(":")

    def found(address: str) -> tuple[bool, str]:
        config = tmp_path / "edge.toml"
        proxy = f'[delivery]\nproxy = "http://{address}"\n' if address else ""
        config.write_text(f'site = "site-a"\nstate_dir = "state"\n{proxy}')
        (finding,) = (one for one in examine(config) if one.check == "centre")
        return finding.ok, f"{finding.found}; {finding.advice}"

    assert found("")[0]
    with proxying() as proxy:
        assert found(proxy.address)[0]
    with proxying(intercept=interception(folder, Authority("Hospital Inspection"))) as proxy:
        ok, line = found(proxy.address)
    assert not ok
    assert "\n" not in line
    for part in ("auth.intercepted", "Hospital Inspection", host, port, "exempt"):
        assert part in line
    with proxying("a:b") as proxy:
        ok, line = found(proxy.address)
    assert not ok
    assert "auth.proxy" in line


@pytest.mark.parametrize(
    ("text", "code"), [("user", "config.invalid"), ("", "config.invalid"), ("a:b\nc", "config.invalid")]
)
def test_credentials_are_one_line_in_a_private_file(tmp_path: Path, text: str, code: str) -> None:
    refused(lambda: route("127.0.0.1:1", tmp_path, text or "\n"), code)
    refused(lambda: route("127.0.0.1:1", tmp_path, "a:b", mode=0o640), "config.key-mode")
    missing = Delivery(proxy="http://127.0.0.1:1", proxy_auth=tmp_path / "none")
    with pytest.raises(ConfigurationError):
        Route.of(missing)

"""Remote tables over real HTTPS: kept with licence and provenance, or not kept at all."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from central.reach import is_public
from central.remotes import Pull, Remote, harvest, provenance, table_of
from protocol.errors import IntegrityError
from tests.uplinkkit import Authority

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CSV = b"day,area,heat\n2026-02-01,IT-25,4.5\n2026-02-02,IT-25,6.1\n"


class Server:
    """One page over TLS."""

    body: ClassVar[bytes] = CSV

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        key, chain = self.authority.server()
        (folder / "key").write_bytes(key)
        (folder / "chain").write_bytes(chain)
        (folder / "ca.pem").write_bytes(self.authority.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "chain", folder / "key")
        self.data, self.status, self.headers, self.asked = CSV, 200, {"ETag": '"1"'}, list[dict[str, str]]()
        outer = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(dict(self.headers))
                same = self.headers.get("If-None-Match") == outer.headers.get("ETag") and outer.status == 200
                self.send_response(304 if same and "ETag" in outer.headers else outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in outer.headers:
                    self.send_header("Content-Length", "0" if same else str(len(outer.data)))
                self.end_headers()
                if not same:
                    self.wfile.write(outer.data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server.server_port}/weather.csv"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture(name="server")
def _server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()


def remote(server: Server, tmp_path: Path, **more: Any) -> Remote:
    said = {"url": server.url, "licence": "CC-BY-4.0", "publisher": "Weather office", "ca_file": tmp_path / "ca.pem",
            "private": True}  # fmt: skip
    return Remote.model_validate(said | more)


def once(tmp_path: Path, one: Remote, at: datetime = NOW, **more: Any) -> Pull:
    return next(iter(harvest(tmp_path / "state", {"weather": one}, now=at, **more)))


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return provenance(tmp_path / "state" / "harvested" / "weather")


def test_a_table_is_kept_with_where_it_is_from(server: Server, tmp_path: Path) -> None:
    one = remote(server, tmp_path, terms="https://example.org/licence")
    assert once(tmp_path, one).state == "kept"
    data, line = table_of(tmp_path / "state", "weather")
    assert data == CSV
    assert {k: line[k] for k in ("licence", "publisher", "terms", "rows", "columns", "bytes", "url")} == {
        "licence": "CC-BY-4.0", "publisher": "Weather office", "terms": "https://example.org/licence", "rows": 2,
        "columns": ["day", "area", "heat"], "bytes": len(CSV), "url": server.url,
    }  # fmt: skip


def test_it_is_asked_for_when_it_is_due_and_sent_when_it_has_changed(server: Server, tmp_path: Path) -> None:
    one = remote(server, tmp_path, every_h=6)
    once(tmp_path, one)
    assert once(tmp_path, one, NOW + timedelta(hours=5)).state == "not-due"
    assert len(server.asked) == 1
    assert once(tmp_path, one, NOW + timedelta(hours=7)).state == "unchanged"
    server.data, server.headers = CSV + b"2026-02-03,IT-25,7\n", {"ETag": '"2"'}
    assert once(tmp_path, one, NOW + timedelta(hours=14)).state == "kept"
    assert table_of(tmp_path / "state", "weather")[1]["rows"] == 3
    assert [line["state"] for line in lines(tmp_path)] == ["kept", "unchanged", "kept"]


@pytest.mark.parametrize(
    ("data", "headers", "status", "more", "code"),
    [
        (b"<html>sorry</html>", {}, 200, {}, "input.source"),
        (b"a,b\n1,2\n3", {}, 200, {}, "input.source"),
        (b"a,b\n", {}, 200, {}, "input.source"),
        (CSV, {}, 503, {}, "unavailable.source"),
        (CSV, {"Location": "https://evil.example/"}, 302, {}, "unavailable.source"),
        (CSV, {}, 401, {}, "auth.source"),
        (CSV, {"Content-Digest": "sha-256=:AAAA:"}, 200, {}, "blob.digest"),
        (CSV, {}, 200, {"sha256": "0" * 64}, "blob.digest"),
        (CSV, {}, 200, {"max_bytes": 10}, "input.source"),
        (CSV, {}, 200, {"agreed_until": date(2026, 2, 1)}, "config.invalid"),
        (CSV, {}, 200, {"ca_file": None}, "unavailable.source"),
        (CSV, {}, 200, {"format": "parquet"}, "input.source"),
        (CSV, {"Location": "http://127.0.0.1/weather.csv"}, 301, {}, "unavailable.source"),
        (CSV, {}, 200, {"private": False}, "config.invalid"),
    ],
)
def test_what_is_not_the_table_is_not_kept(
    server: Server, tmp_path: Path, data: bytes, headers: dict[str, str], status: int, more: dict[str, Any], code: str
) -> None:
    once(tmp_path, remote(server, tmp_path))
    server.data, server.headers, server.status = data, headers, status
    told = once(tmp_path, remote(server, tmp_path, **more), NOW + timedelta(days=2))
    assert (told.state, told.code) == ("failed", code)
    assert table_of(tmp_path / "state", "weather")[0] == CSV  # the last good one stands
    assert lines(tmp_path)[-1]["code"] == code


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.1", "224.0.0.1",
        "::1", "fe80::1", "fc00::1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::", "64:ff9b::a00:1",
    ],
)  # fmt: skip
def test_inner_addresses_are_no_public_ones(address: str) -> None:
    assert not is_public(address)


def test_public_addresses_are() -> None:
    assert all(map(is_public, ("193.206.84.1", "2001:760::1", "::ffff:193.206.84.1")))


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "127.0.0.1"])
@pytest.mark.parametrize("proxy", ["", "http://127.0.0.1:9"])
def test_no_way_of_writing_an_inner_address_is_gone_to(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, proxy: str
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
    url = f"https://{host}:{server.server.server_port}/weather.csv"
    told = once(tmp_path, remote(server, tmp_path, url=url, private=False))
    assert (told.state, told.code) in (("failed", "config.invalid"), ("failed", "unavailable.source"))
    assert told.code == "config.invalid" or proxy, "refused before anything is asked"
    assert server.asked == []


def test_nothing_has_changed_is_no_word_on_another_table(server: Server, tmp_path: Path) -> None:
    server.status = 304  # to one who has nothing
    assert once(tmp_path, remote(server, tmp_path)).code == "unavailable.source"
    server.status = 200
    assert once(tmp_path, remote(server, tmp_path)).state == "kept"
    pinned = once(tmp_path, remote(server, tmp_path, sha256="0" * 64), due_only=False)
    assert (pinned.state, pinned.code) == ("failed", "blob.digest")
    server.data = b"day,rain\n2026-02-01,1\n"  # of an address whose files bear the same tag
    moved = remote(server, tmp_path, url=server.url.replace("weather", "rain"))
    assert once(tmp_path, moved).state == "kept"
    assert table_of(tmp_path / "state", "weather")[0] == server.data
    assert once(tmp_path, moved, due_only=False).state == "unchanged"


def test_only_https_and_only_with_a_licence() -> None:
    good = {"url": "https://x.example/t", "licence": "CC0-1.0", "publisher": "Office"}
    Remote.model_validate(good)
    for bad in ({"url": "http://x.example/t"}, {"url": "https://u:p@x.example/t"}, {"licence": ""}):
        with pytest.raises(ValidationError):
            Remote.model_validate(good | bad)


def test_a_changed_line_or_table_is_found(server: Server, tmp_path: Path) -> None:
    one = remote(server, tmp_path)
    once(tmp_path, one)
    once(tmp_path, one, NOW + timedelta(days=2))
    path = tmp_path / "state" / "harvested" / "weather" / "provenance.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"torn')
    assert len(lines(tmp_path)) == 2
    once(tmp_path, one, NOW + timedelta(days=4))
    assert len(lines(tmp_path)) == 3
    path.write_bytes(whole.replace(b"CC-BY-4.0", b"CC0-1.0  ", 1))
    with pytest.raises(IntegrityError, match=r"lake\.damaged"):
        lines(tmp_path)
    path.write_bytes(whole)
    kept = json.loads(whole.split(b"\n")[0])["sha256"]
    (path.parent / kept).write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"lake\.damaged"):
        table_of(tmp_path / "state", "weather")

"""What a client and a command do with an answer that no centre gives, and what of a token they send."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import corsia
from corsia.cli.logsource import download
from corsia.cli.show import table
from protocol.errors import AuthenticationError, ConfigurationError, UnavailableError


class Portal(BaseHTTPRequestHandler):
    """A hospital's captive portal: a page with status 200, whatever is asked."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("Authorization", ""))
        self.send_response(200)
        self.send_header("Content-Length", "15")
        self.end_headers()
        self.wfile.write(b"<h1>Welcome</h1>"[:15])

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def portal() -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []
    handler = type("Seen", (Portal,), {"seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def test_a_portals_page_is_no_centre(portal: tuple[str, list[str]]) -> None:
    with pytest.raises(UnavailableError) as caught:
        corsia.connect(portal[0], token="t")
    assert caught.value.code == "unavailable.centre"
    with corsia.Hub(portal[0], "t") as hub, pytest.raises(UnavailableError, match="is no centre"):
        repr(hub.sites)


def test_the_log_is_asked_for_without_the_seal_and_a_long_token_is_no_file(
    portal: tuple[str, list[str]], tmp_path: Path
) -> None:
    file, jwt = tmp_path / "alice.token", "eyJ" + "a" * 600 + ".b.c"
    file.write_text("alice.access.seal\n")
    file.chmod(0o600)
    for token in (str(file), "alice.access.seal", jwt):
        with pytest.raises(UnavailableError, match="is no centre"):  # nor a word of a log
            download(portal[0], token)
    assert portal[1] == ["Bearer alice.access", "Bearer alice.access", f"Bearer {jwt}"]
    file.chmod(0o644)
    with pytest.raises(ConfigurationError):
        download(portal[0], str(file))
    with pytest.raises(AuthenticationError):
        download(portal[0], "caffè")
    assert len(portal[1]) == 3


@pytest.mark.parametrize("columns", ["", "0", "wide", "-3"])
def test_a_table_has_a_width_whatever_the_environment_says(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    table("Entries", ["kind"], [["parcel"]])
    assert "parcel" in capsys.readouterr().out

"""`corsia edge web`: who may open the site's page, what a steward reads and does there, beside a running daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from markupsafe import escape

from corsia.siteweb import SiteServer
from edge.config import EdgeConfig
from edge.journal import Journal
from edge.ledger import Ledger
from protocol.assignment import State
from protocol.words import words
from tests.agentkit import enrolled, running, site_config, study
from tests.browserkit import Seat, browser, chromium, serious

XSS = "<script>alert(1)</script>\"'{{7*7}}"


@contextmanager
def served(config: EdgeConfig) -> Iterator[SiteServer]:
    stop = threading.Event()
    server = SiteServer(config)
    worker = threading.Thread(target=server.until, args=(stop,))
    worker.start()
    try:
        yield server
    finally:
        stop.set()
        worker.join()


def steward(server: SiteServer, **headers: str) -> httpx.Client:
    http = httpx.Client(base_url=f"http://{server.host}", headers=headers, trust_env=False, timeout=120.0)
    http.cookies.set("corsia_site", server.token)
    return http


def act(http: httpx.Client, server: SiteServer, path: str) -> httpx.Response:
    return http.post(path, data={"mark": server.mark}, follow_redirects=True)


@pytest.fixture
def config(tmp_path: Path) -> EdgeConfig:
    return site_config(tmp_path, approve="manual")


def test_a_steward_reads_previews_approves_and_pauses(config: EdgeConfig) -> None:
    office = enrolled(config)
    with running(config, office), served(config) as server, steward(server) as http:
        asked = office.submit(study(title=XSS))
        office.wait(asked, State.PENDING)
        digest = asked.study_digest
        home = http.get("/").text
        assert f"/study/{digest}" in home
        assert "running" in home
        page = http.get(f"/study/{digest}").text
        assert "<script>" not in page
        assert "&lt;script&gt;alert(1)" in page
        assert "{{7*7}}" in page
        for word in ("The request in words", "these columns of the table", "Groups of fewer than", "would let it run"):
            assert word in page, word
        shown = act(http, server, f"/preview/{digest}").text
        assert "This would leave." in shown
        assert "The first 10 rows" in shown
        assert "withheld: consent" in shown
        assert "Bardellini" not in shown
        assert office.parcels == {}
        assert Ledger(config.state_dir / "ledger.db").spends() == []
        assert office.state(asked) is not None
        assert "approved" in act(http, server, f"/approve/{digest}").text
        assert office.wait(asked).state is State.DONE
        assert "Nothing leaves: egress is paused." in act(http, server, "/pause").text
        assert "What is approved may leave." in act(http, server, "/resume").text
        journal = http.get("/journal").text
        for event in ("study.approved", "egress.paused", "egress.resumed", "the chain is whole"):
            assert event in journal, event
        again = http.get("/journal?before=2").text
        assert "study.approved" not in again
        refused = act(http, server, f"/refuse/{digest}").text
        assert "refused" in refused
        assert "Che cosa esce da questo centro" in http.get("/?lang=it").text
    events = [line.event for line in Journal(config.state_dir / "journal.jsonl", readonly=True).tail(100)]
    assert events.count("study.approved") == events.count("study.refused") == 1
    every = b"".join(path.read_bytes() for path in config.state_dir.rglob("*") if path.is_file())
    assert server.token.encode() not in every


def test_who_may_open_it(config: EdgeConfig) -> None:
    with served(config) as server:
        with httpx.Client(base_url=f"http://{server.host}", trust_env=False, timeout=120.0) as nobody:
            closed = nobody.get("/", headers={"Accept-Language": "it"})
            assert (closed.status_code, closed.headers["content-type"]) == (401, "text/html; charset=utf-8")
            assert "stampato da `corsia edge web`" in closed.text
            assert config.site not in closed.text, "who is not let in is not told whose page this is"
            assert nobody.get("/corsia.css").status_code == 401
            assert nobody.get("/?token=wrong").status_code == 401
            assert nobody.get("/", headers={"Cookie": "corsia_site=wrong"}).status_code == 401
            assert nobody.post("/pause", data={"mark": server.mark}).status_code == 401
            entered = nobody.get(f"/?token={server.token}")
            assert (entered.status_code, entered.headers["location"]) == (303, "/")
            cookie = entered.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
        with steward(server) as http:
            answer = http.get("/")
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'self'")
            assert answer.headers["cache-control"] == "no-store"
            assert "<script" not in answer.text
            assert http.get("/corsia.css").headers["content-type"].startswith("text/css")
            assert http.get("/", headers={"Host": f"hospital.example:{server.server_address[1]}"}).status_code == 421
            assert http.post("/pause", data={}).status_code == 403
            assert http.post("/pause", data={"mark": "x"}).status_code == 403
            theirs = {"Origin": "http://evil.example"}
            assert http.post("/pause", data={"mark": server.mark}, headers=theirs).status_code == 403
            assert http.post("/pause", content=b"x" * 5000).status_code == 403
            for path in ("/nothing", f"/study/{'0' * 64}", "/study/../../etc/passwd"):
                assert http.get(path).status_code == 404, path
            said = http.get("/nothing", headers={"Accept-Language": "it"}).text.partition("<main")[2]
            assert '<strong lang="it">questa pagina non esiste</strong> <code>study.unknown</code>' in said
            assert f'<p class="hint" lang="it">{escape(words("it").error("study.unknown")[1])}</p>' in said
            one = http.get(f"/study/{'0' * 64}", headers={"Accept-Language": "it"}).text
            assert '<strong lang="en">no study &#39;000' in one, "of the one case alone"
            assert act(http, server, f"/approve/{'0' * 64}").status_code == 404
            assert http.request("DELETE", "/").status_code == 501
    assert server.server_address[0] == "127.0.0.1"


def test_a_steward_decides_in_a_browser_by_keyboard_and_in_italian(config: EdgeConfig) -> None:
    chromium()
    from playwright.sync_api import expect

    office = enrolled(config)
    with running(config, office), served(config) as server, browser(f"http://{server.host}") as seats:
        asked = office.submit(study(title=XSS))
        office.wait(asked, State.PENDING)
        seat: Seat = seats(locale="it-IT", viewport={"width": 400, "height": 800})
        seat.enter(server.token)
        page = seat.page("/")
        expect(page.locator("h1")).to_have_text("Questo centro")
        assert serious(page) == []
        page.get_by_role("link", name="one").focus()
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_have_text(XSS)
        expect(page.get_by_text("La richiesta in parole")).to_be_visible()
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.get_by_role("button", name="Mostra che cosa uscirebbe").press("Enter")
        expect(page.get_by_text("Questo uscirebbe.")).to_be_visible()
        assert serious(page) == []
        page.get_by_role("link", name="Torna alla richiesta").click()
        page.get_by_role("button", name="Approva").press("Enter")
        expect(page.locator("main .state").first).to_have_text("approvato")
        assert office.wait(asked).state is State.DONE
        seat.context.close()
        assert seat.wrong == []


def test_the_command_prints_the_address_and_ends_when_asked(tmp_path: Path, config: EdgeConfig) -> None:
    command = [sys.executable, "-m", "corsia", "edge", "web", "--port", "0", "--json", "--config"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "edge.toml")], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    try:
        told: dict[str, Any] = json.loads(process.stdout.readline())
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", told["url"])
        with httpx.Client(trust_env=False, follow_redirects=True, timeout=120.0) as http:
            assert "What leaves this site" in http.get(told["url"]).text
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(60)
        process.stdout.close()
    assert status == 0

"""Debian's Chromium for tests: a page that tells of each error on its console and each request that left loopback."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

__all__ = ["Seat", "browser", "by_tab", "chromium", "expect", "serious", "shot"]

AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
_BOUND_MS = 240_000  # no measure: the machine may be busy
_MOST_TABS = 40
_PICTURES = Path(__file__).parents[1] / "docs" / "img"
_STILL = """() => {
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let one; (one = texts.nextNode());) {
    one.data = one.data.replace(/\\d{4}-\\d\\d-\\d\\d \\d\\d:\\d\\d(:\\d\\d)? UTC/g, "2026-01-05 09:00 UTC")
      .replace(/[0-9a-f]{32,64}/g, (found) => "0123456789abcdef".repeat(4).slice(0, found.length))
      .replace(/\\d+ (s|min) ago/g, "15 s ago");
  }
}"""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass
class Seat:
    """One person's browser: pages of one context, and what went wrong in them."""

    context: Any
    url: str
    wrong: list[str] = field(default_factory=list)

    def page(self, path: str = "/") -> Any:
        page = self.context.new_page()
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.wrong.append(f"script: {error}"))
        page.on("request", self._asked)
        page.goto(self.url + path)
        return page

    def enter(self, token: str) -> None:
        page = self.page(f"/?token={token}")
        page.close()

    def refused(self, status: int) -> None:
        """Chromium writes each refused page on its console; there must be such a line, and no other."""
        lines = [one for one in self.wrong if f"status of {status}" in one]
        assert lines
        self.wrong[:] = [one for one in self.wrong if one not in lines]

    def _said(self, said: Any) -> None:
        if said.type == "error":
            self.wrong.append(f"console: {said.text} at {said.location['url']}")

    def _asked(self, request: Any) -> None:
        address = urlsplit(request.url)
        if address.scheme in ("http", "https", "ws", "wss") and address.hostname not in _LOOPBACK:
            self.wrong.append(f"left loopback: {request.url}")


def expect(found: Any) -> Any:
    """Playwright's `expect`; it waits for what is said to become so."""
    from playwright.sync_api import expect as expected

    return expected(found)


def chromium() -> str:
    """Where Chromium is, or a skip that says how to get it."""
    pytest.importorskip("playwright", reason="no playwright: pip install -c constraints.txt playwright")
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("no chromium: sudo apt-get install -y --no-install-recommends chromium")
    return found


@contextmanager
def browser(url: str, prefix: Sequence[str] = (), folder: Path | None = None) -> Iterator[Any]:
    """A browser; called with a setting it gives a `Seat`.

    Args:
        prefix: a command to start Chromium with, as one that enters a network namespace; needs `folder` for a script.
    """
    path = chromium()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=_BOUND_MS)
    if prefix and folder is not None:
        script = folder / "chromium.sh"
        script.write_text(f'#!/bin/sh\nexec {" ".join(prefix)} {path} "$@"\n')
        script.chmod(0o700)
        path = str(script)
    args = ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
    if os.geteuid() == 0:
        args.append("--no-sandbox")
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=path, args=args)

        def seat(**settings: Any) -> Seat:
            context = started.new_context(**{"locale": "en-GB", **settings})
            context.set_default_timeout(_BOUND_MS)
            return Seat(context, url)

        try:
            yield seat
        finally:
            started.close()


def by_tab(page: Any, target: Any) -> None:
    """Come to something by the Tab key, as who has no mouse."""
    expect(target).to_be_visible()
    for _ in range(_MOST_TABS):
        if target.evaluate("node => node === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError("the keyboard does not lead there")


def serious(page: Any) -> list[str]:
    """What axe-core finds serious or critical on a page as it is shown."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in ("serious", "critical")
    ]


def shot(page: Any, name: str) -> None:
    """With CORSIA_SHOTS=1 a page becomes a picture of the docs, without times and digests of the day."""
    if not os.environ.get("CORSIA_SHOTS"):
        return
    from PIL import Image

    page.evaluate(_STILL)
    raw = page.screenshot(animations="disabled", caret="hide")
    _PICTURES.mkdir(exist_ok=True)
    Image.open(io.BytesIO(raw)).convert("RGB").quantize(64).save(_PICTURES / f"{name}.png", optimize=True)

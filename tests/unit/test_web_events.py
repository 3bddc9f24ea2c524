"""A stream of events is for who may read, and no longer than he may."""

from __future__ import annotations

from pathlib import Path

import pytest

from central.identity.rights import Principal
from central.web import events
from tests.identitykit import hall


@pytest.mark.timeout(60)
def test_a_stream_ends_soon_after_its_reader_has_logged_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_KNOWN_S", 0.0)
    monkeypatch.setattr(events, "_POLL_S", 0.001)
    with hall(tmp_path) as made:
        made.centre.stop.clear()  # as a centre that runs on
        principals, headers = made.app.state.principals, made.headers("steward")
        identify, asked = principals.identify, []

        def known(token: str) -> Principal:
            asked.append(token)
            if len(asked) == 4:  # the request itself, and twice meanwhile
                made.access.logout(token)
            return identify(token)

        monkeypatch.setattr(principals, "identify", known)
        answer = made.http.get("/api/v1/events", headers=headers)
        assert (answer.status_code, len(asked)) == (200, 4)
        assert answer.text.startswith("retry: 1000\n")
        assert made.http.get("/api/v1/events", headers=headers).status_code == 401

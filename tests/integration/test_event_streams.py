"""Event streams are shared: one person, by whatever he is known, leaves the others theirs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from central.identity.access import Access, Account
from central.web.events import MAX_OF_ONE
from tests.identitykit import ISSUER, identity
from tests.webkit import running_centre

pytestmark = pytest.mark.timeout(600)


def test_one_person_holds_so_many_streams_and_others_get_theirs(tmp_path: Path) -> None:
    with running_centre(tmp_path, identity()) as running, ExitStack() as opened:
        access = Access(running.world.store, identity())

        def session(subject: str) -> dict[str, str]:
            person = Account(issuer=ISSUER, subject=subject, name="Somebody", groups=("researcher",))
            return {"Cookie": f"__Host-corsia={access.login(person)}"}

        http = opened.enter_context(httpx.Client(base_url=running.url, trust_env=False, timeout=300.0))

        def stream(headers: dict[str, str]) -> tuple[ExitStack, httpx.Response]:
            kept = opened.enter_context(ExitStack())
            return kept, kept.enter_context(http.stream("GET", "/api/v1/events", headers=headers))

        held = [stream(session("anna")) for _ in range(MAX_OF_ONE)]  # a session each: it is the person who counts
        lines = [answer.iter_lines() for _, answer in held]  # kept: a stream whose lines nobody holds is closed
        assert [next(one) for one in lines] == ["retry: 1000"] * MAX_OF_ONE
        refused = stream(session("anna"))[1]
        assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
        refused.read()
        assert (refused.json()["code"], int(refused.headers["retry-after"]) > 0) == ("unavailable.rate", True)
        assert "anna" not in refused.text
        for other in (session("bruno"), {"Authorization": f"Bearer {running.token}"}):
            assert stream(other)[1].status_code == 200
        held[0][0].close()
        while stream(session("anna"))[1].status_code != 200:  # the centre sees at its next line that he is gone
            pass

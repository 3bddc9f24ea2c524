"""Lists in pages, and writes that are sent twice."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from central.store.models import (
    AdvertisedRow,
    AssignmentRow,
    DecisionRow,
    LogRow,
    ModelRow,
    ParcelRow,
    PromotionRow,
    RemoteRow,
    RepeatedRow,
    RunRow,
    SiteRow,
    StudyRow,
)  # fmt: skip
from central.web.repeats import takes_key
from privacy.envelope import SecretKey
from protocol.study import dump_study, parse_study, study_digest
from tests.identitykit import Hall, hall
from tests.vaultkit import draft

N = 7


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    with hall(tmp_path_factory.mktemp("hall")) as found:
        fill(found)
        yield found


def fill(made: Hall) -> None:
    """Seven rows in each table, some of one moment."""
    training = {"learner": "tabular", "features": ["age"], "outcome": ["sex"], "rounds": 2, "max_rounds": 9}
    training |= {"publish": {"model": "risk"}}
    fed = draft("fed", lane="train", pipeline={"name": "train"}, training=training, output={})
    with made.store.begin() as session:
        for n in range(N):
            identity = SecretKey.generate().public.to_base64()
            session.add(SiteRow(name=f"site-{n}", network="b" if n % 2 else "a", identity=identity, enrolled_at=1.0))
            wanted: dict[str, Any] = fed if n == 0 else draft(f"study-{n}")
            document = _document(wanted)
            session.add(
                StudyRow(id=wanted["id"], digest=study_digest(document), lane=wanted["lane"], title="T",
                         document=document, signature=b"", created_at=float(n // 2))
            )  # fmt: skip
            session.flush()
            session.add(RunRow(id=f"r{n}", study_digest=study_digest(document), state="done", updated_at=1.0))
            session.add(LogRow(index=n, leaf=json.dumps({"kind": "model", "id": f"m{n}"}).encode()))
            session.add(
                AssignmentRow(id=f"a{n}", site=f"site-{n % 3}", kind="study", study_digest=study_digest(document),
                              document=document, signature=b"", created_at=1.0, updated_at=1.0)
            )  # fmt: skip
            session.add(
                ParcelRow(id=f"p{n}", site=f"site-{n}", study_digest=study_digest(document), assignment_id=f"a{n}",
                          content_type="table", digest="d", size_bytes=1, log_index=n, landed_at=1.0)
            )  # fmt: skip
            session.add(
                RemoteRow(name=f"r{n}", state="curated", sha256="", path="", rows=1, url="", licence="CC0-1.0",
                          terms="", publisher="", pulled_at=1.0)
            )  # fmt: skip
            session.add(AdvertisedRow(site=f"site-{n}", dataset="lung", rows=10, columns=[], lanes=[], told_at=1.0))
            session.add(
                ModelRow(name="risk", version=n + 1, alias="candidate", serial=n, study_digest="", manifest="m",
                         manifest_size=1, weights="w", weights_size=1, created_at=float(n // 3))
            )  # fmt: skip
            session.add(
                PromotionRow(id=f"p{n}", name="risk", version=1, alias="champion", rollback=False, statement=b"s",
                             signature=b"s", proposed_by="a", proposed_at=float(n // 2))
            )  # fmt: skip
            session.add(
                DecisionRow(id=f"d{n}", kind="admit", subject="site-1", statement=b"s", signature=b"s", proposed_by="a",
                            proposed_at=float(n // 2))
            )  # fmt: skip


def _document(wanted: dict[str, Any]) -> bytes:
    import tomli_w

    return dump_study(parse_study(tomli_w.dumps(wanted).encode()))


LISTS = ("/sites", "/lanes", "/studies", "/models", "/models/risk/promotions", "/decisions?kind=admit&subject=site-1",
         "/tokens", "/studies/fed/readers", "/datasets", "/flow", "/alarms", "/runs", "/runs/fed/timeline", "/budgets",
         "/budgets/sites", "/account", "/log/entries", "/models/risk/where", "/remotes")  # fmt: skip


def test_every_list_comes_in_pages_and_is_tested_here(made: Hall) -> None:
    described = made.http.get("/api/v1/openapi.json", headers=made.headers("operator")).json()["paths"]
    lists = {path for path, calls in described.items() if "get" in calls and _is_list(calls["get"])}
    assert lists == {
        path for path, calls in described.items()
        if {"limit", "cursor"} <= {one["name"] for one in calls.get("get", {}).get("parameters", ())}
    }  # fmt: skip
    tested = {re.sub("(?<=/)(risk|fed)(?=/|$)", "{}", path.partition("?")[0]) for path in LISTS}
    assert {re.sub("{[^}]*}", "{}", path) for path in lists} == {f"/api/v1{path}" for path in tested}


def _is_list(call: dict[str, Any]) -> bool:
    content = call["responses"]["200"].get("content", {})
    return bool(content.get("application/json", {}).get("schema", {}).get("type") == "array")


@pytest.mark.slow
@pytest.mark.parametrize("path", LISTS)
def test_pages_make_up_the_whole_list(made: Hall, path: str) -> None:
    headers, url = made.headers("operator"), f"/api/v1{path}"
    if path == "/tokens":
        for n in range(N):
            made.http.post("/api/v1/tokens", headers=headers, json={"label": f"t{n}", "scopes": ["log:read"]})
    whole = made.http.get(url, headers=headers)
    assert "link" not in whole.headers
    for limit in (1, 2, 3, 100):
        rows, onward = list[Any](), f"{url}{'&' if '?' in url else '?'}limit={limit}"
        while onward:
            page = made.http.get(onward, headers=headers)
            assert len(page.json()) <= limit
            rows += page.json()
            onward = page.links.get("next", {}).get("url", "")
        assert rows == whole.json(), limit
    for cursor in ("x", "W10", "bnVsbA", "W1tdXQ", "W3RydWVd", "W05hTl0", "WzFlOTld", "é", "", "A" * 2000):
        wrong = made.http.get(url, headers=headers, params={"cursor": cursor} | dict(_query(url)))
        assert (wrong.status_code, wrong.json()["code"]) == (422, "input.usage"), cursor


def _query(url: str) -> list[tuple[str, str]]:
    from urllib.parse import parse_qsl

    return parse_qsl(url.partition("?")[2])


def test_a_row_that_comes_between_two_pages_neither_repeats_nor_hides_one(made: Hall) -> None:
    headers = made.headers("operator")
    first = made.http.get("/api/v1/studies?limit=3", headers=headers)
    document = _document(draft("between"))
    with made.store.begin() as session:
        session.add(
            StudyRow(id="between", digest=study_digest(document), lane="harvest", title="T", document=document,
                     signature=b"", created_at=99.0)
        )  # fmt: skip
    rest = made.http.get(first.links["next"]["url"] + "&limit=100", headers=headers)
    names = [row["id"] for row in [*first.json(), *rest.json()]]
    assert sorted(names) == sorted(["fed", *(f"study-{n}" for n in range(1, N))])
    with made.store.begin() as session:
        session.delete(session.get(StudyRow, "between"))


def keyed(headers: dict[str, str], key: str) -> dict[str, str]:
    return headers | {"Idempotency-Key": key}


def test_a_write_that_is_sent_again_is_done_once(made: Hall) -> None:
    headers = made.headers("operator")
    url, body = "/api/v1/runs/fed/extend", {"rounds": 3}
    first = made.http.post(url, headers=keyed(headers, "k1"), json=body)
    assert first.status_code == 202, first.text
    made.http.post(url, headers=headers, json={"rounds": 5})
    again = made.http.post(url, headers=keyed(headers, "k1"), json=body)
    assert (again.status_code, again.json()) == (202, first.json()), (
        "the first one's answer, although more was asked since"
    )
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == "application/json"
    other = made.http.post(url, headers=keyed(headers, "k1"), json={"rounds": 6})
    assert (other.status_code, other.json()["code"]) == (409, "conflict.repeated")
    theirs = made.http.post(url, headers=keyed(made.headers("operator", subject="else"), "k1"), json={"rounds": 6})
    assert theirs.json()["rounds"] == 6, "a key is one person's own"


def test_one_that_failed_may_be_sent_again_and_one_under_way_is_not_doubled(made: Hall) -> None:
    headers = keyed(made.headers("operator"), "k2")
    assert made.http.post("/api/v1/runs/none/pause", headers=headers).status_code == 404
    assert made.http.post("/api/v1/runs/none/pause", headers=headers).status_code == 404
    url = "/api/v1/runs/fed/pause"
    assert made.http.post(url, headers=headers).status_code == 202
    with made.store.begin() as session:
        rows = session.query(RepeatedRow).order_by(RepeatedRow.at.desc()).all()
        assert {row.status for row in rows} == {202}
        rows[0].status = 0
    assert made.http.post(url, headers=headers).json()["code"] == "conflict.repeated"
    with made.store.begin() as session:
        session.get(RepeatedRow, rows[0].key).at -= 1000  # type: ignore[union-attr]
    assert made.http.post(url, headers=headers).status_code == 202, "whoever did it is gone"


def test_what_a_key_may_be_and_where_it_counts(made: Hall) -> None:
    headers = made.headers("operator")
    for key in ("", "a b", "x" * 256):
        assert made.http.post("/api/v1/runs/fed/pause", headers=keyed(headers, key)).status_code == 422
    big = b"x" * (300 << 10)
    assert made.http.post("/api/v1/studies", headers=keyed(headers, "k"), content=big).status_code == 422
    assert not takes_key("POST", "/api/v1/tokens"), "its answer is a secret"
    assert not takes_key("POST", "/api/v1/studies/x/sql"), "its answer is rows"
    body = {"label": "x", "scopes": ["log:read"]}
    secrets = [made.http.post("/api/v1/tokens", headers=keyed(headers, "t"), json=body) for _ in range(2)]
    assert secrets[0].json()["token"] != secrets[1].json()["token"]


def test_a_cursor_holds_what_the_page_showed(made: Hall) -> None:
    page = made.http.get("/api/v1/sites?limit=1", headers=made.headers("steward"))
    cursor = page.links["next"]["url"].partition("cursor=")[2]
    assert json.loads(base64.urlsafe_b64decode(cursor + "==")) == ["a", "site-0"]

"""The API against requests made from its own description (schemathesis): no failure of the server, no answer that the
description does not name, no error without a stable code."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi import checks as spec

from central.web.app import create_app
from protocol.errors import CODES
from tests.vaultkit import table
from tests.webkit import running_centre

EXAMPLES = 60 if os.environ.get("CORSIA_FULL") else 6
# Names of nothing are refused although their form is right; so is, of others than operators, what no table names.
LEFT_OUT = [
    spec.positive_data_acceptance,
    spec.unsupported_method,
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with running_centre(tmp_path_factory.mktemp("centre")) as made:
        made.world.submit("trial")
        made.world.land(made.world.batch(table()))
        made.world.drain()
        made.sign_checkpoint()
        over = threading.Event()
        over.set()  # event streams end at once
        app = create_app(replace(made.centre, stop=over))
        headers = {"Authorization": f"Bearer {made.token}"}
        yield schemathesis.openapi.from_asgi("/api/v1/openapi.json", app, headers=headers), headers


@pytest.mark.timeout(3000)
def test_every_call_answers_as_described(schema: Any) -> None:
    described, headers = schema
    seen = 0
    for result in described.get_all_operations():
        operation, seen = result.ok(), seen + 1

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True,
                  database=None)  # fmt: skip
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            answer = case.call(headers=headers)
            case.validate_response(answer, excluded_checks=LEFT_OUT)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == ["application/problem+json"], case.path
                assert answer.json()["code"] in set(CODES) - {"worker.failed"}, case.path

        ask()
    assert seen > 40


def test_the_description_is_complete(schema: Any) -> None:
    described = schema[0].raw_schema
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation.get("summary"), path
            assert operation.get("description"), (method, path)
            good = next(answer for code, answer in operation["responses"].items() if code.startswith("2"))
            assert "content" in good or method in ("put", "delete") or path == "/auth/logout", (method, path)
            assert "422" not in operation["responses"]
            names = {parameter["name"] for parameter in operation.get("parameters", ())}
            assert ("cursor" in names) == _is_list(good), (method, path)


def _is_list(good: dict[str, Any]) -> bool:
    schema = good.get("content", {}).get("application/json", {}).get("schema", {})
    return schema.get("type") == "array"

"""Free text costs no more than its length: no pattern that explodes, work that grows in proportion, no network."""

# ruff: noqa: E501 - pieces are data
from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from types import FrameType, ModuleType
from typing import Any

import pytest

from privacy.deid import (
    candidates,
    columns,
    deny,
    names,
    patterns,
    places,
    recognizers,
    text,
    textdates,
    view,
    wordlists,
)
from privacy.deid.text import TextEngine, redact_lines

MODULES = (candidates, columns, deny, names, patterns, places, recognizers, text, textdates, view, wordlists)
HOSTILE = (
    "a", "1/", "De ", "Aa ", "Rossi, ", "via ", "a@", "A.", "sig. ", "AB1", "12-", " ", "\n", "d'A ", "x.it/", "| ", "Cognome|Nome\n",
    "nato a ", "paziente a b ", "letto 1 ", "0 1", "IT 1", "gen ", "12 e 3 ", "A-1/", "Ospedale di ", "P.S. di A ", "(", "[at]", "&amp;",
)  # fmt: skip


def _compiled(value: object) -> Iterator[re.Pattern[str]]:
    if isinstance(value, re.Pattern):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _compiled(item)


def _all() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (f"{module.__name__}.{name}", pattern)
        for module in MODULES
        for name, value in vars(module).items()
        if not isinstance(value, ModuleType)
        for pattern in _compiled(value)
    ]


def _items(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every (operation, argument) under a parsed pattern."""
    for operation, argument in node:
        yield operation, argument
        for part in argument if isinstance(argument, (tuple, list)) else (argument,):
            if isinstance(part, parser.SubPattern):
                yield from _items(part)
            elif isinstance(part, list):
                for branch in part:
                    if isinstance(branch, parser.SubPattern):
                        yield from _items(branch)


def _endless_repeats(pattern: str) -> list[str]:
    """The repeats without a bound over more than one character, or around another repeat."""
    bad = []
    for operation, argument in _items(parser.parse(pattern)):
        if operation in (op.MAX_REPEAT, op.MIN_REPEAT) and argument[1] == op.MAXREPEAT:
            body = argument[2]
            if body.getwidth()[1] != 1 or any(o in (op.MAX_REPEAT, op.MIN_REPEAT) for o, _ in _items(body)):
                bad.append(str(body))
    return bad


def test_the_check_sees_what_explodes() -> None:
    assert _endless_repeats(r"(?:a+)+b")
    assert _endless_repeats(r"(?:ab|a)*c")
    assert not _endless_repeats(r"[a-z]+\d{1,9}(?:x{1,3}){0,4}")


def test_no_pattern_repeats_without_end_what_repeats() -> None:
    found = _all()
    assert len(found) > 90
    assert {name: bad for name, pattern in found if (bad := _endless_repeats(pattern.pattern))} == {}


def _calls(engine: TextEngine, note: str) -> int:
    """How many Python and C functions one redaction enters: work, counted and not timed."""
    count = 0

    def on_event(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        engine.redact(note)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["Rossi Mario, ", "Aa ", "sig. rossi ", "12/03/2021 ", "Cognome|Nome\nRossi|Ada\n"])
def test_work_grows_with_the_length_and_not_faster(piece: str) -> None:
    engine = TextEngine("it")
    engine.redact("Rossi 1")  # lists are read once
    short, long = (_calls(engine, piece * (size // len(piece))) for size in (4_000, 16_000))
    assert long <= 4.6 * short


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("piece", HOSTILE)
def test_time_grows_with_the_length_and_not_faster(piece: str) -> None:
    engine = TextEngine("it")
    engine.redact("Rossi 1")
    spent = []
    for size in (25_000, 100_000):
        start = time.process_time()
        redact_lines(engine, (piece * size)[:size])
        spent.append(time.process_time() - start)
    assert spent[1] <= 8 * spent[0] + 1.0


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "pattern"), _all(), ids=lambda value: value if isinstance(value, str) else "")
def test_no_single_pattern_is_more_than_linear(name: str, pattern: re.Pattern[str]) -> None:
    for piece in HOSTILE:
        spent = []
        for size in (2_000, 8_000):
            start = time.process_time()
            for _ in pattern.finditer((piece * size)[:size]):
                pass
            spent.append(time.process_time() - start)
        assert spent[1] <= 8 * spent[0] + 0.3, piece

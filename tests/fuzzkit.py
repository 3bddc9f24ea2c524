"""Hostile inputs for any parser: valid bytes that were changed, documents with odd values in odd places, any bytes."""

from __future__ import annotations

import json
import os
import random
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tomli_w
from hypothesis import strategies as st

from protocol.errors import CODES, CorsiaError

COUNT = 10_000 if os.environ.get("CORSIA_FULL") else 500  # inputs of a parser
TRIPS = min(COUNT, 2_000)  # of values of our own making
FLOOR_BYTES, TIMES = 24 << 20, 64  # what a parser may take besides, and for each byte that it is given


@dataclass(frozen=True)
class Parser:
    """One entry of the table.

    Attributes:
        parse: takes bytes; ends in a value or one of our errors.
        seeds: valid inputs.
        errors: what else it may raise by its contract, because its caller turns it into one of our errors.
    """

    parse: Callable[[bytes], Any]
    seeds: tuple[bytes, ...]
    errors: tuple[type[Exception], ...] = ()


_ODD: list[Any] = [
    None, True, -1, 0, 2**31, 2**53, 2**63, 2**64, 10**400, -(10**400), 1e308, -0.0, float("inf"), float("nan"), "",
    "\0", "a\0b", "../../etc/passwd", "/etc/passwd", "~nobody-here/x", "x" * 70_000, "\ud800", "\u202e\uff0e", "1e999",
    "99999999999999999999999999", "2026-02-30", [], {}, [[]], [{}], {"": ""}, {"__class__": "x"}, [None] * 50_000,
]  # fmt: skip
_HARD: list[Any] = [None, -1, 10**400, float("inf"), "", "a\0b", "../../etc/passwd", "~nobody-here/x", "\ud800", [], {}]
_STRAINS = (
    b"", b"\0", b"[" * 60_000, b'{"a":' * 20_000, b"a = " + b"[" * 20_000, b"a." * 20_000 + b"a = 1", b"1" * 60_000,
    b'{"a":1e999}', b'{"a":NaN}', b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"null", b"0", b'""', b"[]", b"{}", b"a = 1\n",
    b'"' + b"\\ud800" * 5000 + b'"', b"{" + b'"a":1,' * 50_000 + b'"a":1}', b"x" * 300_000, b"\n" * 300_000,
)  # fmt: skip


def strains(parser: Parser) -> Iterator[bytes]:
    """What is known to strain parsers, the same for each; and each valid input cut, doubled and behind other bytes."""
    yield from _STRAINS
    for seed in parser.seeds:
        yield from (seed[:-1], seed + b"\0", seed + seed, b"\n" + seed, seed * 40)
        for document, write in _documents(seed):
            for at in _places(document):
                for odd in _HARD:
                    if (made := _written(_with(document, at, odd), write)) is not None:
                        yield made


def inputs(parser: Parser) -> st.SearchStrategy[bytes]:
    """Any bytes, changed valid ones, and valid documents with a value exchanged."""
    documents = [(*made, _places(made[0])) for seed in parser.seeds for made in _documents(seed)]

    def made(number: int) -> bytes:
        chance = random.Random(number)  # noqa: S311
        if documents and chance.random() < 0.5:
            document, write, places = chance.choice(documents)
            value = chance.choice([*_ODD, chance.getrandbits(70), chance.random(), chr(chance.randrange(0xD800))])
            return _written(_with(document, chance.choice(places), value), write) or b""
        return _changed(chance.choice(parser.seeds), chance)

    return st.binary(max_size=300) | st.integers(0, 2**64).map(made)


def judged(parser: Parser, raw: bytes) -> bool:
    """Give a parser an input; True when it was read, False when it was refused in good order.

    Raises:
        AssertionError: another exception came out, or more memory was taken than the input's size explains.
    """
    with _bounded(FLOOR_BYTES + TIMES * len(raw)):
        try:
            parser.parse(raw)
        except CorsiaError as error:
            assert error.code in CODES  # noqa: PT017
            return False
        except parser.errors:
            return False
    return True


@contextmanager
def _bounded(most: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken <= most, f"{taken} bytes of memory, {most} allowed"


def _changed(seed: bytes, chance: random.Random) -> bytes:
    raw = bytearray(seed)
    for _ in range(chance.randint(1, 3)):
        at, kind = chance.randint(0, len(raw)), chance.randrange(6)
        if kind == 0:
            raw[at : at + 1] = chance.randbytes(1)
        elif kind == 1:
            del raw[at : at + chance.randint(1, 40)]
        elif kind == 2:
            raw[at:at] = chance.randbytes(chance.randint(1, 12))
        elif kind == 3:
            start = chance.randint(0, len(raw))
            raw[at:at] = raw[start : start + 60]
        elif kind == 4:
            raw[at : at + 8] = chance.choice([b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 7 + b"\1"])
        elif chance.random() < 0.3:
            del raw[at:]
    return bytes(raw)


def _documents(seed: bytes) -> Iterator[tuple[Any, Callable[[Any], bytes]]]:
    """What a seed is as a document, with how it is written."""
    try:
        yield json.loads(seed), lambda value: json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except ValueError:
        try:
            value = tomllib.loads(seed.decode())
        except ValueError:
            return
        yield value, lambda made: tomli_w.dumps(made).encode()


def _written(value: Any, write: Callable[[Any], bytes]) -> bytes | None:
    try:
        return write(value)
    except (ValueError, TypeError, AttributeError):  # TOML has no null and no lone surrogates
        return None


def _places(document: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(document, dict):
        entries = list(document.items())
    elif isinstance(document, list):
        entries = list(enumerate(document[:3]))
    else:
        return [at]
    return [at, *(place for key, inner in entries for place in _places(inner, (*at, key)))]


def _with(document: Any, at: tuple[Any, ...], value: Any) -> Any:
    if not at:
        return value
    made = dict(document) if isinstance(document, dict) else list(document)
    made[at[0]] = _with(document[at[0]], at[1:], value)
    return made

"""Parsers of hospital files never crash: a frame or one of our codes; and what is written is what is read."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corsia.synthetic import ct_series, rtstruct
from edge.sources import table
from pipelines import SourceFile
from pipelines.features.cases import Cases, radiomic
from pipelines.features.radiomics import Settings
from privacy.deid.pseudonym import Pseudonymizer
from protocol.errors import CorsiaError
from tests.fuzzkit import COUNT, TRIPS

FUZZ = settings(max_examples=COUNT, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CELL = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip())
)


def read(path: Path, raw: bytes) -> pd.DataFrame | None:
    path.write_bytes(raw)
    try:
        return table.read(path, ["id", "a"], {"id"})
    except CorsiaError as error:
        assert error.code in ("input.table", "input.column-missing")  # noqa: PT017
        return None


@FUZZ
@given(raw=st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, raw: bytes) -> None:
    read(tmp_path / "t", raw)
    read(tmp_path / "t", b"id,a\n" + raw)


@FUZZ
@given(raw=st.text(alphabet='id,a";\n\t1. \r﻿ò', max_size=60))
def test_any_csv_like_text(tmp_path: Path, raw: str) -> None:
    read(tmp_path / "t", b"id;a\n" + raw.encode())


@settings(FUZZ, max_examples=TRIPS)
@given(cells=st.lists(st.tuples(CELL, CELL), max_size=6), delimiter=st.sampled_from(",;\t"), bom=st.booleans())
def test_what_is_written_is_read(tmp_path: Path, cells: list[tuple[str, str]], delimiter: str, bom: bool) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([("id", "a"), *cells])
    path = tmp_path / "t"
    path.write_bytes(text.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    frame = table.read(path, ["id", "a"], {"id", "a"})
    assert list(frame.itertuples(index=False, name=None)) == cells


@pytest.mark.parametrize("seed", range(COUNT // 25))
def test_damaged_parquet(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)  # noqa: S311
    buffer = io.BytesIO()
    pd.DataFrame({"id": ["1", "2"], "a": [1, 2]}).to_parquet(buffer)
    raw = bytearray(buffer.getvalue())
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    for _ in range(3):
        raw[generator.randrange(footer, len(raw) - 8)] = generator.randrange(256)
    read(tmp_path / "t", bytes(raw))
    read(tmp_path / "t", bytes(raw[: generator.randrange(len(raw))]))


@pytest.fixture(name="case", scope="module")
def _case() -> list[bytes]:
    files = ct_series({"PatientID": "p"}, seed=1, size=16, slices=5)
    return [*files, rtstruct(files, lesion_radius_mm=7.0)]


@pytest.mark.filterwarnings("ignore")  # pydicom warns of values that it reads although they are not valid
@pytest.mark.parametrize("seed", range(100))
def test_damaged_images_and_masks_fail_alone(case: list[bytes], seed: int) -> None:
    generator = random.Random(seed)  # noqa: S311
    pseudonyms = Pseudonymizer(bytes(32))
    cases = Cases(radiomic(Settings(), "GTV"))
    damaged = [bytearray(raw) for raw in case]
    for raw in damaged if seed % 2 else damaged[-1:]:
        for _ in range(3):
            raw[generator.randrange(132, len(raw))] = generator.randrange(256)
    for raw in damaged:
        cases.add(SourceFile("f", bytes(raw)), pseudonyms.pseudonym)
    for seed_, raw in enumerate(ct_series({"PatientID": "sound"}, seed=2)):
        cases.add(SourceFile(str(seed_), raw), pseudonyms.pseudonym)
    sound = ct_series({"PatientID": "sound"}, seed=2)
    cases.add(SourceFile("m", rtstruct(sound)), pseudonyms.pseudonym)
    cases.settle()
    assert pseudonyms.pseudonym("sound") in cases.made

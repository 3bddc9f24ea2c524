"""The outside judge: dciodvfy finds no error in any output that the input had not. It knows nothing of our tables."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest

from privacy.deid.dicom import DicomEngine
from privacy.deid.profiles import load
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.text import TextEngine
from protocol.errors import CorsiaError

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "dicom_highdicom"
JUDGE = shutil.which("dciodvfy")
SECONDS = 60
_VALUE = re.compile(r"= <[^>]*>")
OPTIONS = [
    frozenset(),
    frozenset({"retain-longitudinal-modified-dates"}),
    frozenset({"retain-longitudinal-full-dates", "clean-structured-content", "clean-graphics", "clean-descriptors"}),
    frozenset({"retain-uids", "retain-device-identity", "retain-institution-identity", "retain-safe-private"})
    | {"retain-patient-characteristics"},
]
pytestmark = pytest.mark.skipif(JUDGE is None, reason="no dicom3tools: dciodvfy is not installed")


def errors(data: bytes) -> Counter[str] | None:
    """The judge's errors without the values it quotes; None when it does not come to an end."""
    assert JUDGE is not None
    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        file.write(data)
        file.flush()
        try:
            done = subprocess.run([JUDGE, "-new", file.name], capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return None
    lines = (done.stderr + done.stdout).decode("latin-1").splitlines()
    return Counter(_VALUE.sub("", line) for line in lines if line.startswith("Error"))


@pytest.mark.parametrize("options", OPTIONS, ids=["none", "modified", "clean", "retain"])
def test_no_output_has_an_error_its_input_had_not(options: frozenset[str]) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    engine = DicomEngine(Pseudonymizer(b"k" * 32), profile=load("basic", options), text=TextEngine("it"))
    pairs: dict[str, tuple[bytes, bytes]] = {}
    for path in sorted([*SHIPPED.rglob("*"), *SHARED.glob("*.dcm")]):
        if path.is_file():
            data = path.read_bytes()
            try:
                pairs[path.name + path.parent.name] = data, engine.deidentify(data).data
            except CorsiaError:
                continue
    assert len(pairs) >= 110
    with ThreadPoolExecutor(4) as pool:
        judged = pool.map(lambda pair: (errors(pair[0]), errors(pair[1])), pairs.values())
        new = {
            name: "no end" if after is None else sorted(after - before)
            for name, (before, after) in zip(pairs, judged, strict=True)
            if before is not None and (after is None or after - before)
        }
    assert new == {}

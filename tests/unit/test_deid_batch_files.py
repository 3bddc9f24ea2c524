"""Every file that comes with pydicom, and of the shared data, through the batch: what is kept back, and why."""

from __future__ import annotations

import importlib.util
import io
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread

from privacy.deid import onefile, part10
from protocol.errors import InputError
from tests.unit.test_deid_dicom import SHIPPED

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
PASSED = 0.95
MAX_BYTES = 8 << 20


def parseable() -> list[Path]:
    """Objects that pydicom reads to the last element."""
    paths = [path for path in SHIPPED.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    found = []
    for path in sorted([*paths, *SHARED.rglob("*.dcm")]):
        if path.stat().st_size > MAX_BYTES:
            continue
        if _is_parseable(path.read_bytes()):
            found.append(path)
    return found


def _is_parseable(data: bytes) -> bool:
    try:
        with part10.guarded():
            dataset = dcmread(io.BytesIO(data))
            return "SOPClassUID" in dataset and bool(list(dataset.iterall()))
    except InputError:
        return False


def outcomes(tmp_path: Path, paths: list[Path], **settings: object) -> Counter[str]:
    worker = onefile.Worker(onefile.Settings(key=b"k" * 32, target=tmp_path, **settings))  # type: ignore[arg-type]
    reasons: Counter[str] = Counter()
    for number, path in enumerate(paths):
        outcome = worker.process(str(path), number)
        reasons[outcome.reason] += 1
        if outcome.partial:
            (tmp_path / outcome.partial).unlink()
    return reasons


def test_what_is_no_picture_of_a_screen_is_passed(tmp_path: Path) -> None:
    paths = parseable()
    assert len(paths) > 100
    reasons = outcomes(tmp_path, paths)
    assert reasons["gate.residual"] == 0
    judged = len(paths) - reasons["input.pixels"]  # secondary captures: refused by their class
    assert reasons[""] / judged >= PASSED


@pytest.mark.full
@pytest.mark.skipif(
    importlib.util.find_spec("rapidocr_onnxruntime") is None, reason="the package rapidocr-onnxruntime is not installed"
)
def test_pictures_of_screens_are_passed_when_the_site_allows(tmp_path: Path) -> None:
    paths, options = parseable(), frozenset({"clean-pixel-data", "empty-documents"})
    reasons = outcomes(tmp_path, paths, options=options, allow_risky=True)
    assert reasons["gate.residual"] == 0
    assert reasons[""] / len(paths) >= 0.9  # several are in codecs for which no decoder is installed

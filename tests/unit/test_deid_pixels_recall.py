"""How much writing is found: drawn in many fonts, sizes, contrasts, turns and grounds; the figures are recorded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("PIL.Image", reason="the package pillow is not installed")
pytest.importorskip("matplotlib", reason="the fonts of the package matplotlib are not installed")

from privacy.deid import pixelframes
from privacy.deid.pixels import PixelCleaner
from tests.pixels.scenes import GROUNDS, KINDS, TURNS, Scene, ground, recall, scenes
from tests.unit.test_deid_pixels import FINDER, MAX, dataset, grey

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr_onnxruntime") is None, reason="the package rapidocr-onnxruntime is not installed"
)
FOUND = 0.9  # of the ink under boxes


def found(scene: Scene) -> bool:
    one = dataset(grey(scene.frame))
    frames = pixelframes.decode(one, max_bytes=MAX)
    return recall(scene, list(PixelCleaner(finder=FINDER)._text_in(frames, 0, one))) >= FOUND


def legible(scene: Scene) -> bool:
    """What stands out from its ground: the rest a reader would not make out either."""
    if scene.ground == "speckle" or scene.size < 12:
        return scene.contrast >= 140
    return scene.contrast >= 45


def floors(drawn: list[Scene], record: Callable[[str, object], None]) -> None:
    outcome = [(scene, found(scene)) for scene in drawn]

    def rate(name: str, wanted: Callable[[Scene], bool]) -> float:
        chosen = [good for scene, good in outcome if wanted(scene)]
        value = sum(chosen) / max(len(chosen), 1)
        record(f"recall {name}", round(value, 3))
        return value

    assert rate("all", lambda _scene: True) >= 0.85
    assert rate("legible", legible) >= 0.95
    for kind in KINDS:
        assert rate(f"legible, {kind}", lambda scene, kind=kind: legible(scene) and scene.kind == kind) >= 0.85
    for turn in TURNS:
        assert rate(f"legible, turned {turn}", lambda scene, turn=turn: legible(scene) and scene.turn == turn) >= 0.85


@pytest.mark.slow
def test_recall(record_property: Callable[[str, object], None]) -> None:
    floors(scenes(32, small=True), record_property)


@pytest.mark.full
def test_recall_in_large(record_property: Callable[[str, object], None]) -> None:
    floors(scenes(150, seed=2), record_property)


@pytest.mark.parametrize("name", GROUNDS)
def test_grounds_without_writing_hold_none(name: str) -> None:
    frame = ground(name, 200, 240, np.random.default_rng(3)).clip(0, 255).astype(np.uint8)
    one = dataset(grey(frame))
    verdict = PixelCleaner(finder=FINDER).clean(one)
    assert (verdict.ok, verdict.changed) == (True, False)

"""Find text in one 8-bit picture: a detector that runs in this process, on one thread, from a model inside its wheel.

What looks like a line of writing is reported whatever it says; only regions too high for a line must be legible.
Pictures larger than a tile are looked at in overlapping tiles and once more as a whole, made smaller, for large
letters; a close look also turns the picture by a right angle, and small pictures to twice the size. Not here: how
stored values become a picture (`pixelframes.py`), what is blanked (`pixels.py`).

Source: PP-OCRv4 detection model in rapidocr-onnxruntime 1.4 (Apache-2.0).
"""

from __future__ import annotations

import importlib
import importlib.util
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Rectangle", "TextFinder", "available"]

# x0, y0, x1, y1; the last two are outside.
Rectangle = tuple[int, int, int, int]

_PACKAGE = "rapidocr_onnxruntime"
_DETECTION, _RECOGNITION = "ch_PP-OCRv4_det_infer.onnx", "ch_PP-OCRv4_rec_infer.onnx"
_GRID = 32  # the network's step: sides are padded to it, never stretched
_TILE, _OVERLAP = 1024, 128
_SMALL = 640  # a close look shows pictures up to this side at twice the size
_LINE = 64  # no line of ordinary writing is higher, unless the picture is larger than eight times this
_LEGIBLE, _LETTERS = 0.75, 3  # the reader's own score, 0-1
_FLAT = 2  # grey levels: a tile with less between its darkest and brightest pixel shows nothing


def available() -> bool:
    """Whether the detector's package is installed."""
    return importlib.util.find_spec(_PACKAGE) is not None


class TextFinder:
    """The detector, loaded at first use; safe to share between threads, which take turns.

    Args:
        pixel_threshold: 0-1, from which a pixel counts as writing.
        box_threshold: 0-1, from which the mean of a region counts as writing. Lower finds more, wrongly too.
    """

    def __init__(self, *, pixel_threshold: float = 0.3, box_threshold: float = 0.5) -> None:
        self._thresholds = (pixel_threshold, box_threshold)
        self._lock = threading.Lock()
        self._models: tuple[Any, Any] | None = None

    def find(self, picture: NDArray[np.uint8], *, closely: bool = False) -> list[Rectangle]:
        """Rectangles that hold every region of text found.

        Args:
            picture: rows x columns, or rows x columns x 3.
            closely: for upright and sideways writing, and small letters in small pictures; several times as slow.

        Raises:
            ConfigurationError: `config.extra-missing` when the detector is not installed.
        """
        if picture.ndim == 2:
            picture = np.repeat(picture[:, :, None], 3, axis=2)
        found = self._in_tiles(picture)
        if closely:
            turned, columns = np.rot90(picture), picture.shape[1]
            seen = self._in_tiles(turned)
            if max(picture.shape[:2]) <= _SMALL:
                found |= self._look_twice(picture)
                seen |= self._look_twice(turned)
            found |= {(columns - y1, x0, columns - y0, x1) for x0, y0, x1, y1 in seen}
        return sorted(found)

    def _in_tiles(self, picture: NDArray[np.uint8]) -> set[Rectangle]:
        rows, columns = picture.shape[:2]
        found: set[Rectangle] = set()
        for top in _starts(rows):
            for left in _starts(columns):
                tile = picture[top : top + _TILE, left : left + _TILE]
                found |= {_moved(box, left, top) for box in self._look(tile)}
        longest = max(rows, columns)
        if longest > _TILE:
            step = -(-longest // _TILE)
            found |= {_clipped(box, step, rows, columns) for box in self._look(_reduced(picture, step))}
        return found

    def _look_twice(self, picture: NDArray[np.uint8]) -> set[Rectangle]:
        """At twice the size."""
        boxes = self._look(np.repeat(np.repeat(picture, 2, axis=0), 2, axis=1), again=False)
        return {(x0 // 2, y0 // 2, -(-x1 // 2), -(-y1 // 2)) for x0, y0, x1, y1 in boxes}

    def _look(self, picture: NDArray[np.uint8], *, again: bool = True) -> list[Rectangle]:
        """One picture. A region too high for a line is cut out and looked at again: lines in it, or nothing."""
        if int(picture.max()) - int(picture.min()) < _FLAT:
            return []
        rows, columns = picture.shape[:2]
        tallest = max(_LINE, min(rows, columns) // 8)
        rectangles: list[Rectangle] = []
        for points in self._detect(picture):
            low, high = np.floor(points.min(axis=0)).astype(int), np.ceil(points.max(axis=0)).astype(int) + 1
            x0, y0, x1, y1 = int(low[0]), int(low[1]), min(int(high[0]), columns), min(int(high[1]), rows)
            if x0 >= columns or y0 >= rows:
                continue
            sides = np.linalg.norm(points - np.roll(points, 1, axis=0), axis=1)
            if sides.min() <= tallest or self._reads(picture[y0:y1, x0:x1]):
                rectangles.append((x0, y0, x1, y1))
            elif again:
                part = picture[y0:y1, x0:x1]
                inner = self._look_twice(part) if max(part.shape[:2]) <= _SMALL else self._look(part, again=False)
                rectangles.extend(_moved(box, x0, y0) for box in inner)
        return rectangles

    def _detect(self, picture: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        rows, columns = picture.shape[:2]
        padded = np.pad(picture, ((0, -rows % _GRID), (0, -columns % _GRID), (0, 0)), mode="edge")
        with self._lock:
            boxes, _ = self._loaded()[0](np.ascontiguousarray(padded))
        return [] if boxes is None else list(boxes)

    def _reads(self, picture: NDArray[np.uint8]) -> bool:
        """Whether what is too large for an ordinary line is legible all the same."""
        with self._lock:
            (text, score, *_), *_ = self._loaded()[1]([np.ascontiguousarray(picture)])[0]
        return float(score) >= _LEGIBLE and sum(character.isalnum() for character in text) >= _LETTERS

    def _loaded(self) -> tuple[Any, Any]:
        if self._models is None:
            if not available():
                raise ConfigurationError(
                    "config.extra-missing", f"text in pixels needs the package {_PACKAGE.replace('_', '-')}"
                )
            folder = Path(str(importlib.import_module(_PACKAGE).__file__)).parent / "models"
            one_thread = {"intra_op_num_threads": 1, "inter_op_num_threads": 1, "use_cuda": False, "use_dml": False}
            detection = importlib.import_module(f"{_PACKAGE}.ch_ppocr_det")
            recognition = importlib.import_module(f"{_PACKAGE}.ch_ppocr_rec")
            detector = detection.TextDetector(
                {
                    "model_path": str(folder / _DETECTION),
                    "limit_type": "max",  # tiles are smaller than this: the detector does not change their size
                    "limit_side_len": 4 * _TILE,
                    "mean": [0.5, 0.5, 0.5],
                    "std": [0.5, 0.5, 0.5],
                    "thresh": self._thresholds[0],
                    "box_thresh": self._thresholds[1],
                    "max_candidates": 1000,
                    "unclip_ratio": 1.6,
                    "use_dilation": True,
                    "score_mode": "fast",
                    **one_thread,
                }
            )
            recogniser = recognition.TextRecognizer(
                {
                    "model_path": str(folder / _RECOGNITION),
                    "rec_img_shape": [3, 48, 320],
                    "rec_batch_num": 1,
                    **one_thread,
                }
            )
            self._models = (detector, recogniser)
        return self._models


def _moved(box: Rectangle, left: int, top: int) -> Rectangle:
    x0, y0, x1, y1 = box
    return x0 + left, y0 + top, x1 + left, y1 + top


def _starts(length: int) -> list[int]:
    if length <= _TILE:
        return [0]
    count = -(-(length - _OVERLAP) // (_TILE - _OVERLAP))
    return [round(i * (length - _TILE) / (count - 1)) for i in range(count)]


def _reduced(picture: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Means of step x step pixels; the rest at the far edges is in the tiles."""
    rows, columns = (side // step * step for side in picture.shape[:2])
    if not rows or not columns:
        return picture[:1, :1]
    blocks = picture[:rows, :columns].reshape(rows // step, step, columns // step, step, 3)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.uint8)


def _clipped(box: Rectangle, step: int, rows: int, columns: int) -> Rectangle:
    x0, y0, x1, y1 = (side * step for side in box)
    return x0, y0, min(x1, columns), min(y1, rows)

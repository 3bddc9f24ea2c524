"""Frames with writing in them, made by the run: fonts, sizes, contrasts, turns and grounds, drawn by lot."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUNDS", "KINDS", "TURNS", "Scene", "ground", "recall", "scenes"]

KINDS = {
    "name": ("ROSSI MARIO", "Bianchi, Anna", "DE LUCA^GIOVANNI", "El Mansouri Fatima"),
    "date": ("12/03/1961", "1961-03-12", "12 MAR 2021 10:45", "03.12.61"),
    "id": ("ID 00482913", "A-7731-22", "MRN:4471823", "RSSMRA61C12H501X"),
    "place": ("Ospedale San Raffaele", "POLICLINICO UMBERTO I", "Ward 3B", "Univ. Hospital"),
}
TURNS = (0, 90, 180, 270)
GROUNDS = ("dark", "noise", "ramp", "speckle", "tissue")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A frame of 8 bits, where the ink stands, and how it was made."""

    frame: NDArray[np.uint8]
    ink: NDArray[np.bool_]
    kind: str
    size: int
    contrast: int
    turn: int
    ground: str
    font: str


def scenes(count: int, seed: int = 1, **fixed: object) -> list[Scene]:
    """Any number of scenes; `fixed` holds what all have in common."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable sequence, no secret
    return [_scene(chance, number, dict(fixed)) for number in range(count)]


def _scene(chance: random.Random, number: int, fixed: dict[str, object]) -> Scene:
    kind = str(fixed.get("kind") or list(KINDS)[number % len(KINDS)])
    size = int(str(fixed.get("size") or chance.choice((10, 12, 14, 18, 24, 36))))
    contrast = int(str(fixed.get("contrast") or chance.choice((25, 45, 80, 140, 200))))
    turn = fixed["turn"] if "turn" in fixed else chance.choice(TURNS)
    where = str(fixed.get("ground") or chance.choice(GROUNDS))
    font = str(fixed.get("font") or chance.choice(list(_fonts())))
    rows, columns = (160, 224) if fixed.get("small") else chance.choice(((256, 256), (320, 400), (480, 640)))
    noise = np.random.default_rng(number + 1000 * chance.randrange(100))
    back = ground(where, rows, columns, noise)
    ink = _ink(chance, chance.choice(KINDS[kind]), size, int(str(turn)), font, rows, columns)
    sign = -1.0 if back[ink > 0.3].mean() > 150 else 1.0
    frame = (back + sign * contrast * ink).clip(0, 255).astype(np.uint8)
    return Scene(
        frame=frame, ink=ink > 0.3, kind=kind, size=size, contrast=contrast, turn=int(str(turn)), ground=where,
        font=font,
    )  # fmt: skip


def _fonts() -> dict[str, str]:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    names = ("DejaVuSans", "DejaVuSansMono-Bold", "DejaVuSerif", "cmr10")
    return {"default": ""} | {name: str(folder / f"{name}.ttf") for name in names if (folder / f"{name}.ttf").exists()}


def ground(kind: str, rows: int, columns: int, noise: np.random.Generator) -> NDArray[np.float64]:
    """A frame without writing."""
    y, x = np.mgrid[0:rows, 0:columns]
    if kind == "dark":
        return np.full((rows, columns), 4.0)
    if kind == "noise":
        return noise.normal(60, 8, (rows, columns))
    if kind == "ramp":
        return 30 + 170 * x / columns + noise.normal(0, 2, (rows, columns))
    radius = np.hypot(y - rows / 2, x - columns / 2) / (min(rows, columns) / 2)
    if kind == "speckle":  # an ultrasound fan
        fan = np.where(radius < 1, 70, 3)
        return np.asarray(fan * noise.rayleigh(0.8, (rows, columns)))
    body = 90 * (radius < 0.9) + 40 * np.sin(x / 17) * np.cos(y / 23) * (radius < 0.8)
    return np.asarray(body + noise.normal(8, 4, (rows, columns)))


def _ink(
    chance: random.Random, text: str, size: int, turn: int, font: str, rows: int, columns: int
) -> NDArray[np.float64]:
    from PIL import Image, ImageDraw, ImageFont

    path = _fonts()[font]
    face = ImageFont.truetype(path, size) if path else ImageFont.load_default(size)
    x0, y0, x1, y1 = (int(side) for side in ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=face))
    plate = Image.new("L", (x1 - x0 + 2, y1 - y0 + 2))
    ImageDraw.Draw(plate).text((1 - x0, 1 - y0), text, fill=255, font=face)
    plate = plate.rotate(turn, expand=True)
    plate.thumbnail((columns - 8, rows - 8))
    page = Image.new("L", (columns, rows))
    left, top = chance.randrange(3, columns - plate.width - 3), chance.randrange(3, rows - plate.height - 3)
    page.paste(plate, (left, top))
    return np.asarray(page, dtype=np.float64) / 255


def recall(scene: Scene, boxes: list[tuple[int, int, int, int]], padding: int = 4) -> float:
    """The part of the ink that lies in boxes."""
    covered = np.zeros(scene.frame.shape, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        covered[max(y0 - padding, 0) : y1 + padding, max(x0 - padding, 0) : x1 + padding] = True
    return float(covered[scene.ink].mean())

"""Where devices write names into their pictures: rectangles by device and image size, as data.

`devices.json` holds the rules; `README` beside it says how to write one. A rule speaks only for the sizes it names:
another size of the same device is left to the text finder. Not here: blanking (`pixels.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["DeviceRule", "load_rules", "read_rules", "rectangles"]

_FILE = Path(__file__).parent / "devices.json"
_KEYS = frozenset({"name", "modality", "manufacturer", "model", "image_type", "sizes", "source"})
Rectangle = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRule:
    """One device.

    Attributes:
        name: unique, as it goes into reports.
        modality: values of which one must be the object's.
        manufacturer, model: letters and digits of which one must be inside the object's; an empty model means any.
        image_type: words of which one must be in Image Type; empty means any.
        sizes: (rows, columns or None for any) -> rectangles x, y, width (None: to the right edge), height.
    """

    name: str
    modality: frozenset[str]
    manufacturer: tuple[str, ...]
    model: tuple[str, ...]
    image_type: frozenset[str]
    sizes: dict[tuple[int, int | None], tuple[tuple[int, int, int | None, int], ...]]

    def rectangles(self, dataset: Dataset, rows: int, columns: int) -> list[Rectangle]:
        """x0, y0, x1, y1 for an object of this device and size; none for any other."""
        places = [*self.sizes.get((rows, columns), ()), *self.sizes.get((rows, None), ())]
        if not places or not self._is_from(dataset):
            return []
        return [(x, y, columns if width is None else min(x + width, columns), y + h) for x, y, width, h in places]

    def _is_from(self, dataset: Dataset) -> bool:
        modality = {word.strip().upper() for word in _values(dataset, "Modality")}
        types = {word.strip().upper() for word in _values(dataset, "ImageType")}
        return (
            bool(self.modality & modality)
            and (not self.image_type or bool(self.image_type & types))
            and _inside(self.manufacturer, _values(dataset, "Manufacturer"))
            and (not self.model or _inside(self.model, _values(dataset, "ManufacturerModelName")))
        )


def rectangles(
    rules: Iterable[DeviceRule], dataset: Dataset, rows: int, columns: int
) -> list[tuple[DeviceRule, Rectangle]]:
    """Of all rules that fit device and size."""
    return [(rule, box) for rule in rules for box in rule.rectangles(dataset, rows, columns)]


@lru_cache(maxsize=1)
def load_rules() -> tuple[DeviceRule, ...]:
    """The rules that come with the product."""
    return read_rules(_FILE.read_text(encoding="utf-8"))


def read_rules(text: str) -> tuple[DeviceRule, ...]:
    """Read rules in the format of `README`.

    Raises:
        ConfigurationError: `config.invalid`, naming the rule.
    """
    name = ""
    try:
        data = json.loads(text)
        if data["format"] != 1:
            raise ValueError("format is not 1")
        rules = []
        for entry in data["rules"]:
            name = str(entry["name"])
            rules.append(_rule(entry))
        name = ""
        if len({rule.name for rule in rules}) != len(rules):
            raise ValueError("a name stands twice")
        return tuple(rules)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigurationError("config.invalid", f"device rules: {name}: {error}") from None


def _rule(entry: dict[str, Any]) -> DeviceRule:
    if set(entry) - _KEYS:
        raise ValueError(f"unknown keys {sorted(set(entry) - _KEYS)}")
    sizes = {}
    for size, places in entry["sizes"].items():
        rows, columns = size.split("x")
        key = (int(rows), None if columns == "*" else int(columns))
        sizes[key] = tuple(_place(place, *key) for place in places)
    manufacturer = tuple(_letters(word) for word in entry["manufacturer"])
    model = tuple(_letters(word) for word in entry.get("model", ()))
    if not sizes or not manufacturer or not all((*manufacturer, *model)):
        raise ValueError("a rule needs sizes and a manufacturer, and no empty word")
    return DeviceRule(
        name=entry["name"],
        modality=frozenset(entry["modality"]),
        manufacturer=manufacturer,
        model=model,
        image_type=frozenset(entry.get("image_type", ())),
        sizes=sizes,
    )


def _place(place: list[Any], rows: int, columns: int | None) -> tuple[int, int, int | None, int]:
    x, y, width, height = place
    end = None if width is None or columns is None else x + width
    if min(x, y) < 0 or height < 1 or y + height > rows or (width is not None and width < 1):
        raise ValueError(f"rectangle {place} is outside the image")
    if end is not None and columns is not None and end > columns:
        raise ValueError(f"rectangle {place} is wider than the image")
    return int(x), int(y), None if width is None else int(width), int(height)


def _values(dataset: Dataset, keyword: str) -> list[str]:
    value = dataset.get(keyword, None)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(part) for part in value]


def _inside(words: tuple[str, ...], values: list[str]) -> bool:
    plain = [_letters(value) for value in values]
    return any(word in value for word in words for value in plain)


def _letters(text: str) -> str:
    return "".join(character for character in str(text).casefold() if character.isalnum())

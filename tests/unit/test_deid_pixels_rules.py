"""Ultrasound regions and device rules: where they apply, where not, and rules that make no sense."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from privacy.deid.pixelrules import DeviceRule, load_rules, read_rules, rectangles
from privacy.deid.pixels import PixelCleaner, PixelPolicy
from protocol.errors import ConfigurationError
from tests.unit.test_deid_pixels import dataset, stored

OFF = PixelPolicy(ocr="off")
CASES = [(rule, size) for rule in load_rules() for size in rule.sizes]


def ramp(rows: int = 60, columns: int = 80) -> np.ndarray:
    return (np.arange(rows * columns).reshape(1, rows, columns, 1) % 199 + 1).astype(np.uint8)


def region(x0: int, y0: int, x1: int, y1: int) -> Dataset:
    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    return item


def test_only_the_regions_stay() -> None:
    before = ramp()
    regions = Sequence([region(10, 20, 39, 49), region(50, 20, 69, 29)])
    one = dataset(before, SequenceOfUltrasoundRegions=regions)
    verdict = PixelCleaner(OFF).clean(one)
    after = stored(one)
    inside = np.zeros((60, 80), dtype=bool)
    inside[20:50, 10:40] = inside[20:30, 50:70] = True
    assert verdict.changed
    assert np.array_equal(after[0, inside], before[0, inside])
    assert (after[0, ~inside] == before.min()).all()
    assert sum(box.width * box.height for box in verdict.boxes) == int((~inside).sum())
    assert "BurnedInAnnotation" not in one  # nobody looked for text


def test_a_region_beyond_the_image_is_cut_and_senseless_ones_are_none() -> None:
    one = dataset(ramp(), SequenceOfUltrasoundRegions=Sequence([region(0, 10, 500, 500)]))
    PixelCleaner(OFF).clean(one)
    assert np.array_equal(stored(one)[0, 10:], ramp()[0, 10:])
    one = dataset(ramp(), SequenceOfUltrasoundRegions=Sequence([region(40, 10, 20, 30), Dataset()]))
    assert not PixelCleaner(OFF).clean(one).changed


def of_device(rule: DeviceRule, rows: int, columns: int) -> Dataset:
    one = dataset(ramp(rows, columns), Modality=sorted(rule.modality)[0])
    one.Manufacturer = ["Somebody", f"{rule.manufacturer[0].upper()} Medical"]  # several values, one is right
    one.ManufacturerModelName = "-".join(rule.model[:1]) or "any"
    one.ImageType = ["DERIVED", *(sorted(rule.image_type) or ["PRIMARY"])]
    return one


@pytest.mark.parametrize(("rule", "size"), CASES, ids=[f"{rule.name} {size}" for rule, size in CASES])
def test_each_rule_fits_its_size_and_no_other(rule: DeviceRule, size: tuple[int, int | None]) -> None:
    rows, columns = size[0], size[1] or 1000
    before, one = ramp(rows, columns), of_device(rule, rows, columns)
    verdict = PixelCleaner(OFF, rules=[rule]).clean(one)
    assert verdict.rules == (rule.name,)
    mask = np.zeros((rows, columns), dtype=bool)
    for box in verdict.boxes:
        assert box.frame is None
        mask[box.y : box.y + box.height, box.x : box.x + box.width] = True
    after = stored(one)[0]
    assert 0 < mask.mean() < 0.3
    assert (after[mask] == before.min()).all()
    assert np.array_equal(after[~mask], before[0][~mask])
    for other in ((rows + 1, columns), (rows, columns + 1) if size[1] else (rows - 1, columns)):
        if other not in rule.sizes and (other[0], None) not in rule.sizes:
            assert rectangles([rule], of_device(rule, *other), *other) == []


def test_another_manufacturer_or_modality_is_another_device() -> None:
    rule = load_rules()[0]
    rows = next(iter(rule.sizes))[0]
    for change in ({"Manufacturer": "Nobody"}, {"Modality": "XA"}, {"ManufacturerModelName": "other"}):
        one = of_device(rule, rows, 90)
        for name, value in change.items():
            setattr(one, name, value)
        assert rule.rectangles(one, rows, 90) == []
    one = of_device(rule, rows, 90)
    del one.Manufacturer
    assert rule.rectangles(one, rows, 90) == []


GOOD = {"name": "a", "modality": ["US"], "manufacturer": ["M"], "sizes": {"10x20": [[0, 0, 20, 5]]}, "source": "test"}


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": {"10x20": [[0, 0, 21, 5]]}},
        {"sizes": {"10x*": [[0, 6, None, 5]]}},
        {"sizes": {"10x20": [[0, 0, 0, 5]]}},
        {"sizes": {"10": []}},
        {"sizes": {}},
        {"manufacturer": [" "]},
        {"manufacturer": []},
        {"colour": "black"},
    ],
)
def test_senseless_rules_are_named(change: dict[str, object]) -> None:
    assert read_rules(json.dumps({"format": 1, "rules": [GOOD]}))
    with pytest.raises(ConfigurationError, match="device rules: a"):
        read_rules(json.dumps({"format": 1, "rules": [GOOD | change]}))
    with pytest.raises(ConfigurationError):
        read_rules(json.dumps({"format": 1, "rules": [GOOD, GOOD]}))

"""Names written into pictures: refuse what cannot be trusted, blank what is known, look for the rest, look again.

    cleaner = PixelCleaner(PixelPolicy(ocr="risky"))
    verdict = cleaner.clean(dataset)        # before the header is de-identified: regions and device names are in it
    verdict.require()                       # InputError input.pixels unless it is clean

Order: classes that are pictures of screens, papers or faces; ultrasound regions (outside is blanked); device rules;
text, in every frame, until a look finds none. Stored values change; overlays and shutters are not enough. A refused
dataset is left as it was. Not here: attributes (`dicom.py`), codecs and contrast (`pixelframes.py`), finding text
(`pixeltext.py`), device positions (`pixelrules/`).

Source: PS3.15 E.3.1 (Clean Pixel Data Option); PS3.3 C.8.5.5 (ultrasound regions), C.7.6.1 (Burned In Annotation).
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from privacy.deid import pixelframes
from privacy.deid.part10 import has_embedded_overlay, quiet
from privacy.deid.pixelframes import Frames
from privacy.deid.pixelrules import DeviceRule, load_rules, rectangles
from privacy.deid.pixeltext import Rectangle, TextFinder
from protocol.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Box", "PixelCleaner", "PixelPolicy", "PixelVerdict"]

_ROOT = "1.2.840.10008.5.1.4.1.1."
_DOCUMENTS = (f"{_ROOT}104",)
_VIDEO_CLASSES = (f"{_ROOT}77.1.1.1", f"{_ROOT}77.1.2.1", f"{_ROOT}77.1.4.1")
_CAPTURES = (f"{_ROOT}7", f"{_ROOT}77.1.1", f"{_ROOT}77.1.2", f"{_ROOT}77.1.4")
# MPEG-2, MPEG-4 AVC, HEVC and SMPTE ST 2110 streams.
_VIDEO_SYNTAXES = tuple(f"1.2.840.10008.1.2.{n}" for n in ("4.100", "4.101", "4.102", "4.103", "4.104", "4.105"))
_VIDEO_SYNTAXES += tuple(f"1.2.840.10008.1.2.{n}" for n in ("4.106", "4.107", "4.108", "7.1", "7.2", "7.3"))
_SCREENS = frozenset({"SCREEN SAVE", "SCREENSHOT", "SCREEN SHOT", "SCREENSAVE", "PATIENT PROTOCOL"})
# CT, MR and PET with their enhanced classes: scanners reconstruct these, nobody writes into their originals.
_RECONSTRUCTED = frozenset(_ROOT + n for n in ("2", "2.1", "4", "4.1", "128", "130"))
# Masks, dose grids and maps: numbers, not pictures.
_NUMBERS = frozenset(_ROOT + n for n in ("66.4", "66.7", "30", "481.2"))
_SHARED = 4  # text at one place in a quarter of the frames or more is blanked in all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelPolicy:
    """What the site allows.

    Attributes:
        allow_risky: clean secondary captures, screenshots, photographs and objects that say that annotation is burned
            in, instead of refusing them. Their text is then always looked for, so `ocr` may not be off.
            Documents and video are refused even so: nothing here cleans them.
        ocr: `risky` looks at every picture but original reconstructed ones: CT (axial), MR and PET whose Image Type
            is ORIGINAL, PRIMARY and no localizer, and whose Burned In Annotation is not YES; and but masks and dose
            grids. `all` looks at every object with pixels. `off` leaves regions and device rules alone.
        padding: pixels added around found text.
        rounds: looks at most, 2 or more, each at the frames that the one before changed; when the last still
            finds text the object is refused.
        recompress: RLE and JPEG-LS go back as such, else uncompressed.
        max_bytes: of decoded pixels; larger objects are refused.
    """

    allow_risky: bool = False
    ocr: Literal["risky", "all", "off"] = "risky"
    padding: int = 4
    rounds: int = 5
    recompress: bool = True
    max_bytes: int = 1 << 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A blanked rectangle, in pixels.

    Attributes:
        frame: from 0; None in every frame.
        source: `region` (outside the ultrasound regions), `rule` or `text`.
    """

    frame: int | None
    x: int
    y: int
    width: int
    height: int
    source: Literal["region", "rule", "text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelVerdict:
    """What became of one object.

    Attributes:
        ok: False when it must not leave; the dataset is then unchanged.
        reason: why not, a fixed word; empty when ok.
        changed: whether stored values were changed.
        boxes: what was blanked.
        frames: frames of the object; 0 when its pixels were not read.
        looked: whether text was looked for and the last look found none.
        rules: names of the device rules that fitted.
    """

    ok: bool
    reason: str = ""
    changed: bool = False
    boxes: tuple[Box, ...] = ()
    frames: int = 0
    looked: bool = False
    rules: tuple[str, ...] = ()

    def require(self) -> None:
        """Do nothing when ok.

        Raises:
            InputError: `input.pixels` with the reason.
        """
        if not self.ok:
            raise InputError("input.pixels", self.reason)


class PixelCleaner:
    """Cleans objects one by one; the text finder is loaded once, when first needed.

    Args:
        policy: default refuses risky classes and looks for text where it may be.
        rules: of devices; default those that come with the product.
        finder: of text; default the detector of rapidocr-onnxruntime.

    Raises:
        InputError: `input.usage` for a policy that contradicts itself.
    """

    def __init__(
        self,
        policy: PixelPolicy | None = None,
        *,
        rules: Iterable[DeviceRule] | None = None,
        finder: TextFinder | None = None,
    ) -> None:
        self.policy = policy or PixelPolicy()
        if self.policy.allow_risky and self.policy.ocr == "off":
            raise InputError("input.usage", "risky classes can be allowed only when text is looked for")
        if self.policy.rounds < 2 or self.policy.padding < 0:
            raise InputError("input.usage", "a second look needs two rounds; padding is not negative")
        self._rules = load_rules() if rules is None else tuple(rules)
        self._finder = finder or TextFinder()

    def clean(self, dataset: Dataset) -> PixelVerdict:
        """Blank text in the object's own pixels, or refuse it; `dataset` is changed only when that succeeds.

        Raises:
            ConfigurationError: `config.extra-missing` when text must be looked for and the detector is not installed.
        """
        with quiet():
            try:
                return self._clean(dataset)
            except InputError as error:
                return PixelVerdict(ok=False, reason=error.message)

    def _clean(self, dataset: Dataset) -> PixelVerdict:
        reason = _never(dataset) or ("" if self.policy.allow_risky else _risk(dataset))
        if reason:
            return PixelVerdict(ok=False, reason=reason)
        if not pixelframes.has_pixels(dataset):
            return PixelVerdict(ok=True)
        looks, regions = self._looks(dataset), _regions(dataset)
        fitting = rectangles(self._rules, dataset, _whole(dataset, "Rows", 0), _whole(dataset, "Columns", 0))
        embedded = has_embedded_overlay(dataset)
        if not (looks or regions or fitting or embedded):
            return PixelVerdict(ok=True)
        frames = pixelframes.decode(dataset, max_bytes=self.policy.max_bytes)
        before = frames.values.copy()
        boxes: list[Box] = []
        if embedded:
            _clear_unused_bits(frames, dataset)
        shade = pixelframes.black(frames, dataset)
        if regions:
            boxes += _keep_inside(frames, regions, shade)
        for _, (x0, y0, x1, y1) in fitting:
            frames.values[:, y0:y1, x0:x1] = shade
            boxes.append(_box(None, (x0, y0, x1, y1), "rule"))
        if looks:
            boxes += self._blank_text(frames, dataset, shade)
        # Decoders may leave unused bits out already: what held an overlay is written anew in any case.
        changed = embedded or not np.array_equal(before, frames.values, equal_nan=before.dtype.kind == "f")
        self._write(dataset, frames, changed=changed, looked=looks)
        names = tuple(dict.fromkeys(rule.name for rule, _ in fitting))
        count = len(frames.values)
        return PixelVerdict(ok=True, changed=changed, boxes=tuple(boxes), frames=count, looked=looks, rules=names)

    def _looks(self, dataset: Dataset) -> bool:
        if self.policy.ocr != "risky":
            return self.policy.ocr == "all"
        if str(dataset.get("SOPClassUID", "")) in _NUMBERS:
            return False
        return bool(_risk(dataset)) or not _original(dataset)

    def _blank_text(self, frames: Frames, dataset: Dataset, shade: Any) -> list[Box]:
        """Look, blank what was found, and look again at the frames that were changed.

        Raises:
            InputError: `input.pixels` when the last look still finds text.
        """
        rows, columns = frames.values.shape[1:3]
        indexed = frames.photometric == "PALETTE COLOR"
        pending: list[int] = list(range(len(frames.values)))
        boxes: list[Box] = []
        for turn in range(self.policy.rounds):
            found = {index: self._text_in(frames, index, dataset) for index in pending}
            found = found if turn else _shared(found, len(frames.values))
            pending = [index for index, places in found.items() if places]
            if not pending:
                return boxes
            if turn == self.policy.rounds - 1:
                break
            for index in pending:
                places = [_padded(place, self.policy.padding, rows, columns) for place in found[index]]
                pixelframes.blank(frames.values[index], places, shade, indexed=indexed)
                boxes += [_box(index, place, "text") for place in places]
        raise InputError("input.pixels", "text-left")

    def _text_in(self, frames: Frames, index: int, dataset: Dataset) -> set[Rectangle]:
        """In every contrast; closely in the first, and in the second too where values are wide."""
        wide = 2 if frames.values.dtype.itemsize > 1 else 1
        shown = enumerate(pixelframes.pictures(frames, index, dataset))
        return {place for turn, picture in shown for place in self._finder.find(picture, closely=turn < wide)}

    def _write(self, dataset: Dataset, frames: Frames, *, changed: bool, looked: bool) -> None:
        if changed:
            describing = {tag: deepcopy(dataset.get_item(tag)) for tag in dataset.keys() if tag.group == 0x0028}
            before, syntax = {**dataset._dict, **describing}, dataset.file_meta.TransferSyntaxUID
            try:
                pixelframes.store(dataset, frames, recompress=self.policy.recompress)
            except InputError:
                dataset._dict = before
                dataset.file_meta.TransferSyntaxUID = syntax
                raise
            dataset.pop("IconImageSequence", None)  # a small copy of what was blanked
        if looked:
            dataset.BurnedInAnnotation = "NO"


# -- what the header says


def _never(dataset: Dataset) -> str:
    """Why nothing here can clean the object, or an empty word."""
    sop_class = str(dataset.get("SOPClassUID", ""))
    if _is_a(sop_class, _DOCUMENTS) or "EncapsulatedDocument" in dataset:
        return "document"
    syntax = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID", ""))
    if _is_a(sop_class, _VIDEO_CLASSES) or _is_a(syntax, _VIDEO_SYNTAXES):
        return "video"
    if "PixelDataProviderURL" in dataset:
        return "elsewhere"
    return ""


def _risk(dataset: Dataset) -> str:
    """Why the object is likely to show who it is, or an empty word."""
    if _is_a(str(dataset.get("SOPClassUID", "")), _CAPTURES):
        return "risky-class"
    if str(dataset.get("BurnedInAnnotation", "") or "").strip().upper() not in ("", "NO"):
        return "burned-in"
    if str(dataset.get("RecognizableVisualFeatures", "") or "").strip().upper() not in ("", "NO"):
        return "recognizable"
    if _types(dataset) & _SCREENS or _has_conversion(dataset):
        return "screenshot"
    return "overlay-in-pixels" if has_embedded_overlay(dataset) else ""


def _is_a(uid: str, roots: Iterable[str]) -> bool:
    return any(uid == root or uid.startswith(root + ".") for root in roots)


def _types(dataset: Dataset) -> set[str]:
    value = dataset.get("ImageType", None) or ()
    return {str(word).strip().upper() for word in ([value] if isinstance(value, str) else value)}


def _has_conversion(dataset: Dataset) -> bool:
    """Digitized film, video or document, or a workstation's picture: not from the modality itself."""
    conversion = str(dataset.get("ConversionType", "") or "").strip().upper()
    return conversion not in ("", "SYN", "SI")


def _original(dataset: Dataset) -> bool:
    sop_class, types = str(dataset.get("SOPClassUID", "")), _types(dataset)
    if sop_class not in _RECONSTRUCTED or not {"ORIGINAL", "PRIMARY"} <= types or "LOCALIZER" in types:
        return False
    return sop_class != _ROOT + "2" or "AXIAL" in types


def _whole(dataset: Dataset, keyword: str, default: int) -> int:
    try:
        return int(dataset.get(keyword, default) or default)
    except (TypeError, ValueError):
        raise InputError("input.pixels", "undecodable") from None


def _regions(dataset: Dataset) -> list[Rectangle]:
    """Ultrasound regions as x0, y0, x1, y1 inside the image; those without sense are no regions."""
    rows, columns = _whole(dataset, "Rows", 0), _whole(dataset, "Columns", 0)
    names = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
    regions = []
    for item in dataset.get("SequenceOfUltrasoundRegions", None) or ():
        try:
            x0, y0, x1, y1 = (int(item[name].value) for name in names)
        except (KeyError, TypeError, ValueError):
            continue
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1 + 1, columns), min(y1 + 1, rows)
        if x0 < x1 and y0 < y1:
            regions.append((x0, y0, x1, y1))
    return regions


# -- on the values


def _clear_unused_bits(frames: Frames, dataset: Dataset) -> None:
    if frames.values.dtype.kind not in "iu":
        return
    unused = 8 * frames.values.dtype.itemsize - (_whole(dataset, "HighBit", 0) + 1)
    below = _whole(dataset, "HighBit", 0) + 1 - _whole(dataset, "BitsStored", 0)
    if unused < 0 or below < 0:
        raise InputError("input.pixels", "undecodable")
    frames.values = (frames.values << unused) >> (unused + below) << below


def _keep_inside(frames: Frames, regions: list[Rectangle], shade: Any) -> list[Box]:
    inside = np.zeros(frames.values.shape[1:3], dtype=bool)
    for x0, y0, x1, y1 in regions:
        inside[y0:y1, x0:x1] = True
    frames.values[:, ~inside] = shade
    return [_box(None, place, "region") for place in _outside(inside)]


def _outside(inside: Any) -> list[Rectangle]:
    """The rest of the image as rectangles: runs of equal rows, cut where the regions begin and end."""
    places = []
    changes = [0, *(np.flatnonzero((inside[1:] != inside[:-1]).any(axis=1)) + 1).tolist(), len(inside)]
    for y0, y1 in pairwise(changes):
        row = np.concatenate(([True], inside[y0], [True]))
        edges = np.flatnonzero(row[1:] != row[:-1]).tolist()
        places += [(x0, y0, x1, y1) for x0, x1 in zip(edges[::2], edges[1::2], strict=True)]
    return places


def _shared(found: dict[int, set[Rectangle]], frames: int) -> dict[int, set[Rectangle]]:
    """Text that stands still: what a quarter of the frames show at one place goes from all of them."""
    if frames < _SHARED:
        return found
    counts: dict[Rectangle, int] = {}
    for places in found.values():
        for place in {_coarse(place) for place in places}:
            counts[place] = counts.get(place, 0) + 1
    still = {place for place, count in counts.items() if count * _SHARED >= frames}
    return {index: places | (still - {_coarse(place) for place in places}) for index, places in found.items()}


def _coarse(place: Rectangle) -> Rectangle:
    """Outwards to multiples of 8, so that the same line in two frames is the same place."""
    x0, y0, x1, y1 = place
    return x0 // 8 * 8, y0 // 8 * 8, -(-x1 // 8) * 8, -(-y1 // 8) * 8


def _padded(place: Rectangle, padding: int, rows: int, columns: int) -> Rectangle:
    x0, y0, x1, y1 = place
    return max(x0 - padding, 0), max(y0 - padding, 0), min(x1 + padding, columns), min(y1 + padding, rows)


def _box(frame: int | None, place: Rectangle, source: Literal["region", "rule", "text"]) -> Box:
    x0, y0, x1, y1 = place
    return Box(frame=frame, x=x0, y=y0, width=x1 - x0, height=y1 - y0, source=source)

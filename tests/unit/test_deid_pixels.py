"""Text drawn into synthetic frames: found and blanked in every coding, everything else bit for bit."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from privacy.deid import pixelframes, pixeltext
from privacy.deid.pixels import Box, PixelCleaner, PixelPolicy, PixelVerdict
from privacy.deid.pixeltext import TextFinder
from protocol.errors import ConfigurationError, InputError

Image = pytest.importorskip("PIL.Image", reason="the package pillow is not installed")
from PIL import ImageDraw, ImageFont  # noqa: E402

needs_ocr = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr_onnxruntime") is None, reason="the package rapidocr-onnxruntime is not installed"
)
FINDER = TextFinder()
MAX = 1 << 28


def drawn(
    rows: int = 96, columns: int = 192, size: int = 18, text: str = "ROSSI MARIO", seed: int = 1, ink: int = 255
) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """A noisy frame, and where the text stands."""
    noise = np.random.default_rng(seed).normal(60, 8, (rows, columns)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(noise)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    draw.text((20, 30), text, fill=ink, font=font)
    x0, y0, x1, y1 = (int(side) for side in draw.textbbox((20, 30), text, font=font))
    return np.asarray(picture), (x0, y0, x1, y1)


def dataset(values: NDArray[Any], sop_class: str = UltrasoundImageStorage, **attributes: object) -> Dataset:
    """values: frames x rows x columns x samples."""
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.SOPClassUID, result.SOPInstanceUID, result.Modality = sop_class, "1.2.3", "US"
    frames, result.Rows, result.Columns, result.SamplesPerPixel = values.shape
    if frames > 1:
        result.NumberOfFrames = frames
    result.PhotometricInterpretation = "MONOCHROME2" if values.shape[3] == 1 else "RGB"
    result.BitsAllocated = result.BitsStored = 8 * values.dtype.itemsize
    result.HighBit = result.BitsStored - 1
    result.PixelRepresentation = int(values.dtype.kind == "i")
    if values.shape[3] == 3:
        result.PlanarConfiguration = 0
    result.PixelData = values.tobytes()
    result["PixelData"].VR = "OB" if values.dtype.itemsize == 1 else "OW"
    for name, value in attributes.items():
        setattr(result, name, value)
    return result


def grey(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(-1, *values.shape[-2:], 1)


def stored(one: Dataset) -> NDArray[Any]:
    return pixelframes.decode(one, max_bytes=MAX).values


def covered(shape: tuple[int, ...], boxes: tuple[Box, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape[:3], dtype=bool)
    for box in boxes:
        at = slice(None) if box.frame is None else box.frame
        mask[at, box.y : box.y + box.height, box.x : box.x + box.width] = True
    return mask


def cleaned(one: Dataset, policy: PixelPolicy | None = None) -> tuple[PixelVerdict, NDArray[Any]]:
    """Clean; prove that what was found is gone, and all else is as it was."""
    before = stored(one)
    verdict = PixelCleaner(policy, finder=FINDER).clean(one)
    assert verdict.ok, verdict.reason
    after = stored(one)
    mask = covered(before.shape, verdict.boxes)
    assert np.array_equal(before[~mask], after[~mask])
    frames = pixelframes.decode(one, max_bytes=MAX)
    for index in range(len(after)):
        for picture in pixelframes.pictures(frames, index, one):
            assert FINDER.find(picture) == []
    assert one.BurnedInAnnotation == "NO"
    return verdict, mask


def gone(mask: NDArray[np.bool_], place: tuple[int, int, int, int]) -> bool:
    x0, y0, x1, y1 = place
    return bool(mask[:, y0:y1, x0:x1].all())


# -- text


@needs_ocr
@pytest.mark.parametrize("size", [12, 16, 28])
def test_text_of_each_size_goes(size: int) -> None:
    frame, place = drawn(size=size)
    verdict, mask = cleaned(dataset(grey(frame)))
    assert verdict.changed
    assert verdict.looked
    assert gone(mask, place)
    assert mask.mean() < 0.4


@needs_ocr
def test_black_on_white_and_inverted_photometric() -> None:
    frame, place = drawn()
    assert gone(cleaned(dataset(grey(255 - frame)))[1], place)
    assert gone(cleaned(dataset(grey(frame), PhotometricInterpretation="MONOCHROME1"))[1], place)


@needs_ocr
@pytest.mark.parametrize("kind", ["<u2", "<i2"])
def test_sixteen_bits_with_windows(kind: str) -> None:
    frame, place = drawn()
    values = (frame.astype(kind) * 4 + (0 if kind == "<u2" else -1000)).astype(kind)
    values[-1, -1] = 30000  # one bright pixel takes all the contrast of the full range
    one = dataset(grey(values), WindowCenter=[500, 40], WindowWidth=[1000, 80], RescaleSlope=1, RescaleIntercept=0)
    assert gone(cleaned(one)[1], place)


@needs_ocr
def test_every_frame_is_looked_at() -> None:
    plain, place = drawn(text="")[0], drawn()[1]
    frames = np.stack([plain, drawn()[0], plain])
    verdict, mask = cleaned(dataset(grey(frames), UltrasoundMultiFrameImageStorage))
    assert verdict.frames == 3
    assert {box.frame for box in verdict.boxes} == {1}
    assert gone(mask[1:2], place)


@needs_ocr
def test_standing_text_goes_from_all_frames() -> None:
    frames = np.stack([drawn(seed=seed)[0] for seed in range(3)] + [drawn(text="", seed=9)[0]])
    verdict, mask = cleaned(dataset(grey(frames), UltrasoundMultiFrameImageStorage))
    assert {box.frame for box in verdict.boxes} == {0, 1, 2, 3}
    assert gone(mask, drawn()[1])


@needs_ocr
def test_colours() -> None:
    frame, place = drawn()
    coloured = np.stack([frame, frame, np.full_like(frame, 40)], axis=-1)[None]
    assert gone(cleaned(dataset(coloured))[1], place)
    ybr = np.stack([frame, np.full_like(frame, 128), np.full_like(frame, 128)], axis=-1)[None]
    one = dataset(ybr, PhotometricInterpretation="YBR_FULL")
    assert gone(cleaned(one)[1], place)
    assert one.PhotometricInterpretation == "YBR_FULL"


@needs_ocr
def test_planes_become_pixels_with_the_same_values() -> None:
    frame, place = drawn()
    coloured = np.stack([frame] * 3, axis=-1)[None]
    one = dataset(coloured, PlanarConfiguration=1)
    one.PixelData = np.moveaxis(coloured, -1, 1).tobytes()
    assert gone(cleaned(one)[1], place)
    assert one.PlanarConfiguration == 0


@needs_ocr
def test_palette() -> None:
    frame, place = drawn()
    one = dataset(grey(frame), PhotometricInterpretation="PALETTE COLOR")
    ramp = (np.arange(256, dtype=np.uint16) * 257).astype("<u2").tobytes()
    for colour in ("Red", "Green", "Blue"):
        setattr(one, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(one, f"{colour}PaletteColorLookupTableData", ramp)
    assert gone(cleaned(one)[1], place)
    assert one.PhotometricInterpretation == "PALETTE COLOR"


@pytest.mark.slow
@needs_ocr
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("wide", [False, True])
def test_lossless_compression_stays(syntax: str, wide: bool) -> None:
    frame, place = drawn()
    one = dataset(grey(frame.astype("<u2") * 16 if wide else frame))
    plugin = "pydicom" if syntax == RLELossless else "pyjpegls"
    compress(one, syntax, encoding_plugin=plugin, generate_instance_uid=False)
    assert gone(cleaned(one)[1], place)
    assert one.file_meta.TransferSyntaxUID == syntax
    assert "LossyImageCompression" not in one


def codestream(frame: NDArray[np.uint8], kind: str) -> bytes:
    import io

    target = io.BytesIO()
    Image.fromarray(frame).save(target, kind)
    return encapsulate([target.getvalue()])


@needs_ocr
def test_jpeg_2000_becomes_uncompressed() -> None:
    frame, place = drawn()
    one = dataset(grey(frame))
    one.PixelData, one.file_meta.TransferSyntaxUID = codestream(frame, "JPEG2000"), JPEG2000Lossless
    assert gone(cleaned(one)[1], place)
    assert one.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian


@needs_ocr
def test_lossy_compression_is_still_told() -> None:
    frame, _ = drawn()
    one = dataset(grey(frame))
    one.PixelData, one.file_meta.TransferSyntaxUID = codestream(frame, "JPEG"), "1.2.840.10008.1.2.4.50"
    cleaned(one)
    assert one.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert (one.LossyImageCompression, one.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert float(one.LossyImageCompressionRatio) > 1


@needs_ocr
def test_big_endian() -> None:
    frame, place = drawn()
    one = dataset(grey(frame.astype("<u2") * 16))
    one.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    one.PixelData = (frame.astype(">u2") * 16).astype(">u2").tobytes()
    assert gone(cleaned(one)[1], place)
    assert stored(one).max() <= 255 * 16


@needs_ocr
def test_thumbnail_and_stale_extremes_go_with_the_text() -> None:
    one = dataset(grey(drawn()[0]), IconImageSequence=Sequence([Dataset()]), LargestImagePixelValue=255)
    cleaned(one)
    assert "IconImageSequence" not in one
    assert "LargestImagePixelValue" not in one


@needs_ocr
def test_nothing_found_changes_no_pixel() -> None:
    one = dataset(grey(drawn(text="")[0]))
    before = bytes(one.PixelData)
    verdict = PixelCleaner(finder=FINDER).clean(one)
    assert (verdict.ok, verdict.changed, verdict.looked) == (True, False, True)
    assert one.PixelData == before
    assert one.BurnedInAnnotation == "NO"


class Stubborn(TextFinder):
    """A finder that is never content."""

    def find(self, picture: NDArray[np.uint8], *, closely: bool = False) -> list[tuple[int, int, int, int]]:
        return [(10, 10, 30, 20)]


def test_text_left_is_refused_and_nothing_changed() -> None:
    one = dataset(grey(drawn()[0]))
    before = one.to_json()
    verdict = PixelCleaner(finder=Stubborn()).clean(one)
    assert (verdict.ok, verdict.reason) == (False, "text-left")
    assert one.to_json() == before
    with pytest.raises(InputError, match="text-left") as caught:
        verdict.require()
    assert caught.value.code == "input.pixels"


# -- what is refused, and what is not looked at


def of_risk(name: str) -> Dataset:
    frame = grey(drawn()[0])
    if name == "document":
        return dataset(frame, EncapsulatedPDFStorage)
    if name == "risky-class":
        return dataset(frame, SecondaryCaptureImageStorage)
    if name == "screenshot":
        return dataset(frame, CTImageStorage, ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])
    if name == "burned-in":
        return dataset(frame, BurnedInAnnotation="YES")
    if name == "recognizable":
        return dataset(frame, RecognizableVisualFeatures="YES")
    if name == "video":
        one = dataset(frame)
        one.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
        return one
    one = dataset(frame)
    one.add_new(0x60000010, "US", 4)
    return one


@pytest.mark.parametrize(
    "name", ["document", "risky-class", "screenshot", "burned-in", "recognizable", "video", "overlay-in-pixels"]
)
def test_risk_is_refused(name: str) -> None:
    verdict = PixelCleaner(finder=Stubborn()).clean(of_risk(name))
    assert (verdict.ok, verdict.reason) == (False, name)


@needs_ocr
@pytest.mark.parametrize("name", ["risky-class", "burned-in"])
def test_risk_is_cleaned_when_allowed(name: str) -> None:
    _, mask = cleaned(of_risk(name), PixelPolicy(allow_risky=True))
    assert gone(mask, drawn()[1])


@pytest.mark.parametrize("name", ["document", "video"])
def test_what_cannot_be_cleaned_is_refused_even_so(name: str) -> None:
    assert not PixelCleaner(PixelPolicy(allow_risky=True), finder=Stubborn()).clean(of_risk(name)).ok


def test_overlay_in_pixels_is_cleared_when_allowed() -> None:
    values = np.full((1, 64, 64, 1), 100, dtype="<u2")
    values[0, 5, 5, 0] |= 0x8000
    one = dataset(values, BitsStored=12, HighBit=11)
    one.add_new(0x60000010, "US", 64)

    class Blind(TextFinder):
        def find(self, picture: NDArray[np.uint8], *, closely: bool = False) -> list[tuple[int, int, int, int]]:
            return []

    assert PixelCleaner(PixelPolicy(allow_risky=True), finder=Blind()).clean(one).changed
    assert (stored(one) == 100).all()


def test_a_policy_must_make_sense() -> None:
    with pytest.raises(InputError):
        PixelCleaner(PixelPolicy(allow_risky=True, ocr="off"))
    with pytest.raises(InputError):
        PixelCleaner(PixelPolicy(rounds=1))


def break_nothing(one: Dataset) -> None:
    del one


def unoriginal(one: Dataset) -> None:
    one.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]


def localizer(one: Dataset) -> None:
    one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def unsaid(one: Dataset) -> None:
    del one.ImageType


@pytest.mark.parametrize(
    ("change", "ocr", "looks"),
    [
        (break_nothing, "risky", False),
        (break_nothing, "all", True),
        (break_nothing, "off", False),
        (unoriginal, "risky", True),
        (localizer, "risky", True),
        (unsaid, "risky", True),
        (unsaid, "off", False),
    ],
)
def test_what_is_looked_at(change: Callable[[Dataset], None], ocr: Any, looks: bool) -> None:
    for sop_class in (CTImageStorage, MRImageStorage):
        one = dataset(grey(drawn()[0]), sop_class, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
        change(one)
        assert PixelCleaner(PixelPolicy(ocr=ocr), finder=Stubborn()).clean(one).ok is not looks


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.57", RLELossless, JPEG2000Lossless, "1.2.840.10008.1.2.99"])
def test_undecodable_is_refused(syntax: str) -> None:
    one = dataset(grey(drawn()[0]))
    one.PixelData, one.file_meta.TransferSyntaxUID = encapsulate([b"\xff\xd8nonsense"]), syntax
    assert PixelCleaner(finder=Stubborn()).clean(one).reason == "undecodable"


def test_too_large_is_refused_before_it_is_decoded() -> None:
    one = dataset(grey(drawn()[0]), NumberOfFrames=1_000_000)
    assert PixelCleaner(finder=Stubborn()).clean(one).reason == "too-large"
    assert PixelCleaner(finder=Stubborn()).clean(dataset(grey(drawn()[0]), Rows=60_000)).reason == "undecodable"


def test_without_the_detector_the_operator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixeltext, "_PACKAGE", "no_such_package")
    with pytest.raises(ConfigurationError) as caught:
        PixelCleaner().clean(dataset(grey(drawn()[0])))
    assert caught.value.code == "config.extra-missing"

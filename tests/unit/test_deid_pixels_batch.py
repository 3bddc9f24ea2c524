"""Clean Pixel Data through the batch, with sockets blocked: every coding in, no writing and no name out."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import compress
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
)

from privacy.deid import batch, pixelframes
from tests.unit.test_deid_pixels import FINDER, MAX, dataset, drawn, grey

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("rapidocr_onnxruntime") is None, reason="the package rapidocr-onnxruntime is not installed"
)
FRAME, PLACE = drawn()


def colours(count: int = 1) -> np.ndarray[Any, Any]:
    return np.stack([np.stack([FRAME, FRAME, np.full_like(FRAME, 40)], axis=-1)] * count)


def palette() -> Dataset:
    one = dataset(grey(FRAME), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(one, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 16])
        ramp = (np.arange(256, dtype=np.uint16) * 257).astype("<u2").tobytes()
        setattr(one, f"{colour}PaletteColorLookupTableData", ramp)
    return one


def compressed(one: Dataset, syntax: str) -> Dataset:
    plugin = "pydicom" if syntax == RLELossless else "pyjpegls"
    compress(one, syntax, encoding_plugin=plugin, generate_instance_uid=False)
    return one


def under(one: Dataset, syntax: str) -> Dataset:
    one.file_meta.TransferSyntaxUID = syntax
    return one


def with_region() -> Dataset:
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 0, 64
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 191, 95
    return dataset(grey(FRAME), SequenceOfUltrasoundRegions=Sequence([region]))


def kinds() -> dict[str, Dataset]:
    still = drawn(text="")[0]
    return {
        "plain": dataset(grey(FRAME)),
        "monochrome1": dataset(grey(FRAME), PhotometricInterpretation="MONOCHROME1"),
        "sixteen": dataset(grey(FRAME.astype("<u2") * 16)),
        "signed": dataset(grey(FRAME.astype("<i2") * 4 - 1000)),
        "frames": dataset(grey(np.stack([FRAME, still, FRAME])), UltrasoundMultiFrameImageStorage),
        "rgb": dataset(colours()),
        "ybr": dataset(
            np.stack([FRAME, np.full_like(FRAME, 128), np.full_like(FRAME, 128)], axis=-1)[None],
            PhotometricInterpretation="YBR_FULL",
        ),
        "palette": palette(),
        "rle": compressed(dataset(grey(FRAME)), RLELossless),
        "rle-frames": compressed(
            dataset(grey(np.stack([FRAME, FRAME])), UltrasoundMultiFrameImageStorage), RLELossless
        ),
        "jpeg-ls": compressed(dataset(grey(FRAME.astype("<u2") * 16)), JPEGLSLossless),
        "implicit": under(dataset(grey(FRAME.astype("<u2") * 16)), ImplicitVRLittleEndian),
        "deflated": under(dataset(grey(FRAME)), DeflatedExplicitVRLittleEndian),
        "region": with_region(),
    }


@pytest.mark.slow
def test_every_coding_comes_out_without_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, held = tmp_path / "in", tmp_path / "held"
    source.mkdir()
    made = kinds()
    for number, (name, one) in enumerate(made.items()):
        one.SOPInstanceUID, one.PatientName, one.PatientID = f"1.2.3.{number}", "Rossi^Mario", "77123456"
        one.StudyInstanceUID, one.SeriesInstanceUID, one.SeriesNumber = "1.2", f"1.3.{number}", str(number)
        one.save_as(source / f"{name}.dcm", enforce_file_format=True)

    def blocked(*_: object, **__: object) -> None:
        raise AssertionError("a socket")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, blocked)
    settings = batch.Settings(
        key=b"k" * 32, target=tmp_path / "out", options=frozenset({"clean-pixel-data"}), quarantine=held
    )
    report = batch.run(settings, source)
    assert (report["passed"], report["quarantined"], list(held.iterdir())) == (len(made), 0, [])
    for path in (tmp_path / "out").iterdir():
        clean = dcmread(path)
        syntaxes = {one.file_meta.TransferSyntaxUID for one in made.values()}
        assert clean.file_meta.TransferSyntaxUID in syntaxes
        assert clean.BurnedInAnnotation == "NO"
        assert "113101" in {item.CodeValue for item in clean.DeidentificationMethodCodeSequence}
        frames = pixelframes.decode(clean, max_bytes=MAX)
        for index in range(len(frames.values)):
            for picture in pixelframes.pictures(frames, index, clean):
                assert FINDER.find(picture) == []

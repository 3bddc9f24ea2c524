"""Images without their image: lengths are compared, whatever the coding, and what is no image is left alone."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from corsia.synthetic import ct_series
from privacy.deid.shells import is_shell
from protocol.errors import InputError

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


def image(**changes: object) -> Dataset:
    made = pydicom.dcmread(io.BytesIO(ct_series({"PatientID": "p"}, seed=1, size=8, slices=1)[0]))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def again(dataset: Dataset, **how: int) -> Dataset:
    sink = io.BytesIO()
    dataset.save_as(sink)
    return pydicom.dcmread(io.BytesIO(sink.getvalue()), **how)


@pytest.mark.parametrize("how", [{}, {"defer_size": 16}])
def test_native_pixels_are_counted(how: dict[str, int]) -> None:
    whole = image()
    assert not is_shell(again(whole, **how))
    for size in (0, 2, 8 * 8 * 2 - 2):
        assert is_shell(again(image(PixelData=bytes(size)), **how))
    assert not is_shell(again(image(PixelData=bytes(8 * 8 * 2 + 2)), **how)), "more than needed is padding"
    assert is_shell(again(image(NumberOfFrames=2), **how)), "one frame of two"


def test_encapsulated_pixels_have_a_fragment() -> None:
    jpeg = "1.2.840.10008.1.2.4.50"
    for fragments, shell in ((encapsulate([b"\xff\xd8" + bytes(64)]), False), (b"\xfe\xff\x00\xe0" + bytes(4), True)):
        one = image()
        one.file_meta.TransferSyntaxUID = jpeg
        one.PixelData = fragments
        one["PixelData"].is_undefined_length = True
        assert is_shell(one) is shell


def test_what_is_no_image_is_no_shell() -> None:
    report = image()
    for name in ("Rows", "PixelData"):
        delattr(report, name)
    assert not is_shell(report)
    bare = image()
    del bare.PixelData
    assert is_shell(bare)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whole_files_of_other_makers_are_none_and_a_cut_one_is() -> None:
    found = set()
    for path in sorted(SHIPPED.glob("*.dcm")):
        try:
            found |= {path.name} if is_shell(pydicom.dcmread(path, force=True)) else set()
        except (ValueError, InputError, pydicom.errors.InvalidDicomError):  # deliberately broken headers
            continue
    assert found == {"MR_truncated.dcm"}

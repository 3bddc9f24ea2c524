"""What radiomics takes in: settings, volumes, masks of every kind, and one clear error for each that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.ndimage import map_coordinates
from typer.testing import CliRunner

from corsia.cli.extract import app
from corsia.synthetic import ct_series, rtstruct
from pipelines.features import masks, series, volumes
from pipelines.features.ibsi import roi
from pipelines.features.radiomics import Settings, extract
from protocol.errors import CorsiaError, InputError
from tests.unit.test_extract_series import DATA, needs_data, parse, seg_series

DOCS = Path(__file__).parents[2] / "docs" / "radiomics.md"


def test_default_is_no_change_and_every_aggregation() -> None:
    settings = Settings(bin_width=10)
    assert (settings.spacing, settings.intensity_range, settings.outlier_sigma) == ((0, 0, 0), None, None)
    assert settings.aggregations is None
    assert settings.origin == "roi_min"
    assert Settings.from_toml("") == Settings() == Settings(bin_width=25)
    assert Settings.from_toml("intensity_range = [-500, 400]").origin == -500
    assert Settings.from_toml("intensity_range = [-inf, 400]").origin == "roi_min"
    assert Settings.from_toml('intensity_range = [-500, 400]\nbin_origin = "zero"').origin == "zero"
    assert Settings.from_toml("bin_origin = -1000").origin == -1000
    assert Settings.from_toml("resample_mm = 2").spacing == (2, 2, 2)
    assert Settings.from_toml("resample_mm = [0, 1.5, 1.5]").spacing == (0, 1.5, 1.5)


def test_aggregation_by_dimension_or_name() -> None:
    def chosen(value: str) -> set[str]:
        return set(Settings.from_toml(f"aggregation = {value}").aggregations or ())

    assert chosen('"3D"') == {"3D", "3D_avg", "3D_comb"}
    assert chosen('"3D averaged"') == chosen('["3D_avg"]') == {"3D", "3D_avg"}
    assert chosen('["2D slice-merged", "2.5D merged"]') == {"2D", "2D_comb", "2_5D", "2_5D_comb"}
    voxels = np.arange(125.0).reshape(5, 5, 5)
    found = extract(voxels, voxels > 3, (1, 1, 1), Settings(aggregation="3D averaged"), aliases=False)
    assert len(found) == 74 + 41 + 54
    assert "original_glcm_Contrast" in extract(voxels, voxels > 3, (1, 1, 1), Settings(aggregation="3D averaged"))
    assert "original_glcm_Contrast" not in extract(voxels, voxels > 3, (1, 1, 1), Settings(aggregation="2D"))


def test_digest_is_of_the_meaning() -> None:
    assert Settings(bin_width=25).digest == Settings.from_toml("bin_width = 25.0\nresample_mm = [0, 0, 0]").digest
    different = [
        "", "bin_width = 10", "bin_count = 32", 'bin_origin = "zero"', "bin_origin = 0", "resample_mm = 1",
        'interpolator = "spline"', "intensity_rounding = true", "intensity_range = [-1000, 400]",
        "intensity_range = [-inf, 400]", "outlier_sigma = 3", 'aggregation = "3D"', "ivh_bin_width = 2.5",
        "ivh_bin_count = 1000", "mask_threshold = 0.5",
    ]  # fmt: skip
    assert len({Settings.from_toml(text).digest for text in different}) == len(different)


@pytest.mark.parametrize(
    "text",
    [
        "code = 1", "bin_width = 0", "bin_width = nan", 'bin_width = "25"', "bin_width = true", "bin_count = 0",
        "bin_count = 1.5", "bin_width = 25\nbin_count = 32", "ivh_bin_width = 1\nivh_bin_count = 9", "resample_mm = -1",
        "resample_mm = [1, 1]", "resample_mm = 1e-9", 'interpolator = "cubic"', "intensity_range = 5",
        "intensity_range = [5, 5]", "intensity_range = [nan, 5]", "outlier_sigma = 0", 'aggregation = "4D"',
        "aggregation = []", "intensity_rounding = 1", 'bin_origin = "one"', "bin_origin = inf", "mask_threshold = 1.5",
        "bin_width = ", "[settings]\nbin_width = 25",
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(text: str) -> None:
    with pytest.raises(InputError, match=r"input\.usage"):
        Settings.from_toml(text)


def test_documented_configurations_can_be_read() -> None:
    blocks = [part.split("```")[0] for part in DOCS.read_text(encoding="utf-8").split("```toml\n")[1:]]
    assert len(blocks) >= 7
    digests = {Settings.from_toml(block).digest for block in blocks}
    assert len(digests) == len(blocks)
    voxels = np.random.default_rng(0).normal(size=(8, 12, 12)) * 100
    for block in blocks:
        found = extract(voxels, np.ones(voxels.shape, bool), (3.0, 1.0, 1.0), Settings.from_toml(block), aliases=False)
        assert np.isfinite(found["stat_mean"])


@pytest.mark.parametrize(("interpolator", "order"), [("linear", 1), ("spline", 3), ("nearest", 0)])
@pytest.mark.parametrize("new", [(2.0, 2.0, 2.0), (0.0, 0.8, 1.7), (1.0, 0.5, 0.5)])
def test_resampling_is_that_of_the_whole_image(interpolator: Any, order: int, new: Any) -> None:
    generator, spacing = np.random.default_rng(4), (3.0, 0.97, 0.9)
    voxels = generator.normal(size=(20, 40, 44))
    mask = np.zeros(voxels.shape, bool)
    mask[7:12, 13:27, 15:24] = generator.random((5, 14, 9)) < 0.8
    found = roi.prepare(voxels, mask, spacing, resample_mm=new, interpolator=interpolator)
    steps = [n or old for n, old in zip(new, spacing, strict=True)]
    assert found.spacing == tuple(steps)
    axes = []
    for length, old, step in zip(voxels.shape, spacing, steps, strict=True):
        count = int(np.ceil(length * old / step - 1e-9))
        axes.append(((np.arange(count) - (count - 1) / 2) * step / old + (length - 1) / 2).clip(0, length - 1))
    grid = np.stack(np.meshgrid(*axes, indexing="ij"))
    whole = map_coordinates(voxels, grid, order=order, mode="mirror")
    share = map_coordinates(mask.astype(float), grid, order=min(order, 1), mode="nearest")
    assert found.voxels[found.mask] == pytest.approx(whole[share >= 0.5 - 1e-9], abs=1e-7)


def test_rounding_only_what_was_interpolated() -> None:
    voxels = np.random.default_rng(4).normal(size=(6, 6, 6)) * 10
    mask = np.ones(voxels.shape, bool)
    assert not (roi.prepare(voxels, mask, (2, 2, 2), rounding=True).voxels % 1 == 0).all()
    assert (roi.prepare(voxels, mask, (2, 2, 2), resample_mm=(1, 1, 1), rounding=True).voxels % 1 == 0).all()


@pytest.fixture(name="files", scope="module")
def _files() -> list[bytes]:
    return ct_series({"PatientID": "p"}, seed=3)


@pytest.fixture(name="case")
def _case(files: list[bytes], tmp_path: Path) -> tuple[Path, series.Series, NDArray[np.bool_]]:
    """A folder with a series, the series, and a region on its grid."""
    folder = tmp_path / "ct"
    folder.mkdir()
    for at, data in enumerate(files):
        (folder / f"{at}.dcm").write_bytes(data)
    (folder / "readme.txt").write_text("no image")
    volume, region = series.region(parse(rtstruct(files)), series.group([parse(raw) for raw in files]), "GTV")
    return folder, volume, region


def write(path: Path, values: NDArray[Any], volume: series.Series, **change: Any) -> Path:
    image = SimpleITK.GetImageFromArray(values)
    image.SetSpacing([float(step) for step in reversed(volume.spacing)])
    image.SetOrigin([float(v) for v in volume.origin])
    image.SetDirection(np.stack([volume.row, volume.column, volume.normal], axis=1).ravel().tolist())
    for name, value in change.items():
        getattr(image, name)(value)
    SimpleITK.WriteImage(image, str(path))
    return path


def run(*arguments: Any) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["radiomics", *map(str, arguments), "--json"], catch_exceptions=False)
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nii.gz", "nrrd", "mha"])
def test_mask_volume_on_a_dicom_series(case: Any, tmp_path: Path, files: list[bytes], kind: str) -> None:
    folder, volume, region = case
    path = write(tmp_path / f"mask.{kind}", region.astype(np.uint8), volume)
    (tmp_path / "plan.dcm").write_bytes(rtstruct(files))
    assert run(folder, path)["features"] == run(folder, tmp_path / "plan.dcm", "--roi", "GTV")["features"]


def test_mask_volume_with_axes_of_its_own(case: Any, tmp_path: Path) -> None:
    _, volume, region = case
    mask = write(tmp_path / "mask.nii.gz", region.astype(np.uint8), volume)
    turned = SimpleITK.Flip(SimpleITK.PermuteAxes(SimpleITK.ReadImage(str(mask)), [2, 0, 1]), [True, False, True])
    SimpleITK.WriteImage(turned, str(tmp_path / "turned.nii.gz"))
    part = SimpleITK.ReadImage(str(mask))[2:30, 3:31, 1:11]
    SimpleITK.WriteImage(part, str(tmp_path / "part.nii.gz"))
    for name in ("turned", "part"):
        found = masks.labels(volumes.read(tmp_path / f"{name}.nii.gz"), volume, None)
        assert np.array_equal(found, region)


def test_labels_are_chosen_by_number(case: Any, tmp_path: Path) -> None:
    _, volume, region = case
    values = region.astype(np.int16) * 3
    values[0, 0, :4] = 7
    mask = volumes.read(write(tmp_path / "mask.nii.gz", values, volume))
    assert np.array_equal(masks.labels(mask, volume, "3"), region)
    assert masks.labels(mask, volume, "*").sum() == region.sum() + 4
    for roi_name in (None, "1"):
        with pytest.raises(InputError, match="region"):
            masks.labels(mask, volume, roi_name)


def _shift(path: Path, values: NDArray[Any], volume: series.Series) -> None:
    write(path, values, volume, SetOrigin=[float(v) + 0.7 for v in volume.origin])


def _scale(path: Path, values: NDArray[Any], volume: series.Series) -> None:
    write(path, values, volume, SetSpacing=[2.0, 2.0, 2.9])


def _tilt(path: Path, values: NDArray[Any], volume: series.Series) -> None:
    write(path, values, volume, SetDirection=[0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1])


def _outside(path: Path, values: NDArray[Any], volume: series.Series) -> None:
    write(path, values, volume, SetOrigin=[float(v) + 40 for v in volume.origin])


def _empty(path: Path, values: NDArray[Any], volume: series.Series) -> None:
    write(path, values * 0, volume)


def _fraction(path: Path, values: NDArray[Any], volume: series.Series) -> None:
    write(path, values * np.float32(0.5), volume)


def _flat(path: Path, values: NDArray[Any], volume: series.Series) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values[4]), str(path))


def _garbage(path: Path, values: NDArray[Any], volume: series.Series) -> None:
    path.write_bytes(b"no volume")


@pytest.mark.parametrize("spoil", [_shift, _scale, _tilt, _outside, _empty, _fraction, _flat, _garbage])
def test_mask_volumes_that_do_not_fit(case: Any, tmp_path: Path, spoil: Callable[..., None]) -> None:
    folder, volume, region = case
    spoil(tmp_path / "mask.nii.gz", region.astype(np.uint8), volume)
    with pytest.raises(CorsiaError, match=r"input\.image"):
        run(folder, tmp_path / "mask.nii.gz")


def test_volumes_of_other_makes(case: Any, tmp_path: Path, files: list[bytes]) -> None:
    folder, volume, region = case
    image = write(tmp_path / "image.nii.gz", volume.voxels.astype(np.int16), volume)
    mask = write(tmp_path / "mask.nii.gz", region.astype(np.uint8), volume)
    assert run(image, mask)["features"] == pytest.approx(run(folder, mask)["features"], nan_ok=True)
    (tmp_path / "plan.dcm").write_bytes(rtstruct(files))
    with pytest.raises(CorsiaError, match="needs the DICOM series"):
        run(image, tmp_path / "plan.dcm")
    (tmp_path / "none").mkdir()
    with pytest.raises(CorsiaError, match="no CT, MR or PET"):
        run(tmp_path / "none", mask)
    four = SimpleITK.JoinSeries([SimpleITK.ReadImage(str(image))])
    SimpleITK.WriteImage(four, str(tmp_path / "four.nii.gz"))
    assert run(tmp_path / "four.nii.gz", mask)["voxels"] == region.sum()


def enhanced(images: list[Dataset]) -> Dataset:
    """The slices as frames of one image, in an order that is not that of space."""
    whole, frames = parse_copy(images[0]), [images[at] for at in (3, 1, 2, *range(4, len(images)), 0)]
    whole.NumberOfFrames = len(frames)
    whole.PixelData = b"".join(image.PixelData for image in frames)
    measures, orientation, values = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, whole.SliceThickness
    orientation.ImageOrientationPatient = whole.ImageOrientationPatient
    values.RescaleSlope, values.RescaleIntercept = whole.RescaleSlope, whole.RescaleIntercept
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    shared.PixelValueTransformationSequence = [values]
    whole.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for image in frames:
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = image.ImagePositionPatient
        group.PlanePositionSequence = [position]
        groups.append(group)
    whole.PerFrameFunctionalGroupsSequence = groups
    for name in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "RescaleSlope", "RescaleIntercept"):
        delattr(whole, name)
    return whole


def parse_copy(image: Dataset) -> Dataset:
    buffer = BytesIO()
    image.save_as(buffer)
    return parse(buffer.getvalue())


def test_frames_of_an_enhanced_image_are_slices(files: list[bytes]) -> None:
    images, mask = [parse(raw) for raw in files], parse(rtstruct(files))
    before, region = series.region(mask, series.group(images), "GTV")
    whole = enhanced(images)
    for contours in mask.ROIContourSequence:
        for contour in contours.ContourSequence:
            contour.ContourImageSequence[0].ReferencedSOPInstanceUID = whole.SOPInstanceUID
    after, found = series.region(mask, series.group([whole]), "GTV")
    assert np.array_equal(before.voxels, after.voxels)
    assert (before.spacing, before.origin.tolist()) == (after.spacing, after.origin.tolist())
    assert np.array_equal(found, region)
    whole.PerFrameFunctionalGroupsSequence = whole.PerFrameFunctionalGroupsSequence[:-1]
    with pytest.raises(InputError, match="place of a frame"):
        series.build([whole])


def _patient(images: list[Dataset], mask: Dataset) -> None:
    images[3].PatientID = "another"


def _frame(images: list[Dataset], mask: Dataset) -> None:
    images[3].FrameOfReferenceUID = "1.2.3"


def _mask_patient(images: list[Dataset], mask: Dataset) -> None:
    mask.PatientID = "another"


def _mask_frame(images: list[Dataset], mask: Dataset) -> None:
    for image in images:
        image.FrameOfReferenceUID = "1.2.3"
    mask.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = "1.2.4"
    mask.FrameOfReferenceUID = "1.2.4"


def _empty_shell(images: list[Dataset], mask: Dataset) -> None:
    for image in images:
        del image.PixelData


def _outside_contour(images: list[Dataset], mask: Dataset) -> None:
    for region in mask.ROIContourSequence:
        for contour in region.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) + np.array([50.0, 0.0, 0.0])
            contour.ContourData = [f"{v:.3f}" for v in points.ravel()]


def _no_contour(images: list[Dataset], mask: Dataset) -> None:
    for region in mask.ROIContourSequence:
        region.ContourSequence = []


SPOILT: dict[str, tuple[Callable[[list[Dataset], Dataset], None], str]] = {
    "mixed patients": (_patient, "mixes patients"),
    "mixed frames": (_frame, "mixes frames"),
    "mask of another patient": (_mask_patient, "another patient"),
    "mask of another frame": (_mask_frame, "another frame"),
    "empty shell": (_empty_shell, "pixels do not decode"),
    "mask outside": (_outside_contour, "outside the image"),
    "empty mask": (_no_contour, "covers a voxel"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_one_clear_error(name: str, files: list[bytes]) -> None:
    spoil, problem = SPOILT[name]
    images, mask = [parse(raw) for raw in files], parse(rtstruct(files))
    spoil(images, mask)
    with pytest.raises(InputError, match=problem) as error:
        series.region(mask, series.group(images), "GTV")
    assert error.value.code == "input.image"
    assert "another'" not in str(error.value)


@needs_data
@pytest.mark.parametrize("name", ["seg_image_ct_binary_fractional.dcm", "seg_image_ct_true_fractional.dcm"])
def test_fractional_seg_with_a_threshold(name: str, files: list[bytes]) -> None:
    mask = pydicom.dcmread(DATA / name)
    volume = series.build(seg_series(mask, files, [103.019997, 104.269997, 105.519997]))
    pixels = mask.pixel_array / float(mask.MaximumFractionalValue)
    for threshold in (0.3, 1.0):
        expected = int((pixels >= threshold).sum())
        found = series.regions(mask, volume, "*", threshold=threshold) if expected else {}
        assert sum(int(part.sum()) for part in found.values()) == expected
    assert Settings.from_toml("mask_threshold = 0.5").mask_threshold == 0.5


def test_unreadable_dicom_is_named(tmp_path: Path, files: list[bytes]) -> None:
    (tmp_path / "image.dcm").write_bytes(files[0])
    (tmp_path / "mask.dcm").write_bytes(b"\x08\x00garbage")
    with pytest.raises(CorsiaError, match=r"input\."):
        run(tmp_path / "image.dcm", tmp_path / "mask.dcm")
    with pytest.raises(CorsiaError, match=r"input\.image"):
        run(tmp_path / "image.dcm", tmp_path / "absent.nii.gz")
    assert parse(files[0]).PatientID == pydicom.dcmread(BytesIO(files[0])).PatientID

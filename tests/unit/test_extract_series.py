"""Series, structure sets and segmentations: what is exact, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from corsia.synthetic import ct_series, rtstruct
from pipelines.features import radiomics, series
from protocol.errors import InputError

DATA = Path(__file__).parents[2] / ".." / "shared" / "data" / "dicom_highdicom"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="no ../shared/data: the reference data are not beside this checkout"
)


def parse(raw: bytes) -> Dataset:
    return pydicom.dcmread(BytesIO(raw))


@pytest.fixture(name="files", scope="module")
def _files() -> list[bytes]:
    return ct_series({"PatientID": "p"}, seed=3)


@pytest.fixture(name="slices")
def _slices(files: list[bytes]) -> list[Dataset]:
    return [parse(raw) for raw in files]


def structures(files: list[bytes], rings: list[tuple[int, list[tuple[float, float]]]], name: bool = True) -> Dataset:
    """One region whose contours are given in (row, column) indices of a slice."""
    mask = parse(rtstruct(files, other_roi=None))
    images = [parse(raw) for raw in files]
    contours = []
    for at, ring in rings:
        x0, y0, z = (float(v) for v in images[at].ImagePositionPatient)
        contour = Dataset()
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.ContourData = [f"{v:.3f}" for r, c in ring for v in (x0 + 2 * c, y0 + 2 * r, z)]
        if name:
            reference = Dataset()
            reference.ReferencedSOPInstanceUID = images[at].SOPInstanceUID
            contour.ContourImageSequence = [reference]
        contours.append(contour)
    mask.ROIContourSequence[0].ContourSequence = contours
    return mask


def box(low: float, high: float) -> list[tuple[float, float]]:
    return [(low, low), (low, high), (high, high), (high, low)]


def region(mask: Dataset, images: list[Dataset]) -> series.Mask:
    return next(iter(series.regions(mask, series.build(images)).values()))


def test_order_of_files_does_not_matter(slices: list[Dataset]) -> None:
    forward, backward = series.build(slices), series.build(slices[::-1])
    assert forward.instances == backward.instances
    assert np.array_equal(forward.voxels, backward.voxels)
    assert forward.spacing == (3.0, 2.0, 2.0)
    assert forward.voxels.dtype == np.float32
    assert forward.voxels.min() < -900  # air: the intercept was applied
    assert np.array_equal(forward.origin, [-31, -31, 0])


def test_oblique_series_and_its_contours(files: list[bytes]) -> None:
    turn = np.array([[0.8, 0.0, 0.6], [0.0, 1.0, 0.0], [-0.6, 0.0, 0.8]])
    straight, turned = [parse(raw) for raw in files], [parse(raw) for raw in files]
    for image in turned:
        image.ImagePositionPatient = list(turn @ np.array(image.ImagePositionPatient, dtype=float))
        image.ImageOrientationPatient = [*turn[:, 0], *turn[:, 1]]
    mask = parse(rtstruct(files, other_roi=None))
    before = region(mask, straight)
    for contour in mask.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, dtype=float).reshape(-1, 3) @ turn.T
        contour.ContourData = [f"{v:.6f}" for v in points.ravel()]
    assert np.array_equal(region(mask, turned), before)


def _drop(images: list[Dataset]) -> None:
    del images[5]


def _double(images: list[Dataset]) -> None:
    images[5].ImagePositionPatient = images[4].ImagePositionPatient


def _uneven(images: list[Dataset]) -> None:
    images[-1].ImagePositionPatient = [-31, -31, float(images[-1].ImagePositionPatient[2]) + 0.3]


def _tilted(images: list[Dataset]) -> None:
    for at, image in enumerate(images):
        image.ImagePositionPatient = [-31, -31 + at * 0.5, at * 3.0]


def _orientation(images: list[Dataset]) -> None:
    images[3].ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def _spacing(images: list[Dataset]) -> None:
    images[3].PixelSpacing = [2.5, 2.5]


def _no_position(images: list[Dataset]) -> None:
    del images[3].ImagePositionPatient


def _garbage(images: list[Dataset]) -> None:
    images[3].ImageOrientationPatient = [1, 0, 0, 2, 0, 0]


def _frames(images: list[Dataset]) -> None:
    images[3].NumberOfFrames = "2"


def _shell(images: list[Dataset]) -> None:
    del images[3].PixelData


def _short(images: list[Dataset]) -> None:
    images[3].PixelData = images[3].PixelData[:100]


def _slope(images: list[Dataset]) -> None:
    images[3].RescaleSlope = "1e300"


@pytest.mark.parametrize(
    "spoil",
    [
        _drop, _double, _uneven, _tilted, _orientation, _spacing, _no_position, _garbage, _frames, _shell, _short,
        _slope,
    ],
)  # fmt: skip
def test_uncertain_series_is_refused(slices: list[Dataset], spoil: Callable[[list[Dataset]], None]) -> None:
    spoil(slices)
    with pytest.raises(InputError, match=r"input\.image"):
        series.build(slices)


def test_group_leaves_localizers_and_copies_out(slices: list[Dataset]) -> None:
    scout = deepcopy(slices[0])
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    groups = series.group([*slices, scout, deepcopy(slices[2])])
    assert [len(members) for members in groups.values()] == [12]
    other = deepcopy(slices[2])
    other.PixelData = bytes(len(other.PixelData))
    with pytest.raises(InputError):
        series.group([*slices, other])


def test_hole_is_cut_in_any_order(files: list[bytes], slices: list[Dataset]) -> None:
    rings = [(4, box(4.5, 20.5)), (4, box(8.5, 12.5)), (5, box(4.5, 8.5))]
    expected = np.zeros((12, 32, 32), dtype=bool)
    expected[4, 5:21, 5:21] = True
    expected[4, 9:13, 9:13] = False
    expected[5, 5:9, 5:9] = True
    for order in (rings, rings[::-1]):
        assert np.array_equal(region(structures(files, order), slices), expected)


def test_nested_rings_and_keyhole(files: list[bytes], slices: list[Dataset]) -> None:
    nested = [(4, box(2.5, 20.5)), (4, box(6.5, 16.5)), (4, box(9.5, 12.5))]
    assert region(structures(files, nested), slices).sum() == 18**2 - 10**2 + 3**2
    keyhole = [(2.5, 2.5), (2.5, 20.5), (20.5, 20.5), (20.5, 2.5), (2.5, 2.5)]
    keyhole += [(6.5, 6.5), (16.5, 6.5), (16.5, 16.5), (6.5, 16.5), (6.5, 6.5)]
    assert region(structures(files, [(4, keyhole)]), slices).sum() == 18**2 - 10**2


def test_contour_without_a_reference_finds_its_slice(files: list[bytes], slices: list[Dataset]) -> None:
    ring = [(7, box(4.5, 8.5))]
    assert np.array_equal(region(structures(files, ring, name=False), slices), region(structures(files, ring), slices))


def test_contours_that_fit_no_slice_are_refused(files: list[bytes], slices: list[Dataset]) -> None:
    off = structures(files, [(4, box(4.5, 8.5))])
    data = off.ROIContourSequence[0].ContourSequence[0].ContourData
    off.ROIContourSequence[0].ContourSequence[0].ContourData = [v if n % 3 < 2 else v + 2 for n, v in enumerate(data)]
    with pytest.raises(InputError, match="outside the slices"):
        region(off, slices)
    with pytest.raises(InputError, match="not in the series"):
        region(structures(files, [(11, box(4.5, 8.5))]), slices[:-1])


def test_open_contours_cover_nothing(files: list[bytes], slices: list[Dataset]) -> None:
    mask = structures(files, [(4, box(4.5, 8.5))])
    mask.ROIContourSequence[0].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"
    with pytest.raises(InputError, match="covers a voxel"):
        region(mask, slices)


def test_regions_by_name_and_glob(files: list[bytes], slices: list[Dataset]) -> None:
    mask, volume = parse(rtstruct(files)), series.build(slices)
    assert list(series.regions(mask, volume, "GTV")) == ["GTV"]
    assert list(series.regions(mask, volume, "gt*")) == ["GTV"]
    assert list(series.regions(mask, volume, "*")) == ["BODY", "GTV"]
    for roi in (None, "PTV"):
        with pytest.raises(InputError):
            series.regions(mask, volume, roi)


def test_hole_of_the_synthetic_sphere(files: list[bytes], slices: list[Dataset]) -> None:
    volume = series.build(slices)
    full = series.regions(parse(rtstruct(files, lesion_radius_mm=15)), volume, "GTV")["GTV"]
    shell = series.regions(parse(rtstruct(files, lesion_radius_mm=15, hole_radius_mm=8)), volume, "GTV")["GTV"]
    assert shell.sum() < full.sum()
    assert not (shell & ~full).any()
    assert full[6, 16, 16]
    assert not shell[6, 16, 16]


def test_mask_of_another_series(files: list[bytes], slices: list[Dataset]) -> None:
    stranger = parse(rtstruct(ct_series({"PatientID": "other"}, seed=9)))
    with pytest.raises(InputError, match="refers to 0"):
        series.region(stranger, series.group(slices), "GTV")
    volume, mask = series.region(parse(rtstruct(files)), series.group(slices), "GTV")
    assert mask.shape == volume.voxels.shape


@needs_data
def test_binary_seg_on_its_image() -> None:
    image = pydicom.dcmread(DATA / "ct_image.dcm")
    mask = pydicom.dcmread(DATA / "seg_image_ct_binary_single_frame.dcm")
    volume, found = series.region(mask, series.group([image]), "first*")
    assert np.array_equal(found[0], mask.pixel_array.astype(bool))
    assert len(radiomics.extract(volume.voxels, found, volume.spacing, aliases=False)) == 482


def seg_series(mask: Dataset, files: list[bytes], heights: list[float]) -> list[Dataset]:
    """A made-up CT on the grid of a SEG, so that its frames have slices to lie on."""
    images = []
    for height, raw in zip(heights, files, strict=False):
        image = parse(raw)
        image.SeriesInstanceUID = "1.2.3"
        image.Rows, image.Columns, image.PixelData = 16, 16, bytes(512)
        image.PixelSpacing = [0.488281, 0.488281]
        image.ImagePositionPatient = [-125.0, -128.100006, height]
        images.append(image)
    return images


@needs_data
def test_multi_frame_seg_lands_on_its_slices(files: list[bytes]) -> None:
    mask = pydicom.dcmread(DATA / "seg_image_ct_binary.dcm")
    volume = series.build(seg_series(mask, files, [106.769997, 105.519997, 104.269997, 103.019997, 101.769997]))
    found = series.regions(mask, volume)["first segment"]
    assert found.sum(axis=(1, 2)).tolist() == [0, *mask.pixel_array.sum(axis=(1, 2)).tolist(), 0]
    shifted = series.build(seg_series(mask, files, [105.9, 104.65, 103.4]))
    with pytest.raises(InputError, match="grid"):
        series.regions(mask, shifted)
    missing = series.build(seg_series(mask, files, [103.019997, 104.269997]))
    with pytest.raises(InputError, match="outside"):
        series.regions(mask, missing)


@needs_data
@pytest.mark.parametrize("name", ["seg_image_ct_binary_fractional.dcm", "seg_image_ct_true_fractional.dcm"])
def test_fractional_seg_is_refused(name: str, files: list[bytes]) -> None:
    mask = pydicom.dcmread(DATA / name)
    volume = series.build(seg_series(mask, files, [103.019997, 104.269997, 105.519997]))
    with pytest.raises(InputError, match="not binary"):
        series.regions(mask, volume)


@needs_data
def test_segments_are_told_apart(files: list[bytes]) -> None:
    mask = pydicom.dcmread(DATA / "seg_image_ct_binary_overlap.dcm")
    heights = [103.019997, 104.269997, 105.519997, 106.769997]
    positions = [g.PlanePositionSequence[0].ImagePositionPatient for g in mask.PerFrameFunctionalGroupsSequence]
    for position in positions:  # one slice of the source lay elsewhere: bring it beside the others
        if position[2] < 0:
            position[2] = heights[3]
    volume = series.build(seg_series(mask, files, heights))
    both = series.regions(mask, volume, "*segment")
    assert sorted(both) == ["first segment", "second segment"]
    assert sum(int(part.sum()) for part in both.values()) == mask.pixel_array.sum()


def test_features_know_the_truth(files: list[bytes], slices: list[Dataset]) -> None:
    volume, mask = series.region(parse(rtstruct(files)), series.group(slices), "GTV")
    found = radiomics.extract(volume.voxels, mask, volume.spacing)
    assert len(found) == 482 + len(radiomics.ALIASES)
    assert list(found) == sorted(found)
    inside = volume.voxels[mask].astype(float)
    assert found["original_firstorder_Mean"] == pytest.approx(inside.mean())
    assert found["original_firstorder_Minimum"] == inside.min()
    assert found["original_shape_VoxelVolume"] == pytest.approx(mask.sum() * 12.0)
    wider = radiomics.extract(volume.voxels, mask, volume.spacing, radiomics.Settings(bin_width=50.0))
    assert wider["original_firstorder_Entropy"] < found["original_firstorder_Entropy"]
    assert radiomics.Settings().digest != radiomics.Settings(bin_width=50.0).digest


def test_features_of_impossible_regions(slices: list[Dataset]) -> None:
    voxels = series.build(slices).voxels
    for mask in (np.zeros(voxels.shape, bool), np.zeros((1, 2, 3), bool)):
        with pytest.raises(InputError):
            radiomics.extract(voxels, mask, (1, 1, 1))
    with pytest.raises(InputError):
        radiomics.Settings(bin_width=0)


def test_flat_region_has_no_infinite_feature(slices: list[Dataset]) -> None:
    voxels = np.zeros((6, 8, 8), np.float32)
    mask = np.zeros(voxels.shape, bool)
    mask[1:4, 2:6, 2:6] = True
    found = radiomics.extract(voxels, mask, (1, 1, 1))
    assert not any(np.isinf(list(found.values())))

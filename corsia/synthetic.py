"""Small CT series with a structure set, and pictures with writing, made from nothing: for demo, notebooks and tests.

No data of any person: identities are whatever the caller plants. Everything is a function of the arguments, so two
calls give equal bytes. The images are valid, tiny and not realistic; nothing may be learnt from them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

__all__ = ["PRIVATE_CREATOR", "SPACING_MM", "THICKNESS_MM", "ct_series", "rtstruct", "written_image"]

SPACING_MM = 2.0
THICKNESS_MM = 3.0
PRIVATE_CREATOR = "SYNTHETIC WARD 1.0"
_INTERCEPT = -1024
_CONTOUR_POINTS = 48


def ct_series(
    patient: Mapping[str, str],
    *,
    seed: int,
    size: int = 32,
    slices: int = 12,
    lesion_radius_mm: float = 9.0,
    lesion_hu: float = 40.0,
    roughness_hu: float = 20.0,
) -> list[bytes]:
    """An axial CT series of a body with one round lesion, as DICOM files from the feet up.

    Args:
        patient: planted values. Keys are DICOM keywords (`PatientName`, `PatientID`, `PatientBirthDate`,
            `InstitutionName`, `ReferringPhysicianName`, `StudyDate`, `ImageComments`, ...), and besides
            `nested` (a physician's name inside a sequence inside a sequence) and `private` (text in a private block).
        seed: of noise and UIDs.
        size: rows and columns, 2 mm each.
        slices: images, 3 mm apart.
        lesion_radius_mm: radius of the sphere in the middle of the volume.
        lesion_hu: mean of the lesion; the tissue around has -80.
        roughness_hu: standard deviation of the lesion's texture.
    """
    volume = _volume(seed, size, slices, lesion_radius_mm, lesion_hu, roughness_hu)
    files = []
    for at, plane in enumerate(volume):
        dataset = _header(patient, seed, "1.2.840.10008.5.1.4.1.1.2", f"image {at}", "CT", 1)
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.InstanceNumber = str(slices - at)
        dataset.FrameOfReferenceUID = _uid(seed, patient, "frame")
        dataset.PositionReferenceIndicator = ""
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [_corner(size), _corner(size), at * THICKNESS_MM]
        dataset.PixelSpacing = [SPACING_MM, SPACING_MM]
        dataset.SliceThickness = THICKNESS_MM
        dataset.KVP = "120"
        dataset.Rows, dataset.Columns = size, size
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = 0
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = _INTERCEPT, 1, "HU"
        dataset.PixelData = (plane - _INTERCEPT).astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        files.append(_bytes(dataset))
    return files


def rtstruct(
    series: Sequence[bytes],
    *,
    roi: str = "GTV",
    lesion_radius_mm: float = 9.0,
    hole_radius_mm: float = 0.0,
    other_roi: str | None = "BODY",
) -> bytes:
    """A structure set over `series`: a sphere of closed planar contours, each naming the slice it lies on.

    Args:
        series: what `ct_series` gave, in any order.
        roi: name of the lesion's region.
        lesion_radius_mm: radius of the sphere; slices that it does not cut have no contour.
        hole_radius_mm: above 0, a concentric sphere is cut out by inner contours.
        other_roi: name of a second, square region; None for one region alone.
    """
    images = sorted(_parse(series), key=lambda image: float(image.ImagePositionPatient[2]))
    first = images[0]
    patient = {name: str(first.get(name, "")) for name in ("PatientID", "PatientName", "PatientBirthDate")}
    patient |= {name: str(first[name].value) for name in ("StudyDate", "InstitutionName") if name in first}
    seed = int(first.SeriesNumber)
    dataset = _header(patient, seed, "1.2.840.10008.5.1.4.1.1.481.3", f"structures {roi}", "RTSTRUCT", 2)
    dataset.StudyInstanceUID = first.StudyInstanceUID
    dataset.StructureSetLabel = "PLAN"
    dataset.StructureSetDate, dataset.StructureSetTime = dataset.StudyDate, "120000"
    dataset.ApprovalStatus = "UNAPPROVED"
    dataset.ReferencedFrameOfReferenceSequence = [_reference(images)]
    names = [roi] if other_roi is None else [roi, other_roi]
    rings = [_rings(images, lesion_radius_mm, hole_radius_mm), _squares(images)]
    dataset.StructureSetROISequence = [_roi(n, name, first.FrameOfReferenceUID) for n, name in enumerate(names, 1)]
    dataset.ROIContourSequence = [_contours(n, rings[n - 1]) for n in range(1, len(names) + 1)]
    dataset.RTROIObservationsSequence = [_observation(n) for n in range(1, len(names) + 1)]
    return _bytes(dataset)


def written_image(
    patient: Mapping[str, str], text: str, *, seed: int, capture: bool = False
) -> tuple[tuple[int, int, int, int], bytes]:
    """A picture with writing burned into it: an ultrasound frame, or a secondary capture.

    Args:
        patient: planted values, as for `ct_series`.
        text: one line in capitals.
        seed: of noise and UIDs.
        capture: a screenshot by its class, which no profile passes unless the site allows it.

    Returns:
        x0, y0, x1, y1 of the writing in pixels (the last two outside), and the file.
    """
    from PIL import Image, ImageDraw, ImageFont

    rows, columns = 128, 320
    noise = np.random.default_rng(seed).normal(60, 8, (rows, columns)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(noise)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(18)
    draw.text((20, 30), text, fill=255, font=font)
    box = draw.textbbox((20, 30), text, font=font)
    kind, name = ("1.2.840.10008.5.1.4.1.1.7", "OT") if capture else ("1.2.840.10008.5.1.4.1.1.6.1", "US")
    dataset = _header(patient, seed, kind, "picture", name, 1)
    dataset.ConversionType = "WSD" if capture else "SYN"
    dataset.ImageType = ["DERIVED", "SECONDARY"] if capture else ["ORIGINAL", "PRIMARY"]
    dataset.InstanceNumber = "1"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = np.asarray(picture).tobytes()
    dataset["PixelData"].VR = "OB"
    return (int(box[0]), int(box[1]), int(box[2]), int(box[3])), _bytes(dataset)


def _volume(seed: int, size: int, slices: int, radius: float, level: float, rough: float) -> np.ndarray:
    """int32 HU [slices, size, size]: air, a body of soft tissue, a lesion."""
    generator = np.random.Generator(np.random.PCG64(seed))
    z, y, x = np.ogrid[:slices, :size, :size]
    middle = (size - 1) / 2
    across = ((y - middle) ** 2 + (x - middle) ** 2) * SPACING_MM**2
    along = ((z - slices // 2) * THICKNESS_MM) ** 2
    volume = np.where(across < (0.45 * size * SPACING_MM) ** 2, -80.0, -1000.0)
    volume = np.broadcast_to(volume, (slices, size, size)) + generator.normal(0, 8, (slices, size, size))
    texture = level + generator.normal(0, rough, volume.shape)
    return np.clip(np.where(across + along <= radius**2, texture, volume).round(), -1024, 3071).astype(np.int32)


def _corner(size: int) -> float:
    return -(size - 1) / 2 * SPACING_MM


def _uid(seed: int, patient: Mapping[str, str], purpose: str) -> str:
    text = f"{seed}\0{patient.get('PatientID', '')}\0{purpose}"
    return f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:15], 'big')}"


def _header(
    patient: Mapping[str, str], seed: int, sop_class: str, name: str, modality: str, number: int
) -> FileDataset:
    """The modules of patient, study, series and equipment, with everything planted."""
    from pydicom.dataset import FileDataset
    from pydicom.uid import UID

    dataset = FileDataset("", {}, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = UID(sop_class)
    dataset.SOPInstanceUID = UID(_uid(seed, patient, name))
    dataset.file_meta = _meta(dataset)
    dataset.StudyDate, dataset.StudyTime = "20200115", "101500"
    dataset.AccessionNumber, dataset.Modality, dataset.Manufacturer = "", modality, "Corsia"
    dataset.ReferringPhysicianName = dataset.PatientName = dataset.PatientID = ""
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyID = ""
    dataset.StudyInstanceUID = _uid(seed, patient, "study")
    dataset.SeriesInstanceUID = _uid(seed, patient, f"series {modality}")
    dataset.SeriesNumber = str(seed % 10_000) if modality == "CT" else str(number)
    for keyword, value in patient.items():
        if keyword not in ("nested", "private"):
            setattr(dataset, keyword, value)
    if "nested" in patient:
        dataset.RequestAttributesSequence = [_nested(patient["nested"])]
    if "private" in patient:
        block = dataset.private_block(0x0011, PRIVATE_CREATOR, create=True)
        block.add_new(0x01, "LO", patient["private"])
    return dataset


def _nested(name: str) -> Dataset:
    from pydicom.dataset import Dataset

    inner, outer = Dataset(), Dataset()
    inner.PersonName = name
    inner.InstitutionName = ""
    outer.RequestedProcedureID = "1"
    outer.ScheduledProcedureStepID = "1"
    outer.ScheduledProtocolCodeSequence = [inner]
    return outer


def _meta(dataset: Dataset) -> FileMetaDataset:
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = "2.25.94153320155264226853"
    return meta


def _bytes(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _parse(series: Sequence[bytes]) -> list[FileDataset]:
    import pydicom

    return [pydicom.dcmread(BytesIO(raw), stop_before_pixels=True) for raw in series]


def _image_reference(image: Dataset) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return item


def _reference(images: Sequence[Dataset]) -> Dataset:
    from pydicom.dataset import Dataset

    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ContourImageSequence = [_image_reference(image) for image in images]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = images[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame


def _rings(images: Sequence[Dataset], radius: float, hole: float) -> list[tuple[Dataset, np.ndarray]]:
    """Circles [n, 2] in mm about the axis, on the slices that the sphere cuts; inner ones for the hole."""
    middle = float(images[len(images) // 2].ImagePositionPatient[2])
    angles = np.linspace(0, 2 * np.pi, _CONTOUR_POINTS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = []
    for image in images:
        away = float(image.ImagePositionPatient[2]) - middle
        for outline in (radius, hole):
            if outline > abs(away):
                found.append((image, circle * np.sqrt(outline**2 - away**2)))
    return found


def _squares(images: Sequence[Dataset]) -> list[tuple[Dataset, np.ndarray]]:
    half = 0.4 * int(images[0].Rows) * SPACING_MM
    square = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    return [(image, square) for image in images]


def _contours(number: int, rings: Sequence[tuple[Dataset, np.ndarray]]) -> Dataset:
    from pydicom.dataset import Dataset

    region = Dataset()
    region.ReferencedROINumber = str(number)
    region.ROIDisplayColor = ["255", "0", "0"]
    region.ContourSequence = []
    for image, ring in rings:
        contour = Dataset()
        contour.ContourImageSequence = [_image_reference(image)]
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = str(len(ring))
        height = float(image.ImagePositionPatient[2])
        contour.ContourData = [f"{v:.4f}" for x, y in ring for v in (x, y, height)]
        region.ContourSequence.append(contour)
    return region


def _roi(number: int, name: str, frame: str) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ROINumber = str(number)
    item.ReferencedFrameOfReferenceUID = frame
    item.ROIName = name
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    return item


def _observation(number: int) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = str(number)
    item.RTROIInterpretedType = "GTV" if number == 1 else "EXTERNAL"
    item.ROIInterpreter = ""
    return item

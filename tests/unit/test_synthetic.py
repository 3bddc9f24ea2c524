"""The made-up series: deterministic, valid, and carrying just what was planted."""

from __future__ import annotations

import time
from io import BytesIO

import numpy as np
import pydicom

from corsia.synthetic import PRIVATE_CREATOR, ct_series, rtstruct
from pipelines.features import radiomics, series

PATIENT = {
    "PatientName": "Zanetti^Planted",
    "PatientID": "PLANTED-0001",
    "PatientBirthDate": "19510203",
    "InstitutionName": "Ospedale Inventato",
    "ReferringPhysicianName": "Dottor^Inventato",
    "ImageComments": "telefono 0000000000",
    "StudyDate": "20210304",
    "nested": "Nested^Inventato",
    "private": "private Inventato",
}


def parse(raw: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(raw))


def test_same_arguments_same_bytes() -> None:
    first, second = (ct_series(PATIENT, seed=4) for _ in range(2))
    assert first == second
    assert rtstruct(first) == rtstruct(second[::-1])
    assert ct_series(PATIENT, seed=5)[0] != first[0]
    assert parse(ct_series(PATIENT, seed=5)[0]).SOPInstanceUID != parse(first[0]).SOPInstanceUID


def test_everything_planted_is_there() -> None:
    files = ct_series(PATIENT, seed=4)
    for raw in files:
        for value in PATIENT.values():
            assert value.encode() in raw
    image = parse(files[0])
    assert image.private_block(0x0011, PRIVATE_CREATOR)[0x01].value == PATIENT["private"]
    step = image.RequestAttributesSequence[0].ScheduledProtocolCodeSequence[0]
    assert str(step.PersonName) == PATIENT["nested"]
    structures = parse(rtstruct(files))
    assert structures.PatientID == PATIENT["PatientID"]
    assert structures.StudyInstanceUID == image.StudyInstanceUID


def test_instances_have_their_own_uids() -> None:
    uids = {parse(raw).SOPInstanceUID for raw in ct_series(PATIENT, seed=4)}
    assert len(uids) == 12
    assert all(uid.is_valid for uid in uids)


def test_lesion_follows_its_parameters() -> None:
    found = []
    started = time.monotonic()
    for radius, level, rough in ((6.0, 20.0, 5.0), (12.0, 80.0, 60.0)):
        files = ct_series(PATIENT, seed=4, lesion_radius_mm=radius, lesion_hu=level, roughness_hu=rough)
        mask = parse(rtstruct(files, lesion_radius_mm=radius))
        volume, region = series.region(mask, series.group([parse(raw) for raw in files]), "GTV")
        found.append(radiomics.extract(volume.voxels, region, volume.spacing))
    small, large = found
    assert large["original_shape_MeshVolume"] > 4 * small["original_shape_MeshVolume"]
    assert large["original_firstorder_Mean"] > small["original_firstorder_Mean"] + 40
    assert large["original_glcm_Contrast"] > small["original_glcm_Contrast"]
    assert np.isfinite([*small.values(), *large.values()]).all()
    assert time.monotonic() - started < 20

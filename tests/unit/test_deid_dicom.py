"""The DICOM engine on real files, on files that lie, and across files of one patient."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from privacy.deid import inflated, residual
from privacy.deid.dicom import DicomEngine
from privacy.deid.profiles import OFFERED, load
from privacy.deid.pseudonym import Pseudonymizer
from protocol.errors import CorsiaError, InputError
from tests.unit.test_deid_dicom_leaks import encoded

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "dicom_highdicom"
MODIFIED = frozenset({"retain-longitudinal-modified-dates"})


def engine(options: frozenset[str] = MODIFIED, key: bytes = b"k" * 32) -> DicomEngine:
    return DicomEngine(Pseudonymizer(key), profile=load("basic", options))


def basic(**attributes: object) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3.4.5.6"
    dataset.PatientName, dataset.PatientID = "Zanzottera^Ugo", "ZZ-445566"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


def run(dataset: Dataset, options: frozenset[str] = MODIFIED) -> Dataset:
    return dcmread(io.BytesIO(engine(options).deidentify(encoded(dataset, ExplicitVRLittleEndian)).data))


def test_every_shipped_file_comes_out_clean_or_is_refused() -> None:
    one = engine()
    codes: dict[str, int] = {}
    for path in sorted(SHIPPED.rglob("*")):
        if path.is_dir():
            continue
        data = path.read_bytes()
        try:
            result = one.deidentify(data)
        except CorsiaError as error:
            codes[error.code] = codes.get(error.code, 0) + 1
            continue
        codes["clean"] = codes.get("clean", 0) + 1
        assert not residual.left_in_file(data, result.data, MODIFIED), path.name
        before, after = dcmread(io.BytesIO(data), force=True), dcmread(io.BytesIO(result.data))
        assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID == result.sop_instance_uid
        assert after.PatientIdentityRemoved == "YES"
        if "PixelData" in before:
            assert after.PixelData == before.PixelData
            assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID
        assert one.deidentify(data).data == result.data
        assert engine().deidentify(data).data == result.data
    assert codes["clean"] >= 110
    assert set(codes) == {"clean", "input.dicom", "input.pixels"}


def test_files_of_other_makers() -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not here")
    for path in sorted(SHARED.glob("*.dcm")):
        data = path.read_bytes()
        assert not residual.left_in_file(data, engine().deidentify(data).data, MODIFIED), path.name


def test_a_structure_set_without_meta_is_read_and_a_dump_is_not() -> None:
    result = engine().deidentify((SHIPPED / "rtstruct.dcm").read_bytes())
    assert dcmread(io.BytesIO(result.data)).SOPClassUID.name == "RT Structure Set Storage"
    for name in ("rtstruct.dump", "README.txt", "crayons.icc"):
        with pytest.raises(InputError) as caught:
            engine().deidentify((SHIPPED / name).read_bytes())
        assert caught.value.code == "input.dicom"


def test_references_point_at_the_files_they_pointed_at() -> None:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CTImageStorage, "1.2.3.4.5.7"
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3.4.5.7"
    item.PurposeOfReferenceCodeSequence = Sequence([inner])
    pointing = run(basic(ReferencedImageSequence=Sequence([item]), FrameOfReferenceUID="1.2.3.9"))
    target = run(basic(SOPInstanceUID="1.2.3.4.5.7", FrameOfReferenceUID="1.2.3.9"))
    reference = pointing.ReferencedImageSequence[0]
    assert reference.ReferencedSOPClassUID == CTImageStorage
    assert reference.ReferencedSOPInstanceUID == target.SOPInstanceUID != "1.2.3.4.5.7"
    assert reference.PurposeOfReferenceCodeSequence[0].ReferencedSOPInstanceUID == target.SOPInstanceUID
    assert pointing.FrameOfReferenceUID == target.FrameOfReferenceUID != "1.2.3.9"


def test_dates_move_by_the_shift_of_the_tables() -> None:
    clean = run(basic(StudyDate="20200110", StudyTime="101112", PatientBirthDate="19500403"))
    later = run(basic(StudyDate="20200120", AcquisitionDateTime="20200120101112.5"))
    moved = Pseudonymizer(b"k" * 32).shift_date
    from datetime import date

    assert clean.StudyDate == moved(date(2020, 1, 10), " zz-445566").strftime("%Y%m%d")
    assert later.AcquisitionDateTime == later.StudyDate + "101112.5"
    assert clean.StudyTime == "101112"
    assert clean.PatientBirthDate == ""
    assert clean.LongitudinalTemporalInformationModified == "MODIFIED"
    assert run(basic(StudyDate="20200110"), frozenset()).LongitudinalTemporalInformationModified == "REMOVED"
    assert run(basic(StudyDate="20200110"), frozenset()).StudyDate == ""


def test_only_what_ran_is_claimed() -> None:
    clean = run(basic(), frozenset())
    assert [item.CodeValue for item in clean.DeidentificationMethodCodeSequence] == ["113100"]
    assert "2025-01 + 2026c additions" in clean.DeidentificationMethod[1]
    with pytest.raises(InputError, match="not offered"):
        load("basic", frozenset({"clean-recognizable-visual-features"}))
    with pytest.raises(InputError, match="pixel cleaner"):
        engine(frozenset({"clean-pixel-data"}))
    with pytest.raises(InputError, match="exclude"):
        load("basic", frozenset({"retain-longitudinal-full-dates"}) | MODIFIED)
    with pytest.raises(InputError, match="text engine"):
        engine(frozenset({"clean-descriptors"}))
    assert "clean-recognizable-visual-features" not in OFFERED


@pytest.mark.parametrize(
    "attributes",
    [
        {"BurnedInAnnotation": "YES"},
        {"BurnedInAnnotation": "PERHAPS"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"},
        {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    ],
)
def test_pictures_that_may_show_a_name_are_refused(attributes: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        run(basic(**attributes))
    assert caught.value.code == "input.pixels"


def test_an_overlay_inside_the_pixels_is_refused() -> None:
    dataset = basic()
    dataset.add_new(0x60000010, "US", 8)
    dataset.add_new(0x60000102, "US", 12)
    with pytest.raises(InputError) as caught:
        run(dataset)
    assert caught.value.code == "input.pixels"


@pytest.mark.parametrize("cut", [100, 140, 300, 700, 2000, 20_000, 39_000])
def test_truncated_files_are_never_passed(cut: int) -> None:
    with pytest.raises(InputError):
        engine().deidentify((SHIPPED / "CT_small.dcm").read_bytes()[:cut])


def test_a_deflated_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = (SHIPPED / "image_dfl.dcm").read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    monkeypatch.setattr(inflated, "MAX_INFLATED_BYTES", 1 << 25)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = data[:start] + packer.compress(bytes(1 << 26)) + packer.flush()
    with pytest.raises(InputError, match="larger"):
        engine().deidentify(bomb)


def test_deflated_files_are_searched_unpacked() -> None:
    dataset = basic(StudyDescription="KQXWZVBNMP")
    data = encoded(dataset, DeflatedExplicitVRLittleEndian)
    result = engine().deidentify(data)
    assert result.data[:400].count(DeflatedExplicitVRLittleEndian.encode()) == 1
    assert residual.search(data, ["KQXWZVBNMP"]) == [0]
    assert residual.search(result.data, ["KQXWZVBNMP"]) == []


def test_a_value_under_a_foreign_representation_does_not_slip_through() -> None:
    """The file claims another VR than the dictionary's for a name, a comment, a number and a sequence."""
    token = b"KQXWZVBNMP"
    data = encoded(basic(InstanceNumber="1", KVP="120"), ExplicitVRLittleEndian)
    forged = b""
    for tag, vr in (
        (b"\x10\x00\x00\x40", b"LO"),  # Patient Comments
        (b"\x18\x00\x50\x00", b"LO"),  # Slice Thickness (DS)
        (b"\x18\x00\x51\x11", b"CS"),  # unknown
        (b"\x20\x00\x11\x00", b"SH"),  # Series Number (IS)
    ):
        forged += tag + vr + len(token).to_bytes(2, "little") + token
    forged += b"\x18\x00\x14\x13OB\0\0" + len(token).to_bytes(4, "little") + token  # Flip Angle (DS)
    forged += b"\x20\x00\x52\x00UN\0\0" + len(token).to_bytes(4, "little") + token  # Frame of Reference UID
    forged += b"\x28\x00\x02\x00UT\0\0" + len(token).to_bytes(4, "little") + token  # Samples per Pixel (US)
    assert token not in engine().deidentify(data + forged).data


def test_numbers_codes_and_text_are_checked_for_what_they_are() -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "121139", "DCM", "Number of Zanzottera"
    own = Dataset()
    own.CodeValue, own.CodingSchemeDesignator, own.CodeMeaning = "UGO1234", "99HOSPITAL", "Left lung"
    clean = run(
        basic(
            Modality="CT", BodyPartExamined="ZANZOTTERA", Manufacturer="SIEMENS Zanzottera",
            ConvolutionKernel="B70f", AnatomicRegionSequence=Sequence([code, own]), SliceThickness="2.5",
        )
    )  # fmt: skip
    assert clean.Modality == "CT"
    assert "BodyPartExamined" not in clean
    assert clean.Manufacturer == "SIEMENS"
    assert clean.ConvolutionKernel == "B70f"
    assert clean.SliceThickness == 2.5
    kept, dummied = clean.AnatomicRegionSequence
    assert (kept.CodeValue, kept.CodingSchemeDesignator, kept.CodeMeaning) == ("121139", "DCM", "Number of")
    assert (dummied.CodeValue, dummied.CodingSchemeDesignator, dummied.CodeMeaning) == ("ANON", "99ANON", "Left lung")


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 192", "Però^Niccolò"), ("ISO_IR 100", "Però^Niccolò"), ("NO SUCH SET", "Pero^Niccolo"),
     (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")],
)  # fmt: skip
def test_character_sets(charset: object, name: str) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = basic(SpecificCharacterSet=charset, PatientName=name, Manufacturer=f"SIEMENS {name}")
        data = encoded(dataset, ExplicitVRLittleEndian)
        result = engine().deidentify(data)
        clean = dcmread(io.BytesIO(result.data))
        assert clean.Manufacturer == "SIEMENS"
        assert str(clean.PatientName) == result.pseudonym


def test_without_a_patient_id_the_study_stands_for_him() -> None:
    one = run(basic(PatientID="", StudyInstanceUID="1.2.3.1"))
    same = run(basic(PatientID="", StudyInstanceUID="1.2.3.1", SOPInstanceUID="1.2.3.4.5.9"))
    other = run(basic(PatientID="", StudyInstanceUID="1.2.3.2"))
    assert one.PatientID == same.PatientID != other.PatientID


def test_what_the_table_knows_goes_from_the_file_too() -> None:
    dataset = basic(Manufacturer="SIEMENS Left Lung")
    result = engine().deidentify(
        encoded(dataset, ExplicitVRLittleEndian), lambda patient_id: ["Lung^X"] if patient_id == "ZZ-445566" else []
    )
    assert dcmread(io.BytesIO(result.data)).Manufacturer == "SIEMENS Left"

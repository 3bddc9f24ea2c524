"""Options of PS3.15 on objects made for them: what is kept, what goes, and what is claimed."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from privacy.deid.dicom import DicomEngine
from privacy.deid.profiles import METHOD_CODES, OFFERED, load
from privacy.deid.pseudonym import Pseudonymizer
from privacy.deid.text import TextEngine
from protocol.errors import CorsiaError, InputError
from tests.unit.test_deid_dicom import SHIPPED, basic, engine
from tests.unit.test_deid_dicom_leaks import encoded, left

FULL, MOVED = "retain-longitudinal-full-dates", "retain-longitudinal-modified-dates"
PDF, CDA, STL = (f"1.2.840.10008.5.1.4.1.1.104.{n}" for n in (1, 2, 3))
_ITALIAN = TextEngine("it")


@dataclass
class Verdict:
    ok: bool = True
    reason: str = ""
    changed: bool = False
    looked: bool = True


@dataclass
class Cleaner:
    """A cleaner that says what it is told to, and blanks what it says it changed."""

    verdict: Verdict = field(default_factory=Verdict)
    seen: list[Dataset] = field(default_factory=list)

    def clean(self, dataset: Dataset) -> Verdict:
        self.seen.append(dataset)
        if self.verdict.changed:
            dataset.PixelData = bytes(len(dataset.PixelData))
        return self.verdict


def made(*options: str, pixels: Cleaner | None = None) -> DicomEngine:
    profile = load("basic", frozenset(options))
    return DicomEngine(Pseudonymizer(b"k" * 32), profile=profile, text=_ITALIAN, pixels=pixels)


def run(
    dataset: Dataset, *options: str, pixels: Cleaner | None = None, syntax: str = ExplicitVRLittleEndian
) -> Dataset:
    result = made(*options, pixels=pixels).deidentify(encoded(dataset, syntax))
    return dcmread(io.BytesIO(result.data))


def codes(dataset: Dataset) -> set[str]:
    return {item.CodeValue for item in dataset.DeidentificationMethodCodeSequence}


def test_every_pair_of_options_runs_or_is_refused_and_claims_itself() -> None:
    data = (SHIPPED / "CT_small.dcm").read_bytes()
    for pair in combinations(sorted(OFFERED), 2):
        if set(pair) == {FULL, MOVED}:
            with pytest.raises(InputError, match="exclude"):
                load("basic", frozenset(pair))
            continue
        clean = dcmread(io.BytesIO(made(*pair, pixels=Cleaner()).deidentify(data).data))
        wanted = {METHOD_CODES[name][0] for name in pair if name in METHOD_CODES}
        assert codes(clean) == {"113100"} | wanted
        state = "UNMODIFIED" if FULL in pair else "MODIFIED" if MOVED in pair else "REMOVED"
        assert clean.LongitudinalTemporalInformationModified == state
        assert clean.PatientIdentityRemoved == "YES"


# -- structured content


def item(kind: str, **values: object) -> Dataset:
    one = Dataset()
    one.RelationshipType, one.ValueType = "CONTAINS", kind
    name = Dataset()
    name.CodeValue, name.CodingSchemeDesignator, name.CodeMeaning = "121071", "DCM", "Finding"
    one.ConceptNameCodeSequence = Sequence([name])
    for keyword, value in values.items():
        setattr(one, keyword, value)
    return one


def report() -> Dataset:
    unit = Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "mm", "UCUM", "mm"
    number = Dataset()
    number.NumericValue, number.MeasurementUnitsCodeSequence = "12.5", Sequence([unit])
    inner = item("TEXT", TextValue="Nodulo al polmone destro, paziente Zanzottera Ugo nato il 03/04/1950")
    inner.ContentSequence = Sequence([item("PNAME", PersonName="Brambatti^Lea")])
    dataset = basic(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", Modality="SR")
    dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
    dataset.ContentSequence = Sequence(
        [
            item("NUM", MeasuredValueSequence=Sequence([number])),
            inner,
            item("DATE", Date="20200110"),
            item("DATETIME", DateTime="20200110101112"),
            item("UIDREF", UID="1.2.3.4.777"),
        ]
    )
    return dataset


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_clean_structured_content_keeps_codes_and_numbers(syntax: str) -> None:
    result = made("clean-structured-content", MOVED).deidentify(encoded(report(), syntax))
    assert left(result.data, ["Zanzottera", "Brambatti", "1950", "20200110", "1.2.3.4.777"]) == []
    number, text, day, moment, uid = dcmread(io.BytesIO(result.data)).ContentSequence
    assert number.MeasuredValueSequence[0].NumericValue == 12.5
    assert number.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "mm"
    assert number.ConceptNameCodeSequence[0].CodeValue == "121071"
    assert "polmone destro" in text.TextValue
    assert text.ContentSequence[0].PersonName == "ANON^ANON"
    assert moment.DateTime[:8] == day.Date
    assert uid.UID.startswith("2.25.")


def test_without_the_option_a_report_is_a_dummy_of_valid_shape() -> None:
    result = made(MOVED).deidentify(encoded(report(), ExplicitVRLittleEndian))
    clean = dcmread(io.BytesIO(result.data))
    assert len(clean.ContentSequence) == 1
    assert clean.ContentSequence[0].ValueType == "NUM"
    assert clean.ContentSequence[0].MeasuredValueSequence[0].NumericValue == 0
    assert b"polmone" not in result.data


# -- graphics


def with_overlay(label: str = "ZANZOTTERA") -> Dataset:
    dataset = basic()
    bits = np.zeros((16, 16), np.uint8)
    bits[4:9, 4:9] = 1
    for element, vr, value in (
        (0x0010, "US", 16), (0x0011, "US", 16), (0x0040, "CS", "R"), (0x0050, "SS", [1, 1]), (0x0100, "US", 1),
        (0x0102, "US", 0), (0x0022, "LO", label), (0x1500, "LO", label), (0x3000, "OB", np.packbits(bits).tobytes()),
    ):  # fmt: skip
        dataset.add_new(0x60000000 | element, vr, value)
    return dataset


def test_an_overlay_stays_only_when_it_was_looked_at() -> None:
    cleaner = Cleaner()
    clean = run(with_overlay(), "clean-graphics", pixels=cleaner)
    assert clean[0x60003000].value == with_overlay()[0x60003000].value
    assert 0x60000022 not in clean
    assert 0x60001500 not in clean
    assert cleaner.seen[0].pixel_array.sum() == 25 * 255
    for verdict in (Verdict(ok=False, reason="text"), Verdict(changed=True), Verdict(looked=False)):
        assert 0x60003000 not in run(with_overlay(), "clean-graphics", pixels=Cleaner(verdict))
    assert 0x60003000 not in run(with_overlay(), "clean-graphics")
    assert 0x60003000 not in run(with_overlay(), pixels=Cleaner())
    forged = with_overlay()
    forged[0x60003000].value += b"ZANZOTTERA"
    assert 0x60003000 not in run(forged, "clean-graphics", pixels=Cleaner())


def test_annotations_keep_their_shapes_and_lose_names() -> None:
    text, shape, layer = Dataset(), Dataset(), Dataset()
    text.UnformattedTextValue = "nodulo polmone destro, Zanzottera"
    shape.GraphicAnnotationUnits, shape.GraphicDimensions, shape.NumberOfGraphicPoints = "PIXEL", 2, 2
    shape.GraphicData, shape.GraphicType, shape.GraphicFilled = [1.0, 2.0, 3.0, 4.0], "POLYLINE", "N"
    layer.GraphicLayer = "LAYER"
    layer.TextObjectSequence, layer.GraphicObjectSequence = Sequence([text]), Sequence([shape])
    source = basic(SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1", GraphicAnnotationSequence=Sequence([layer]))
    kept = run(source, "clean-graphics").GraphicAnnotationSequence[0]
    assert kept.GraphicObjectSequence[0].GraphicData == [1.0, 2.0, 3.0, 4.0]
    assert kept.GraphicObjectSequence[0].GraphicType == "POLYLINE"
    assert "Zanzottera" not in kept.TextObjectSequence[0].UnformattedTextValue
    assert "polmone" in kept.TextObjectSequence[0].UnformattedTextValue
    gone = run(source).GraphicAnnotationSequence[0]
    assert set(gone.GraphicObjectSequence[0].GraphicData) == {0.0}


# -- private


def with_private() -> Dataset:
    dataset = basic()
    block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x00, "DS", "1.25")
    block.add_new(0x09, "DS", "0.5")
    block.add_new(0x05, "LO", "ZANZOTTERA")
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x0E, "FD", [0.1, 0.2, 0.3])
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", b"ZANZOTTERA")
    other = dataset.private_block(0x0019, "ZANZOTTERA", create=True)
    other.add_new(0x0C, "IS", "4455")
    return dataset


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_safe_private_is_kept_by_creator_not_by_number(syntax: str) -> None:
    inner = with_private()
    source = with_private()
    source.add_new(0x00209111, "SQ", Sequence([inner]))
    for name in ("SOPClassUID", "SOPInstanceUID", "PatientName", "PatientID"):
        delattr(inner, name)
    result = made("retain-safe-private").deidentify(encoded(source, syntax))
    assert left(result.data, ["ZANZOTTERA", "CSA HEADER", "4455"]) == []
    clean = dcmread(io.BytesIO(result.data))
    for dataset in (clean, clean.FrameContentSequence[0]):
        block = dataset.private_block(0x7053, "Philips PET Private Group")
        assert [float(block[element].value) for element in (0x00, 0x09)] == [1.25, 0.5]
        block = dataset.private_block(0x0019, "SIEMENS MR HEADER")
        assert block[0x0C].value == 1000
        assert list(block[0x0E].value) == [0.1, 0.2, 0.3]
        assert len([tag for tag in dataset.keys() if tag.is_private]) == 6
    assert not [tag for tag in run(source, syntax=syntax).keys() if tag.is_private]


def test_a_safe_attribute_with_an_unsafe_value_goes() -> None:
    source = basic()
    block = source.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x00, "LO", "ZANZOTTERA")
    block.add_new(0x09, "UN", b"ZANZOTTERA")
    assert left(made("retain-safe-private").deidentify(encoded(source, ExplicitVRLittleEndian)).data, ["ZANZO"]) == []


# -- pixels, documents, second run


def test_pixels_are_cleaned_when_asked_and_claimed_when_done() -> None:
    data = (SHIPPED / "CT_small.dcm").read_bytes()

    def clean(*options: str, verdict: Verdict) -> Dataset:
        return dcmread(io.BytesIO(made(*options, pixels=Cleaner(verdict)).deidentify(data).data))

    assert "113101" in codes(clean("clean-pixel-data", verdict=Verdict()))
    assert "113101" not in codes(clean("clean-pixel-data", verdict=Verdict(looked=False)))
    assert "113101" not in codes(clean(verdict=Verdict()))
    blanked = clean("clean-pixel-data", verdict=Verdict(changed=True))
    assert not any(blanked.PixelData)
    with pytest.raises(InputError, match="text-remains") as caught:
        clean("clean-pixel-data", verdict=Verdict(ok=False, reason="text-remains"))
    assert caught.value.code == "input.pixels"
    cleaner = Cleaner()
    assert "113101" not in codes(run(basic(), "clean-pixel-data", pixels=cleaner))
    assert cleaner.seen == []


def document(sop_class: str) -> Dataset:
    dataset = basic(SOPClassUID=sop_class, EncapsulatedDocument=b"%PDF ZANZOTTERA^", DocumentTitle="Zanzottera Ugo")
    dataset.MIMETypeOfEncapsulatedDocument, dataset.BurnedInAnnotation = "application/pdf", "YES"
    return dataset


def test_documents_are_refused_or_emptied() -> None:
    for sop_class in (PDF, CDA, STL):
        with pytest.raises(InputError) as caught:
            run(document(sop_class))
        assert caught.value.code == "input.pixels"
    with pytest.raises(InputError):
        run(document(STL), "empty-documents")
    clean = run(document(PDF), "empty-documents")
    assert clean.EncapsulatedDocument.startswith(b"%PDF-1.4")
    assert clean.EncapsulatedDocumentLength == len(clean.EncapsulatedDocument.rstrip(b"\0"))
    assert clean.EncapsulatedDocument.rstrip(b"\0\n").endswith(b"%%EOF")
    assert "document emptied" in clean.DeidentificationMethod
    assert clean.BurnedInAnnotation == "NO"
    result = made("empty-documents").deidentify(encoded(document(CDA), ExplicitVRLittleEndian))
    assert left(result.data, ["ZANZOTTERA"]) == []
    assert dcmread(io.BytesIO(result.data)).MIMETypeOfEncapsulatedDocument == "text/XML"


def test_the_empty_document_is_a_pdf() -> None:
    data = run(document(PDF), "empty-documents").EncapsulatedDocument.rstrip(b"\0")
    table = int(data.split(b"startxref\n")[1].split(b"\n")[0])
    assert data[table : table + 4] == b"xref"
    for number, line in enumerate(data[table:].split(b"\n")[3:6], 1):
        assert data[int(line[:10]) :].startswith(b"%d 0 obj" % number)


def test_a_second_run_under_the_same_key_is_refused() -> None:
    one = engine()
    first = one.deidentify((SHIPPED / "CT_small.dcm").read_bytes()).data
    assert f"key {Pseudonymizer(b'k' * 32).key_id}" in dcmread(io.BytesIO(first)).DeidentificationMethod
    with pytest.raises(CorsiaError, match="already"):
        one.deidentify(first)
    again = dcmread(io.BytesIO(engine(key=b"j" * 32).deidentify(first).data))
    assert again.PatientID != dcmread(io.BytesIO(first)).PatientID


def test_numbers_cannot_carry_text() -> None:
    token = b"KQXWZVBNMPKQXWZV"
    data = encoded(basic(), ExplicitVRLittleEndian)
    forged = b"\x28\x00\x02\x00US" + len(token).to_bytes(2, "little") + token  # Samples per Pixel, one value
    forged += b"\x28\x00\x09\x00UN\0\0" + len(token).to_bytes(4, "little") + token  # Frame Increment Pointer
    assert token not in engine().deidentify(data + forged).data

"""One DICOM instance as a place sends it: whether it is what it says, has what it needs, and is of a kind we know.

What is not is set aside by itself and counted by its reason; the others go on. Nothing here logs or keeps an id.

Source: DICOM PS3.3 2024e, C.7.3.1.1.1 (defined terms of Modality, the retired ones included); PS3.4, B.5.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from edge.sources.origin import Bad, Part
from privacy.deid.inflated import HEAD_BYTES, check_inflated, is_deflated

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["SHELL", "UNKNOWN_MODALITY", "UNREADABLE", "judge", "part", "study_of"]

UNREADABLE, SHELL, UNKNOWN_MODALITY = "unreadable", "empty-shell", "unknown-modality"
_UNDEFINED = 0xFFFFFFFF  # a length that is not told: fragments, up to a delimiter
_PIXELS = (0x7FE00010, 0x7FE00008, 0x7FE00009, 0x56000020)  # pixels as integers and floats, and spectra
MODALITIES = frozenset(
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT"
    " IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG"
    " RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US"
    " VA XA XAPROTOCOL XC AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST TH VF TI".split()
)


def judge(data: bytes, uid: str | None = None) -> str:
    """Why an instance cannot be used: "unreadable", "empty-shell", "unknown-modality"; "" when it can.

    Unreadable is one that ends too early as well, or whose pixels are fewer than its rows and columns say. A shell is
    an image without a pixel. Unknown is a stated modality that DICOM does not define, or a class of object that it does
    not.

    Args:
        data: a DICOM file.
        uid: the SOPInstanceUID that was asked for, which the file must bear.
    """
    import pydicom
    from pydicom.uid import UID

    try:
        if packed := is_deflated(data[:HEAD_BYTES]):
            check_inflated(data)
        dataset = pydicom.dcmread(BytesIO(data), force=True, defer_size=None if packed else 1024)
        if _is_cut(dataset, len(data)):
            return UNREADABLE
        sop_class, named = str(dataset.get("SOPClassUID", "")), str(dataset.get("SOPInstanceUID", ""))
        modality = str(dataset.get("Modality", "") or "").strip().upper()
        pixels = any(tag in dataset and _length(dataset, tag) for tag in _PIXELS)
    except Exception:  # a hostile file may raise anything from inside the parser
        return UNREADABLE
    if not sop_class or (uid is not None and named != uid):
        return UNREADABLE
    name = UID(sop_class).name
    if name == sop_class or "Storage" not in name or (modality and modality not in MODALITIES):
        return UNKNOWN_MODALITY
    image = "Image Storage" in name or "Rows" in dataset
    return SHELL if image and not pixels else ""


def part(key: str, data: bytes) -> Part | Bad:
    """An instance to be kept under its SOPInstanceUID, or set aside."""
    reason = judge(data, key)
    return Bad(key=key, reason=reason, data=data) if reason else Part(keys=(key,), data=data, suffix=".dcm")


def study_of(data: bytes) -> str:
    """The StudyInstanceUID of a DICOM file; "" when it names none or does not parse."""
    import pydicom

    try:
        if is_deflated(data[:HEAD_BYTES]):
            check_inflated(data)
        tags: list[int | str] = ["StudyInstanceUID"]
        dataset = pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=True, specific_tags=tags)
        return str(dataset.get("StudyInstanceUID") or "")
    except Exception:  # a hostile file may raise anything from inside the parser
        return ""


def _is_cut(dataset: Dataset, size: int) -> bool:
    """Whether a value ends behind the end of the file, or native pixels before their own: pydicom minds neither."""
    from pydicom.pixels.utils import get_expected_length

    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag, keep_deferred=True)
        length = getattr(raw, "length", _UNDEFINED)
        if raw is None or length in (0, _UNDEFINED):
            continue
        if (raw.value_tell + length > size) if raw.value is None else (len(raw.value) < length):
            return True
    pixels = next((tag for tag in _PIXELS[:3] if tag in dataset), None)
    if pixels is None or getattr(dataset.get_item(pixels, keep_deferred=True), "length", _UNDEFINED) == _UNDEFINED:
        return False
    try:
        return bool(0 < _length(dataset, pixels) < get_expected_length(dataset))
    except (AttributeError, TypeError, ValueError):  # it does not say how many there are
        return False


def _length(dataset: object, tag: int) -> int:
    element = dataset.get_item(tag, keep_deferred=True)  # type: ignore[attr-defined] # a large value is not read
    length = getattr(element, "length", None)
    if length is None:
        value = getattr(element, "value", None)
        return 0 if value is None else len(value)
    return 1 if length == _UNDEFINED else int(length)

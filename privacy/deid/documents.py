"""Documents inside objects: an encapsulated PDF or CDA is emptied if the profile says so; everything else is refused.

A document cannot be cleaned: it is replaced by a valid one that holds nothing. Not here: the object around it.

Source: PS3.3 section A.45 (encapsulated documents); ISO 32000-1 section 7.5 (PDF file structure).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["can_empty", "empty"]

_PDF, _CDA = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.104.2"
_DOCUMENT, _TYPE, _LENGTH, _BURNED = 0x00420011, 0x00420012, 0x00420015, 0x00280301
_BODY = (
    b"<< /Type /Catalog /Pages 2 0 R >>",
    b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
    b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << >> >>",
)
_EMPTY_CDA = b'<?xml version="1.0"?><ClinicalDocument xmlns="urn:hl7-org:v3"/>'


def can_empty(sop_class: str) -> bool:
    """Whether there is an empty document of this class."""
    return sop_class in (_PDF, _CDA)


def empty(dataset: Dataset) -> None:
    """Put the empty document of the class in place of whatever is there."""
    pdf = str(dataset.SOPClassUID) == _PDF
    document = _empty_pdf() if pdf else _EMPTY_CDA
    dataset.add_new(_TYPE, "LO", "application/pdf" if pdf else "text/XML")
    dataset.add_new(_LENGTH, "UL", len(document))
    dataset.add_new(_DOCUMENT, "OB", document + b"\0" * (len(document) % 2))
    dataset.add_new(_BURNED, "CS", "NO")


def _empty_pdf() -> bytes:
    """One blank page."""
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(_BODY, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(_BODY) + 1
    end = b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    return out + end + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(out))

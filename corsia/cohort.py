"""Hospitals for the demo: real rows and real DICOM files, with invented identities planted to be looked for.

The clinical rows are the NCCTG lung cohort (`corsia.lung`), the images the DICOM files that pydicom ships, small CT
series with RTSTRUCT and pictures with names burned in; FHIR bundles and Italian notes are of the same persons. Every
planted value is a token that occurs nowhere else, eight characters or more, so that one search over bytes says whether
any of them got out.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.resources import files as resource_files
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from corsia.genomes import TRAIT, draw_trait, write_genotypes

__all__ = ["COLUMNS", "CONSENT", "Hospital", "build_hospital"]

_REAL = (
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_bigendian.dcm",
    "rtplan.dcm", "test-SR.dcm", "reportsi.dcm", "liver_1frame.dcm", "rtdose_1frame.dcm", "waveform_ecg.dcm",
)  # fmt: skip
_RECORDS = 12  # patients of each hospital with a FHIR bundle
_SERIES = 12  # patients of each hospital with a CT series and an RTSTRUCT
_SYLLABLES = "bar bel cor dan fer gal lam mar nor pel quer ras sal tor vel zan bri cas dol fio".split()
# Provinces from which the hospital's patients come, as the first digits of a postal code.
_AREAS = ("401", "402", "411", "481")
_SEXES = {1: "M", 2: "F"}

# The hospital's own word for each column; `split` keeps some rows out of training, for an honest comparison. `event` is
# `status` as 0 and 1; the trait of the genotypes is as synthetic as they are.
COLUMNS = {
    "patient_id": "patient", "name": "identifier", "fiscal_code": "identifier", "phone": "identifier",
    "address": "identifier", "cap": "quasi", "birth_date": "birthdate", "visit_date": "date", "note": "text",
    "sex": "quasi", "age": "quasi", "ph.ecog": "value", "ph.karno": "value", "pat.karno": "value", "meal.cal": "value",
    "wt.loss": "value", "time": "value", "status": "value", "split": "value", "event": "value", TRAIT: "value",
}  # fmt: skip
CONSENT = {"column": "consent", "granted": ["yes"], "withdrawn_on": "consent_withdrawn_on"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hospital:
    """What was written for one hospital, and every identity planted in it.

    Attributes:
        planted: unique tokens of at least eight characters, one entry a place.
        written: where a name is burned into the hospital's ultrasound frame: x0, y0, x1, y1 in pixels.
        consented: for each row, whether its consent is granted and not withdrawn.
    """

    name: str
    folder: Path
    rows: int
    consented: tuple[bool, ...]
    files: int
    planted: tuple[str, ...]
    written: tuple[int, int, int, int]


class _Tokens:
    """Unique, name-like tokens; the same for the same seed."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)  # noqa: S311 - invented names, not secrets
        self._seen: set[str] = set()
        self.planted: list[str] = []

    def word(self) -> str:
        while True:
            token = "".join(self._random.choice(_SYLLABLES) for _ in range(4)).capitalize()
            if token not in self._seen:
                self._seen.add(token)
                self.planted.append(token)
                return token

    def digits(self, prefix: str, count: int) -> str:
        token = prefix + "".join(self._random.choice("0123456789") for _ in range(count))
        self.planted.append(token)
        return token

    def chance(self) -> float:
        return self._random.random()

    def day(self, first: date, last: date) -> date:
        return first + timedelta(days=self._random.randrange((last - first).days))


def build_hospital(name: str, rows: pd.DataFrame, folder: Path) -> Hospital:
    """Write one hospital's table and its folders of DICOM, FHIR and genotypes.

    Args:
        name: the site's name; seeds the invented identities.
        rows: rows of the lung cohort with a column `split`.
        folder: where `table.csv`, `dicom/`, `fhir/`, `genotypes/` and `planted.json` are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokens = _Tokens(name)
    patients = [_patient(tokens, row) for row in rows.to_dict("records")]
    table = pd.DataFrame(patients)
    copies = write_genotypes(folder / "genotypes", table["patient_id"].tolist(), name)
    table["event"] = (table["status"] == 2).astype(int)
    table[TRAIT] = draw_trait(copies, table["age"].to_numpy(float), name)
    table.drop(columns=["given", "family", "doctor"]).to_csv(folder / "table.csv", index=False)
    count = _write_images(folder / "dicom", patients, tokens, name)
    willing = next(p for p in patients if p["consent"] == "yes" and not p["consent_withdrawn_on"])
    written = _write_pictures(folder / "dicom", willing, tokens, name)
    _write_records(folder / "fhir", patients[:_RECORDS], tokens)
    (folder / "planted.json").write_text(json.dumps(sorted(set(tokens.planted)), indent=0))
    return Hospital(
        name=name,
        folder=folder,
        rows=len(table),
        consented=tuple((table["consent"] == "yes") & (table["consent_withdrawn_on"] == "")),
        files=count + 2,
        planted=tuple(tokens.planted),
        written=written,
    )


def _patient(tokens: _Tokens, row: Mapping[Any, object]) -> dict[str, object]:
    given, family, doctor = tokens.word(), tokens.word(), tokens.word()
    street, record = tokens.word(), tokens.digits("MRN", 9)
    phone, fiscal = tokens.digits("3", 9), _fiscal_code(tokens)
    age = int(float(str(row["age"])))
    visit = tokens.day(date(2024, 1, 8), date(2025, 12, 20))
    birth = date(visit.year - age, 1 + int(tokens.chance() * 12), 1 + int(tokens.chance() * 28))
    draw = tokens.chance()
    consent = "yes" if draw < 0.94 else "no" if draw < 0.97 else ""
    withdrawn = str(visit + timedelta(days=30)) if 0.90 < draw < 0.94 else ""
    note = (
        f"Il paziente {given} {family} (C.F. {fiscal}), nato il {birth:%d/%m/%Y}, residente in via {street} 12, "
        f"tel. {phone}, cartella clinica n. {record}. Visita del {visit:%d/%m/%Y}: ECOG {_text(row['ph.ecog'])}, "
        f"calo ponderale {_text(row['wt.loss'])} kg. Inviato dal dott. {doctor}; prosegue follow-up oncologico."
    )
    identity: dict[str, object] = {
        "patient_id": record, "given": given, "family": family, "doctor": doctor, "name": f"{given} {family}",
        "fiscal_code": fiscal, "phone": phone, "address": f"via {street} 12, Bologna", "birth_date": str(birth),
        "cap": f"{_AREAS[int(tokens.chance() * len(_AREAS))]}{int(tokens.chance() * 100):02d}",
        "visit_date": str(visit), "note": note, "consent": consent, "consent_withdrawn_on": withdrawn,
    }  # fmt: skip
    return identity | {str(k): v for k, v in row.items() if k != "inst"}


def _text(value: object) -> str:
    return "n.d." if pd.isna(value) else str(value)  # type: ignore[call-overload]


def _fiscal_code(tokens: _Tokens) -> str:
    """A codice fiscale of the right form with a right check letter, of nobody."""
    from codicefiscale.codicefiscale import encode_cin

    letters = "".join(chr(65 + int(tokens.chance() * 26)) for _ in range(6))
    body = f"{letters}{int(tokens.chance() * 100):02d}{'ABCDEHLMPRST'[int(tokens.chance() * 12)]}"
    body += f"{1 + int(tokens.chance() * 28):02d}H{100 + int(tokens.chance() * 900):03d}"
    code = f"{body}{encode_cin(body)}"
    tokens.planted.append(code)
    return code


def _write_images(folder: Path, patients: list[dict[str, object]], tokens: _Tokens, site: str) -> int:
    folder.mkdir(exist_ok=True)
    count = 0
    for number, data in enumerate(_images(patients, tokens, site)):
        (folder / f"IM{number:05d}.dcm").write_bytes(data)
        count += 1
    return count


def _write_pictures(folder: Path, patient: dict[str, object], tokens: _Tokens, site: str) -> tuple[int, int, int, int]:
    """An ultrasound frame and a screenshot of one patient, his name burned in; returns where it stands."""
    from corsia.synthetic import written_image
    from privacy.deid.pixeltext import available

    name = f"{patient['family']} {patient['given']}".upper()
    # Where nothing here could find the writing, the file says itself that it is there, and so is withheld.
    told = {} if available() else {"BurnedInAnnotation": "YES"}
    box, frame = written_image(_header(patient, tokens, site) | told, name, seed=1)
    (folder / "US00000.dcm").write_bytes(frame)
    _, capture = written_image(_header(patient, tokens, site), name, seed=2, capture=True)
    (folder / "US00001.dcm").write_bytes(capture)
    return box


def _write_records(folder: Path, patients: list[dict[str, object]], tokens: _Tokens) -> None:
    """One bundle a patient, under a file name that tells who it is."""
    from corsia.bundles import patient_bundle

    folder.mkdir(exist_ok=True)
    for patient in patients:
        planted = {"relative": tokens.word(), "hospital": f"Ospedale {tokens.word()}"}
        planted["logical"] = tokens.digits("fhir-", 9)
        values = {"718-7": round(9 + 6 * tokens.chance(), 1), "29463-7": round(50 + 40 * tokens.chance(), 1)}
        name = f"{patient['family']}_{patient['given']}.json"
        (folder / name).write_bytes(patient_bundle(patient, planted, values))


def _images(patients: list[dict[str, object]], tokens: _Tokens, site: str) -> Iterator[bytes]:
    from corsia.synthetic import ct_series, rtstruct

    for number, patient in enumerate(patients[:_SERIES]):
        planted = _header(patient, tokens, site)
        series = ct_series(planted, seed=number, size=32, slices=8)
        yield from series
        yield rtstruct(series)
    for patient, name in zip(patients[_SERIES:], _REAL, strict=False):
        yield _plant(name, _header(patient, tokens, site))
    yield b"this is not DICOM: " + tokens.word().encode()  # a file that does not parse


def _header(patient: dict[str, object], tokens: _Tokens, site: str) -> dict[str, str]:
    return {
        "PatientName": f"{patient['family']}^{patient['given']}",
        "PatientID": str(patient["patient_id"]),
        "PatientBirthDate": str(patient["birth_date"]).replace("-", ""),
        "PatientSex": _SEXES.get(int(float(str(patient["sex"]))), "O"),
        "StudyDate": str(patient["visit_date"]).replace("-", ""),
        "InstitutionName": f"Ospedale {tokens.word()}",
        "ReferringPhysicianName": f"{patient['doctor']}^Dr",
        "AccessionNumber": tokens.digits("ACC", 9),
        "StationName": tokens.word(),
        "StudyDescription": f"TC torace {patient['family']}",
        "ImageComments": f"Rivalutare con il dott. {tokens.word()}, {patient['name']}",
        "nested": tokens.word(),
        "private": tokens.word(),
    }


def _plant(name: str, planted: dict[str, str]) -> bytes:
    """A DICOM file that pydicom ships, with identities in tags, nested sequences, private tags and free text."""
    from pydicom import dcmread
    from pydicom.dataset import Dataset

    source = resource_files("pydicom").joinpath("data", "test_files", name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = dcmread(BytesIO(source.read_bytes()))
        for keyword, value in planted.items():
            if keyword[0].isupper():
                setattr(dataset, keyword, value)
        inner = Dataset()
        inner.PersonName = f"{planted['nested']}^Deep"
        outer = Dataset()
        outer.PersonIdentificationCodeSequence = []
        outer.RequestedProcedureDescription = f"richiesto da {planted['nested']}"
        outer.ReferencedStudySequence = [inner]
        dataset.RequestAttributesSequence = [outer]
        block = dataset.private_block(0x0099, "CORSIA DEMO", create=True)
        block.add_new(0x01, "LO", planted["private"])
        block.add_new(0x02, "SQ", [inner])
        target = BytesIO()
        dataset.save_as(target)
    return target.getvalue()

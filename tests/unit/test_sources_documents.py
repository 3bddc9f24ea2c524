"""FHIR, genotypes, matrices and OMOP: who passes, who is counted, and that names of files stay."""

from __future__ import annotations

import gzip
import json
import zipfile
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from edge.config import Consent, DatasetConfig, Policy
from edge.sources import DatasetSource
from edge.sources import fhir as fhir_source
from protocol.errors import InputError
from protocol.study import Condition
from protocol.study import Dataset as Asked
from tests.unit import test_sources as rows

TABLE = "id,age,consent\np1,40,yes\n P2 ,50,yes\np3,60,no\np4,70,yes\np4,70,no\n"
MR = {"coding": [{"code": "MR"}]}
SHARED = Path(__file__).parents[3] / "shared" / "data"


def source(tmp_path: Path, table: str | None = TABLE, **more: Any) -> DatasetSource:
    where = more.pop("where", ())
    asked = {kind: True for kind in ("fhir", "genotypes", "matrix", "omop") if kind in more} | more.pop("asked", {})
    path = tmp_path / "t.csv"
    if table is not None:
        path.write_text(table)
    config = DatasetConfig(
        table=None if table is None else path,
        columns={} if table is None else {"id": "patient", "age": "value"},
        consent=None if table is None else Consent(column="consent", granted=("yes",)),
        policy=Policy(require_consent=table is not None),
        **more,
    )
    study = rows.study().model_copy(update={"dataset": Asked(name="d", where=where, **asked)})
    return DatasetSource(config, study, today=date(2024, 6, 15))


def patient(number: str, logical: str = "", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Patient",
        "id": logical or f"x-{number}",
        "identifier": [{"type": MR, "value": number}, {"system": "urn:other", "value": f"OTHER{number}"}],
    } | more


def observation(of: str | None, name: str = "o", **more: Any) -> dict[str, Any]:
    made = {"resourceType": "Observation", "id": name, "status": "final", "code": {"text": "Hb"}} | more
    return made if of is None else made | {"subject": {"reference": of}}


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"fullUrl": f"urn:uuid:{n}-{r.get('id')}", "resource": r} for n, r in enumerate(resources)],
    }


def folder(tmp_path: Path, files: dict[str, Any]) -> Path:
    root = tmp_path / "in"
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return root


def lines(*resources: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(r).encode() + b"\n" for r in resources)


def ids(s: DatasetSource) -> list[str]:
    found = []
    for file in s.documents("fhir"):
        for line in file.data.splitlines() if file.name.endswith(".ndjson") else [file.data]:
            one = json.loads(line)
            inner = [e["resource"] for e in one["entry"]] if one["resourceType"] == "Bundle" else [one]
            found += [r["id"] for r in inner]
    return found


def test_bundles_of_consenting_patients_pass_whole_and_unchanged(tmp_path: Path) -> None:
    of = "urn:uuid:0-x-P1"
    mine = bundle(patient("P1"), observation(of), observation("Patient/x-P1", "q"), observation(None, "s"))
    root = folder(tmp_path, {"Rossi_Mario.json": mine, "Bianchi.json.gz": gzip.compress(json.dumps(bundle(
        patient("p2"), {"resourceType": "Practitioner", "id": "doc"})).encode()), "Verdi.json": bundle(
        patient("p3"), observation("Patient/x-p3")), "note.pdf": b"%PDF"})  # fmt: skip
    s = source(tmp_path, fhir=root)
    served = list(s.documents("fhir"))
    assert [file.name for file in served] == ["00000001.json", "00000002.json"]
    assert json.dumps(mine).encode() in {file.data for file in served}
    assert ids(s) == ["x-p2", "doc", "x-P1", "o", "q", "s"]
    assert s.withheld == {"consent": 2 + 2, "unreadable": 1}  # two rows of the table, two resources
    list(s.documents("fhir"))
    assert s.withheld == {"consent": 4, "unreadable": 1}, "a second pass counts anew"


@pytest.mark.parametrize(
    ("resource", "passes"),
    [
        (observation("Patient/a"), True),
        (observation("Patient/a/_history/2"), True),
        (observation("https://ehr.example/fhir/Patient/a"), True),
        (observation("Patient/c"), False),
        (observation("Patient/unknown"), False),
        (observation("Group/1"), False),
        (observation("urn:uuid:nobody"), False),
        (observation(None), False),
        (observation(None, subject={"identifier": {"type": MR, "value": "P1"}}), True),
        (observation(None, subject={"identifier": {"type": MR, "value": "p3"}}), False),
        (observation(None, subject={"type": "Patient", "display": "Mario"}), False),
        (observation("#me", contained=[patient("p1", "me")]), True),
        (observation("#me", contained=[patient("p3", "me")]), False),
        (observation("Patient/a", focus=[{"reference": "Patient/c"}]), False),
        (observation("Patient/a", extension=[{"valueReference": {"reference": "Patient/c"}}]), False),
        (patient("p3"), False),
        ({"resourceType": "Patient", "id": "nameless"}, False),
        ({"resourceType": "Organization", "id": "o"}, True),
        ({"resourceType": "Organization", "id": "o", "extension": [{"valueReference": {"reference": "Patient/c"}}]},
         False),
    ],
)  # fmt: skip
def test_a_resource_passes_only_when_all_whom_it_names_do(
    tmp_path: Path, resource: dict[str, Any], passes: bool
) -> None:
    people = lines(patient("p1", "a"), patient("p2", "b"), patient("p3", "c"))
    root = folder(tmp_path, {"Patient.ndjson": people, "z.ndjson": lines(resource)})
    s = source(tmp_path, fhir=root)
    assert ids(s) == ["a", "b", *([resource["id"]] if passes else [])]
    both = folder(tmp_path, {"z.ndjson": lines(), "all.json": bundle(patient("p1", "a"), patient("p2", "b"), resource)})
    assert (resource["id"] in ids(source(tmp_path, fhir=both / "all.json"))) == passes, "so inside a bundle of two"


def test_a_selection_reaches_fhir_and_is_not_counted(tmp_path: Path) -> None:
    root = folder(tmp_path, {"Patient.ndjson": lines(patient("p1"), patient("p2"))})
    s = source(tmp_path, fhir=root, where=(Condition(column="age", op=">", value=45),))
    assert ids(s) == ["x-p2"]
    assert s.withheld == {"consent": 2}


def test_the_site_names_the_system_of_its_ids(tmp_path: Path) -> None:
    odd = patient("MRN-ELSEWHERE", "z")
    odd["identifier"].append({"system": "urn:site", "value": "p1"})
    root = folder(tmp_path, {"a.json": odd})
    assert ids(source(tmp_path, fhir=root)) == []
    assert ids(source(tmp_path, fhir=root, fhir_system="urn:site")) == ["z"]


def test_one_name_for_two_patients_is_nobody(tmp_path: Path) -> None:
    files = {"1.json": patient("p1", "1"), "2.json": patient("p2", "1"), "3.ndjson": lines(observation("Patient/1"))}
    s = source(tmp_path, fhir=folder(tmp_path, files))
    assert ids(s) == ["1", "1"]
    assert s.withheld["no-patient"] == 1


def test_one_name_for_two_patients_in_one_bundle_is_nobody(tmp_path: Path) -> None:
    both = bundle(patient("p1", "1"), patient("p2", "1"), observation("Patient/1"))
    mine = bundle(patient("p1", "1"), observation("Patient/1", "mine"))
    s = source(tmp_path, fhir=folder(tmp_path, {"a.json": both, "b.json": mine}))
    assert ids(s) == ["1", "1", "1", "mine"]
    assert s.withheld["no-patient"] == 1


def test_without_consent_and_selection_all_pass_that_can_be_read(tmp_path: Path) -> None:
    deep = b'{"resourceType":"Patient","a":' * 3000
    root = folder(tmp_path, {"1.json": observation(None), "2.json": b"{", "3.json": deep, "4.json.gz": b"\x1f\x8bxx",
                             "5.json": [], "6.ndjson": b"\n" + lines(observation("Group/1", "q")) + b"{oops\n",
                             "7.json": b"\xef\xbb\xbf" + json.dumps(patient("p9", "bom")).encode()})  # fmt: skip
    s = source(tmp_path, None, fhir=root)
    assert ids(s) == ["o", "q", "bom"]
    assert s.withheld == {"unreadable": 5}


def test_ndjson_goes_on_in_parts_and_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir_source, "PART_BYTES", 1000)
    monkeypatch.setattr(fhir_source, "MAX_JSON_BYTES", 5000)
    many = lines(*(patient("p1", f"n{n}") for n in range(30)))
    bomb = gzip.compress(lines(patient("p1", "bomb", note="0" * 1_000_000)))
    s = source(tmp_path, fhir=folder(tmp_path, {"a.jsonl": many, "b.ndjson.gz": bomb, "c.json.gz": bomb}))
    served = list(s.documents("fhir"))
    assert len(served) > 3
    assert all(len(file.data) < 1500 for file in served)
    assert ids(s) == [f"n{n}" for n in range(30)]
    assert s.withheld["unreadable"] == 2


def test_a_broken_line_hides_no_patient_after_it(tmp_path: Path) -> None:
    people = lines(patient("p1")) + b'{"resourceType": "Patient", "id"\n' + lines(patient("p4"), patient("P2"))
    root = folder(tmp_path, {"a.ndjson": people, "b.ndjson": lines(observation("Patient/x-P2", "seen"))})
    s = source(tmp_path, fhir=root)
    assert ids(s) == ["x-p1", "x-P2", "seen"]
    assert s.withheld["unreadable"] == 1


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path, {"1.json": patient("p1")})
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(patient("p2")))
    (root / "2.json").symlink_to(secret)
    s = source(tmp_path, fhir=root)
    assert ids(s) == ["x-p1"]
    assert s.withheld["unreadable"] == 1


def test_sets_share_a_counter_and_keep_their_suffix(tmp_path: Path) -> None:
    names = ["Rossi.bed", "Rossi.bim", "Rossi.FAM", "a/chr1.vcf.gz", "a/chr1.vcf.gz.tbi", "b/x.pgen", "b/x.pvar.zst",
             "b/x.psam", "README"]  # fmt: skip
    s = source(tmp_path, genotypes=folder(tmp_path, {name: name.encode() for name in names}))
    served = {file.name: file.data.decode() for file in s.documents("genotypes")}
    assert sorted(served) == [
        "00000001.bed", "00000001.bim", "00000001.fam", "00000002.vcf.gz", "00000002.vcf.gz.tbi", "00000003.pgen",
        "00000003.psam", "00000003.pvar.zst",
    ]  # fmt: skip
    assert served["00000001.fam"] == "Rossi.FAM"
    assert s.withheld["unreadable"] == 1


def test_matrix_and_omop(tmp_path: Path) -> None:
    root = folder(tmp_path, {"Person.CSV": b"person_id\n1\n", "measurement.csv.gz": b"x", "evil.csv": b"no"})
    one = folder(tmp_path / "m", {"counts.tsv.gz": b"m"}) / "counts.tsv.gz"
    s = source(tmp_path, omop=root, matrix=one)
    assert [(f.name, f.data) for f in s.documents("matrix")] == [("00000001.tsv.gz", b"m")]
    (archive,) = s.documents("omop")
    with zipfile.ZipFile(BytesIO(archive.data)) as opened:
        assert sorted(opened.namelist()) == ["measurement.csv.gz", "person.csv"]
    assert s.withheld["unreadable"] == 1


def test_only_what_the_study_asks_for(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a.json": patient("p1")})
    assert list(source(tmp_path, fhir=root, asked={"fhir": False}).documents("fhir")) == []
    with pytest.raises(InputError, match=r"input\.documents"):
        list(source(tmp_path, fhir=root, asked={"omop": True}).documents("omop"))
    with pytest.raises(InputError, match=r"input\.documents"):
        list(source(tmp_path, fhir=tmp_path / "none").documents("fhir"))
    with pytest.raises(InputError, match=r"input\.usage"):
        list(source(tmp_path, fhir=root).documents("../etc"))


def test_real_bundles_pass_by_consent(tmp_path: Path) -> None:
    root = SHARED / "fhir_synthea_hiv"
    if not root.is_dir():
        pytest.skip("no example bundles here")
    from privacy.deid.fhir_people import People

    first, *_ = [json.loads(gzip.open(path).read()) for path in sorted(root.glob("*.json.gz"))]
    number = People().patient_id(first["entry"][0]["resource"])
    s = source(tmp_path, f"id,age,consent\n{number},40,yes\n", fhir=root)
    (served,) = s.documents("fhir")
    assert len(json.loads(served.data)["entry"]) == len(first["entry"])
    assert s.withheld["consent"] > 100

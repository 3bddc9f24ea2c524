"""Lane 3: one row a patient; a bad case is set aside, a small cohort refused, nothing else leaves."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
import pytest
from typer.testing import CliRunner

from corsia.cli.extract import app
from corsia.synthetic import ct_series, rtstruct
from pipelines import Job, SourceFile, extract
from pipelines.features.cases import Cases, radiomic
from pipelines.features.radiomics import ALIASES, Settings
from privacy.deid.pseudonym import Pseudonymizer
from protocol.errors import CorsiaError
from protocol.study import Lane
from tests.unit.test_harvest import MemoryGate, MemorySource, job

ROLES = {"id": "patient", "age": "value", "sex": "quasi", "name": "identifier"}
OUTPUT = {"pseudonym": "string", "age": "float", "sex": "string", "original_*": "float"}
PEOPLE = ["anna", "bruno", "carla", "dino"]
TABLE = pd.DataFrame(
    {
        "id": ["ANNA ", "bruno", "carla", "dino", "bruno"],
        "age": [40, 50, 60, 70, 51],
        "sex": ["f", "m", "f", "m", "m"],
        "name": "PLANTED^NAME",
    }
)


def case(patient: str, seed: int, roi: str = "GTV") -> list[bytes]:
    files = ct_series({"PatientID": patient, "PatientName": "PLANTED^NAME"}, seed=seed)
    return [*files, rtstruct(files, roi=roi)]


def work(**more: Any) -> Job:
    parameters = {"roi": "GTV"} | more.pop("parameters", {})
    more = {"images": True, "min_cohort": 2} | more
    return job(more.pop("roles", ROLES), more.pop("output", OUTPUT), lane=Lane.EXTRACT, parameters=parameters, **more)


def run(job_: Job, table: pd.DataFrame | None, files: list[bytes]) -> tuple[MemoryGate, pd.DataFrame]:
    gate = MemoryGate()
    extract.run(job_, MemorySource(table, files), gate)
    return gate, gate.tables()[0].to_pandas().set_index("pseudonym")


@pytest.fixture(name="files", scope="module")
def _files() -> list[bytes]:
    return [data for seed, patient in enumerate(PEOPLE) for data in case(patient, seed)]


def name_of(patient: str) -> str:
    return Pseudonymizer(bytes(range(32))).pseudonym(patient)


def columns(roles: dict[str, str], *names: str) -> dict[str, str]:
    return {name: roles[name] for name in names}


def test_one_row_a_patient_joined_on_the_pseudonym(files: list[bytes]) -> None:
    gate, rows = run(work(roles=columns(ROLES, "id", "age", "sex")), TABLE, files)
    assert sorted(rows.index) == list(rows.index) == sorted(name_of(p) for p in PEOPLE)
    assert list(rows.columns) == sorted(rows.columns)
    assert len(rows.columns) == 2 + len(ALIASES)
    assert rows.loc[name_of("anna"), ["age", "sex"]].tolist() == [40.0, "f"]
    assert rows.loc[name_of("bruno"), "age"] == 50.0
    assert rows.filter(like="original_").notna().all(axis=None)
    assert all(b"PLANTED" not in item.data for item in gate.items)
    assert (gate.items[0].rows, gate.items[0].persons) == (4, 4)
    report = json.loads(gate.items[1].data)
    assert report["rows"] == 4
    assert report["columns"] == 3 + len(ALIASES)
    assert len(report["settings_digest"]) == 64
    assert gate.withheld == {}


def test_order_of_files_does_not_matter(files: list[bytes]) -> None:
    (first, _), (second, _) = run(work(), TABLE, files), run(work(), TABLE, files[::-1])
    assert first.items == second.items


def test_mean_of_several_rows(files: list[bytes]) -> None:
    _, rows = run(work(roles=columns(ROLES, "id", "age"), parameters={"rows": "mean"}), TABLE, files)
    assert rows.loc[name_of("bruno"), "age"] == 50.5


def test_bad_cases_are_set_aside_and_counted(files: list[bytes]) -> None:
    broken = [*files[:5], *files[6:13], *files[13:26], b"no dicom", *files[39:]]
    gate, rows = run(work(), TABLE, broken)  # anna lacks a slice, carla has none at all
    assert sorted(rows.index) == sorted([name_of("bruno"), name_of("dino")])
    assert gate.withheld == {"unreadable": 1, "image": 1, "no-image": 1}
    told = json.loads(gate.items[-1].data)["errors"]
    assert [error["code"] for error in told] == ["input.dicom", "input.image"]
    assert all(error["record"].endswith(".dcm") for error in told), "the file's opaque name here"


def test_left_join_keeps_patients_without_image(files: list[bytes]) -> None:
    gate, rows = run(work(parameters={"join": "left"}), TABLE, files[:26])
    assert len(rows) == 4
    assert (
        rows.loc[name_of("dino"), "original_firstorder_Mean"] != rows.loc[name_of("dino"), "original_firstorder_Mean"]
    )
    assert gate.withheld == {}


def test_images_of_patients_without_row(files: list[bytes]) -> None:
    gate, rows = run(work(), TABLE.iloc[:3], files)
    assert len(rows) == 3
    assert gate.withheld == {"no-row": 1}


def test_without_table_and_without_images(files: list[bytes]) -> None:
    _, rows = run(work(roles={}), None, files)
    assert rows.shape == (4, len(ALIASES))
    _, rows = run(work(images=False, roles=columns(ROLES, "id", "age")), TABLE, [])
    assert list(rows.columns) == ["age"]


def test_only_declared_features_leave(files: list[bytes]) -> None:
    output = {"pseudonym": "string", "original_shape_*": "float"}
    _, rows = run(work(output=output), TABLE, files)
    assert rows.shape == (4, 11)


def test_two_fitting_masks_are_ambiguous(files: list[bytes]) -> None:
    second = pydicom.dcmread(BytesIO(files[12]))
    second.SOPInstanceUID = "1.2.3.4"
    buffer = BytesIO()
    second.save_as(buffer)
    gate, rows = run(work(), TABLE, [*files, buffer.getvalue()])
    assert len(rows) == 3
    assert gate.withheld == {"image": 1}


def test_bounded_memory(files: list[bytes]) -> None:
    pseudonyms = Pseudonymizer(bytes(32))
    grouped = Cases(radiomic(Settings(), "GTV"), held_bytes=20_000)
    whole = Cases(radiomic(Settings(), "GTV"))
    for cases in (grouped, whole):
        for data in files:
            assert cases.add(SourceFile("f", data), pseudonyms.pseudonym)
            if cases is grouped:
                assert cases._held < 20_000 + 60_000
        cases.settle()
    assert grouped.made == whole.made
    assert not grouped.failed
    assert grouped.add(SourceFile("f", files[0]), pseudonyms.pseudonym)  # more of a patient who was settled
    assert len(grouped.failed) == 1
    assert len(grouped.made) == 3


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "cohort": ({"min_cohort": 5}, "gate.cohort"),
    "no pseudonym": ({"output": {"age": "float", "original_*": "float"}}, "gate.undeclared"),
    "identifier declared": ({"output": OUTPUT | {"name": "string"}}, "policy.columns"),
    "unknown parameter": ({"parameters": {"code": "x"}}, "input.study"),
    "text as number": ({"parameters": {"bin_width": "25"}}, "input.study"),
    "no bins": ({"parameters": {"bin_width": 0.0}}, "input.study"),
    "unknown join": ({"parameters": {"join": "outer"}}, "input.study"),
    "images not asked for": ({"images": False, "parameters": {"images": True}}, "input.study"),
    "nothing of that name": ({"parameters": {"roi": "PTV"}}, "gate.cohort"),
    "wrong type": ({"output": OUTPUT | {"sex": "int"}}, "input.table"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_put(name: str, files: list[bytes]) -> None:
    change, code = REFUSED[name]
    gate = MemoryGate()
    with pytest.raises(CorsiaError) as error:
        extract.run(work(**change), MemorySource(TABLE, files), gate)
    assert error.value.code == code
    assert gate.items == []


def test_free_text_is_no_category(files: list[bytes]) -> None:
    with pytest.raises(CorsiaError, match="too long"):
        run(work(), TABLE.assign(sex="a long story about somebody " * 5), files)


def test_command_line(tmp_path: Path, files: list[bytes]) -> None:
    (tmp_path / "ct").mkdir()
    for at, data in enumerate(files[:12]):
        (tmp_path / "ct" / f"{at}.dcm").write_bytes(data)
    (tmp_path / "plan.dcm").write_bytes(files[12])
    (tmp_path / "s.toml").write_text("bin_width = 10")
    arguments = ["radiomics", str(tmp_path / "ct"), str(tmp_path / "plan.dcm"), "--roi", "GTV", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--settings", str(tmp_path / "s.toml")], catch_exceptions=False)
    found = json.loads(result.stdout.splitlines()[-1])
    assert set(found) == {"aliases", "features", "voxels", "spacing", "settings_digest", "versions"}
    assert len(found["features"]) == 482
    assert all(tag in found["features"] for tag in found["aliases"].values())
    assert found["spacing"] == [3.0, 2.0, 2.0]
    (tmp_path / "s.toml").write_text("code = 1")
    with pytest.raises(CorsiaError, match=r"input\.usage"):
        CliRunner().invoke(app, [*arguments, "--settings", str(tmp_path / "s.toml")], catch_exceptions=False)


def agrees(value: float, reference: dict[str, Any]) -> bool:
    """The reference file's rule: three significant digits, then within the tolerance."""
    return abs(float(f"{value:.3g}") - reference["value"]) <= reference["tolerance"] * (1 + 1e-9)


def test_command_line_on_volumes(tmp_path: Path, shared_data: Path) -> None:
    phantom = shared_data / "ibsi1_digital_phantom"
    arguments = ["radiomics", str(phantom / "phantom.nii.gz"), str(phantom / "mask.nii.gz"), "--json"]
    (tmp_path / "s.toml").write_text("bin_width = 1.0")
    result = CliRunner().invoke(app, [*arguments, "--settings", str(tmp_path / "s.toml")], catch_exceptions=False)
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["voxels"] == 74
    reference = json.loads((phantom / "ibsi1_digital_phantom.json").read_text(encoding="utf-8"))["reference_values"]
    assert [r["tag"] for r in reference if not agrees(found["features"][r["tag"]], r)] == []

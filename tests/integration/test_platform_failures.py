"""How other platforms fail, as tests: those of docs/platforms.md that no other file has."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pydicom
import pytest

from corsia.doctor import examine
from corsia.synthetic import ct_series
from edge.spool import Spool
from pipelines import anonymize, harvest
from protocol.assignment import State
from protocol.errors import CODES, CorsiaError, InputError
from protocol.parcel import ItemKind
from protocol.study import parse_study
from tests.agentkit import enrolled, running, site_config, study
from tests.integration.test_agent_models import infer_study
from tests.integration.test_agent_training import training_study
from tests.unit.test_anonymize import Memory
from tests.unit.test_anonymize import job as anonymizing
from tests.unit.test_extract import PEOPLE, TABLE, case, name_of, run, work
from tests.unit.test_harvest import MemoryGate, MemorySource, job

ROOT = Path(__file__).parents[2]
ANONYMIZE = {
    "lane": "anonymize", "dataset": {"name": "cohort", "columns": ["patient_id", "age", "sex", "score"]},
    "pipeline": {"name": "anonymize", "parameters": {"bands": {"age": 10}}},
    "output": {"columns": [{"name": n, "dtype": t} for n, t in
                           (("pseudonym", "string"), ("age", "string"), ("sex", "string"), ("score", "float"))]},
}  # fmt: skip
EXTRACT = {
    "lane": "extract", "dataset": {"name": "cohort", "columns": ["patient_id", "score"]},
    "pipeline": {"name": "extract"},
    "output": {"columns": [{"name": "pseudonym", "dtype": "string"}, {"name": "score", "dtype": "float"}]},
}  # fmt: skip


def everything_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_in_every_lane_nothing_runs_before_the_site_itself_has_approved(tmp_path: Path) -> None:
    """1. FLIP#1270, #1258: runs pass by the site's approval, and the hub records the approval for the site."""
    config = site_config(tmp_path, approve="manual")
    office = enrolled(config)
    studies = [study("one"), study("two", **ANONYMIZE), study("three", **EXTRACT), training_study("four"),
               infer_study("five")]  # fmt: skip
    with running(config, office):
        asked = [office.submit(one) for one in studies]
        said = [office.wait(one, State.PENDING) for one in asked]
        # The hub says it once more, as if it had been decided: it has no word in this.
        for one in asked:
            office.assign(one)
        again = office.submit(study("six"))
        office.wait(again, State.PENDING)
    assert [report.code for report in said] == ["approval.pending"] * 5
    assert office.parcels == {}
    assert Spool(config.state_dir / "spool", 10**9).usage() == (0, 0)
    assert not list((config.state_dir / "work").glob("*"))


def shells() -> dict[str, bytes]:
    """A slice without its pixels, with none in them, and with too few."""
    (whole,) = ct_series({"PatientID": "shell"}, seed=5, size=8, slices=1)
    made: dict[str, bytes] = {}
    for name, pixels in (("none", None), ("empty", b""), ("short", b"\0" * 6)):
        one = pydicom.dcmread(io.BytesIO(whole))
        if pixels is None:
            del one.PixelData
        else:
            one.PixelData = pixels
        out = io.BytesIO()
        one.save_as(out)
        made[name] = out.getvalue()
    return made


@pytest.mark.parametrize("kind", ["none", "empty", "short"])
def test_an_empty_shell_is_set_aside_counted_and_stops_nothing(kind: str) -> None:
    """2. FLIP#676: empty DICOM shells reported as success; the first one aborts the whole run."""
    shell, full = shells()[kind], ct_series({"PatientID": "p"}, seed=1, size=8, slices=2)
    gate = MemoryGate()
    harvest.run(job({}, {}, files=True), MemorySource(None, [shell, *full]), gate)
    assert [item.data for item in gate.items if item.kind is ItemKind.DICOM] == full
    assert sum(gate.withheld.values()) == 1
    memory = Memory(None, [shell, *full])
    anonymize.run(anonymizing(), memory, memory)
    assert len(memory.of(ItemKind.DICOM)) == 2
    assert sum(memory.withheld.values()) == 1


def test_an_empty_shell_among_the_slices_costs_one_patient_his_features() -> None:
    """2. The same in lane 3: the case is set aside and counted, the others have their row."""
    files = [data for seed, patient in enumerate(PEOPLE) for data in case(patient, seed)]
    bare = pydicom.dcmread(io.BytesIO(files[0]))
    del bare.PixelData
    out = io.BytesIO()
    bare.save_as(out)
    gate, rows = run(work(), TABLE, [out.getvalue(), *files[1:]])
    assert sorted(rows.index) == sorted(name_of(patient) for patient in PEOPLE[1:])
    assert sum(gate.withheld.values()) >= 1


@pytest.mark.parametrize("modality", ["ZZ", "", "MADEUP", None])
def test_an_unknown_modality_is_released_or_counted_never_silent(modality: str | None) -> None:
    """3. FLIP#612: a modality the archive does not know shows "0 imported" for ever."""
    files = []
    for data in ct_series({"PatientID": "p"}, seed=1, size=8, slices=3):
        one = pydicom.dcmread(io.BytesIO(data))
        if modality is None:
            del one.Modality
        else:
            one.Modality = modality
        out = io.BytesIO()
        one.save_as(out)
        files.append(out.getvalue())
    gate = MemoryGate()
    harvest.run(job({}, {}, files=True), MemorySource(None, files), gate)
    assert [item.data for item in gate.items if item.kind is ItemKind.DICOM] == files
    memory = Memory(None, files)
    anonymize.run(anonymizing(), memory, memory)
    assert len(memory.of(ItemKind.DICOM)) + sum(memory.withheld.values()) == 3


def test_what_is_missing_or_mistyped_is_told_as_such_and_leaks_nothing(tmp_path: Path) -> None:
    """4. FLIP#1219: a missing column told as a privacy refusal; dsBaseClient#239: a slip as a lexer error."""
    config = site_config(tmp_path)
    table = config.datasets["cohort"].table
    assert table is not None
    table.write_text(table.read_text().replace("score", "Bardellini", 1))
    office = enrolled(config)
    with running(config, office):
        said = office.wait(office.submit(study()))
    assert (said.state, said.code) == (State.FAILED, "input.column-missing")
    assert not said.code.startswith(("disclosure", "policy", "budget"))
    assert CODES[said.code].hint
    draft = (
        'schema = 1\nid = "x"\ntitle = "t"\nlane = "harvets"\npurpose = "research"\nlegal_basis = "consent"\n'
        'controller = "c"\nethics_reference = "e"\nexpires = "2099-01-01T00:00:00Z"\nsites = ["a"]\n'
        '[dataset]\nname = "d"\n[pipeline]\nname = "harvest"\n'
    )
    for text, word in ((draft, "lane"), (draft.replace('"harvets"', '"harvest'), "line 4")):
        with pytest.raises(CorsiaError) as caught:
            parse_study(text.encode())
        assert isinstance(caught.value, InputError)
        assert word in caught.value.message
        assert caught.value.hint


def test_journal_and_log_of_a_site_hold_nobody(tmp_path: Path) -> None:
    """6. Karnak's transfer log stores original identifiers."""
    config = site_config(tmp_path)
    office = enrolled(config)
    with running(config, office):
        for one in (study("one"), study("two", **ANONYMIZE)):
            assert office.wait(office.submit(one), timeout_s=240).state is State.DONE
    kept = {path.name: path.read_bytes() for path in config.state_dir.glob("*") if path.suffix in (".jsonl", ".db")}
    assert "journal.jsonl" in kept
    assert len(kept["journal.jsonl"]) > 1000
    for name, data in kept.items():
        assert not re.search(rb"MRN0{3}\d{4}|Bardellini|Rosetta|stabile", data), name


def test_doctor_says_in_one_line_that_the_centre_cannot_be_reached(tmp_path: Path) -> None:
    """10. kaapana#20: pods broken for hours behind an unreachable page."""
    config = site_config(tmp_path)
    enrolled(config)
    (tmp_path / "edge.toml").write_text(
        (tmp_path / "edge.toml").read_text() + '\n[centre]\nfleet = "127.0.0.1:9"\n'  # nothing listens there
    )
    wrong = [finding for finding in examine(tmp_path / "edge.toml") if not finding.ok and finding.check == "centre"]
    assert len(wrong) == 1
    assert "127.0.0.1" in wrong[0].advice
    assert "\n" not in wrong[0].found + wrong[0].advice
    assert re.search(r"\[(unavailable|auth)\.[a-z.-]+\]", wrong[0].found)

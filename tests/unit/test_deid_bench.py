"""`corsia bench deid`: what it plants is there, what it counts is what is left, what is not there is named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread

from corsia.bench_deid import PEERS, _by_class, _figures, _ratios, _run
from corsia.bench_deid_data import plant, write_files, write_notes
from corsia.bench_deid_ours import run


def test_files_hold_every_planted_value_and_the_count_sees_them(tmp_path: Path) -> None:
    planted = plant()
    counts = Counter(planted.values())
    assert counts["top"] == counts["depth1"] == counts["depth2"] == counts["depth3"] > 300
    assert min(counts[kind] for kind in ("private", "curves-overlays", "meta")) >= 5
    write_files(tmp_path / "in", 1, planted)
    data = (tmp_path / "in" / "00000.dcm").read_bytes()
    assert [value for value in planted if data.count(value.encode()) == 0] == []
    run = {"files": 1, "failed": 0, "seconds": 0.5, "cpu_seconds": 0.25}
    figures = _figures(run, run, tmp_path / "in", planted)
    assert figures["left"] == dict(counts) == _by_class(planted, lambda _value: True)
    assert (figures["files_per_s"], figures["cpu_ms_per_file"]) == (2.0, 250.0)


def test_a_plain_slice_is_readable_and_pydicom_leaves_all(tmp_path: Path) -> None:
    write_files(tmp_path / "in", 2, {})
    (tmp_path / "out").mkdir()
    result = _run("pydicom", None, [str(tmp_path / "in"), str(tmp_path / "out")], 120.0)
    assert (result["files"], result["failed"]) == (2, 0)
    assert dcmread(tmp_path / "out" / "00001.dcm").PatientName == "Verdi^Ada"
    assert _run("no-such-tool", None, ["x", "y"], 120.0) == {"error": "CalledProcessError"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["one-core", "all-cores", "engine"])
def test_ours_does_every_file_and_leaves_nothing(tmp_path: Path, mode: str) -> None:
    planted = plant()
    write_files(tmp_path / "in", 2, planted)
    (tmp_path / "out").mkdir()
    result = run(mode, tmp_path / "in", tmp_path / "out")
    assert (result["files"], result["failed"]) == (2, 0)
    figures = _figures(result, result, tmp_path / "out", planted)
    assert set(figures["left"].values()) == {0}


def test_ratio_is_over_peers_that_leave_few() -> None:
    def tool(speed: float, top: int) -> dict[str, object]:
        return {"files": 1, "files_per_s": speed, "cpu_ms_per_file": 1000 / speed, "left": {"top": top}}

    names = list(PEERS)
    ran = {"pydicom": tool(100, 99), "corsia": tool(70, 0), "corsia-all-cores": tool(130, 0)}
    ran |= {names[0]: tool(26, 3), names[1]: tool(400, 200), names[2]: {"error": "TimeoutExpired"}}
    ratios = _ratios(ran)
    assert ratios["per_core_vs_pydicom"] == 0.7
    assert ratios["all_cores_vs_fastest_clean_peer"] == 5.0
    assert ratios["fastest_clean_peer"] == names[0]


def test_notes_hold_what_is_said(tmp_path: Path) -> None:
    notes, planted = write_notes(tmp_path / "notes.json", 5)
    assert all(value in note for note, values in zip(notes, planted, strict=True) for value in values.values())

"""Invented hospitals with CT series: half of the patients have a dense lesion, the others a faint one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from corsia.synthetic import ct_series, rtstruct
from pipelines import SourceFile
from protocol.study import Study
from tests.federation_hospital import study as survival_study

SITES = ("site-a", "site-b", "site-c")


def patients(site: str, count: int = 12) -> list[tuple[str, int]]:
    """(patient id, label)."""
    return [(f"{site.upper()}-{i:03d}", i % 2) for i in range(count)]


@cache
def series(site: str, number: int, label: int, *, masks: bool = True) -> list[bytes]:
    """One patient's files."""
    radius = 9.0 + number % 3
    seed = 1000 * (SITES.index(site) if site in SITES else 9) + number
    images = ct_series(
        {"PatientID": f"{site.upper()}-{number:03d}", "PatientName": "Bardellini^Rosetta"}, seed=seed, slices=8,
        lesion_radius_mm=radius, lesion_hu=60.0 if label else -40.0,
    )  # fmt: skip
    return [*images, rtstruct(images, lesion_radius_mm=radius)] if masks else images


def frame(site: str, count: int = 12) -> pd.DataFrame:
    """The table: ids written in another case, as hospitals do."""
    known = patients(site, count)
    return pd.DataFrame({"patient_id": [f" {who.lower()}" for who, _ in known], "dense": [label for _, label in known]})


class ImageSource:
    """A `pipelines.Source` of a table and DICOM files in memory."""

    def __init__(self, table: pd.DataFrame | None, files: list[bytes]) -> None:
        self._table, self._files = table, files

    def table(self) -> pd.DataFrame | None:
        return self._table

    def files(self) -> Iterator[SourceFile]:
        for number, data in enumerate(self._files, start=1):
            yield SourceFile(f"{number:08d}.dcm", data)

    def documents(self, kind: str) -> Iterator[SourceFile]:
        return iter(())


def source(site: str, count: int = 12, *, masks: bool = True) -> ImageSource:
    files = [raw for i, (_, label) in enumerate(patients(site, count)) for raw in series(site, i, label, masks=masks)]
    return ImageSource(frame(site, count), files)


def write_folder(folder: Path, site: str, count: int = 12) -> None:
    """The same files on disk, under names that would tell."""
    for i, (who, label) in enumerate(patients(site, count)):
        (folder / f"Bardellini {who}").mkdir(parents=True)
        for number, raw in enumerate(series(site, i, label)):
            (folder / f"Bardellini {who}" / f"{number}.dcm").write_bytes(raw)


CNN: dict[str, Any] = {
    "size": [16, 16], "slices": 2, "window": [-200, 200], "channels": [4, 8],
    "local": {"batch": 8, "optimiser": "adam"}, "augment": {"flip": ["columns", "rows"], "shift": 1, "intensity": 0.02},
}  # fmt: skip
UNET: dict[str, Any] = {
    "size": [16, 16], "slices": 4, "window": [-200, 200], "channels": [4, 8], "roi": "GTV",
    "local": {"batch": 8, "optimiser": "adam"}, "augment": {"flip": ["rows"]},
}  # fmt: skip


def study(learner: str = "cnn", parameters: dict[str, Any] | None = None, **training: Any) -> Study:
    raw = survival_study(sites=SITES).model_dump(by_alias=True, exclude_none=True)
    base = CNN if learner == "cnn" else UNET
    raw["pipeline"]["parameters"] = {**base, **(parameters or {})}
    raw["dataset"] = {"name": "lung", "columns": ["dense"] if learner == "cnn" else [], "images": True}
    outcome = ("dense",) if learner == "cnn" else ()
    raw["training"] |= {
        "learner": learner, "features": (), "outcome": outcome, "rounds": 4, "local_steps": 10, "learning_rate": 0.01,
    } | training  # fmt: skip
    return Study.model_validate(raw)

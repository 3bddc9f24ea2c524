"""The lanes: one file each, each a function of a job, a source and a gate.

A lane runs in a worker without network, keys, ledger or spool. It reads consented, selected rows from a `Source`
and puts results into a `Gate`; both are Protocols here, implemented by the edge (and by tests, in memory).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipelines.compute import Compute
from privacy.disclosure.traps import Traps
from protocol.parcel import Item
from protocol.study import Study

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["DOCUMENT_KINDS", "Gate", "Job", "Lane", "PluginPlace", "Role", "Source", "SourceFile"]

DOCUMENT_KINDS = ("fhir", "genotypes", "matrix", "omop")

Role = str  # "patient" | "identifier" | "text" | "date" | "birthdate" | "quasi" | "value"


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginPlace:
    """Where a worker finds the plug-in that a study names: the site's folder, `name==version`, the approved digest."""

    root: str
    key: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a lane is asked to do.

    Attributes:
        study: the approved study.
        site: this site's name.
        key: 32 bytes derived by the site for this study alone; pseudonyms, UIDs and date shifts come from it. It is
            no key to anything else.
        roles: the site's own word for each column of the dataset's table (column -> role). A column without a role
            is never released by lanes 2 and 3.
        patient_system: `Identifier.system` under which FHIR carries the table's patient ids; None: those typed MR.
        traps: the site's thresholds against disclosure, for lanes that release sums.
        compute: on what the site trains.
        plugin: what the worker may load besides.
        site_metrics: whether the site's own scores may leave, where the study asks for them.
    """

    study: Study
    site: str
    key: bytes
    roles: Mapping[str, Role] = field(default_factory=dict)
    patient_system: str | None = None
    traps: Traps = field(default_factory=Traps)
    compute: Compute = field(default_factory=Compute)
    plugin: PluginPlace | None = None
    site_metrics: bool = False

    def column(self, role: Role) -> str | None:
        """The first column with a role, or None."""
        return next((name for name, r in self.roles.items() if r == role), None)

    def columns(self, role: Role) -> tuple[str, ...]:
        """All columns with a role, in the site's order."""
        return tuple(name for name, r in self.roles.items() if r == role)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of the source. `name` is an opaque counter, since hospital file names may carry names."""

    name: str
    data: bytes


class Source(Protocol):
    """Consented, selected data of one dataset."""

    def table(self) -> pd.DataFrame | None:
        """The rows, or None for a dataset without a table. Index 0..n-1; all columns the site gave a role."""
        ...

    def files(self) -> Iterator[SourceFile]:
        """The DICOM files, in a fixed order; none unless the study asks for images."""
        ...

    def documents(self, kind: str) -> Iterable[SourceFile]:
        """Other files of the dataset, in a fixed order; none unless the study asks for the kind.

        `fhir`: JSON and NDJSON of consented, selected patients alone. `genotypes` (VCF, BCF, PLINK; files of one set
        share the counter in their names), `matrix` (CSV, Parquet) and `omop` (an archive of CDM tables) hold whole
        cohorts: a lane may use of them only the persons of `table`. One iteration at a time.

        Args:
            kind: one of `DOCUMENT_KINDS`.
        """
        ...


class Gate(Protocol):
    """Where results go; the edge's egress gate stands behind it."""

    def put(self, item: Item) -> None:
        """Hand over one result."""
        ...

    def cohort(self, persons: Iterable[str], numbers: Mapping[str, int]) -> None:
        """Say about whom a sum is, by the patients' ids here, before it is put: for the site's memory alone.

        Args:
            numbers: column -> how many numbers about it are in the sums.
        """
        ...

    def withhold(self, reason: str, count: int = 1) -> None:
        """Count records that stay here. `reason` is a fixed word (`consent`, `unreadable`, `small-class`...)."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Tell how far the work is."""
        ...


Lane = Callable[[Job, Source, Gate], None]

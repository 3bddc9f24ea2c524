"""One study's lane at this site, from source rows to checked results: what a run and a preview have in common.

Place in the flow: approved study -> source (consent) -> worker -> gate -> whatever `emit` does with what passed. It
seals nothing, spends nothing and writes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from edge import plugins, sums
from edge.config import DatasetConfig, EdgeConfig
from edge.gate import EgressGate
from edge.policy import Decision
from edge.storage import named_errors
from edge.worker import Worker
from pipelines import Job, SourceFile, noising
from pipelines.compute import Compute
from privacy.deid.pseudonym import Pseudonymizer, study_key
from privacy.dp.accountant import Curve
from privacy.envelope.keyfile import kept_secret, read_seed
from privacy.envelope.keys import SecretKey
from protocol.errors import PermissionRefused
from protocol.parcel import Item, ItemKind
from protocol.study import Lane, Study

if TYPE_CHECKING:
    import pandas as pd

    from edge.sealing import About
    from edge.sources import DatasetSource

__all__ = ["LaneRun", "SiteSource", "job_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRun:
    """A study made ready for this site.

    Attributes:
        study: with the effective k, l, t, cohort, epsilon and delta in the place of the asked ones, which the lane
            reads.
        job: what the worker is given.
        cost: of one release, or of a whole training run; None when it is not noised.
    """

    study: Study
    dataset: DatasetConfig
    decision: Decision
    job: Job
    cost: Curve | None = None

    @classmethod
    def prepare(cls, study: Study, digest: str, config: EdgeConfig, decision: Decision) -> LaneRun:
        """Put the effective numbers into the study and derive its key.

        Raises:
            PolicyRefused: the decision's code.
            InputError: `input.study` when what is asked for cannot be noised as the study promises.
            PermissionRefused: `permission.site` when the study is not for this site.
            ConfigurationError, StorageError: the pseudonym key.
        """
        decision.require()
        if config.site not in study.sites:
            raise PermissionRefused("permission.site")
        effective = decision.effective
        stricter = {
            "k": effective.k,
            "l": effective.l,
            "t": effective.t,
            "sensitive": effective.sensitive,
            "min_cohort": effective.min_cohort,
        }
        if study.privacy.dp != "none":
            stricter |= {"epsilon": effective.epsilon, "delta": effective.delta}
        promised = study.privacy.model_copy(update=stricter)
        study = study.model_copy(update={"privacy": promised})
        dataset = config.datasets[study.dataset.name]
        key = job_key(config.state_dir, digest)
        return cls(
            study=study,
            dataset=dataset,
            decision=decision,
            cost=noising.cost(study),
            job=Job(
                study=study,
                site=config.site,
                key=key,
                roles=dict(dataset.columns),
                patient_system=dataset.fhir_system,
                traps=effective.traps,
                compute=Compute(device=config.limits.device, processes=config.limits.training_processes),
                plugin=plugins.place(config, study),
                site_metrics=effective.site_metrics,
            ),
        )

    def source(self) -> SiteSource:
        """The consented, selected rows and files.

        Raises:
            InputError: `input.table`, `input.column-missing`.
        """
        from edge.sources import DatasetSource

        return SiteSource(DatasetSource(self.dataset, self.study))

    def gate(self, source: SiteSource) -> EgressGate:
        """The egress gate for results of this source; it learns from the source what must not be in them."""
        gate = EgressGate(self.study, self.decision.effective, roles=self.job.roles, table=source.table())
        if self.study.lane in (Lane.ANONYMIZE, Lane.EXTRACT):
            source.watch(gate.residual.add_dicom, gate.residual.add_fhir)
        return gate

    def subjects(self, source: SiteSource) -> About | None:
        """About whom each raw row and file of lane 1 is, by pseudonym; None where items say it, or nobody can."""
        table, patient = source.table(), self.job.column("patient")
        if self.study.lane is not Lane.HARVEST or table is None or patient not in table.columns:
            return None
        return RawSubjects(self.job.key, table[patient].astype(str).tolist())

    def run(self, worker: Worker, source: SiteSource, gate: EgressGate, emit: Callable[[Item], None]) -> Counter[str]:
        """Run the lane; each result that passes the gate goes to `emit`. Returns withheld counts by reason.

        Of a noised study there are none: how many were withheld is exact, and in no budget.

        Raises:
            CorsiaError: of source, lane, gate or `emit`; nothing of the study may leave then.
        """
        if self.study.pipeline.name != sums.PIPELINE:
            outcome = worker.run(self.job, source, lambda item: emit(gate.check(item)))
        else:  # nothing goes on before it is known about whom all of it is
            held: list[Item] = []
            outcome = worker.run(self.job, source, lambda item: held.append(gate.check(item)))
            persons = gate.about(outcome.cohorts)
            for item in held:
                emit(replace(item, persons=persons) if item.kind is ItemKind.TABLE else item)
        return Counter(source.withheld) + Counter(outcome.withheld) if self.cost is None else Counter()


class RawSubjects:
    """The pseudonyms of lane 1's rows, which leave in the order of the source, and of its files.

    Args:
        key: of the study at this site.
        patients: of each row.
    """

    def __init__(self, key: bytes, patients: list[str]) -> None:
        self._keys = Pseudonymizer(key)
        self._names = [self._keys.pseudonym(patient) for patient in patients]
        self._at = 0

    def __call__(self, item: Item) -> str | list[str] | None:
        """See `edge.sealing.About`."""
        if item.kind is ItemKind.TABLE:
            self._at += item.rows
            return self._names[self._at - item.rows : self._at]
        if item.kind is not ItemKind.DICOM:
            return None
        from edge.sources.dicom import patient_of

        return self._keys.pseudonym(patient_of(BytesIO(item.data)) or "")


class SiteSource:
    """A `pipelines.Source` that lets the gate look at each file which the lane is given."""

    def __init__(self, source: DatasetSource) -> None:
        self._source = source
        self._look: dict[str, Callable[[bytes], None]] = {}
        self.files_seen = 0

    def watch(self, dicom: Callable[[bytes], None], fhir: Callable[[bytes], None]) -> None:
        """Call these with the bytes of every DICOM and FHIR file before the lane sees them."""
        self._look = {"dicom": dicom, "fhir": fhir}

    def table(self) -> pd.DataFrame | None:
        """See `DatasetSource.table`."""
        return self._source.table()

    def persons(self, roles: Mapping[str, str]) -> frozenset[str] | None:
        """Ids of the patients in the table; None where no column says who they are."""
        table = self._source.table()
        patient = next((name for name, role in roles.items() if role == "patient"), None)
        if table is None or patient is None or patient not in table.columns:
            return None
        return frozenset(table[patient].astype(str))

    def files(self) -> Iterator[SourceFile]:
        """See `DatasetSource.files`."""
        return self._seen("dicom", self._source.files())

    def documents(self, kind: str) -> Iterator[SourceFile]:
        """See `DatasetSource.documents`."""
        return self._seen(kind, self._source.documents(kind))

    def _seen(self, kind: str, files: Iterable[SourceFile]) -> Iterator[SourceFile]:
        look = self._look.get(kind)
        for file in files:
            if look is not None:
                look(file.data)
            self.files_seen += 1
            yield file

    @property
    def withheld(self) -> dict[str, int]:
        """Rows, files and FHIR resources that the source held back, by reason."""
        return self._source.withheld

    @property
    def rows(self) -> int:
        """Rows of the table, 0 without one."""
        table = self._source.table()
        return 0 if table is None else len(table)


def job_key(state_dir: Path, digest: str) -> bytes:
    """The key of one study at this site (`study_key`), from the site's pseudonym key, which is made at first use.

    Raises:
        ConfigurationError: `config.key-mode`, `config.passphrase`.
        StorageError: the key cannot be written.
    """
    path = state_dir / "pseudonym.key"
    with named_errors():
        kept_secret(path, lambda: SecretKey.generate().to_bytes())
    return study_key(read_seed(path), digest)

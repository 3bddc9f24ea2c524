"""Sources: from a hospital's files, databases and servers to the consented, selected rows and files a lane may see.

First step behind the site's policy: consent and the study's row selectors are applied here, in the agent's process,
before any lane code runs. Nothing here writes, sends or logs a value; what was withheld is counted by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipelines import DOCUMENT_KINDS, SourceFile
from protocol.errors import ConfigurationError, InputError, PolicyRefused
from protocol.study import Lane, Study

if TYPE_CHECKING:
    import pandas as pd

    from edge.sources.consent import Patients
    from edge.sources.format import Format
    from edge.sources.places import Database, Dicomweb, Dimse, FhirServer, Receiver, Redcap

__all__ = ["ConsentRule", "DatasetConfig", "DatasetPolicy", "DatasetSource"]

_TYPED = ("value", "quasi")


class ConsentRule(Protocol):
    """How the table says who consented: `column` holds one of `granted`; `withdrawn_on` holds a date."""

    @property
    def column(self) -> str: ...  # noqa: D102
    @property
    def granted(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def withdrawn_on(self) -> str | None: ...  # noqa: D102


class DatasetPolicy(Protocol):
    """The one rule of the site's policy that a source needs."""

    @property
    def require_consent(self) -> bool: ...  # noqa: D102


class DatasetConfig(Protocol):
    """What a source needs of a dataset's configuration (`edge.config` has the whole of it)."""

    @property
    def table(self) -> Path | None: ...  # noqa: D102
    @property
    def dicom(self) -> Path | None: ...  # noqa: D102
    @property
    def fhir(self) -> Path | None: ...  # noqa: D102
    @property
    def fhir_system(self) -> str | None: ...  # noqa: D102
    @property
    def genotypes(self) -> Path | None: ...  # noqa: D102
    @property
    def matrix(self) -> Path | None: ...  # noqa: D102
    @property
    def omop(self) -> Path | None: ...  # noqa: D102
    @property
    def sql(self) -> Database | None: ...  # noqa: D102
    @property
    def omop_sql(self) -> Database | None: ...  # noqa: D102
    @property
    def dicomweb(self) -> Dicomweb | None: ...  # noqa: D102
    @property
    def dimse(self) -> Dimse | None: ...  # noqa: D102
    @property
    def receiver(self) -> Receiver | None: ...  # noqa: D102
    @property
    def fhir_server(self) -> FhirServer | None: ...  # noqa: D102
    @property
    def redcap(self) -> Redcap | None: ...  # noqa: D102
    @property
    def tabular(self) -> bool: ...  # noqa: D102
    @property
    def format(self) -> Format: ...  # noqa: D102
    @property
    def columns(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def consent(self) -> ConsentRule | None: ...  # noqa: D102
    @property
    def policy(self) -> DatasetPolicy: ...  # noqa: D102


class DatasetSource:
    """One dataset as one study may see it; implements `pipelines.Source`.

    The table is read once; files are read one at a time, as they are asked for. What is pulled from a server is read
    where it was pulled to, once a pull has got to its end.

    Args:
        dataset: the site's configuration of the dataset, paths already resolved.
        study: the approved study.
        today: the day against which withdrawals count (default: today, UTC).
    """

    def __init__(self, dataset: DatasetConfig, study: Study, *, today: date | None = None) -> None:
        if dataset.consent is None and dataset.policy.require_consent:
            raise ConfigurationError("config.invalid", "consent is required, but no consent column is set")
        if dataset.consent is not None and not dataset.tabular:
            raise ConfigurationError("config.invalid", "a consent column needs a table")
        self._dataset = dataset
        self._study = study
        self._today = today or datetime.now(UTC).date()
        self._loaded = False
        self._rows: pd.DataFrame | None = None
        self._patients: Patients | None = None
        self._withheld_rows: Counter[str] = Counter()
        self._withheld_files: dict[str, Counter[str]] = {}  # of the last pass over each kind

    @property
    def withheld(self) -> dict[str, int]:
        """Rows, files and FHIR resources held back so far, by reason.

        Reasons: consent, withdrawn, no-patient, unreadable, unreadable-folder, empty-shell, unknown-modality.
        """
        return dict(sorted(sum(self._withheld_files.values(), self._withheld_rows).items()))

    def table(self) -> pd.DataFrame | None:
        """The consented, selected rows: index 0..n-1, all columns with a role; None without a table.

        Columns of role value and quasi are typed where every cell converts; the others are text, missing = NaN.

        Raises:
            InputError: `input.table`, `input.column-missing`, `input.study`.
            PolicyRefused: `policy.columns` when the study names a column to which the site gave no role.
        """
        if not self._loaded:
            self._load()
            self._loaded = True
        return None if self._rows is None else self._rows.copy()

    def files(self) -> Iterator[SourceFile]:
        """The DICOM files of consented, selected patients in a fixed order; none unless the study asks.

        In lanes 3, 4 and `infer` files come grouped by patient, so that no lane need hold all images of a hospital.
        """
        from edge.sources import consent, dicom, folder, instance
        from edge.sources.places import is_pulled
        from edge.sources.turns import reading_pulled

        withheld = self._withheld_files["dicom"] = Counter()
        if not self._study.dataset.images:
            return
        if self._dataset.dicom is None:
            raise InputError("input.dicom", "the study asks for images; the dataset has no DICOM folder")
        self.table()
        with reading_pulled(self._dataset.dicom, pulled=is_pulled(self._dataset, "dicom")):
            paths: Iterable[Path] = folder.walk(self._dataset.dicom, withheld)
            if self._study.lane in (Lane.EXTRACT, Lane.TRAIN, Lane.INFER):
                paths = dicom.grouped(self._dataset.dicom, paths)
            served = 0
            for path in paths:
                data, patient = dicom.read(self._dataset.dicom, path)
                reason = instance.UNREADABLE if data is None else instance.judge(data)
                if data is None or reason:
                    withheld[reason] += 1
                    continue
                verdict = "" if self._patients is None else self._patients.verdict(patient)
                if verdict == "":
                    served += 1
                    yield SourceFile(f"{served:08d}.dcm", data)
                elif verdict != consent.UNSELECTED:
                    withheld[verdict] += 1

    def documents(self, kind: str) -> Iterator[SourceFile]:
        """See `pipelines.Source.documents`.

        Raises:
            InputError: `input.documents` when the dataset has none of the kind, `input.usage` for an unknown kind.
            ConfigurationError: `config.invalid` when FHIR cannot be matched to the table's rows.
        """
        from edge.sources import documents
        from edge.sources.places import is_pulled
        from edge.sources.turns import reading_pulled

        if kind not in DOCUMENT_KINDS:
            raise InputError("input.usage", "no such kind of documents")
        withheld = self._withheld_files[kind] = Counter()
        if not getattr(self._study.dataset, kind):
            return
        root: Path | None = getattr(self._dataset, kind)
        database = self._dataset.omop_sql if kind == "omop" else None
        if root is None and database is None:
            raise InputError("input.documents", f"the study asks for {kind}; the dataset has none")
        self.table()
        verdict = None if self._patients is None else self._patients.verdict
        if database is not None:
            from edge.sources import omopdb

            yield omopdb.archive(database, verdict, withheld)
        elif root is not None:
            system = self._dataset.fhir_system
            with reading_pulled(root, pulled=is_pulled(self._dataset, kind)):
                yield from documents.served(kind, root.resolve(), withheld, verdict=verdict, system=system)

    def _load(self) -> None:
        from edge.sources import consent, table

        asked = self._study.dataset
        if not self._dataset.tabular:
            named = [*asked.columns, *(c.column for c in asked.where)]
            if named:
                raise InputError("input.column-missing", f"the dataset has no table for column {named[0]!r}")
            return
        roles = dict(self._dataset.columns)
        rule = self._dataset.consent
        legal = [] if rule is None else [name for name in (rule.column, rule.withdrawn_on) if name]
        wanted = [*roles, *legal, *asked.columns, *(c.column for c in asked.where)]
        frame, everyone = self._read(list(dict.fromkeys(wanted)), legal)
        for name in wanted[len(roles) + len(legal) :]:
            if name not in roles:
                raise PolicyRefused("policy.columns", f"the site gives column {name!r} no role")
        patient = next((name for name, role in roles.items() if role == "patient"), None)
        keep = consent.judge(frame, patient, rule, self._today)
        if everyone is None:
            everyone, judged = frame, keep
        else:  # the rest was left in the database: who has withdrawn there holds these rows back too
            judged = consent.judge(everyone, patient, rule, self._today)
            keep = consent.withdrawn_elsewhere(frame, patient, keep, everyone, judged)
        for name in legal:
            if roles.get(name) in _TYPED:
                frame[name] = table.infer(frame[name])
        selected, unreadable = table.select(frame, asked.where, roles)
        failed = unreadable & (keep == "")
        self._withheld_rows.update(judged[judged != ""].tolist())
        self._withheld_rows.update(["unreadable"] * int(failed.sum()))
        chosen = (keep == "") & selected & ~failed
        omop = asked.omop and self._dataset.omop_sql is not None
        if (asked.images or asked.fhir or omop) and (rule is not None or asked.where):
            self._patients = consent.Patients.of(
                frame, patient, keep, chosen, by_consent=rule is not None, among=(everyone, judged)
            )
        self._rows = frame.loc[chosen, list(roles)].reset_index(drop=True)

    def _read(self, columns: list[str], legal: list[str]) -> tuple[pd.DataFrame, pd.DataFrame | None]:
        """The table's columns; and patient and consent of all rows, where a database gave but some of the rows."""
        from edge.sources import redcap, relation, tabular

        dataset, roles = self._dataset, self._dataset.columns
        words = {name for name, role in roles.items() if role not in _TYPED} | set(legal)
        if dataset.redcap is not None:
            redcap.check_roles(dataset.redcap.dictionary, roles)
        if dataset.sql is None:
            return tabular.read(dataset, columns, words), None
        patient = [name for name, role in roles.items() if role == "patient"]
        return relation.narrowed(
            dataset.sql, columns, words, dataset.format, where=self._study.dataset.where, roles=roles,
            legal=[*patient, *(name for name in legal if name not in patient)],
        )  # fmt: skip

"""The egress gate: what a lane made, looked at again before it may be sealed. Trusts nothing that a worker says.

Place in the flow: worker -> `EgressGate.check` (each item) -> seal, held -> `finish` (the whole) -> release; and
`check_update` for one answer of a training run. Runs in the agent's process. It reads results only to judge them,
keeps no value, and a refusal names a rule and at most a column, never what was found.

A table leaves as the gate's own re-encoding of the cells it has checked, so that nothing travels in a file's
metadata, statistics or gaps.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from edge import documents, reports, sums, tables
from edge.checks import Check, Passed, refusal
from edge.memory import Release
from edge.policy import Effective
from edge.residual import Residual, decode_dicom
from edge.told import Told
from edge.updates import check_update
from protocol.parcel import Item, ItemKind
from protocol.study import Lane, Study

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["Check", "EgressGate", "Passed", "check_update"]

PSEUDONYM = "pseudonym"
MAX_CELLS = 500_000_000
_KINDS = {
    Lane.HARVEST: (ItemKind.TABLE, ItemKind.DICOM, ItemKind.REPORT),
    Lane.ANONYMIZE: (ItemKind.TABLE, ItemKind.DICOM, ItemKind.DOCUMENT, ItemKind.REPORT),
    Lane.EXTRACT: (ItemKind.TABLE, ItemKind.REPORT),
}
_NAMES = {
    ItemKind.TABLE: re.compile(r"^[a-z][a-z0-9-]{0,60}\.parquet\Z"),
    ItemKind.DICOM: re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}\Z"),
    ItemKind.DOCUMENT: re.compile(r"^(?!report\.json\Z)[A-Za-z0-9][A-Za-z0-9_-]{0,80}\.(json|ndjson)\Z"),
    ItemKind.REPORT: re.compile(r"^report\.json\Z"),
}
# Columns of the source that must not come out under their own name, whatever the study declares.
_KEPT_BACK = {
    Lane.ANONYMIZE: ("patient", "identifier"),
    Lane.EXTRACT: ("patient", "identifier", "text", "date", "birthdate"),
}
_ROUNDING = 1e-9
_DEIDENTIFIED = (Lane.ANONYMIZE, Lane.EXTRACT)


class EgressGate:
    """Checks one study's results at one site.

    Args:
        study: the approved study.
        effective: the numbers that hold here.
        roles: the site's word for each column of the dataset.
        table: the source rows that the lane saw, or None.
    """

    def __init__(
        self, study: Study, effective: Effective, *, roles: Mapping[str, str], table: pd.DataFrame | None
    ) -> None:
        self._study, self._effective, self._roles = study, effective, dict(roles)
        self.residual = Residual()
        self._cells: frozenset[str] = frozenset()
        self.source_persons = 0  # distinct persons of the source's table
        self._source: frozenset[str] | None = None  # they themselves
        self.look: Callable[[pa.Table], None] | None = None  # at a table in which nobody's identity was found
        self._sums: pa.Table | None = None  # federated statistics, which wait for `about`
        self.release: Release | None = None
        patient = next((name for name, role in self._roles.items() if role == "patient"), None)
        if table is not None:
            if patient is not None and patient in table.columns:
                self._source = frozenset(table[patient].astype(str).str.strip().str.casefold())
                self.source_persons = len(self._source)
            if study.lane in _DEIDENTIFIED:
                self.residual.add_table(table, self._roles)
                self._cells = tables.texts(table)
        self._patient = patient
        # Who is in the item checked last: ids or pseudonyms; None where it does not say and the source does not either.
        self.named: frozenset[str] | None = frozenset()
        self._persons: set[str] = set()
        self._unnamed = 0  # persons of tables that name none
        self._rows = self._tables = self._files = self._documents = self._bytes = 0
        self._failed: dict[str, str] = {}
        self._done: Counter[str] = Counter()

    @property
    def checks(self) -> tuple[Check, ...]:
        """Every rule that was applied, a refusal with its reason, for preview and journal."""
        names = [*self._done, *(name for name in self._failed if name not in self._done)]
        return tuple(Check(rule=n, ok=n not in self._failed, reason=self._failed.get(n, "")) for n in names)

    @property
    def passed(self) -> Passed:
        """Counts of what passed so far."""
        return Passed(
            persons=self._count(),
            rows=self._rows,
            files=self._files,
            bytes=self._bytes,
            documents=self._documents,
        )

    def check(self, item: Item) -> Item:
        """Judge one result; returns what may be sealed in its place.

        Raises:
            DisclosureRefused: `gate.undeclared`, `gate.k`, `gate.diversity`, `gate.residual`, `gate.bytes`.
            PolicyRefused: `policy.bytes` when the study declares more than the site allows. Nothing of the study may
                leave after either.
        """
        lane, self.named = self._study.lane, frozenset()
        name = _NAMES.get(item.kind)
        self._rule(
            "kind", item.kind in _KINDS.get(lane, ()), "gate.undeclared", f"{item.kind.value} items may not leave"
        )
        self._rule("name", name is not None and bool(name.match(item.name)), "gate.undeclared", "an item's name")
        if lane in _DEIDENTIFIED:
            self._rule("residual", not self.residual.in_text(item.name), "gate.residual", "in an item's name")
        if item.kind is ItemKind.TABLE:
            made = self._table(item)
        elif item.kind is ItemKind.DICOM:
            made = self._dicom(item)
        elif item.kind is ItemKind.DOCUMENT:
            made = self._document(item)
        else:
            made = self._report(item)
        self._bytes += len(made.data)
        code = "gate.bytes" if self._effective.max_bytes == self._study.output.max_bytes else "policy.bytes"
        self._rule("bytes", self._bytes <= self._effective.max_bytes, code, "the result is larger than allowed")
        return made

    def about(self, told: Sequence[Told]) -> int:
        """Judge whom the sums are about, after the last item; returns how many persons that is.

        `release` then says what the dataset's memory must hold before anything is sealed; None for noised sums, whose
        loss the ledger adds up instead.

        Raises:
            DisclosureRefused: `gate.cohort`; nothing of the study may leave.
        """
        if self._sums is None:
            return 0
        for rule, code, reason in sums.told_faults(told, self._sums, self._source, noised=self._noised):
            self._rule(rule, False, code, reason)
        self._rule("cohorts", True, "", "")
        groups = {str(place): tuple(sorted(sums.persons_of(one))) for place, one in enumerate(told)}
        self._unnamed = max(map(len, groups.values()))
        self.named = frozenset().union(*groups.values())
        if not self._noised:
            self.release = Release(
                cohorts=groups,
                numbers=sums.numbers_of(self._sums),
                minimum=self._effective.min_cohort,
                traps=self._effective.traps,
            )
        return 0 if self._noised else self._unnamed

    def finish(self) -> Passed:
        """Judge the whole, after the last item.

        Raises:
            DisclosureRefused: `gate.cohort`; nothing of the study may leave.
        """
        lane = self._study.lane
        if lane in _DEIDENTIFIED or (lane is Lane.HARVEST and self._study.legal_basis != "consent"):
            enough = self._count() >= self._effective.min_cohort
            self._rule("cohort", enough, "gate.cohort", f"fewer than {self._effective.min_cohort} persons")
        return self.passed

    # --- inside

    def _rule(self, name: str, ok: bool, code: str, reason: str) -> None:
        self._done[name] += 1
        if not ok:
            self._failed[name] = reason
            raise refusal(code, reason)

    def _count(self) -> int:
        return max(len(self._persons), self._unnamed)

    def _table(self, item: Item) -> Item:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            reader = pq.ParquetFile(BytesIO(item.data))
            if reader.metadata.num_rows * max(1, reader.metadata.num_columns) > MAX_CELLS:
                raise ValueError("too many cells")
            table = reader.read()
        except (pa.ArrowException, ValueError, OSError):
            raise refusal("gate.undeclared", "a table is not readable Parquet") from None
        table = table.replace_schema_metadata(None)
        names = table.column_names
        self._rule("columns", len(set(names)) == len(names), "gate.undeclared", "a column occurs twice")
        for name in names:
            declared = self._study.output.column(name)
            self._rule("columns", declared is not None, "gate.undeclared", "a column is not declared by the study")
            back = self._roles.get(name) in _KEPT_BACK.get(self._study.lane, ())
            self._rule("columns", not back, "gate.undeclared", f"column {name!r} may not leave in this lane")
            if self._study.lane is Lane.HARVEST:
                asked = name in self._study.dataset.columns
                self._rule("columns", asked, "gate.undeclared", f"column {name!r} was not asked for")
            kept = declared is not None and tables.is_dtype(table[name], declared)
            self._rule("dtype", kept, "gate.undeclared", f"column {name!r} is not of its declared type")
        if self._study.lane is Lane.ANONYMIZE:
            # Two tables, each k-anonymous, can be joined by pseudonym into one that is not.
            self._rule("tables", not self._tables, "gate.undeclared", "a second table of the same persons")
            self._tables += 1
            self._check_classes(table)
        if self._study.lane in _DEIDENTIFIED:
            self._rule("residual", not self._left(table), "gate.residual", "in a table")
        of_sums = self._study.lane is Lane.EXTRACT and self._study.pipeline.name == sums.PIPELINE
        if of_sums:
            self._check_sums(table)
        if self.look is not None:
            self.look(table)
        if self._study.lane is Lane.EXTRACT and not of_sums:
            self._check_features(table)
        persons = self._count_table(table)
        self._rows += table.num_rows
        target = BytesIO()
        plain = pa.schema([pa.field(f.name, f.type) for f in table.schema])
        pq.write_table(table.cast(plain), target, compression="zstd")
        return Item(
            kind=item.kind, name=item.name, data=target.getvalue(), persons=persons, rows=table.num_rows, meta={}
        )

    def _check_classes(self, table: pa.Table) -> None:
        """k, l and t of what is released, whatever the worker says of it."""
        if table.num_rows == 0:
            return
        quasi = [n for n in table.column_names if self._roles.get(n) in ("quasi", "birthdate")]
        secret = [n for n in self._effective.sensitive if n in table.column_names]
        if quasi:
            enough = tables.smallest_class(table, quasi, PSEUDONYM) >= self._effective.k
            self._rule("k", enough, "gate.k", f"a class of fewer than {self._effective.k} persons")
        least, most = self._effective.l, self._effective.t
        if secret and least is not None:
            diverse = tables.diversity(table, quasi, secret, self._study.privacy.l_kind) >= least - _ROUNDING
            self._rule("l", diverse, "gate.diversity", f"a class that is not {least:g}-diverse")
        if secret and most is not None:
            ordered = [n for n in secret if self._declared(n) in ("int", "float")]
            close = tables.closeness(table, quasi, secret, ordered) <= most + _ROUNDING
            self._rule("t", close, "gate.diversity", f"a class further than {most:g} from all rows")

    def _check_features(self, table: pa.Table) -> None:
        """k of what others may know of a person, among the features of one row a person."""
        known, least = tables.known_outside(table, self._roles), self._effective.feature_k
        if least > 1 and known and table.num_rows:
            enough = tables.smallest_class(table, known, PSEUDONYM) >= least
            names = ", ".join(known[:8])
            reason = f"fewer than {least} patients are alike in {names}: band or drop one of them, or select fewer"
            self._rule("feature-k", enough, "gate.k", reason)

    def _check_sums(self, table: pa.Table) -> None:
        self._rule("tables", self._sums is None, "gate.undeclared", "a second table of sums")
        for rule, code, reason in sums.faults(table, self._study, self._effective):
            self._rule(rule, False, code, reason)
        for rule in ("words", "cells"):
            self._rule(rule, True, "", "")
        self._sums = table

    @property
    def _noised(self) -> bool:
        return self._study.privacy.dp != "none"

    def _declared(self, name: str) -> str:
        declared = self._study.output.column(name)
        return "" if declared is None else declared.dtype

    def _left(self, table: pa.Table) -> bool:
        import pyarrow as pa

        for name in table.column_names:
            column = table[name]
            if pa.types.is_dictionary(column.type) or tables.is_text(column.type):
                distinct = {str(value) for value in column.to_pylist() if value is not None}
            elif pa.types.is_integer(column.type):
                # A short number may equal an id by chance; one of seven digits and more hardly does.
                distinct = {str(v) for v in column.to_pylist() if v is not None and abs(v) >= 10**6}
            else:
                continue
            if any(self.residual.in_text(text) for text in distinct):
                return True
        return False

    def _count_table(self, table: pa.Table) -> int:
        if self._sums is not None:
            return 0  # a row is a sum
        column = PSEUDONYM if self._study.lane in _DEIDENTIFIED else self._patient
        if column is not None and column in table.column_names:
            persons = {str(v).strip().casefold() for v in table[column].to_pylist() if v is not None}
            self._persons |= persons
            self.named = frozenset(persons)
            return len(persons)
        self.named = self._source if table.num_rows else frozenset()
        persons_count = min(int(table.num_rows), self.source_persons)
        self._unnamed = min(self._unnamed + persons_count, self.source_persons)
        return persons_count

    def _dicom(self, item: Item) -> Item:
        self._rule("files", self._study.output.files, "gate.undeclared", "the study declares no files")
        person = self._person_of(item)
        self.named = None
        if person:
            self._persons.add(person.strip().casefold())
            self.named = frozenset({person})
        self._files += 1
        return Item(kind=item.kind, name=item.name, data=item.data, persons=1, rows=1, meta={})

    def _person_of(self, item: Item) -> str:
        """The PatientID of a file, after the residual check where the lane asks for it."""
        if self._study.lane not in _DEIDENTIFIED:
            from edge.sources.dicom import patient_of

            return patient_of(BytesIO(item.data)) or ""
        try:
            dataset = decode_dicom(item.data)
        except ValueError:
            self._rule("residual", False, "gate.residual", "a file does not parse, so it cannot be checked")
            return ""
        removed = str(dataset.get("PatientIdentityRemoved", "")) == "YES"
        self._rule("residual", removed, "gate.residual", "a file does not say that identity was removed")
        left = self.residual.in_dicom(dataset, item.data)
        self._rule("residual", not left, "gate.residual", "in a file")
        return str(dataset.get("PatientID", "") or "")

    def _document(self, item: Item) -> Item:
        """FHIR leaves as the gate's own text of what it has read, so that nothing travels between the lines."""
        self._rule("documents", self._study.output.documents, "gate.undeclared", "the study declares no documents")
        try:
            read = documents.read(item.data)
        except ValueError:
            self._rule("documents", False, "gate.undeclared", "a document is not FHIR that was de-identified")
            raise AssertionError from None  # the rule has raised
        self._rule("residual", not self.residual.in_fhir(read.data), "gate.residual", "in a document")
        self._persons |= {person.casefold() for person in read.persons}
        self.named = frozenset(read.persons)
        self._documents += 1
        return Item(
            kind=item.kind, name=item.name, data=read.data, persons=len(read.persons), rows=read.resources, meta={}
        )

    def _report(self, item: Item) -> Item:
        canonical = reports.is_canonical(item.data)
        self._rule("report", canonical, "gate.undeclared", "a report is not canonical JSON")
        deidentified = self._study.lane in _DEIDENTIFIED
        for word in reports.words(item.data):
            if isinstance(word, str) and (word in reports.OWN or word in self._roles):
                continue
            fine = reports.is_plain(word)
            if fine and isinstance(word, str):
                fine = word.casefold() not in self._cells and not (deidentified and self.residual.in_text(word))
            self._rule("report", fine, "gate.undeclared", "a report holds more than numbers and short words")
        return Item(kind=item.kind, name=item.name, data=item.data, persons=0, rows=0, meta={})

"""What the columns of a site's table probably are: a proposal with roles, for a person to correct and confirm.

Nothing is taken over unseen: the proposal has a digest, and only who names it, or answers at the terminal, has it
written. Reads the table as the site's agent does; shows no value but levels of the consent column.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from corsia.drafts.column import Column, describe, is_marker
from protocol.errors import InputError

if TYPE_CHECKING:
    from edge.config import DatasetConfig

__all__ = ["ROLES", "Proposal", "propose"]

ROLES = ("patient", "identifier", "text", "date", "birthdate", "quasi", "value")
_YES = ("yes", "si", "sì", "y", "s", "1", "true", "granted", "oui", "ja")
_MAX_LEVELS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Roles for a table's columns.

    Attributes:
        roles: column -> role; a column that is not there is read by no study.
        kinds: column -> what its cells are (`corsia.drafts.column.Kind`).
        consent: the column that probably says who consented, and its levels; "" for none.
        granted: those of its levels that probably mean yes.
        form: fields of `[datasets.NAME.format]` that differ from the usual.
        notes: what to look at.
    """

    roles: Mapping[str, str]
    kinds: Mapping[str, str]
    consent: str = ""
    levels: tuple[str, ...] = ()
    granted: tuple[str, ...] = ()
    form: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """By which a person confirms just this."""
        said = [sorted(self.roles.items()), self.consent, list(self.granted), sorted(self.form.items())]
        return hashlib.sha256(json.dumps(said, default=list).encode()).hexdigest()[:12]

    def corrected(self, roles: Mapping[str, str]) -> Proposal:
        """With a person's word for some columns; `none` takes a column out.

        Raises:
            InputError: `input.usage` for a column or role that there is not.
        """
        made = dict(self.roles)
        for name, role in roles.items():
            if name not in self.kinds or role not in (*ROLES, "none"):
                raise InputError("input.usage", f"--role {name}={role}: the roles are {', '.join(ROLES)}, none")
            if role == "patient":
                made = {k: "identifier" if v == "patient" else v for k, v in made.items()}
            made[name] = role
        return Proposal(
            roles={k: v for k, v in made.items() if v != "none"}, kinds=self.kinds, consent=self.consent,
            levels=self.levels, granted=self.granted, form=self.form, notes=self.notes,
        )  # fmt: skip


def propose(dataset: DatasetConfig) -> Proposal | None:
    """Look at the dataset's table; None when it has none.

    Raises:
        CorsiaError: as the table is read.
    """
    if not dataset.tabular:
        return None
    columns, form, notes = _described(dataset)
    consent = next((name for name in columns if "consen" in name.lower() and columns[name].levels), "")
    levels = tuple(sorted(columns[consent].levels))[:_MAX_LEVELS] if consent else ()
    roles = {name: column.role for name, column in columns.items() if name != consent}
    if dataset.redcap is not None:
        from edge.sources.redcap import read_dictionary, role_of

        fields = read_dictionary(dataset.redcap.dictionary)
        roles = {name: role_of(fields, name) or role for name, role in roles.items()}
    roles, told = _one_patient(roles, columns)
    return Proposal(
        roles=roles,
        kinds={name: column.kind.value for name, column in columns.items()},
        consent=consent,
        levels=levels,
        granted=tuple(level for level in levels if level.strip().casefold() in _YES),
        form=form,
        notes=(*notes, *told),
    )


def _described(dataset: DatasetConfig) -> tuple[dict[str, Column], dict[str, Any], tuple[str, ...]]:
    from corsia.drafts.file import read_file
    from edge.sources import tabular

    with_cells = dataset.table is None or tabular.is_workbook(dataset.table) or _is_parquet(dataset)
    if dataset.table is not None and not with_cells:
        found = read_file(dataset.table)
        usual = type(found.form)()
        form = {k: v for k, v in found.form.model_dump().items() if v != getattr(usual, k)}
        return dict(found.columns), form, found.notes
    names = tabular.columns_of(dataset)
    frame = tabular.read(dataset, names, set(names))
    cells = {name: [str(cell).strip() for cell in frame[name].fillna("")] for name in names}
    words = sorted({cell for column in cells.values() for cell in column if is_marker(cell)})[:32]
    kept = {name: ["" if is_marker(cell) else cell for cell in column] for name, column in cells.items()}
    notes = ("counted as missing: " + ", ".join(words),) if words else ()
    return {n: describe(n, c) for n, c in kept.items()}, {"missing": words} if words else {}, notes


def _is_parquet(dataset: DatasetConfig) -> bool:
    if dataset.table is None:
        return False
    try:
        with dataset.table.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False


def _one_patient(roles: Mapping[str, str], columns: Mapping[str, Column]) -> tuple[dict[str, str], list[str]]:
    """At most one column is the patient's: the first; with none, the identifier with the most values."""
    named = [name for name, role in roles.items() if role == "patient"]
    made = {name: "identifier" if role == "patient" and name != named[0] else role for name, role in roles.items()}
    if len(named) > 1:
        return made, [f"several columns look like the patient's id: {named[0]!r} is taken"]
    if not named:
        return made, ["no column looks like the patient's id: name it with --role COLUMN=patient, or say row_is_person"]
    return made, []

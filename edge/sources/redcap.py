"""A REDCap data dictionary: what each field of the export is, and which the project itself calls identifying.

The site's roles decide; a field that the project flags as an identifier cannot be called a value or a
quasi-identifier, by mistake or else. Checkbox fields are columns `field___code` of the export.

Source: REDCap, Data Dictionary (CSV) and "Export Data: CSV / Microsoft Excel (raw data)".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge.sources.format import Format
from edge.sources.table import lines
from protocol.errors import ConfigurationError, InputError

__all__ = ["Field", "check_roles", "read_dictionary", "role_of"]

_NAME = ("Variable / Field Name", "field_name")
_TYPE = ("Field Type", "field_type")
_VALIDATION = ("Text Validation Type OR Show Slider Number", "text_validation_type_or_show_slider_number")
_IDENTIFIER = ("Identifier?", "identifier")
_PERSONAL = frozenset("email phone mrn_10d mrn_generic ssn zipcode postalcode postalcode_germany vmrn".split())
_SYSTEM = {
    "redcap_event_name": "value", "redcap_repeat_instrument": "value", "redcap_repeat_instance": "value",
    "redcap_data_access_group": "quasi", "redcap_survey_identifier": "identifier",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of the project.

    Attributes:
        kind: REDCap's field type.
        validation: REDCap's validation type, "" for none.
        identifier: the project flags it as one.
        first: it is the project's record id.
    """

    name: str
    kind: str
    validation: str
    identifier: bool
    first: bool

    @property
    def role(self) -> str | None:
        """What `edge.toml` calls such a field; None where its name must tell."""
        if self.first:
            return "patient"
        if self.validation.startswith(("date", "datetime")):
            return "date"
        if self.identifier or self.validation in _PERSONAL or self.kind in ("file", "signature"):
            return "identifier"
        if self.kind == "notes" or (self.kind == "text" and not self.validation):
            return "text"
        return None


def read_dictionary(path: Path) -> dict[str, Field]:
    """The fields of a project, by name.

    Raises:
        InputError: `input.table` for a file that is no data dictionary.
    """
    _delimiter, rows = lines(path, _NAME, Format())
    header = [cell.strip().lstrip("\ufeff") for cell in next(rows, [])]
    places = [next((header.index(n) for n in names if n in header), None) for names in _COLUMNS]
    if places[0] is None or places[1] is None:
        raise InputError("input.table", "the REDCap data dictionary has no field names and types")
    fields: dict[str, Field] = {}
    for row in rows:
        name, kind, validation, flag = ("" if at is None else row[at].strip() for at in places)
        if name and kind != "descriptive":
            fields[name] = Field(
                name=name, kind=kind, validation=validation, identifier=flag.lower() in ("y", "yes"), first=not fields
            )
    return fields


_COLUMNS = (_NAME, _TYPE, _VALIDATION, _IDENTIFIER)


def field_of(fields: Mapping[str, Field], column: str) -> Field | None:
    """The field of which a column of the export is, also of a checkbox or a completed form's."""
    return fields.get(column) or fields.get(column.partition("___")[0])


def role_of(fields: Mapping[str, Field], column: str) -> str | None:
    """What the dictionary says of a column of the export; None where its name must tell."""
    if column in _SYSTEM:
        return _SYSTEM[column]
    found = field_of(fields, column)
    return None if found is None else found.role


def check_roles(path: Path, roles: Mapping[str, str]) -> None:
    """Refuse roles under which an identifier of the project could pass as a value.

    Raises:
        ConfigurationError: `config.invalid` naming the column. InputError: as `read_dictionary`.
    """
    fields = read_dictionary(path)
    for column, role in roles.items():
        found = field_of(fields, column)
        if found is not None and found.role in ("identifier", "patient") and role in ("value", "quasi"):
            raise ConfigurationError(
                "config.invalid", f"columns.{column}: the REDCap project calls it an identifier; {role!r} it cannot be"
            )

"""`corsia deid table`: one table by the roles and hierarchies of a spec, at this machine, without study or centre.

The target is written whole or not at all; what stood there before goes first. The report holds counts, column names
and figures, never a value. Not here: the engine (`privacy.deid.table`).

The spec is TOML:

    k = 5                      # persons in the smallest class (5)
    l = 3                      # values of each sensitive column in a class; l_kind = "distinct", "entropy" or
    l_kind = "distinct"        # "recursive" with c = 3.0
    t = 0.3                    # largest distance of a class from the whole table
    suppression = 0.02         # share of rows that may be withheld for k, l, t (0 with hierarchies, else any number)
    loss = "ncp"               # what to lose least of: ncp, entropy, discernibility
    search = "auto"            # auto, optimal, heuristic
    population = 60000000      # persons the table is a sample of, for the journalist's risk
    language = "it"            # of texts
    ordered = ["stage"]        # sensitive columns that are steps of a line; without it those that are numbers

    [columns]                  # a role a column; those without one are dropped
    id = "patient"             # -> pseudonym; without a patient column each row is a person
    name = "identifier"        # dropped, and taken out of the row's texts
    note = "text"
    seen = "date"              # moved by the patient's days
    born = "birthdate"
    age = "quasi"              # what others may know
    cap = "quasi"
    diagnosis = "sensitive"    # kept; l and t are about these
    dose = "value"             # kept

    [generalise]               # bands of a fixed width
    weight = 10

    [hierarchies]              # or levels to choose from
    age = { kind = "age", widths = [5, 10, 20, 40] }
    born = { kind = "birth", widths = [1, 5, 10, 20] }
    cap = { kind = "postal", keep = [5, 3, 2, 1] }
    icd = { kind = "icd10" }
    visit = { kind = "date", levels = ["day", "month", "quarter", "year", "decade"] }
    height = { kind = "number", widths = [5, 10, 20], origin = 0 }
    atc = { kind = "prefix", keep = [5, 4, 3, 1] }
    sex = { kind = "suppress" }
    country = { file = "country.csv", separator = ";" }     # a value and its levels a line, beside the spec
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corsia.cli.show import check_place
from corsia.tablefile import clear, read_table, write_file, write_table
from privacy.envelope.keyfile import read_seed
from protocol import toml
from protocol.errors import DisclosureRefused, InputError, StorageError
from protocol.validation import unread

if TYPE_CHECKING:
    from privacy.deid.table import TableSpec

__all__ = ["read_spec", "table", "write_file"]

_SCALARS: dict[str, tuple[type, ...]] = {
    "k": (int,),
    "l": (int, float),
    "l_kind": (str,),
    "c": (int, float),
    "t": (int, float),
    "suppression": (int, float),
    "loss": (str,),
    "search": (str,),
    "population": (int,),
    "language": (str,),
    "ordered": (list,),
}
_SECTIONS: dict[str, tuple[type, ...]] = {"columns": (str,), "generalise": (int, float), "hierarchies": (dict,)}
_TEXTS = ("birth", "date", "icd10", "postal", "prefix")

Spec = Annotated[
    Path, typer.Option(help="TOML: k, l, t ... and the sections columns, hierarchies, generalise (see above).")
]
KeyFile = Annotated[Path | None, typer.Option(help="32 raw bytes, mode 0600; a fresh key without it.")]


def table(
    source: Annotated[Path, typer.Argument(help="CSV or Parquet.")],
    target: Annotated[Path, typer.Argument(help="CSV or Parquet, by its suffix.")],
    spec: Spec,
    key: KeyFile = None,
    report: Annotated[Path | None, typer.Option("--report", help="Write the report (JSON, no values) here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """De-identify a table: roles, then the least generalisation that is k-anonymous, l-diverse and t-close.

    Example: corsia deid table patients.csv clean.csv --spec columns.toml --report report.json

    columns.toml: k = 5, suppression = 0.02, l = 2, t = 0.4, loss = "ncp" (entropy, discernibility). Section columns:
    id = "patient", name = "identifier", note = "text", seen = "date", born = "birthdate", age = "quasi", dx =
    "sensitive", dose = "value". Section generalise: weight = 10. Section hierarchies: age = {kind = "age", widths =
    [5, 10, 20]}, cap = {kind = "postal"}, born = {kind = "birth"}, icd = {kind = "icd10"}, visit = {kind = "date"},
    height = {kind = "number", widths = [5, 10]}, atc = {kind = "prefix", keep = [5, 3, 1]}, sex = {kind = "suppress"},
    country = {file = "country.csv"} (a value and its levels a line, `;` between). Without a patient column each row
    is a person.
    """
    from privacy.deid.pseudonym import Pseudonymizer
    from privacy.deid.table import TableEngine
    from privacy.deid.text import TextEngine

    _clear(target, report, (source, spec))
    columns, language = read_spec(spec)
    if not source.is_file():
        raise InputError("input.table", f"{source}: no such file")
    keys = Pseudonymizer(read_seed(key) if key else os.urandom(32))
    given = read_table(source, _words(columns))
    text = TextEngine(language) if columns.of("text") else None  # type: ignore[arg-type]
    result = TableEngine(columns, keys, text).deidentify(given.frame)
    if len(given.frame) and not len(result.frame):
        held = len(given.frame)
        raise DisclosureRefused("gate.k", f"no row can be released with k = {columns.k}: all {held} are withheld")
    value = {"key_id": keys.key_id, **result.report}
    write_table(target, result.frame, given)
    if report is not None:
        try:
            write_file(report, json.dumps(value, indent=1, sort_keys=True).encode())
        except StorageError:
            clear(target)
            raise
    if as_json:
        typer.echo(json.dumps(value, sort_keys=True))
    else:
        typer.echo(f"{value['rows_out']} of {value['rows_in']} rows, k = {value['k']['achieved']}", err=True)


def _clear(target: Path, report: Path | None, inputs: tuple[Path, ...]) -> None:
    """Take away what an earlier run left, so that nothing stands there after a failure."""
    for path in filter(None, (target, report)):
        if path.is_dir() or any(path.exists() and one.exists() and path.samefile(one) for one in inputs):
            raise InputError("input.usage", f"{path} is an input, or a folder")
        check_place(path)
        clear(path)


def _words(spec: TableSpec) -> set[str]:
    """Columns whose cells are read as they are written."""
    words = {name for name, role in spec.roles.items() if role not in ("quasi", "value")}
    return words | {name for name, its in spec.hierarchies.items() if its.get("kind") in _TEXTS or "file" in its}


def read_spec(path: Path) -> tuple[TableSpec, str]:
    """The spec of a table, and the language of its texts.

    Raises:
        InputError: `input.usage` naming the key that is wrong.
    """
    from privacy.deid.table import TableSpec

    try:
        value = toml.read(path.read_bytes())
    except OSError as error:
        raise InputError("input.usage", f"{path} cannot be read: {unread(error)}") from None
    except ValueError as error:
        raise InputError("input.usage", f"{path}: {error}") from None
    _shape(value, path)
    roles = {name: "value" if role == "sensitive" else role for name, role in value["columns"].items()}
    language = value.get("language", "it")
    if language not in ("it", "en"):
        raise InputError("input.usage", f"{path}: language it or en")
    given = {name: value[name] for name in ("k", "l", "l_kind", "c", "t", "loss", "search", "population", "ordered")
             if name in value}  # fmt: skip
    spec = TableSpec(
        roles=roles,
        bands=value.get("generalise", {}),
        hierarchies=value.get("hierarchies", {}),
        folder=path.parent,
        suppression_limit=value.get("suppression"),
        sensitive=[name for name, role in value["columns"].items() if role == "sensitive"],
        rows_are_persons="patient" not in roles.values(),
        **given,
    )
    return spec, language


def _shape(value: dict[str, Any], path: Path) -> None:
    unknown = sorted(set(value) - set(_SCALARS) - set(_SECTIONS))
    if unknown or not value.get("columns"):
        raise InputError("input.usage", f"{path}: " + (f"unknown key {unknown[0]!r}" if unknown else "no [columns]"))
    for name, kinds in _SCALARS.items():
        if name in value and (not isinstance(value[name], kinds) or isinstance(value[name], bool)):
            raise InputError("input.usage", f"{path}: {name} must be {kinds[-1].__name__}")
    for name, kinds in _SECTIONS.items():
        section = value.get(name, {})
        if not isinstance(section, dict):
            raise InputError("input.usage", f"{path}: {name} must be a table")
        wrong = [one for one, its in section.items() if not isinstance(its, kinds) or isinstance(its, bool)]
        if wrong:
            raise InputError("input.usage", f"{path}: [{name}] {wrong[0]!r} must be {kinds[-1].__name__}")

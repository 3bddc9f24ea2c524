"""The site's catalogue: what each dataset holds, and how good it is.

A profile counts and describes, for the site's eyes; it is kept in the state folder and holds no single value: its
plots are suppressed like any table that would leave. What the centre is told is said in `edge/advertised.py` alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.advertised import kinds
from edge.sources import consent, tabular
from edge.sources.census import dicom_census, fhir_census, files_census
from edge.sources.mirror import Mirror
from edge.sources.places import is_pulled, mirror_root
from edge.sources.pulling import places
from edge.storage import named_errors
from privacy.disclosure.report import page as drawn
from privacy.disclosure.report import summary
from protocol.durable import write_file
from protocol.errors import CorsiaError

if TYPE_CHECKING:
    import pandas as pd

    from edge.config import DatasetConfig, EdgeConfig

__all__ = ["check", "page", "profile"]

_TYPED = ("quasi", "value")


def profile(config: EdgeConfig, name: str, *, today: datetime | None = None) -> dict[str, Any]:
    """Look at a whole dataset and keep what was seen.

    Returns:
        JSON-able: `dataset`, `at`, `kinds`, `counts`, `schema`, `quality` (lines of what, count, ok) and, with a
        table, `summary` (`privacy.disclosure.report`).

    Raises:
        CorsiaError: of the sources; StorageError when the profile cannot be kept.
    """
    dataset, now = config.datasets[name], today or datetime.now(UTC)
    made: dict[str, Any] = {
        "dataset": name, "at": now.isoformat(timespec="seconds"), "kinds": list(kinds(dataset)), "counts": {},
        "schema": {}, "quality": [],
    }  # fmt: skip
    known: set[str] | None = None
    if dataset.tabular:
        known = _table(made, dataset, now)
    if dataset.dicom is not None:
        census = dicom_census(dataset.dicom, pulled=is_pulled(dataset, "dicom"))
        made["counts"] |= census.counts
        _isolated(made, census.isolated, "DICOM files")
        if known is not None:
            _line(made, "patients of images who are not in the table", len(census.persons - known))
            _line(made, "patients of the table without an image", len(known - census.persons), ok=True)
    if dataset.fhir is not None:
        counts, isolated = fhir_census(dataset.fhir, pulled=is_pulled(dataset, "fhir"))
        made["counts"] |= {f"fhir {kind}": count for kind, count in sorted(counts.items())}
        _isolated(made, isolated, "FHIR files and lines")
    for kind in ("genotypes", "matrix", "omop"):
        if (root := getattr(dataset, kind)) is not None:
            found, isolated = files_census(kind, root)
            made["counts"] |= found
            _isolated(made, isolated, f"{kind} files")
    for kind, status in mirrors(config, name):
        _isolated(made, Counter(status["isolated"]), f"records of the {kind} places")
    folder = config.state_dir / "catalogue"
    with named_errors():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(folder / f"{name}.json", json.dumps(made, sort_keys=True).encode())
    return made


def page(made: dict[str, Any]) -> str:
    """A profile as one HTML page with plots: no script, no link, no value of one."""
    quality: list[list[object]] = [["what", "count", "ok"]]
    quality += [[line["what"], line["count"], "yes" if line["ok"] else "NO"] for line in made["quality"]]
    schema: list[list[object]] = [["column", "role", "type", "missing"]]
    schema += [[n, one["role"], one["type"], one["missing"]] for n, one in made["schema"].items()]
    first = {
        "Counts": [["what", "count"], *([k, n] for k, n in made["counts"].items())],
        "Quality": quality,
        "Schema": schema,
    }
    nothing: dict[str, Any] = {"persons": 0, "rows": 0, "k": None, "columns": {}}
    return drawn(made.get("summary", nothing), f"Dataset {made['dataset']}", first=first)


def check(config: EdgeConfig, name: str) -> list[dict[str, Any]]:
    """Whether each part of a dataset can be read now, one line each: `what`, `ok`, `code`, `said`.

    Servers are asked with their credentials, databases whether these can only read. Changes nothing.
    """
    dataset = config.datasets[name]
    lines = [_tried(f"place {place.name}", lambda place=place: _reached(place)) for place in places(dataset)]  # type: ignore[misc]
    if dataset.tabular:
        lines.append(_tried("table", lambda: _columns(dataset)))
    if (database := dataset.omop_sql) is not None:
        lines.append(_tried("omop_sql", lambda: _cdm(database)))
    for kind in ("dicom", "fhir", "genotypes", "matrix", "omop"):
        root = getattr(dataset, kind)
        if root is not None and not is_pulled(dataset, kind):
            lines.append(_tried(kind, lambda root=root: f"{'folder' if root.is_dir() else 'file'}, {_there(root)}"))  # type: ignore[misc]
    pulled = dict(mirrors(config, name))
    for kind in ("dicom", "fhir"):
        if is_pulled(dataset, kind):
            lines.append(_mirror_line(kind, pulled.get(kind)))
    return lines


def mirrors(config: EdgeConfig, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and status of what was pulled for a dataset."""
    for kind in ("dicom", "fhir"):
        root = mirror_root(config.state_dir, name, kind)
        if (root / "mirror.db").exists():
            mirror = Mirror(root)
            try:
                yield kind, mirror.status()
            finally:
                mirror.close()


# --- inside


def _table(made: dict[str, Any], dataset: DatasetConfig, now: datetime) -> set[str] | None:
    """Counts, schema, quality and plots of the table; gives the normalised ids of its persons."""
    roles: dict[str, str] = dict(dataset.columns)
    rule = dataset.consent
    legal = [] if rule is None else [name for name in (rule.column, rule.withdrawn_on) if name]
    there = tabular.columns_of(dataset)
    words = {name for name, role in roles.items() if role not in _TYPED} | set(legal)
    frame = tabular.read(dataset, list(dict.fromkeys([*roles, *legal])), words)
    patient = next((name for name, role in roles.items() if role == "patient"), None)
    reasons = consent.judge(frame, patient, rule, now.date())
    persons = None if patient is None else consent.persons_of(frame, patient)
    known = None if persons is None else set(persons) - {""}
    made["counts"] |= {"rows": len(frame)} | ({} if known is None else {"persons": len(known)})
    for name, role in roles.items():
        column = frame[name]
        made["schema"][name] = {"role": role, "type": _kind(column), "missing": int(column.isna().sum())}
    _judge(made, frame, roles, there, legal)
    for reason, count in sorted(Counter(reasons[reasons != ""]).items()):
        _line(made, f"rows that are withheld: {reason}", count, ok=reason in ("consent", "withdrawn"))
    shown = [name for name, role in roles.items() if role in _TYPED]
    made["summary"] = summary(
        frame[shown].assign(**({} if persons is None else {"\0person": persons})),
        quasi=[name for name in shown if roles[name] == "quasi"],
        minimum=max(dataset.policy.min_k, dataset.policy.traps.tab),
        k=dataset.policy.min_k,
        traps=dataset.policy.traps,
        person=None if persons is None else "\0person",
    )
    return known


def _judge(
    made: dict[str, Any], frame: pd.DataFrame, roles: dict[str, str], there: list[str], legal: list[str]
) -> None:
    _line(made, "columns without a role, which no study can read", len(set(there) - set(roles) - set(legal)), ok=True)
    _line(made, "rows that are the same in all columns", int(frame.duplicated().sum()))
    for name, role in roles.items():
        present = frame[name].dropna()
        if len(present) == 0:
            _line(made, f"{name}: has no value", len(frame))
        elif role in ("date", "birthdate"):
            bad = present.map(lambda cell: consent.parse_date(str(cell)) is None).sum()
            _line(made, f"{name}: no day as YYYY-MM-DD", int(bad))
        elif role == "value" and _kind(present) == "text":
            read = sum(cell.strip().replace(",", ".", 1).lstrip("+-").replace(".", "", 1).isdigit() for cell in present)
            if read > 0.5 * len(present):
                _line(made, f"{name}: most cells are numbers, these are not", len(present) - read)


def _kind(column: pd.Series[Any]) -> str:
    import pandas as pd

    if pd.api.types.is_bool_dtype(column):
        return "bool"
    if pd.api.types.is_integer_dtype(column):
        return "int"
    return "float" if pd.api.types.is_float_dtype(column) else "text"


def _isolated(made: dict[str, Any], isolated: Counter[str], what: str) -> None:
    for reason, count in sorted(isolated.items()):
        _line(made, f"{what} set aside: {reason}", count)


def _line(made: dict[str, Any], what: str, count: int, *, ok: bool = False) -> None:
    if count:
        made["quality"].append({"what": what, "count": count, "ok": ok})


def _tried(what: str, look: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"what": what, "ok": True, "code": "", "said": look()}
    except CorsiaError as error:
        return {"what": what, "ok": False, "code": error.code, "said": f"{error.message}: {error.hint}"}


def _reached(place: Any) -> str:
    origin = place.dial(lambda: False)
    try:
        return f"answers, {origin.count()} found"
    finally:
        origin.close()


def _mirror_line(kind: str, status: dict[str, Any] | None) -> dict[str, Any]:
    if status is None or not status["complete"]:
        return {"what": f"pulled {kind}", "ok": False, "code": "unavailable.source", "said": "not to its end yet"}
    said = f"{status['records']} records, {sum(status['isolated'].values())} set aside"
    return {"what": f"pulled {kind}", "ok": True, "code": "", "said": said}


def _columns(dataset: DatasetConfig) -> str:
    there = tabular.columns_of(dataset)
    rule = dataset.consent
    legal = [] if rule is None else [name for name in (rule.column, rule.withdrawn_on) if name]
    missing = [name for name in [*dataset.columns, *legal] if name not in there]
    if missing:
        from protocol.errors import InputError

        raise InputError("input.column-missing", f"the table has no column {missing[0]!r}")
    if dataset.redcap is not None:
        from edge.sources.redcap import check_roles

        check_roles(dataset.redcap.dictionary, dataset.columns)
    return f"{len(there)} columns, {len(dataset.columns)} with a role"


def _cdm(place: Any) -> str:
    from edge.sources import database, omopdb

    with database.opened(place) as reader:
        return f"{len(omopdb.tables_of(reader, place.relation))} tables of the CDM"


def _there(root: Path) -> str:
    from protocol.errors import InputError

    if not root.exists():
        raise InputError("input.documents", "it does not exist")
    return "is there"

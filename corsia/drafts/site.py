"""What a site writes into its edge.toml to take part: where its table is, how it is written, what its columns are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corsia.drafts.column import Kind
from corsia.drafts.file import CsvFile
from corsia.drafts.study import quoted, toml
from privacy.deid.deny import fold

__all__ = ["dataset_config", "snippet"]

_GRANTED = ("1", "yes", "y", "si", "s", "true", "vero", "granted", "dato", "concesso", "ok")


def dataset_config(file: CsvFile, columns: Sequence[str], *, table: str) -> dict[str, Any]:
    """The table `[datasets.NAME]` as plain values, for `edge.config`.

    Args:
        columns: what the study reads.
        table: path of the CSV, as the site will write it.
    """
    roles = {name: _role(file, name) for name in columns}
    patient = next((n for n, c in file.columns.items() if c.role == "patient" and n not in roles), None)
    made: dict[str, Any] = {"table": table, "columns": ({patient: "patient"} if patient else {}) | roles}
    if patient is None:
        made["row_is_person"] = True
    form = file.form.model_dump(exclude_defaults=True, mode="json")
    if form:
        made["format"] = form
    consent = _consent(file)
    if consent:
        made["consent"] = consent
    made["policy"] = {
        "lanes": ["train", "infer"],
        "pipelines": ["train", "infer"],
        "purposes": ["research"],
        "min_k": 5,
        "min_cohort": 10,
        "allow_unbounded_epsilon": True,
        "require_consent": bool(consent),
        "approve": "manual",
    }
    return made


def snippet(site: str, dataset: str, config: Mapping[str, Any]) -> str:
    """The same as commented TOML, to be pasted into the site's edge.toml."""
    form, consent, policy = config.get("format"), config.get("consent"), config["policy"]
    lines = [
        f"# For {site}: add this to edge.toml, correct the path and the roles, then restart `corsia edge run`.",
        f"[datasets.{dataset}]",
        f"table = {toml(config['table'])}",
    ]
    if config.get("row_is_person"):
        lines.append("row_is_person = true                  # no column names the patient, and no person has two rows")
    if form:
        lines += ["", f"[datasets.{dataset}.format]           # how the file is written"]
        lines += [f"{key} = {_value(value)}" for key, value in form.items()]
    lines += ["", f"[datasets.{dataset}.columns]          # what is not listed here is not read"]
    lines += [f"{toml(name)} = {toml(role)}" for name, role in config["columns"].items()]
    if consent:
        lines += ["", f"[datasets.{dataset}.consent]          # any other value withholds the row"]
        lines += [f"{key} = {_value(value)}" for key, value in consent.items()]
    lines += ["", f"[datasets.{dataset}.policy]           # the site's rule beats the study"]
    lines += [f"{key} = {_value(value)}" for key, value in policy.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    return quoted(value) if isinstance(value, list | tuple) else toml(value)


def _role(file: CsvFile, name: str) -> str:
    column = file.columns.get(name)
    return column.role if column is not None and column.role in ("value", "quasi") else "value"


def _consent(file: CsvFile) -> dict[str, Any]:
    """A column named for consent, and its values that mean yes; none of them: nobody's row is read."""
    name = next((n for n, c in file.columns.items() if "consen" in fold(n) and c.kind is not Kind.DATE), None)
    if name is None:
        return {}
    granted = sorted({cell for cell in file.cells[name] if fold(cell) in _GRANTED})
    return {"column": name, "granted": granted or ["yes"]}

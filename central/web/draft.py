"""A study's draft judged before it is submitted: its first fault, or the words in which a site will read it.

Nothing is kept. What the signer would refuse for the state of the centre (an unknown site) is told too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from protocol.errors import CorsiaError, InputError, PermissionRefused
from protocol.prose import prose
from protocol.study import MAX_STUDY_BYTES, Lane, Study, parse_study
from protocol.words import words

__all__ = ["check", "from_form"]


def check(draft: bytes, language: str, sites: Collection[str]) -> dict[str, Any]:
    """Judge a draft.

    Args:
        draft: TOML.
        sites: names of enrolled sites.

    Returns:
        `{"ok", "code", "detail", "hint", "field", "words": [[heading, [sentence]]]}`.
    """
    study: Study | None = None
    try:
        study = parse_study(draft)
        study.check_valid_at(datetime.now(UTC))
        if study.recipients or study.roster:
            raise InputError("input.study", "recipients, roster: the centre's signer adds them; leave them out")
        if missing := sorted(set(study.sites) - set(sites)):
            raise PermissionRefused("permission.site", f"sites: not enrolled: {', '.join(missing)}")
    except CorsiaError as error:
        return _told(study, language) | {
            "ok": False,
            "code": error.code,
            "detail": error.message,
            "hint": error.hint,
            "field": error.message.partition(":")[0] if error.code in ("input.study", "permission.site") else "",
        }
    return _told(study, language) | {"ok": True, "code": "", "detail": "", "hint": "", "field": ""}


def _told(study: Study | None, language: str) -> dict[str, Any]:
    said = [] if study is None else prose(study, words(language))
    return {"words": [[heading, sentences] for heading, sentences in said]}


def from_form(given: Mapping[str, list[str]]) -> dict[str, Any]:
    """The study's fields from those of the page's form; empty ones are left out, so that defaults hold.

    Raises:
        InputError: `input.study` for text that should be TOML, or is too long.
    """
    if sum(len(text) for texts in given.values() for text in texts) > MAX_STUDY_BYTES:
        raise InputError("input.study", f"the form is larger than {MAX_STUDY_BYTES} bytes")
    one = {name: texts[0].strip() for name, texts in given.items() if texts and texts[0].strip()}
    value: dict[str, Any] = {"schema": 1}
    names = ("id", "title", "lane", "purpose", "description", "legal_basis", "controller", "ethics_reference")
    value |= {name: one[name] for name in names if name in one}
    if "expires" in one:
        value["expires"] = f"{one['expires']}T00:00:00Z"
    value["sites"] = [site for site in given.get("sites", []) if site]
    value["dataset"] = {"name": one.get("dataset", ""), "columns": _list(one.get("columns", ""))}
    value["dataset"] |= {kind: True for kind in ("images", "fhir", "genotypes", "matrix", "omop") if kind in one}
    value["pipeline"] = {"name": one.get("pipeline") or one.get("lane", "")}
    if "parameters" in one:
        value["pipeline"]["parameters"] = _toml(one["parameters"])
    value["privacy"] = _privacy(one)
    lane = one.get("lane")
    if lane == Lane.TRAIN.value:
        value["training"] = _training(one)
    elif lane == Lane.INFER.value:
        value["model"] = {"name": one.get("model", ""), **({"alias": one["alias"]} if "alias" in one else {})}
    else:
        value["output"] = _output(one)
    return value


def _privacy(one: Mapping[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {name: _number(one[name]) for name in ("k", "min_cohort", "max_examples") if name in one}
    if one.get("dp", "none") != "none":
        made |= {"dp": one["dp"]} | {name: _number(one[name]) for name in ("epsilon", "delta") if name in one}
    if "secure_aggregation" in one:
        made["secure_aggregation"] = True
    return made


def _training(one: Mapping[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {"learner": one.get("learner", ""), "publish": {"model": one.get("publish", "")}}
    made |= {"features": _list(one.get("features", "")), "outcome": _list(one.get("outcome", ""))}
    numbers = ("rounds", "max_rounds", "local_steps", "learning_rate")
    made |= {name: _number(one[name]) for name in numbers if name in one}
    if "strategy" in one:
        made["strategy"] = one["strategy"]
    if "metrics" in one:
        made["metrics"] = _list(one["metrics"])
    return made


def _output(one: Mapping[str, str]) -> dict[str, Any]:
    """Columns as `name type`, one a line or comma; a type left out is float."""
    columns = []
    for text in _list(one.get("output", "")):
        name, _, dtype = text.rpartition(" ")
        columns.append({"name": name, "dtype": dtype} if name else {"name": dtype, "dtype": "float"})
    made: dict[str, Any] = {"columns": columns}
    made |= {name: True for name in ("files", "documents") if name in one}
    if "max_bytes" in one:
        made["max_bytes"] = _number(one["max_bytes"])
    return made


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]


def _number(text: str) -> int | float | str:
    """What was written, as a number if it is one; anything else is for the study's own check to refuse."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _toml(text: str) -> dict[str, Any]:
    from protocol import toml

    try:
        return toml.read(text.encode(), MAX_STUDY_BYTES)
    except ValueError as error:
        raise InputError("input.study", f"pipeline.parameters: not TOML: {error}") from None

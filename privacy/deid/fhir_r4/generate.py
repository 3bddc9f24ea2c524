"""Make `schema.json` from fhir.resources 6.2.0 (FHIR 4.0.1; the last release that carries R4 as its default).

    python -m venv r4 && r4/bin/pip install "fhir.resources==6.2.0" "pydantic<2"
    r4/bin/python privacy/deid/fhir_r4/generate.py > privacy/deid/fhir_r4/schema.json
    python -m venv r5 && r5/bin/pip install "fhir.resources==7.1.0"
    r5/bin/python privacy/deid/fhir_r4/generate.py others > privacy/deid/fhir_r4/others.json

One line a type: element -> type, with the codes of a required binding behind a bar. `others.json` holds the elements of
resources that STU3, R4B or R5 know and R4 does not. Run by hand, never at run time.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path
from typing import Any

_SKIPPED = {"resource_type", "fhir_comments"}
_PYTHON = {"bool": "boolean", "Decimal": "decimal", "int": "integer", "str": "string", "date": "date"}


def main() -> None:
    """Print the schema, or with `others` what other editions have beyond it."""
    if sys.argv[1:] == ["others"]:
        _others()
        return
    types, resources = _read("fhir.resources")
    out = ["{", f'"resources": {json.dumps(sorted(set(resources) - {"DomainResource"}))},', '"types": {']
    lines = [f"{json.dumps(name)}: {json.dumps(types[name], separators=(',', ':'))}" for name in sorted(types)]
    sys.stdout.write("\n".join([*out, ",\n".join(lines), "}", "}"]) + "\n")


def _others() -> None:
    known = json.loads(Path(__file__).with_name("schema.json").read_text("utf-8"))
    more: dict[str, set[str]] = {}
    for package in ("fhir.resources", "fhir.resources.R4B", "fhir.resources.STU3"):
        types, resources = _read(package)
        for name in set(resources) & set(known["resources"]):
            more.setdefault(name, set()).update(set(types[name]) - set(known["types"][name]))
    lines = [f"{json.dumps(name)}: {json.dumps(' '.join(sorted(more[name])))}" for name in sorted(more) if more[name]]
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")


def _read(package: str) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The types of a package, and which of them are resources."""
    types: dict[str, dict[str, str]] = {}
    resources: list[str] = []
    for module in pkgutil.iter_modules([str(Path(str(importlib.import_module(package).__file__)).parent)]):
        if module.ispkg or module.name in ("fhirtypes", "fhirtypesvalidators", "core"):
            continue
        loaded = importlib.import_module(f"{package}.{module.name}")
        for name, model in vars(loaded).items():
            if isinstance(model, type) and hasattr(model, "__fields__") and "resource_type" in model.__fields__:
                if model.__module__ == loaded.__name__:
                    types[name] = _elements(model)
                    if any(base.__name__ in ("Resource", "DomainResource") for base in model.__mro__[1:]):
                        resources.append(name)
    return types, resources


def _elements(model: Any) -> dict[str, str]:
    found = {}
    for name, field in model.__fields__.items():
        if name in _SKIPPED or name.endswith("__ext"):
            continue
        kind = field.type_.__name__
        kind = _PYTHON.get(kind, kind.removesuffix("Type") if kind.endswith("Type") else kind[0].lower() + kind[1:])
        codes = field.field_info.extra.get("enum_values")
        found[field.alias] = f"{kind}|{' '.join(codes)}" if codes else kind
    return found


if __name__ == "__main__":
    main()

"""`corsia init edge|central|study`: write a commented TOML to start from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from protocol.errors import ConflictError, InputError

app = typer.Typer(no_args_is_help=True, help="Write a commented configuration or study file.")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]

_STUDY = """\
# A study: who asks for what, why, and what may leave a hospital. Fields: docs/spec/study.md.
# Check it with `corsia study validate {name}`, send it with `corsia study submit {name}`.
schema = 1
id = "{id}"
title = "What this study is about, in one line"
lane = "{lane}"                       # harvest | anonymize | extract | train | infer
purpose = "research"
legal_basis = "scientific-research"   # consent | public-interest | scientific-research | legal-obligation
controller = "The institution that answers for the study"
ethics_reference = "Ethics committee, number and date"
expires = {expires}
sites = [{sites}]

[dataset]
name = "{dataset}"
columns = [{columns}]
# images = true                       # read the dataset's DICOM files too
# [[dataset.where]]                   # rows: == != < <= > >= in not-null
# column = "age"
# op = ">="
# value = 18

[pipeline]
name = "{pipeline}"
version = "1"
# [pipeline.parameters]

[output]                              # all that may leave
max_bytes = 100_000_000
# files = true                        # lane anonymize: DICOM files
{output}
[privacy]                             # a site may ask for more; the stricter value wins
k = 5
min_cohort = 10
{training}"""

_TRAINING = """
[training]
learner = "survival"
features = [{features}]
outcome = [{outcome}]
rounds = 5
strategy = "fedavg"

[training.publish]
model = "{id}"                        # two operators promote it: corsia model promote, corsia model approve
"""


@app.command()
def edge(
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("edge.toml"),
    json_out: Json = False,
    force: Force = False,
) -> None:
    """Write edge.toml for one hospital, asking when on a terminal.

    Example: corsia init edge --out edge.toml
    """
    from corsia.cli.init_edge import init_edge

    init_edge(out, force=force, as_json=json_out)


@app.command()
def central(
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("central.toml"),
    json_out: Json = False,
    force: Force = False,
) -> None:
    """Write central.toml and the operator's token for the centre.

    Example: corsia init central --out central.toml
    """
    from corsia.cli.init_central import init_central

    init_central(out, force=force, as_json=json_out)


@app.command()
def study(
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("study.toml"),
    lane: Annotated[str, typer.Option("--lane", help="harvest, anonymize, extract or train.")] = "extract",
    from_csv: Annotated[Path | None, typer.Option("--from-csv", help="Take columns and types from a CSV.")] = None,
    json_out: Json = False,
    force: Force = False,
) -> None:
    """Write a study file, with the columns of a CSV if one is given.

    Example: corsia init study --lane extract --from-csv patients.csv
    """
    if lane not in ("harvest", "anonymize", "extract", "train"):
        raise InputError("input.usage", "--lane is one of harvest, anonymize, extract, train")
    if out.exists() and not force:
        raise ConflictError("conflict.exists", f"{out} exists; use --force")
    columns = _columns(from_csv) if from_csv else {"age": "int", "sex": "string"}
    out.write_text(_render(out, lane, columns, from_csv))
    if json_out:
        typer.echo(json.dumps({"written": str(out), "columns": list(columns)}))
    else:
        typer.echo(f"wrote {out}; edit it, then: corsia study validate {out}")


def _columns(path: Path) -> dict[str, str]:
    import csv

    from edge.sources.table import read

    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline()
    except (OSError, UnicodeDecodeError):
        raise InputError("input.table", f"{path} cannot be read as CSV UTF-8") from None
    delimiter = max(",;\t", key=line.count)
    header = next(csv.reader([line], delimiter=delimiter), [])
    frame = read(path, header, ())
    names = {"i": "int", "f": "float", "b": "bool", "M": "date"}
    return {str(c): names.get(frame[c].dtype.kind, "string") for c in frame.columns}


def _render(out: Path, lane: str, columns: dict[str, str], source: Path | None) -> str:
    from datetime import UTC, datetime, timedelta

    outcome = [c for c in ("time", "status", "event", "outcome") if c in columns][:2] or ["time", "status"]
    features = [c for c, kind in columns.items() if kind in ("int", "float", "bool") and c not in outcome]
    output = "".join(f'[[output.columns]]\nname = "{c}"\ndtype = "{t}"\n\n' for c, t in columns.items())
    return _STUDY.format(
        name=out.name,
        id=out.stem.lower().replace("_", "-").replace(".", "-"),
        lane=lane,
        expires=(datetime.now(UTC) + timedelta(days=365)).strftime("%Y-%m-%dT00:00:00Z"),
        sites='"site-a", "site-b"',
        dataset=(source.stem if source else "cohort").lower().replace("_", "-"),
        columns=_quoted(list(columns)),
        pipeline=lane,
        output="\n" if lane == "train" else "\n" + output,
        training=_TRAINING.format(id=out.stem.lower(), features=_quoted(features), outcome=_quoted(outcome))
        if lane == "train"
        else "",
    )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(json.dumps(n) for n in names)

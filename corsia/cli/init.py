"""`corsia init edge|central|study`: write a commented TOML to start from."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from corsia.cli.init_study import Asked, init_training
from protocol.errors import ConflictError, InputError

app = typer.Typer(no_args_is_help=True, help="Write a commented configuration or study file.")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="Folder of keys and data; by default `state` beside the file.")
]

_TOO_MANY = "more columns than a study can name; leave out what is not needed"
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
alias = "candidate"
"""


@app.command()
def edge(
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("edge.toml"),
    state_dir: StateDir = None,
    json_out: Json = False,
    force: Force = False,
) -> None:
    """Write edge.toml for one hospital, asking when on a terminal.

    Example: corsia init edge --out edge.toml
    """
    from corsia.cli.init_edge import init_edge

    init_edge(out, state_dir, force=force, as_json=json_out)


@app.command()
def central(
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("central.toml"),
    state_dir: StateDir = None,
    json_out: Json = False,
    force: Force = False,
) -> None:
    """Write central.toml and the operator's token for the centre.

    Example: corsia init central --out central.toml
    """
    from corsia.cli.init_central import init_central

    init_central(out, state_dir, force=force, as_json=json_out)


@app.command()
def study(
    out: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("study.toml"),
    lane: Annotated[str, typer.Option("--lane", help="harvest, anonymize, extract or train.")] = "",
    from_csv: Annotated[
        list[Path] | None, typer.Option("--from-csv", help="A hospital's CSV, or a folder of them; may be repeated.")
    ] = None,
    outcome: Annotated[str, typer.Option("--outcome", help="Lane train: the column to predict.")] = "",
    time: Annotated[str, typer.Option("--time", help="Lane train: time to the event, with --event.")] = "",
    event: Annotated[str, typer.Option("--event", help="Lane train: the column that says if it happened.")] = "",
    positive: Annotated[str, typer.Option("--positive", help="The value of the outcome that means yes.")] = "",
    negative: Annotated[str, typer.Option("--negative", help="The value of the outcome that means no.")] = "",
    sites: Annotated[
        str, typer.Option("--sites", help="Names for the files, as a,b,c: writes a snippet for each edge.toml too.")
    ] = "",
    missing: Annotated[
        list[str] | None, typer.Option("--missing", help="A word or number that means missing; may be repeated.")
    ] = None,
    categorical: Annotated[
        list[str] | None, typer.Option("--categorical", help="A column whose numbers are codes; may be repeated.")
    ] = None,
    json_out: Json = False,
    force: Force = False,
) -> None:
    """Write a study file, from the columns of hospitals' CSV files if some are given; asks when on a terminal.

    Example: corsia init study --lane extract --from-csv patients.csv

    Example: corsia init study --from-csv a.csv --from-csv b.csv --from-csv c.csv --outcome disease
    """
    from protocol.study import MAX_STUDY_BYTES

    sources, dataset = from_csv or [], "cohort"
    names: tuple[str, ...] = ("site-a", "site-b")
    if not (lane or sources) and sys.stdin.isatty() and not json_out:
        lane, names, dataset = _ask()
    asked = Asked(
        outcome=outcome, time=time, event=event, positive=positive, negative=negative, sites=sites,
        missing=tuple(missing or ()), categorical=tuple(categorical or ()),
    )  # fmt: skip
    lane = lane or ("train" if len(sources) > 1 or asked != Asked() else "extract")
    if lane not in ("harvest", "anonymize", "extract", "train"):
        raise InputError("input.usage", "--lane is one of harvest, anonymize, extract, train")
    if out.exists() and not force:
        raise ConflictError("conflict.exists", f"{out} exists; use --force")
    if lane == "train" and sources:
        init_training(out, sources, asked, as_json=json_out)
        return
    if asked != Asked() or len(sources) > 1:
        raise InputError("input.usage", "outcome, sites and several --from-csv are for lane train")
    source = sources[0] if sources else None
    columns = _columns(source) if source else {"age": "int", "sex": "string"}
    text = _render(out, lane, columns, names, source.stem if source else dataset)
    if len(text.encode()) > MAX_STUDY_BYTES:
        raise InputError("input.table", f"{source.name if source else out.name}: {_TOO_MANY}")
    out.write_text(text, encoding="utf-8")
    if json_out:
        typer.echo(json.dumps({"written": str(out), "columns": list(columns)}))
    else:
        typer.echo(f"wrote {out}; edit it, then: corsia study validate {out}")


def _columns(path: Path) -> dict[str, str]:
    from edge.sources.table import lines, read
    from protocol.study import MAX_STUDY_BYTES

    try:
        header = [cell.strip() for cell in next(lines(path)[1], [])]
    except OSError as error:
        raise InputError("input.table", f"{path.name}: {(error.strerror or 'cannot be read').lower()}") from None
    if not all(header):
        raise InputError("input.table", f"{path.name}: column {header.index('') + 1} has no name")
    if sum(map(len, header)) + 4 * len(header) > MAX_STUDY_BYTES:  # before the cells are read, which takes long
        raise InputError("input.table", f"{path.name}: {_TOO_MANY}")
    frame = read(path, header, ())
    names = {"i": "int", "f": "float", "b": "bool", "M": "date"}
    return {str(c): names.get(frame[c].dtype.kind, "string") for c in frame.columns}


def _ask() -> tuple[str, tuple[str, ...], str]:
    """Lane, sites and dataset, of a person."""
    lane = typer.prompt("Lane: harvest, anonymize, extract or train", default="extract")
    names = typer.prompt("Sites, as a,b,c", default="site-a,site-b")
    dataset = typer.prompt("Name of the dataset at the sites", default="cohort")
    return lane, tuple(name.strip() for name in names.split(",") if name.strip()), dataset


def _render(out: Path, lane: str, columns: dict[str, str], sites: Sequence[str], dataset: str) -> str:
    from datetime import UTC, datetime, timedelta

    from corsia.drafts.names import slug
    from corsia.drafts.study import toml

    outcome = [c for c in ("time", "status", "event", "outcome") if c in columns][:2] or ["time", "status"]
    features = [c for c, kind in columns.items() if kind in ("int", "float", "bool") and c not in outcome]
    output = "".join(f'[[output.columns]]\nname = {toml(c)}\ndtype = "{t}"\n\n' for c, t in columns.items())
    return _STUDY.format(
        name=out.name,
        id=slug(out.stem),
        lane=lane,
        expires=(datetime.now(UTC) + timedelta(days=365)).strftime("%Y-%m-%dT00:00:00Z"),
        sites=_quoted(sites),
        dataset=slug(dataset),
        columns=_quoted(list(columns)),
        pipeline=lane,
        output="\n" if lane == "train" else "\n" + output,
        training=_TRAINING.format(id=slug(out.stem), features=_quoted(features), outcome=_quoted(outcome))
        if lane == "train"
        else "",
    )


def _quoted(names: Sequence[str]) -> str:
    from corsia.drafts.study import toml

    return ", ".join(map(toml, names))

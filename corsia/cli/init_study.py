"""`corsia init study --lane train --from-csv ...`: from hospitals' files to a study, without a line of Python."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from protocol.errors import InputError

if TYPE_CHECKING:
    from corsia.drafts.cohort import Cohort
    from corsia.drafts.outcome import Outcome

__all__ = ["Asked", "init_training"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of `corsia init study` that concern training."""

    outcome: str = ""
    time: str = ""
    event: str = ""
    positive: str = ""
    negative: str = ""
    sites: str = ""
    missing: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()


def init_training(out: Path, sources: Sequence[Path], asked: Asked, *, as_json: bool) -> None:
    """Read the files, tell what was found, and write the study and, with named sites, a snippet for each edge.toml.

    Raises:
        InputError: `input.table`, `input.usage`, `input.rows`; nothing is written then.
    """
    from corsia.drafts.cohort import gather
    from corsia.drafts.file import read_file
    from corsia.drafts.names import slug
    from corsia.drafts.site import dataset_config, snippet
    from corsia.drafts.study import K, draft

    paths = _paths(sources)
    files = {
        site: read_file(path, missing=asked.missing, categorical=asked.categorical)
        for site, path in zip(_sites(asked.sites, paths), paths, strict=True)
    }
    cohort = gather(files, least=K)
    unknown = sorted(set(asked.categorical) - set(cohort.shared))
    if unknown:
        raise InputError("input.usage", f"--categorical {unknown[0]}: no such column in all files, or left out")
    outcome = _outcome(cohort, asked, prompt=sys.stdin.isatty() and not as_json)
    identifier = slug(out.stem)
    made = draft(cohort, outcome, name=out.name, identifier=identifier, dataset=identifier)
    written = [out]
    out.write_text(made.text, encoding="utf-8")
    if asked.sites:
        for site in made.sites:
            path = out.parent / f"{out.stem}.{site}.edge.toml"
            columns = [*made.features, *outcome.columns]
            config = dataset_config(files[site], columns, table=f"data/{files[site].path.name}")
            path.write_text(snippet(site, identifier, config), encoding="utf-8")
            written.append(path)
    for line in made.notes:
        typer.echo(f"  {line}", err=True)
    if as_json:
        found = {
            "written": str(out), "snippets": [str(path) for path in written[1:]], "task": outcome.task,
            "outcome": list(outcome.columns), "features": list(made.features), "sites": list(made.sites),
            "rows": {site: file.rows for site, file in files.items()}, "notes": list(made.notes),
        }  # fmt: skip
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    typer.echo(
        f"{outcome.task}: {', '.join(outcome.columns)} from {len(made.features)} columns, {len(made.sites)} sites"
    )
    typer.echo("wrote " + ", ".join(map(str, written)) + f"; read it, then: corsia study validate {out}")


def _paths(sources: Sequence[Path]) -> list[Path]:
    """Files as given; of a folder its CSV files by name."""
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(p for p in source.iterdir() if p.suffix.lower() in (".csv", ".tsv", ".txt") and p.is_file())
            if not inside:
                raise InputError("input.table", f"{source} holds no CSV file")
            found += inside
        else:
            found.append(source)
    twice = [path for path in found if [p.resolve() for p in found].count(path.resolve()) > 1]
    if twice:
        raise InputError("input.usage", f"{twice[0]} is given twice")
    return found


def _sites(given: str, paths: Sequence[Path]) -> list[str]:
    from corsia.drafts.names import slug

    names = [name.strip() for name in given.split(",") if name.strip()] if given else [slug(p.stem) for p in paths]
    if len(names) != len(paths):
        raise InputError("input.usage", f"--sites names {len(names)} sites for {len(paths)} files")
    wrong = [name for name in names if slug(name) != name]
    if wrong:
        raise InputError("input.usage", f"{wrong[0]!r}: a site's name is lower-case letters, digits and hyphens")
    if len(set(names)) != len(names):
        raise InputError("input.usage", "two files would be one site: name them with --sites a,b,c")
    return names


def _outcome(cohort: Cohort, asked: Asked, *, prompt: bool) -> Outcome:
    from corsia.drafts.outcome import candidates, choose

    outcome, time, event = asked.outcome, asked.time, asked.event
    if prompt and not (outcome or time or event):
        typer.echo("Columns that could be predicted: " + ", ".join(candidates(cohort)))
        outcome = typer.prompt("Which one (empty: time to an event)", default="", show_default=False)
        if not outcome:
            time, event = typer.prompt("The column of times"), typer.prompt("The column that says whether it happened")
    return choose(cohort, outcome=outcome, time=time, event=event, positive=asked.positive, negative=asked.negative)

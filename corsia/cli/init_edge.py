"""`corsia init edge`: writes a commented edge.toml, asking for the essentials when on a terminal."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import typer

from corsia.roles import role_of
from protocol.errors import ConflictError, InputError

__all__ = ["Answers", "init_edge"]

_SLUG = re.compile(r"^[a-z0-9][a-z0-9-]{0,62}\Z")
_FILE = """\
# One hospital's agent. Check it with `corsia edge status --config {name}`, then enrol:
#   corsia edge enroll --config {name} --code JOIN-CODE-FROM-THE-CONSORTIUM
#   corsia edge run --config {name}
site = {site}
state_dir = {state}                   # keys, spool, ledger, journal; relative to this file, mode 0700

# [centre]                            # the join code brings the address; give it only to override
# fleet = "centre.example:7443"

# [keys]                              # docs/keys.md: after `corsia edge keys protect`
# passphrase_file = "/etc/corsia/passphrase"

[limits]
spool_bytes = 10_000_000_000          # sealed parcels on disk; at the bound work waits, nothing is dropped
worker_memory_bytes = 8_000_000_000
worker_timeout_s = 3600.0             # a worker that says nothing for so long is killed
heartbeat_s = 10.0

# [delivery]                          # how parcels leave; heartbeats are never held back
# max_mbit_s = 100                    # most that all parcels take together; else what the line gives
# quiet_hours = ["07:30-18:00"]       # no parcel leaves then, by this machine's clock; rounds wait too
# proxy = "http://proxy.example:3128" # HTTP CONNECT; else grpc_proxy, https_proxy, http_proxy, no_proxy
# proxy_auth = "proxy.auth"           # file of USER:PASSWORD, mode 0600
# [metrics]                           # numbers for Prometheus on 127.0.0.1: docs/metrics.md
# port = 9470
# [witnesses]                         # parties whose signatures the centre's log must bear: docs/proof.md
# keys = ["witness.example.org/a+1f3c0000+..."]
# quorum = 1
# within_s = 86400

[datasets.{dataset}]
{sources}
# What each column is. It decides what may happen to it:
#   patient     names the person; becomes a keyed pseudonym in lanes 2 and 3
#   identifier  names, codes, phone numbers, addresses: never leaves lanes 2 and 3
#   text        free text: goes through the text engine
#   date        shifted by the same number of days for one patient
#   birthdate   becomes a band of birth years
#   quasi       may single a person out together with others: generalised, counted for k
#   value       a measurement
# A column that is not listed is never read by lanes 2 to 4.
[datasets.{dataset}.columns]
{columns}
{consent}
[datasets.{dataset}.policy]           # the site's rule beats the study; the stricter number wins
lanes = ["anonymize", "extract", "train", "infer"]      # "harvest" lets raw records leave
pipelines = ["anonymize", "extract", "aggregate", "train", "infer"]
purposes = ["research"]
release_columns = []                  # lane harvest: globs; patient, identifier and text columns only by exact name
min_k = 5
# sensitive = ["stage"]               # released values that must vary inside each class of alike persons:
# min_l = 2                           # so many of them
# max_t = 0.4                         # and no further from all released rows than this, 0 to 1
min_cohort = 10
# feature_k = 5                       # rows of lane extract: patients alike in their quasi-identifiers; else min_k
max_bytes = 100_000_000               # per study
max_bytes_per_year = 10_000_000_000
allow_unbounded_epsilon = {unbounded}      # whether results without differential privacy may leave
epsilon_per_study = 1.0               # with it: most that a study may learn of a person,
epsilon_per_year = 5.0                # and all studies over 365 days,
delta = 1e-5                          # both at this delta
require_consent = {require_consent}
approve = "manual"                    # or "auto": what policy allows needs no steward

# Thresholds of federated statistics (pipeline "aggregate"), by DataSHIELD's names; these are the defaults.
# [datasets.{dataset}.policy.traps]
# nfilter.tab = 3                     # persons in any non-empty cell, that of missing values included
# nfilter.subset = 3                  # persons in a subset, and in what is left without it
# nfilter.glm = 0.33                  # parameters of a model, as a share of its persons
# nfilter.string = 80
# nfilter.stringShort = 20
# nfilter.kNN = 3
# nfilter.levels.density = 0.33       # levels of a column shown by name, as a share of its persons
# nfilter.levels.max = 40
# nfilter.noise = 0.25
# missing = 3                         # persons who lack a value that all others have
# quantile_low = 0.05
# quantile_high = 0.95
# range_blur = 0.05
# dominance_n = 2                     # so many persons may not hold more than
# dominance_k = 0.85                  # this share of a sum,
# dominance_p = 0.10                  # nor may its largest part be known to within this share
# queries = 1.0                       # numbers ever released on a column, as a multiple of its persons
"""

_OTHERS = (
    '# fhir = "data/fhir"                  # R4 JSON and NDJSON, also .gz',
    '# fhir_system = "urn:oid:..."         # of the table\'s patient ids in FHIR; else those typed MR are taken',
    '# genotypes = "data/genotypes"        # VCF, BCF or PLINK',
    '# matrix = "data/counts.parquet"      # samples x features',
    '# omop = "data/omop"                  # tables of the OMOP CDM, a folder or one zip',
    "# sql, omop_sql, dicomweb, dimse, receiver, fhir_server: databases and servers of the hospital; docs/sources.md",
    '# advertise = ["kinds", "counts"]     # what researchers may know of it: kinds, counts, schema; never a row',
)
_CONSENT = """
[datasets.{dataset}.consent]          # a missing or unknown value withholds the row
column = {column}
granted = ["yes"]
# withdrawn_on = "consent_withdrawn_on"
"""


@dataclass(slots=True, kw_only=True)
class Answers:
    """What the file is made from."""

    site: str = "site-a"
    state_dir: str = "state"
    dataset: str = "cohort"
    table: str = "data/table.csv"
    dicom: str = ""
    consent: str = "consent"
    columns: dict[str, str] = field(default_factory=lambda: {"patient_id": "patient", "age": "quasi", "sex": "quasi"})


def init_edge(out: Path, state_dir: Path | None = None, *, force: bool = False, as_json: bool = False) -> None:
    """Write a commented configuration; asks when standard input is a terminal and no JSON is wanted.

    Args:
        out: the file.
        state_dir: the state folder, written down in full; by default `state` beside the file. The agent makes it.
        force: replace an existing file.
        as_json: ask nothing and print one JSON object.

    Raises:
        ConflictError: `conflict.exists`.
        InputError: `input.usage` for a site or dataset name that cannot be one.
    """
    if out.exists() and not force:
        raise ConflictError("conflict.exists", f"{out} exists; use --force")
    answers = Answers(state_dir=str(state_dir.absolute()) if state_dir else "state")
    if sys.stdin.isatty() and not as_json:
        _ask(answers, out.resolve().parent)
    for name in (answers.site, answers.dataset):
        if not _SLUG.match(name):
            raise InputError("input.usage", f"{name!r}: lower-case letters, digits and hyphens")
    out.write_text(_render(out, answers))
    if as_json:
        typer.echo(json.dumps({"written": str(out), "site": answers.site, "dataset": answers.dataset}))
    else:
        typer.echo(f"wrote {out}; read it, then: corsia edge enroll --config {out} --code JOIN-CODE")


def _ask(answers: Answers, base: Path) -> None:
    answers.site = typer.prompt("Name of this site", default=answers.site)
    answers.dataset = typer.prompt("Name of the dataset", default=answers.dataset)
    answers.table = typer.prompt("Its table, CSV or Parquet (empty: none)", default=answers.table)
    answers.dicom = typer.prompt("Its folder of DICOM files (empty: none)", default="", show_default=False)
    if not (answers.table or answers.dicom):
        raise InputError("input.usage", "a dataset has a table, a folder of DICOM files, or both")
    names = _header(base / answers.table) if answers.table else []
    if names:
        answers.consent = next((name for name in names if "consen" in name.lower()), "")
        answers.columns = {name: role_of(name) for name in names if "consen" not in name.lower()}
        typer.echo(f"{len(names)} columns found; their roles are guesses: correct them in the file")
    answers.consent = typer.prompt("The consent column (empty: none)", default=answers.consent)


def _header(path: Path) -> list[str]:
    if not path.is_file():
        return []
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return [str(name) for name in pq.read_schema(path).names]
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as source:
        line = source.readline()
    delimiter = max(",;\t|", key=line.count)
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), []) if name.strip()]


def _render(out: Path, answers: Answers) -> str:
    sources = [f"table = {json.dumps(answers.table)}" if answers.table else "# table = ..."]
    sources += [f"dicom = {json.dumps(answers.dicom)}" if answers.dicom else '# dicom = "data/dicom"']
    sources += _OTHERS
    columns = answers.columns if answers.table else {}
    return _FILE.format(
        name=out.name,
        site=json.dumps(answers.site),
        state=json.dumps(answers.state_dir),
        dataset=answers.dataset,
        sources="\n".join(sources),
        columns="\n".join(f"{json.dumps(name)} = {json.dumps(role)}" for name, role in columns.items()),
        consent=_CONSENT.format(dataset=answers.dataset, column=json.dumps(answers.consent)) if answers.consent else "",
        unbounded="true",
        require_consent="true" if answers.consent else "false",
    )

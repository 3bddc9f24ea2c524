"""What a site tells of itself: the account of what left, one patient's look-up, the draft of a breach notification."""

from __future__ import annotations

import csv
import json
import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from typer.main import get_command

from corsia.cli.edge import app
from corsia.cli.edge_rights import _breach
from edge.access import about
from edge.account import account
from edge.breach import breach_markdown
from edge.config import EdgeConfig
from edge.journal import Journal
from edge.ledger import Ledger
from edge.pages import account_csv, account_page
from edge.released import Released
from privacy.envelope import read_key
from protocol.assignment import State
from protocol.errors import CorsiaError
from protocol.withdrawal import PREFIX
from tests.agentkit import Office, enrolled, running, site_config, study

FORMULA = '=HYPERLINK("x") <script>'


@dataclass
class Hospital:
    config: EdgeConfig
    office: Office
    digests: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.config.state_dir.parent

    def run(self, *args: str, stdin: str | None = None) -> tuple[int, dict[str, Any], str]:
        full = [*args, "--config", str(self.folder / "edge.toml"), "--json"]
        try:
            done = CliRunner().invoke(get_command(app), full, catch_exceptions=False, input=stdin)
        except CorsiaError as error:
            return error.exit_status, {"error": {"code": error.code}}, ""
        return done.exit_code, json.loads(done.stdout.splitlines()[-1]), done.output


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    config = site_config(tmp_path_factory.mktemp("account"))
    office = enrolled(config)
    young = [{"column": "age", "op": "<", "value": 45}]
    asked = {
        "raw": study("raw", title=FORMULA, dataset={"name": "cohort", "columns": ["age", "score"], "where": young}),
        "anon": study(
            "anon",
            lane="anonymize",
            pipeline={"name": "anonymize", "parameters": {"suppression_limit": 1.0}},
            legal_basis="consent",
            dataset={"name": "cohort", "columns": ["age", "sex"]},
            output={"columns": [{"name": n, "dtype": "string"} for n in ("pseudonym", "sex")]
                    + [{"name": "age", "dtype": "int"}]},
        ),
        "small": study("small", purpose="marketing"),
    }  # fmt: skip
    with running(config, office):
        given = {name: office.submit(one) for name, one in asked.items()}
        for name, one in given.items():
            said = office.wait(one)
            assert (said.state is State.DONE) is (name != "small"), said
    return Hospital(config, office, {name: one.study_digest for name, one in given.items()})


def test_what_left_when_to_whom_and_why(hospital: Hospital, tmp_path: Path) -> None:
    status, value, _ = hospital.run(
        "journal", "export", "--csv", str(tmp_path / "a.csv"), "--html", str(tmp_path / "a.html")
    )
    assert status == 0
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [row["study"] for row in rows] == ["raw", "anon"]
    raw, anon = rows
    spends = {spend.study: spend for spend in Ledger(hospital.config.state_dir / "ledger.db").spends()}
    for row in rows:
        parcels = [e for e, _ in hospital.office.parcels.values() if e.study_digest == row["study_digest"]]
        assert int(row["bytes"]) == sum(e.size_bytes for e in parcels) == spends[row["study_digest"]].bytes
        assert row["parcel_ids"].split() == [e.parcel_id for e in parcels]
        assert row["log_indexes"].split() == [str(hospital.office.receipts[e.parcel_id].index) for e in parcels]
        assert row["recipient_key"] == hospital.office.vault.public.fingerprint
        assert row["epsilon"] == "unbounded"
    assert (raw["persons"], raw["rows"], raw["lane"], raw["legal_basis"]) == (
        "12",
        "12",
        "harvest",
        "scientific-research",
    )
    assert (anon["persons"], anon["lane"], anon["legal_basis"]) == ("21", "anonymize", "consent")
    assert raw["title"] == "'" + FORMULA  # no spreadsheet takes it for a formula
    assert (value["ended"], value["lookups"]) == ({"policy.purpose": 1}, 0)
    page = (tmp_path / "a.html").read_text()
    assert "Base giuridica" in page
    assert "consenso (art. 6.1.a" in page
    assert "<script" not in page
    assert "http" not in page.replace("HYPERLINK", "")
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == (tmp_path / "a.html").stat().st_mode & 0o777 == 0o600
    assert hospital.run("journal", "export", "--html", str(tmp_path / "e.html"), "--lang", "en")[0] == 0
    assert "Legal basis" in (tmp_path / "e.html").read_text()
    for text in (page, (tmp_path / "a.csv").read_text(), (tmp_path / "e.html").read_text()):
        assert "MRN" not in text
        assert "Bardellini" not in text


def test_a_period(hospital: Hospital) -> None:
    assert hospital.run("journal", "export", "--until", "2020-01-01")[1]["releases"] == []
    assert len(hospital.run("journal", "export", "--since", "2020-01-01T00:00:00Z")[1]["releases"]) == 2
    assert hospital.run("journal", "export", "--since", "yesterday")[1]["error"]["code"] == "input.usage"
    assert hospital.run("journal", "export", "--lang", "de")[1]["error"]["code"] == "input.usage"


def test_the_journal_is_signed(hospital: Hospital) -> None:
    status, value, _ = hospital.run("journal", "verify")
    assert (status, value["verified"]) == (0, True)
    assert value["signed"] >= 1
    assert value["signed_lines"] == value["lines"] == Journal(
        hospital.config.state_dir / "journal.jsonl", readonly=True
    ).verify()  # fmt: skip


def test_a_medium_without_a_receipt_a_withdrawal_and_a_line_that_is_there_twice(
    hospital: Hospital, tmp_path: Path
) -> None:
    """A stick that is lost is the breach to be told of; word of a withdrawal belongs to its study."""
    config = hospital.config
    shutil.copytree(config.state_dir, tmp_path / "state")
    config = config.model_copy(update={"state_dir": tmp_path / "state"})
    digest, raw = hospital.digests["raw"], account(config).releases[0]
    with closing(Released(config.state_dir)) as released:
        released.note(digest, raw.assignment, "9" * 32, ["MRN7777777"])
    journal = Journal(config.state_dir / "journal.jsonl")
    journal.append("parcel.exported", assignment=raw.assignment, parcel=raw.parcel_ids[0], bytes=raw.bytes)
    journal.append("parcel.delivered", assignment=raw.assignment, parcel=raw.parcel_ids[0], bytes=raw.bytes, index=0)
    assert account(config).releases[0] == raw, "sent once, however often it is told"
    journal.append("parcel.exported", assignment=raw.assignment, parcel="9" * 32, bytes=100)
    journal.append("parcel.planned", parcel="8" * 32, study=digest)
    journal.append("parcel.delivered", assignment=f"{PREFIX}{'8' * 32}", parcel="8" * 32, bytes=7, index=9)
    found = [one for one in account(config).releases if one.study.digest == digest]
    assert [(one.parcels, one.on_medium, one.withdrawal, one.persons, one.indexes) for one in found] == [
        (2, 1, False, 13, raw.indexes),
        (1, 0, True, None, [9]),
    ]
    page = account_page(account(config), "it")
    for text in ("1 su un supporto, senza ricevuta", "avviso di un consenso revocato"):
        assert text in page, text
    assert "Studio -" not in page
    (row,) = [row for row in csv.DictReader(account_csv(account(config)).splitlines()) if row["withdrawal"] == "yes"]
    assert (row["study"], row["legal_basis"]) == ("raw", "scientific-research")
    mine = {one.study.id: one.releases for one in about(config, "mrn7777777")}
    assert [one.parcel_ids for one in mine["raw"]] == [["9" * 32]]
    made = _breach(config, "raw", None, None)
    assert made.persons == 13
    assert "1 on a medium, no receipt" in breach_markdown(made, "en")
    between = time.time()
    journal.append("parcel.delivered", assignment=raw.assignment, parcel="9" * 32, bytes=100, index=10)
    assert account(config).releases[0].on_medium == 0
    (earlier,) = [one for one in account(config, until=between).releases if "9" * 32 in one.parcel_ids]
    assert (earlier.parcels, earlier.on_medium, earlier.indexes) == (2, 0, [*raw.indexes, 10]), (
        "left then, as is known now"
    )
    assert account(config, since=between).releases == [], "a receipt that comes later is no second release"


def test_one_patient(hospital: Hospital) -> None:
    before = Journal(hospital.config.state_dir / "journal.jsonl", readonly=True).verify()
    found = {n: hospital.run("subject", stdin=f" mrn{n:07d}\r\n")[1]["studies"] for n in (0, 1, 7, 99)}
    assert [one["study"] for one in found[0]] == ["raw", "anon"]  # 40 years old
    assert [one["study"] for one in found[1]] == ["anon"]  # 50
    assert found[7] == found[99] == []  # no consent; nobody
    raw, anon = found[0]
    assert raw["sure"] == anon["sure"] == "yes"
    assert raw["pseudonym"] == ""
    of = next(a for a in hospital.office.assignments if a.study_digest == hospital.digests["anon"])
    (batch,) = hospital.office.opened(of, read_key(hospital.config.state_dir / "identity.key"))
    names = set(pd.read_parquet(BytesIO(batch.items[0].data))["pseudonym"])
    assert anon["pseudonym"] in names
    assert found[1][0]["pseudonym"] in names - {anon["pseudonym"]}
    assert (raw["legal_basis"], raw["purpose"], raw["controller"]) == ("scientific-research", "research", "c")
    assert set(raw["parcel_ids"]) <= set(hospital.office.parcels)
    lines = Journal(hospital.config.state_dir / "journal.jsonl", readonly=True).tail(4)
    assert [(line.event, line.fields) for line in lines] == [("subject.looked-up", {})] * 4
    assert lines[0].seq == before
    assert hospital.run("subject", stdin="\n")[1]["error"]["code"] == "input.usage"
    for path in hospital.config.state_dir.rglob("*"):
        if path.is_file():
            kept = path.read_bytes().lower()
            assert b"mrn000" not in kept, path
            if path.name.startswith(("released", "journal")):
                assert anon["pseudonym"].lower().encode() not in kept


def test_a_breach(hospital: Hospital, tmp_path: Path) -> None:
    status, value, _ = hospital.run("breach-report", "--study", "raw", "--markdown", str(tmp_path / "b.md"))
    assert status == 0
    assert (value["persons"], value["records"], value["parcels"]) == (12, 12, 1)
    text = (tmp_path / "b.md").read_text()
    for part in ("33.3.a", "33.3.b", "33.3.c", "33.3.d", "Numero approssimativo di interessati: 12", "age, score"):
        assert part in text, part
    assert "<script>" not in text  # a study's title is the centre's text
    assert "MRN" not in text
    html = tmp_path / "b.html"
    assert hospital.run("breach-report", "--study", "anon", "--lang", "en", "--html", str(html))[0] == 0
    assert "Approximate number of data subjects: 21" in html.read_text()
    none = hospital.run("breach-report", "--study", "anon", "--until", "2020-01-01")[1]
    assert (none["persons"], none["parcels"]) == (0, 0)
    assert hospital.run("breach-report", "--study", "nothing")[1]["error"]["code"] == "study.unknown"


def test_persons_that_the_data_do_not_name(tmp_path: Path) -> None:
    subjects = Released(tmp_path)
    subjects.note("s", "a", "p1", ["MRN1", "MRN2"])
    subjects.note("s", "a", "p1", ["mrn2 "])
    subjects.note("s", "a", "p2", ["MRN2"])
    subjects.note("s", "b", "p3", None)
    subjects.note("t", "c", "", ["MRN1"])
    assert subjects.among("s", ["mrn1"]) == {"p1": True, "p3": False}
    assert subjects.among("s", ["MRN2", "Pxyz"]) == {"p1": True, "p2": True, "p3": False}
    assert subjects.among("t", ["MRN2"]) == {}
    assert [subjects.count("s", parcels) for parcels in (["p1"], ["p1", "p2"], ["p2"], ["p3"], ["p9"])] == [
        2,
        2,
        1,
        None,
        None,
    ]
    assert subjects.count("t", ["any"]) == 1
    subjects.drop("b")
    assert subjects.count("s", ["p1", "p3"]) == 2
    subjects.close()
    again = Released(tmp_path)
    assert again.among("s", ["MRN1"]) == {"p1": True}
    again.close()

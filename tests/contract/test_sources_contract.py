"""The one contract of sources: each is enumerated, selected from, read, resumed after a kill; a bad record is set aside
by itself, and no credential is written anywhere.

Each case brings its real server or files and the same eight persons: p1 to p8, of whom p7 has withdrawn and p8 never
consented, and one record that cannot be used. A study that asks for everybody over 40 must get p5 and p6.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import pydicom
import pytest

from corsia.synthetic import ct_series
from edge.config import EdgeConfig, load
from edge.sources import DatasetSource
from edge.sources.places import mirror_root
from edge.sources.pulling import places
from pipelines.features.omop_tables import EVENTS
from protocol.errors import UnavailableError
from protocol.study import Condition, Dataset, Lane, Output, Pipeline, Study
from tests.sourcekit import LOGIN, PASSWORD, Orthanc, Postgres, fhir_server, private

ROOT = Path(__file__).parents[2]
PERSONS = [f"p{n}" for n in range(1, 9)]
HEAD = ("id", "age", "consent", "gone")
ROWS = [(name, 10 * at, "no" if name == "p8" else "yes", "2020-01-01" if name == "p7" else None)
        for at, name in enumerate(PERSONS)]  # fmt: skip
WHERE = (Condition(column="age", op=">=", value=40),)
CHOSEN = ["p5", "p6"]
TABLE = """
[datasets.d.columns]
id = "patient"
age = "value"
[datasets.d.consent]
column = "consent"
granted = ["yes"]
withdrawn_on = "gone"
"""


def study(**asked: Any) -> Study:
    return Study(
        schema=1, id="s", title="t", lane=Lane.HARVEST, purpose="research", legal_basis="consent", controller="c",
        ethics_reference="e", expires=datetime(2040, 1, 1, tzinfo=UTC), sites=("a",),
        dataset=Dataset(name="d", columns=("age",), where=WHERE, **asked), pipeline=Pipeline(name="harvest"),
        output=Output(files=True),
    )  # fmt: skip


class Case(ABC):
    """A source in its own folder."""

    pulled: ClassVar[bool] = False
    secret: ClassVar[str] = PASSWORD
    bad: ClassVar[dict[str, int]] = {"unreadable": 1}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "t.csv").write_text(
            "\n".join(",".join("" if cell is None else str(cell) for cell in row) for row in (HEAD, *ROWS))
        )

    @abstractmethod
    def toml(self) -> str:
        """The dataset's own lines in edge.toml."""

    def start(self) -> None:  # noqa: B027 - files need no server
        """Bring up the server."""

    def stop(self) -> None:  # noqa: B027
        """And down."""

    @abstractmethod
    def chosen(self, source: DatasetSource) -> list[str]:
        """The persons whom a study is given."""

    def asked(self) -> dict[str, bool]:
        return {}

    def config(self) -> EdgeConfig:
        path = self.folder / "edge.toml"
        path.write_text(f'site = "a"\nstate_dir = "state"\n[datasets.d]\n{self.toml()}')
        return load(path)


class CsvCase(Case):
    def toml(self) -> str:
        with (self.folder / "t.csv").open("a") as file:
            file.write("\np9,forty,yes,\n")  # a word where the study compares numbers
        return f'table = "t.csv"\n{TABLE}'

    def chosen(self, source: DatasetSource) -> list[str]:
        frame = source.table()
        assert frame is not None
        return list(frame["id"])


class ParquetCase(CsvCase):
    def toml(self) -> str:
        import pandas as pd

        rows = [*((a, str(b), c, d) for a, b, c, d in ROWS), ("p9", "forty", "yes", None)]
        pd.DataFrame(rows, columns=HEAD).to_parquet(self.folder / "t.parquet")
        return f'table = "t.parquet"\n{TABLE}'


class ExcelCase(CsvCase):
    def toml(self) -> str:
        from openpyxl import Workbook

        book = Workbook()
        assert book.active is not None
        for row in (HEAD, *ROWS, ("p9", "forty", "yes", None)):
            book.active.append(row)
        book.save(self.folder / "t.xlsx")
        return f'table = "t.xlsx"\n{TABLE}'


class RedcapCase(CsvCase):
    def toml(self) -> str:
        (self.folder / "dictionary.csv").write_text(
            "Variable / Field Name,Form Name,Field Type,Text Validation Type OR Show Slider Number,Identifier?\n"
            "id,base,text,,\nage,base,text,integer,\nconsent,base,radio,,\ngone,base,text,date_ymd,\n"
        )
        return f'{super().toml().replace(TABLE, "")}redcap = {{dictionary = "dictionary.csv"}}\n{TABLE}'


class SqliteCase(CsvCase):
    secret = "cohort.sqlite"

    def toml(self) -> str:
        import sqlite3

        with sqlite3.connect(self.folder / self.secret) as database:
            database.execute("create table cohort (id text, age numeric, consent text, gone text)")
            database.executemany("insert into cohort values (?, ?, ?, ?)", [*ROWS, ("p9", "forty", "yes", None)])
        database.close()
        private(self.folder / "url", f"sqlite:///{self.folder / self.secret}")
        return f'sql = {{url_file = "url", relation = "cohort"}}\n{TABLE}'


class PostgresCase(CsvCase):
    secret = "reader-SECRET-5d"

    def start(self) -> None:
        import psycopg

        self.server = Postgres()
        self.server.start()
        address = self.server.url("owner", "owner-SECRET").replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as link:
            link.execute("create table cohort (id text, age text, years int, consent text, gone date)")
            for name, age, consent, gone in [*ROWS, ("p9", "forty", "yes", None)]:
                years = age if isinstance(age, int) else 99
                row = (name, str(age), years, consent, gone)
                link.execute("insert into cohort values (%s, %s, %s, %s, %s)", row)
            link.execute(f"create role reader login password '{self.secret}'")  # type: ignore[arg-type]
            link.execute("grant select on cohort to reader")

    def stop(self) -> None:
        self.server.stop()

    def toml(self) -> str:
        private(self.folder / "url", self.server.url("reader", self.secret))
        return f'sql = {{url_file = "url", relation = "public.cohort"}}\n{TABLE}years = "value"\n'.replace(
            'years = "value"\n', ""
        )


def images() -> list[bytes]:
    made = [
        ct_series({"PatientID": name, "PatientName": "X"}, seed=at, size=8, slices=2) for at, name in enumerate(PERSONS)
    ]
    return [data for series in made for data in series]


def shell() -> bytes:
    """An image without a pixel, of one who consents."""
    data = pydicom.dcmread(BytesIO(ct_series({"PatientID": "p5", "PatientName": "X"}, seed=77, size=8, slices=1)[0]))
    del data.PixelData
    buffer = BytesIO()
    data.save_as(buffer)
    return buffer.getvalue()


class DicomCase(Case):
    bad: ClassVar[dict[str, int]] = {"empty-shell": 1}

    def asked(self) -> dict[str, bool]:
        return {"images": True}

    def chosen(self, source: DatasetSource) -> list[str]:
        found = [str(pydicom.dcmread(BytesIO(file.data)).PatientID) for file in source.files()]
        assert len(found) == 2 * len(set(found))
        return sorted(set(found))

    def toml(self) -> str:
        (self.folder / "dicom").mkdir(exist_ok=True)
        for at, data in enumerate([*images(), shell()]):
            (self.folder / "dicom" / f"{at}.dcm").write_bytes(data)
        return f'table = "t.csv"\ndicom = "dicom"\n{TABLE}'


class PacsCase(DicomCase):
    pulled = True

    def start(self) -> None:
        self.server = Orthanc(self.folder / "orthanc")
        self.server.start()
        for data in [*images(), shell()]:
            self.server.put(data)

    def stop(self) -> None:
        self.server.stop()

    def place(self) -> str:
        private(self.folder / "auth", LOGIN)
        return f'dicomweb = {{url = "{self.server.url}", auth_file = "auth"}}'

    def toml(self) -> str:
        return f'table = "t.csv"\n{self.place()}\n{TABLE}'


class DimseGetCase(PacsCase):
    def place(self) -> str:
        return f'dimse = {{address = "127.0.0.1:{self.server.dicom_port}", aet = "ORTHANC", calling = "EDGE"}}'


class DimseMoveCase(PacsCase):
    def place(self) -> str:
        return (
            f'dimse = {{address = "127.0.0.1:{self.server.dicom_port}", aet = "ORTHANC", calling = "EDGE", '
            f'retrieve = "move", listen = "127.0.0.1:{self.server.move_port}"}}'
        )


class FhirCase(Case):
    pulled = True
    mode: ClassVar[str] = "search"
    secret = "token-SECRET-91c"

    def asked(self) -> dict[str, bool]:
        return {"fhir": True}

    def start(self) -> None:
        data = self.folder / "resources"
        data.mkdir()
        lines = []
        for at, name in enumerate(PERSONS):
            seen = {"lastUpdated": f"2024-01-0{at + 1}T00:00:00.000+00:00"}
            lines.append({"resourceType": "Patient", "id": name, "meta": seen})
            subject = {"reference": f"Patient/{name}"}
            lines.append({"resourceType": "Condition", "id": f"c{at}", "meta": seen, "subject": subject})
        lines.append({"resourceType": "Broken", "was": "Condition", "meta": {"lastUpdated": "2024-01-09T00:00:00Z"}})
        (data / "all.ndjson").write_text("\n".join(json.dumps(line) for line in lines))
        self._running = fhir_server(data, f"token={self.secret}", "fail-every=7")
        self.url = self._running.__enter__()

    def stop(self) -> None:
        self._running.__exit__(None, None, None)

    def toml(self) -> str:
        private(self.folder / "token", self.secret)
        place = f'url = "{self.url}", token_file = "token", mode = "{self.mode}", types = ["Patient", "Condition"]'
        return f'table = "t.csv"\nfhir_server = {{{place}, page_size = 3}}\n{TABLE}'

    def chosen(self, source: DatasetSource) -> list[str]:
        lines = [json.loads(line) for file in source.documents("fhir") for line in file.data.splitlines()]
        patients = sorted(line["id"] for line in lines if line["resourceType"] == "Patient")
        about = sorted(line["subject"]["reference"] for line in lines if line["resourceType"] == "Condition")
        assert about == [f"Patient/{name}" for name in patients]
        return patients


class BulkCase(FhirCase):
    mode = "export"


class OmopCase(Case):
    secret = "cdm.sqlite"

    def asked(self) -> dict[str, bool]:
        return {"omop": True}

    def toml(self) -> str:
        import sqlite3

        with sqlite3.connect(self.folder / self.secret) as database:
            for name, events in EVENTS.items():
                more = ", ".join(f"{column} text" for column in events.all if column != "person_id")
                database.execute(f"create table {name} ({name}_id int, person_id text, {more})")
                words = f"insert into {name} ({name}_id, person_id) values (?, ?)"  # noqa: S608
                database.executemany(words, enumerate([*PERSONS, "nobody"]))
            database.execute("create table concept (concept_id int, vocabulary_id text, concept_code text)")
            database.execute("insert into concept values (1, 'v', 'c')")
            database.execute("create table person (person_id text, gender_concept_id int, year_of_birth int)")
            database.executemany("insert into person values (?, 0, 1970)", [(name,) for name in [*PERSONS, "p9"]])
        database.close()
        private(self.folder / "url", f"sqlite:///{self.folder / self.secret}")
        with (self.folder / "t.csv").open("a") as file:
            file.write("\np9,forty,yes,\n")
        return f'table = "t.csv"\nomop_sql = {{url_file = "url"}}\n{TABLE}'

    def chosen(self, source: DatasetSource) -> list[str]:
        from pipelines.features.omop_tables import tables

        found = tables(source.documents("omop"))
        persons = sorted(found["person"]["person_id"])
        assert sorted(found["measurement"]["person_id"]) == persons
        return persons


class OmicsCase(Case):
    """Files of many persons pass whole; a lane takes of them the persons of the table."""

    def asked(self) -> dict[str, bool]:
        return {"genotypes": True}

    def toml(self) -> str:
        folder = self.folder / "vcf"
        folder.mkdir(exist_ok=True)
        names = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\t"
        head = "##fileformat=VCFv4.2\n##contig=<ID=21,length=46709983>\n"
        body = head + names + "\t".join(PERSONS) + "\n21\t5\t.\tA\tC\t.\t.\t.\tGT" + "\t0/1" * len(PERSONS) + "\n"
        (folder / "a.vcf").write_text(body)
        (folder / "cut.vcf.gz").write_bytes(bytes.fromhex("1f8b08040000000000ff06004243020030") + b"cut")
        return f'table = "t.csv"\ngenotypes = "vcf"\n{TABLE}'

    def chosen(self, source: DatasetSource) -> list[str]:
        frame = source.table()
        assert frame is not None
        files = list(source.documents("genotypes"))
        assert [file.name[-4:] for file in files] == [".vcf"]
        named = next(line for line in files[0].data.decode().splitlines() if line.startswith("#CHROM")).split("\t")
        return [name for name in named if name in set(frame["id"])]


CASES = [
    CsvCase, ParquetCase, ExcelCase, RedcapCase, SqliteCase, PostgresCase, DicomCase, PacsCase, DimseGetCase,
    DimseMoveCase, FhirCase, BulkCase, OmopCase, OmicsCase,
]  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.__name__.removesuffix("Case").lower())
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    made: Case = request.param(tmp_path_factory.mktemp(request.param.__name__))
    made.start()
    try:
        yield made
    finally:
        made.stop()


_PULL = """
import sys
from pathlib import Path
from edge.config import load
from edge.sources.places import mirror_root
from edge.sources.pulling import places, pull
config = load(Path(sys.argv[1]))
for place in places(config.datasets["d"]):
    tally = pull(mirror_root(config.state_dir, "d", place.kind), place)
    print(tally.kept, sum(tally.isolated.values()))
"""
_READ = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.contract import test_sources_contract as contract
from edge.config import load
from edge.sources import DatasetSource
case = getattr(contract, sys.argv[3]).__new__(getattr(contract, sys.argv[3]))
config = load(Path(sys.argv[1]))
print(",".join(case.chosen(DatasetSource(config.datasets["d"], contract.study(**case.asked())))))
"""


def process(code: str, *words: str, faults: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CORSIA_FAULTS": faults} if faults else dict(os.environ)
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
    )


def test_the_contract(case: Case, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level("DEBUG")
    config = case.config()
    path, said = str(case.folder / "edge.toml"), ""
    if case.pulled:  # resume after a kill: files without knowledge, then knowledge without the rest
        for fault in ("source.files", "source.page"):
            marker = case.folder / f"killed-{fault}"
            done = process(_PULL, path, faults=f"{fault}={marker}")
            said += done.stdout + done.stderr
            assert done.returncode == -9, done.stderr
            assert marker.exists()
        done = process(_PULL, path)
        said += done.stdout + done.stderr
        assert done.returncode == 0, done.stderr
        again = process(_PULL, path)
        assert again.stdout.split()[0] == "0" or case.asked() == {"fhir": True}, "nothing is pulled twice"
    # enumerate
    for place in places(config.datasets["d"]):
        origin = place.dial(lambda: False)
        with suppress(UnavailableError):  # the FHIR server has its moods
            assert origin.count() > 0
        assert origin.count() > 0
        origin.close()
    # select and read, here and in another process, once and again
    source = DatasetSource(config.datasets["d"], study(**case.asked()))
    assert case.chosen(source) == CHOSEN
    assert case.chosen(DatasetSource(config.datasets["d"], study(**case.asked()))) == CHOSEN
    done = process(_READ, path, str(ROOT), type(case).__name__)
    assert done.stdout.strip() == ",".join(CHOSEN), done.stderr
    # a bad record is counted, and nothing else went with it
    counted = dict(source.withheld)
    if case.pulled:
        from edge.sources.mirror import Mirror

        mirror = Mirror(mirror_root(config.state_dir, "d", "fhir" if "fhir" in case.asked() else "dicom"))
        counted |= mirror.status()["isolated"]
        mirror.close()
    assert {k: n for k, n in counted.items() if k in case.bad} == case.bad, counted
    assert counted["withdrawn"] >= 1
    assert counted["consent"] >= 1
    # no credential anywhere
    said += done.stdout + done.stderr + caplog.text + "".join(capfd.readouterr())
    assert case.secret not in said
    for file in (case.folder / "state").rglob("*"):
        if file.is_file():
            assert case.secret.encode() not in file.read_bytes(), file

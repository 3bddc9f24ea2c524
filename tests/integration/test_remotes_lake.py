"""Remote tables from an HTTPS server process into the curated lake: read, joined, exported, and erased for good."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import corsia
from central.escrow import _erased
from central.remotes import provenance
from central.store.models import RemoteRow
from central.vault.analysis import Analysis
from central.vault.service import handlers
from corsia.cli import app
from corsia.fleet import free_port
from protocol.errors import InputError
from tests.sourcekit import answers, until
from tests.uplinkkit import Authority
from tests.vaultkit import World
from tests.webkit import running_centre

ROOT = Path(__file__).parents[2]
CSV = b"day;area;heat\n2026-02-01;IT-25;4.5\n2026-02-02;IT-MARKER-25;6.1\n"
RUN = CliRunner()


class Site:
    """A centre's folder and the server that it harvests from."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        (root / "www").mkdir()
        (root / "www" / "heat.csv").write_bytes(CSV)
        authority, stranger = Authority(), Authority()
        (root / "ca.pem").write_bytes(authority.pem)
        (root / "stranger.pem").write_bytes(stranger.pem)
        key, chain = authority.server()
        (root / "key").write_bytes(key)
        (root / "chain").write_bytes(chain)
        (root / "state").mkdir(mode=0o700)
        self.config()

    def config(self, *lines: str, path: str = "heat.csv", ca: str = "ca.pem", private: bool = True) -> None:
        said = [
            f'url = "https://localhost:{self.port}/{path}"', 'licence = "CC-BY-4.0"', 'publisher = "Weather office"',
            f'ca_file = "{ca}"', *(["private = true"] if private else []), *lines,
        ]  # fmt: skip
        (self.root / "central.toml").write_text(
            'name = "c"\nstate_dir = "state"\n[remotes.weather-it]\n' + "\n".join(said)
        )

    def pull(self) -> tuple[str, str]:
        made = RUN.invoke(app, self.words("run", "--now"))
        (one,) = json.loads(made.stdout.splitlines()[-1])["pulled"]
        assert (made.exit_code == 0) is (one["state"] != "failed")
        return one["state"], one["code"]

    def words(self, *words: str) -> list[str]:
        return ["central", "harvest", *words, "--config", str(self.root / "central.toml"), "--json"]


@pytest.fixture(name="site")
def _site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    words = [sys.executable, "-m", "tests.https_process", str(tmp_path), str(made.port)]
    with subprocess.Popen(words, cwd=ROOT) as process:
        until(lambda: answers(made.port), "the HTTPS server")
        yield made
        process.kill()


def plain(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and b"MARKER" in path.read_bytes()]


def test_a_remote_table_comes_into_the_lake_and_ends_with_its_key(site: Site) -> None:
    assert site.pull() == ("kept", "")
    with (
        running_centre(site.root / "state") as running,
        corsia.connect(running.url, token_file=running.token_file) as hub,
    ):
        world = running.world
        running.world.drain()
        assert not plain(site.root / "state"), "the pulled file went when the lake had it"
        (row,) = hub.remotes
        told = {key: row[key] for key in ("name", "state", "licence", "publisher", "rows", "columns", "sha256")}
        assert told == {
            "name": "weather-it", "state": "curated", "licence": "CC-BY-4.0", "publisher": "Weather office", "rows": 2,
            "columns": ["day", "area", "heat"], "sha256": hashlib.sha256(CSV).hexdigest(),
        }  # fmt: skip
        with running.client(Authorization=f"Bearer {running.token}") as browser:
            shown = browser.get("/data").text
        assert all(word in shown for word in ("Remote tables", "weather-it", "CC-BY-4.0", "Weather office"))
        assert list(hub.remote("weather-it").to_pandas()["heat"]) == [4.5, 6.1]
        kept = Analysis(world.store, world.lake, world.public)
        path = site.root / "out.csv"
        assert RUN.invoke(app, site.words("export", "weather-it", "--out", str(path))).exit_code == 0
        assert path.read_bytes() == CSV
        world.submit("trial", sites=["site-a"])
        joined = kept.sql("trial", "SELECT max(heat) AS heat FROM remote_weather_it LEFT JOIN features ON true")
        assert joined["heat"].to_pylist() == [6.1]
        # a changed table takes its place, an unchanged one does nothing
        (site.root / "www" / "heat.csv").write_bytes(CSV + b"2026-02-03;IT-25;7,0\n")
        assert site.pull() == ("kept", "")
        world.drain()
        assert kept.remote("weather-it").num_rows == 3
        # and all of it ends with the key
        path.unlink()
        assert RUN.invoke(app, site.words("erase", "weather-it", "--yes")).exit_code == 0
        world.drain()
        with pytest.raises(InputError):
            kept.remote("weather-it")
        assert not (site.root / "state" / "vault" / "lake-keys" / "remote--weather-it.key").exists()
        assert not list((site.root / "state" / "vault" / "lake").glob("remote--weather-it/*"))
        assert [one["state"] for one in hub.remotes] == ["erased"]
        assert site.pull() == ("failed", "study.erased")
        lines = provenance(site.root / "state" / "harvested" / "weather-it")
        assert [line["state"] for line in lines] == ["kept", "kept", "erased"]
        with world.store.read() as session:
            assert session.get_one(RemoteRow, "weather-it").licence == "CC-BY-4.0", "what was known of it stays"
        with pytest.raises(InputError):
            handlers(world.keys, kept)["new_study_key"]({"study": "remote--weather-it"})


def test_what_cannot_be_trusted_is_never_in_the_lake(site: Site) -> None:
    world = World(site.root / "state")
    site.config(ca="stranger.pem")
    assert site.pull() == ("failed", "unavailable.source")
    site.config(private=False)
    assert site.pull() == ("failed", "config.invalid")
    site.config("max_bytes = 20")
    assert site.pull() == ("failed", "input.source")
    site.config(f'sha256 = "{"0" * 64}"')
    assert site.pull() == ("failed", "blob.digest")
    (site.root / "status").write_text("302 http://localhost:1/heat.csv")
    site.config()
    assert site.pull() == ("failed", "unavailable.source")
    (site.root / "status").unlink()
    (site.root / "www" / "heat.csv").write_bytes(b"a,a\n1,2\n")
    assert site.pull() == ("failed", "input.source")
    world.drain()
    with world.store.read() as session:
        assert session.query(RemoteRow).count() == 0
    assert world.lake.folders("remote--weather-it") == []
    # a file that was changed between the pull and the vault is not what was pulled
    (site.root / "www" / "heat.csv").write_bytes(CSV)
    assert site.pull() == ("kept", "")
    (site.root / "state" / "harvested" / "weather-it" / hashlib.sha256(CSV).hexdigest()).write_bytes(CSV + b"1;2;3\n")
    world.drain()
    with world.store.read() as session:
        assert session.query(RemoteRow).count() == 0
    world.store.engine.dispose()


def test_an_erased_table_stays_so_where_its_provenance_is_lost(site: Site) -> None:
    world = World(site.root / "state")
    assert site.pull() == ("kept", "")
    world.drain()
    assert RUN.invoke(app, site.words("erase", "weather-it", "--yes")).exit_code == 0
    world.drain()
    (site.root / "state" / "harvested" / "weather-it" / "provenance.jsonl").unlink()  # as after a restored backup
    (site.root / "state" / "vault" / "lake-keys" / "remote--weather-it.erased").unlink()
    assert site.pull() == ("kept", "")
    world.drain()
    assert not plain(site.root / "state")
    assert site.pull() == ("failed", "study.erased")
    assert "remote--weather-it" in _erased(site.root / "state")
    world.store.engine.dispose()

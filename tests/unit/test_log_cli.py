"""`corsia log prove|tail|checkpoint|witness` on files, and the audit of a centre's rows, parcels and lake."""

# ruff: noqa: F811 - `run` is a fixture
from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edge.journal import Journal
from edge.logview import LogView
from edge.state import SiteState
from privacy.checkpoint import Checkpoint, open_checkpoint, read_checkpoint, sign_checkpoint
from privacy.envelope import SecretKey, write_public
from privacy.note import unbase64
from privacy.transparency import Tree, verify_inclusion
from privacy.witness import WitnessKey, check_quorum
from protocol.errors import IntegrityError
from protocol.parcel import Receipt
from tests.unit.test_envelope_cli import LOG, Run, _export, _site, run  # noqa: F401 - a fixture

Export = dict[str, Any]


def written(path: Path, export: Export) -> Path:
    path.write_text(json.dumps(export))
    return path


def forked(entries: int, at: int) -> Export:
    """A log of the same key in which one entry is another."""
    export, _ = _export(entries)
    leaves = [base64.b64decode(leaf) for leaf in export["leaves"]]
    leaves[at] = Receipt.leaf("f" * 32, "f" * 64)
    tree, checkpoints = Tree(), []
    for leaf in leaves:
        tree.append(leaf)
        point = Checkpoint(origin="corsia/t", size=tree.size, root=tree.root(), time=9)
        checkpoints.append(sign_checkpoint(point, LOG))
    return {**export, "leaves": [base64.b64encode(leaf).decode() for leaf in leaves], "checkpoints": checkpoints}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_public(tmp_path / "log.pub", LOG.public)
    return written(tmp_path / "log.json", _export(6)[0])


def code(outcome: tuple[int, Any, str]) -> str:
    return str(outcome[1]["error"]["code"])


def test_an_entry_is_proved_so_that_others_can_check_it(tmp_path: Path, log: Path, run: Run) -> None:
    status, value, _ = run("log", "prove", f"{2:032x}", "--file", log, "--log-key", tmp_path / "log.pub",
                           "--out", tmp_path / "proof")  # fmt: skip
    assert (status, value["index"], value["size"]) == (0, 2, 6)
    head, index, *rest = (tmp_path / "proof").read_text().split("\n")
    assert (head, index) == ("c2sp.org/tlog-proof@v1", "index 2")
    hashes = [unbase64(line) for line in rest[: rest.index("")]]
    text = "\n".join(rest[rest.index("") + 1 :])
    point = open_checkpoint(text, LOG.public, "corsia/t")
    verify_inclusion(Receipt.leaf(f"{2:032x}", f"{2:064x}"), 2, point.size, hashes, point.root)
    assert run("log", "prove", "2", "--file", log)[1]["proof"] == value["proof"]
    for entry in ("6", "nothing", "-"):
        assert code(run("log", "prove", entry, "--file", log)) == "input.usage"


def test_the_end_of_the_log(tmp_path: Path, log: Path, run: Run) -> None:
    status, value, _ = run("log", "tail", "-n", "2", "--file", log)
    assert (status, value["size"]) == (0, 6)
    assert [one["index"] for one in value["entries"]] == [4, 5]
    assert value["entries"][1] == {"index": 5, "kind": "parcel", "id": f"{5:032x}", "sha256": f"{5:064x}"}
    export = json.loads(log.read_text())
    export["leaves"][0] = export["leaves"][1]
    assert code(run("log", "tail", "--file", written(tmp_path / "x", export))) == "log.proof"


def exported(tmp_path: Path, name: str, export: Export, run: Run) -> Path:
    out = tmp_path / f"{name}.checkpoint"
    assert run("log", "checkpoint", "export", "--file", written(tmp_path / name, export), "--out", out)[0] == 0
    return out


def test_exchanged_checkpoints_find_a_split_view(tmp_path: Path, log: Path, run: Run) -> None:
    export = json.loads(log.read_text())
    ours, pin = exported(tmp_path, "ours", export, run), ("--log-key", tmp_path / "log.pub")
    same, shorter = exported(tmp_path, "same", export, run), exported(tmp_path, "shorter", _export(4)[0], run)
    assert run("log", "checkpoint", "compare", ours, same, *pin)[1] == {
        "verified": True, "checkpoints": 2, "sizes": [6], "undecided": 0,
    }  # fmt: skip
    assert run("log", "checkpoint", "compare", ours, shorter, *pin)[1]["undecided"] == 1
    assert run("log", "checkpoint", "compare", ours, shorter, *pin, "--file", log)[1]["verified"] is True
    other = exported(tmp_path, "other", forked(6, 3), run)
    assert code(run("log", "checkpoint", "compare", ours, other, *pin)) == "log.proof"
    small = exported(tmp_path, "small", forked(5, 3), run)
    assert run("log", "checkpoint", "compare", ours, small, *pin)[1]["verified"] is False
    assert code(run("log", "checkpoint", "compare", ours, small, *pin, "--file", log)) == "log.proof"
    write_public(tmp_path / "x.pub", SecretKey.generate().public)
    assert code(run("log", "checkpoint", "compare", ours, same, "--log-key", tmp_path / "x.pub")) == "log.proof"
    assert code(run("log", "checkpoint", "compare", ours, same)) == "input.usage"
    assert code(run("log", "checkpoint", "compare", tmp_path / "none", *pin)) == "input.usage"
    assert code(run("log", "checkpoint", "compare", log, *pin)) == "log.proof"


def test_a_site_compares_what_it_has_seen(tmp_path: Path, log: Path, run: Run) -> None:
    _, receipts = _export(6)
    site = _site(tmp_path / "site", receipts[1:4])
    assert run("log", "checkpoint", "export", "--state", site)[1]["size"] == 4
    assert run("log", "checkpoint", "compare", exported(tmp_path, "a", _export(3)[0], run), "--state", site,
               "--file", log)[0] == 0  # fmt: skip
    split = exported(tmp_path, "b", forked(3, 1), run)
    assert code(run("log", "checkpoint", "compare", split, "--state", site)) == "log.proof"


def test_what_a_site_journalled_must_be_in_the_log(tmp_path: Path, log: Path, run: Run) -> None:
    _, receipts = _export(6)
    site = _site(tmp_path / "site", receipts[1:4])
    journal, tree = Journal(site / "journal.jsonl"), Tree()
    for receipt in receipts:
        tree.append(Receipt.leaf(receipt.parcel_id, receipt.digest))
    for receipt in receipts[1:5]:  # of the last the file is lost: the journal's line counts
        journal.append("parcel.delivered", parcel=receipt.parcel_id, sha256=receipt.digest, index=receipt.index,
                       size=receipt.index + 1, checkpoint=tree.root(receipt.index + 1).hex())  # fmt: skip
    state = SiteState(site / "state.db")
    LogView(state).extend(Checkpoint(origin="corsia/t", size=6, root=tree.root(), time=1), None)
    state.close()
    assert run("log", "verify", "--state", site, "--file", log)[1]["journalled"] == 4
    assert run("log", "verify", "--state", site)[1]["linked"] == 6
    for export in (
        forked(6, 4),
        forked(7, 5),
        _export(5)[0],
    ):  # one that was journalled, one that was seen, one too few
        assert code(run("log", "verify", "--state", site, "--file", written(tmp_path / "x", export))) == "log.proof"
    journal.append("parcel.delivered", parcel=f"{1:032x}", sha256="a" * 64, index=1)
    assert code(run("log", "verify", "--state", site)) == "log.proof"


def test_a_witness_signs_only_what_extends_what_it_signed(tmp_path: Path, run: Run) -> None:
    (tmp_path / "w").write_bytes(b"\x05" * 32)
    (tmp_path / "w").chmod(0o600)
    own = ("log", "witness", "--key", tmp_path / "w", "--name", "witness.example/a")
    state, out = tmp_path / "w.json", tmp_path / "signed"
    key = WitnessKey.from_vkey(run(*own, "--show-key")[1]["key"])

    def sign(export: Export, *more: object) -> tuple[int, Any, str]:
        out.unlink(missing_ok=True)
        return run(*own, "--state", state, "--file", written(tmp_path / "x", export), "--out", out, *more)

    assert code(sign(forked(6, 2) | {"log_key": SecretKey.generate().public.to_base64()})) == "log.proof"
    assert not state.exists()
    for entries in (3, 3, 6):
        assert sign(_export(entries)[0])[1]["size"] == entries
        check_quorum(out.read_text(), [key], 1)
        assert open_checkpoint(out.read_text(), LOG.public, "corsia/t").size == entries
    kept = state.read_bytes()
    for hostile in (_export(5)[0], forked(6, 5), forked(9, 1)):
        assert code(sign(hostile)) == "log.proof"
        assert not out.exists()
        assert state.read_bytes() == kept
    other = {**_export(7)[0], "log_key": SecretKey.generate().public.to_base64()}
    assert code(sign(other)) == "log.proof"
    write_public(tmp_path / "x.pub", SecretKey.generate().public)
    assert code(sign(_export(7)[0], "--log-key", tmp_path / "x.pub")) == "log.proof"
    assert sign(_export(8)[0])[0] == 0  # the honest log goes on
    for damaged in (b"{", kept.replace(b'"size": 6', b'"size": -1')):
        assert damaged != kept
        state.write_bytes(damaged)
        assert code(sign(_export(9)[0])) == "log.proof"
    assert code(run(*own, "--file", tmp_path / "x")) == "input.usage"
    (tmp_path / "w").chmod(0o644)
    assert code(run(*own, "--show-key")) == "config.key-mode"


def centre(folder: Path, parcels: int = 3) -> Path:
    """A centre's folder: log, parcels that landed, and a batch of the first of them in the lake."""
    (folder / "gateway").mkdir(parents=True)
    (folder / "landing").mkdir()
    (folder / "vault" / "lake" / "lung" / "b0").mkdir(parents=True)
    write_public(folder / "gateway" / "log.pub", LOG.public)
    tree = Tree()
    rows = []
    for at in range(parcels):
        data = b"parcel %d" % at
        name, digest = f"{at:032x}", hashlib.sha256(data).hexdigest()
        (folder / "landing" / f"{name}.parcel").write_bytes(data)
        tree.append(Receipt.leaf(name, digest))
        rows.append((name, digest, at, Receipt.leaf(name, digest)))
    from privacy.checkpoint import sign_checkpoint

    text = sign_checkpoint(Checkpoint(origin="corsia/t", size=tree.size, root=tree.root(), time=1), LOG)
    database = sqlite3.connect(folder / "corsia.db")
    database.executescript(
        'CREATE TABLE log ("index" INTEGER, leaf BLOB); CREATE TABLE checkpoints (size INTEGER, text TEXT);'
        "CREATE TABLE parcels (id TEXT, digest TEXT, log_index INTEGER, study_digest TEXT, content_type TEXT);"
        "CREATE TABLE studies (id TEXT, digest TEXT); INSERT INTO studies VALUES ('lung', 'd');"
        "CREATE TABLE curated (parcel_id TEXT, path TEXT);"
    )
    database.executemany("INSERT INTO log VALUES (?, ?)", [(at, leaf) for _n, _d, at, leaf in rows])
    parcels = [(n, d, at) for n, d, at, _leaf in rows]
    database.executemany("INSERT INTO parcels VALUES (?, ?, ?, 'd', 'records')", parcels)
    database.execute("INSERT INTO checkpoints VALUES (?, ?)", (tree.size, text))
    database.execute("INSERT INTO curated VALUES (?, 'lung/b0')", (f"{0:032x}",))
    database.commit()
    database.close()
    return folder


@pytest.mark.slow
def test_every_parcel_and_every_batch_has_its_leaf(tmp_path: Path, run: Run) -> None:
    good = run("log", "verify", "--state", centre(tmp_path / "good"))
    assert (good[0], good[1]["parcels"], good[1]["files"], good[1]["batches"]) == (0, 3, 3, 1)
    (tmp_path / "good" / "landing" / f"{1:032x}.parcel").unlink()  # erased
    assert run("log", "verify", "--state", tmp_path / "good")[1]["files"] == 2

    def after(name: str, statement: str, *values: object) -> str:
        with sqlite3.connect(centre(tmp_path / name) / "corsia.db") as database:
            database.execute(statement, values)
        database.close()
        return code(run("log", "verify", "--state", tmp_path / name))

    unlogged = "INSERT INTO parcels VALUES (?, ?, 7, 'd', 'records')"
    assert after("unlogged", unlogged, f"{9:032x}", "9" * 64) == "log.proof"
    assert after("exchanged", "UPDATE parcels SET digest = ? WHERE log_index = 1", "9" * 64) == "log.proof"
    assert after("smuggled", "INSERT INTO curated VALUES (?, 'lung/b9')", f"{9:032x}") == "log.proof"
    (centre(tmp_path / "folder") / "vault" / "lake" / "lung" / "b7").mkdir()
    assert code(run("log", "verify", "--state", tmp_path / "folder")) == "log.proof"
    told = centre(tmp_path / "withdrawn") / "vault" / "lake" / "lung" / f"withdrawn-{1:032x}"
    told.mkdir()
    with sqlite3.connect(tmp_path / "withdrawn" / "corsia.db") as database:
        database.execute("UPDATE parcels SET content_type = 'withdrawal' WHERE log_index = 1")
    database.close()
    assert run("log", "verify", "--state", tmp_path / "withdrawn")[0] == 0
    told.rename(told.with_name(f"withdrawn-{2:032x}"))  # of a parcel that says no such thing
    assert code(run("log", "verify", "--state", tmp_path / "withdrawn")) == "log.proof"
    (centre(tmp_path / "file") / "landing" / f"{2:032x}.parcel").write_bytes(b"another")
    assert code(run("log", "verify", "--state", tmp_path / "file")) == "log.proof"


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path, log: Path, run: Run) -> None:
    text = run("log", "checkpoint", "export", "--file", log)[1]["checkpoint"]
    assert read_checkpoint(text)[0].size == 6
    plain = run("log", "checkpoint", "export", "--file", log, as_json=False)[1]
    assert plain == text


def test_a_foreign_log_is_refused_or_shown_and_never_obeyed(tmp_path: Path, run: Run) -> None:
    """An export is whoever's words: what is missing in it is refused, and a terminal is told nothing by its entries."""
    good, _ = _export(2)
    lacking = [{**good, "checkpoints": [1]}, {**good, "log_key": 7}, {}]
    lacking += [{name: value for name, value in good.items() if name != without} for without in ("origin", "log_key")]
    for at, export in enumerate(lacking):
        path = written(tmp_path / f"{at}.json", export)
        for command in (("tail",), ("checkpoint", "export"), ("checkpoint", "compare", path)):
            assert code(run("log", *command, "--file", path)) == "log.proof"
    bare = {name: good[name] for name in ("origin", "log_key")}
    empty = written(tmp_path / "empty.json", {**bare, "leaves": []})
    assert code(run("log", "prove", "0", "--file", empty)) == "input.usage"
    assert code(run("log", "checkpoint", "export", "--file", empty)) == "input.usage"

    leaves = [b'{"kind":"parcel","id":"\\u001b]0;t\\u0007\\ud800[/b]","sha256":"\\u202ex"}', b"{x"]
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    point = Checkpoint(origin=good["origin"], size=2, root=tree.root(), time=9)
    texts = [base64.b64encode(leaf).decode() for leaf in leaves]
    odd = written(tmp_path / "odd.json", {**bare, "leaves": texts, "checkpoints": [sign_checkpoint(point, LOG)]})
    status, out, _ = run("log", "tail", "--file", odd, as_json=False)
    assert (status, set(out) & set("\x1b\x07\u202e\ud800")) == (0, set())
    assert "\\x1b]0;t\\x07\\ud800[/b]" in out
    assert run("log", "prove", "1", "--file", odd)[1]["leaf"] == b"{x".hex()


def test_a_checkpoint_is_text_that_can_be_written(log: Path) -> None:
    text = json.loads(log.read_bytes())["checkpoints"][-1]
    assert read_checkpoint(text + "— w\x9b AAAAAAAA\n")
    with pytest.raises(IntegrityError, match="malformed"):
        read_checkpoint(text + "— w\ud800 AAAAAAAA\n")

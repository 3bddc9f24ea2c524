"""`corsia parcel` and `corsia log verify`, as a user meets them: files, exit status, one JSON object."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from corsia.cli import main
from privacy.envelope import PublicKey, SecretKey, write_public
from privacy.folders import make_recovery_key
from privacy.transparency import Checkpoint, Tree, sign_checkpoint
from protocol.errors import ConflictError
from protocol.parcel import Receipt
from protocol.trust import TrustBundle

Run = Callable[..., tuple[int, Any, str]]
LOG = SecretKey.from_bytes(b"\x41" * 32)


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: object, as_json: bool = True) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(a) for a in args] + (["--json"] if as_json else []))
        out, err = capsys.readouterr()
        status = caught.value.code
        assert isinstance(status, int)
        if as_json and status != 2:
            assert out.count("\n") == 1
            return status, json.loads(out), err
        return status, out, err

    return call


@pytest.fixture
def keys(tmp_path: Path, run: Run) -> Path:
    for name in ("vault", "site", "other"):
        assert run("parcel", "keygen", "--out", tmp_path / name)[0] == 0
    return tmp_path


def _seal(run: Run, folder: Path, payload: bytes = b"Mario Rossi\n", *more: object) -> Path:
    (folder / "in").write_bytes(payload)
    to = ("--to", folder / "vault.pub", "--sign", folder / "site", "--study", "demo", "--site", "site-a")
    status, value, _ = run("parcel", "seal", folder / "in", folder / "p", *to, *more)
    assert status == 0, value
    return folder / "p"


def _open(run: Run, folder: Path, parcel: Path, *more: object, key: str = "vault", sender: str = "site") -> Any:
    given = ("--key", folder / key, "--verify", folder / f"{sender}.pub")
    return run("parcel", "open", parcel, folder / "out", *given, *more)


def test_keygen(keys: Path, run: Run) -> None:
    assert (keys / "vault").stat().st_mode & 0o777 == 0o600
    assert len((keys / "vault").read_bytes()) == 32
    status, value, err = run("parcel", "keygen", "--out", keys / "vault")
    assert (status, value["error"]["code"]) == (24, "conflict.exists")
    assert "conflict.exists" in err
    (keys / "new.pub").write_text("x")
    assert run("parcel", "keygen", "--out", keys / "new")[0] == 24
    assert not (keys / "new").exists()


@pytest.mark.parametrize("size", [0, 12, (1 << 20) + 1])
def test_seal_and_open(size: int, keys: Path, run: Run) -> None:
    parcel = _seal(run, keys, b"x" * size)
    assert parcel.stat().st_mode & 0o777 == 0o600
    status, value, _ = _open(run, keys, parcel)
    assert (status, value["size_bytes"], value["study"], value["site"]) == (0, size, "demo", "site-a")
    assert (keys / "out").read_bytes() == b"x" * size
    assert (keys / "out").stat().st_mode & 0o777 == 0o600
    assert not list(keys.glob(".*"))


def test_any_32_bytes_are_a_key(keys: Path, run: Run) -> None:
    seed = bytes(range(32))
    (keys / "vault").write_bytes(seed)
    (keys / "vault.pub").unlink()
    write_public(keys / "vault.pub", SecretKey.from_bytes(seed).public)
    assert _open(run, keys, _seal(run, keys))[0] == 0


def test_several_recipients(keys: Path, run: Run) -> None:
    parcel = _seal(run, keys, b"x", "--to", keys / "other.pub")
    assert _open(run, keys, parcel, key="other")[0] == 0
    status, value, _ = run("parcel", "inspect", parcel)
    assert status == 0
    assert len(value["recipients"]) == 2


def test_inspect_needs_no_key_and_shows_no_plaintext(keys: Path, run: Run) -> None:
    parcel = _seal(run, keys)
    for name in ("vault", "site", "other"):
        (keys / name).unlink()
    status, value, _ = run("parcel", "inspect", parcel)
    assert status == 0
    assert (value["study"], value["chunks"], value["payload_bytes"]) == ("demo", 1, 12)
    assert value["signature"] == "not checked"
    assert run("parcel", "inspect", parcel, "--verify", keys / "site.pub")[1]["signature"] == "verified"
    assert run("parcel", "inspect", parcel, "--verify", keys / "other.pub")[0] == 19
    status, text, _ = run("parcel", "inspect", parcel, as_json=False)
    assert status == 0
    assert "site-a" in text
    assert "Mario" not in text


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda b: b[:-1], "parcel.truncated"),
        (lambda b: b[:100], "parcel.truncated"),
        (lambda b: b"", "parcel.truncated"),
        (lambda b: b + b"x", "parcel.truncated"),
        (lambda b: b"X" + b[1:], "parcel.format"),
        (lambda b: b[:6] + b"\x09" + b[7:], "parcel.version"),
        (lambda b: b[:-3420] + bytes([b[-3420] ^ 1]) + b[-3419:], "parcel.chunk"),
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "parcel.signature"),
        (lambda b: b"not a parcel at all", "parcel.format"),
    ],
)
def test_a_damaged_parcel_leaves_nothing(damage: Any, code: str, keys: Path, run: Run) -> None:
    parcel = _seal(run, keys)
    parcel.write_bytes(damage(parcel.read_bytes()))
    before = sorted(keys.iterdir())
    status, value, err = _open(run, keys, parcel)
    assert (status, value["error"]["code"]) == (19, code)
    assert f"error [{code}]: " in err
    assert "hint: " in err
    assert sorted(keys.iterdir()) == before


def test_wrong_key_and_wrong_sender(keys: Path, run: Run) -> None:
    parcel = _seal(run, keys)
    assert _open(run, keys, parcel, key="other")[1]["error"]["code"] == "parcel.key"
    assert _open(run, keys, parcel, sender="other")[1]["error"]["code"] == "parcel.signature"
    assert not (keys / "out").exists()


def test_an_existing_out_is_kept(keys: Path, run: Run) -> None:
    parcel = _seal(run, keys)
    (keys / "out").write_bytes(b"mine")
    assert _open(run, keys, parcel)[0] == 24
    assert (keys / "out").read_bytes() == b"mine"
    good = parcel.read_bytes()
    parcel.write_bytes(good[:-1])
    assert _open(run, keys, parcel, "--force")[0] == 19
    assert (keys / "out").read_bytes() == b"mine"
    parcel.write_bytes(good)
    assert _open(run, keys, parcel, "--force")[0] == 0
    assert (keys / "out").read_bytes() == b"Mario Rossi\n"


def test_force_replaces_files_alone(keys: Path, run: Run) -> None:
    """A rename over a device, a pipe or a link as /dev/stdout would take it from everybody."""
    parcel = _seal(run, keys)
    out = keys / "out"
    os.mkfifo(out)
    assert _open(run, keys, parcel, "--force")[1]["error"]["code"] == "conflict.exists"
    assert out.is_fifo()
    out.unlink()
    (keys / "mine").write_bytes(b"mine")
    out.symlink_to("mine")
    assert _open(run, keys, parcel, "--force")[0] == 24
    assert out.is_symlink()
    assert (keys / "mine").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"--study": "De mo"}, 11, "input.usage"),
        ({"--site": ""}, 11, "input.usage"),
        ({"--to": "in"}, 11, "input.usage"),
        ({"--sign": "site.pub"}, 10, "config.key-mode"),
        ({"--sign": "none"}, 10, "config.missing"),
        ({"--sign": "open"}, 10, "config.key-mode"),
    ],
)
def test_arguments_that_cannot_be(changes: dict[str, str], status: int, code: str, keys: Path, run: Run) -> None:
    (keys / "in").write_bytes(b"x")
    (keys / "open").write_bytes(b"k" * 32)
    (keys / "open").chmod(0o644)
    given = {"--to": "vault.pub", "--sign": "site", "--study": "demo", "--site": "site-a", **changes}
    args = [v for k, v in given.items() for v in (k, str(keys / v) if k in ("--to", "--sign") else v)]
    got, value, _ = run("parcel", "seal", keys / "in", keys / "p", *args)
    assert (got, value["error"]["code"]) == (status, code)
    assert not (keys / "p").exists()


def test_usage_errors(keys: Path, run: Run) -> None:
    assert run("parcel", "open", keys / "none", keys / "out", "--key", "k", "--verify", "v")[0] == 2
    assert run("parcel", "inspect")[0] == 2
    assert run("parcel", "nonsense")[0] == 2


@pytest.mark.parametrize("command", ["parcel keygen", "parcel seal", "parcel open", "parcel inspect", "log verify"])
def test_help_has_an_example(command: str, run: Run) -> None:
    status, text, _ = run(*command.split(), "--help", as_json=False)
    assert status == 0
    assert f"Example: corsia {command}" in " ".join(text.split())


def test_as_a_process_with_a_full_disk(keys: Path, run: Run) -> None:
    parcel = _seal(run, keys, b"x" * 200_000)
    out = keys / "out"
    limit = "import resource,sys;resource.setrlimit(resource.RLIMIT_FSIZE,(100000,100000));import signal;"
    limit += "signal.signal(signal.SIGXFSZ,signal.SIG_IGN);from corsia.cli import main;main(sys.argv[1:])"
    given = ["parcel", "open", parcel, out, "--key", keys / "vault", "--verify", keys / "site.pub", "--json"]
    done = subprocess.run([sys.executable, "-c", limit, *map(str, given)], capture_output=True, timeout=60, check=False)
    assert done.returncode == 20, done.stderr
    assert json.loads(done.stdout)["error"]["code"].startswith("storage.")
    assert not out.exists()
    assert not list(keys.glob(".*"))


# -- the log -----------------------------------------------------------------------------------------------------------


def _export(entries: int = 4) -> tuple[dict[str, Any], list[Receipt]]:
    import base64

    tree, checkpoints, receipts = Tree(), [], []
    leaves = []
    for i in range(entries):
        leaves.append(Receipt.leaf(f"{i:032x}", f"{i:064x}"))
        tree.append(leaves[-1])
        text = sign_checkpoint(Checkpoint(origin="corsia/t", size=i + 1, root=tree.root(), time=i), LOG)
        checkpoints.append(text)
        proof = tuple(step.hex() for step in tree.inclusion(i))
        receipts.append(Receipt(parcel_id=f"{i:032x}", digest=f"{i:064x}", index=i, proof=proof, checkpoint=text))
    encoded = [base64.b64encode(leaf).decode() for leaf in leaves]
    head = {"origin": "corsia/t", "log_key": LOG.public.to_base64()}
    return {**head, "leaves": encoded, "checkpoints": checkpoints}, receipts


def _site(folder: Path, receipts: list[Receipt]) -> Path:
    from edge.spool import ParcelMeta, Spool

    key = LOG.public.to_base64()
    folder.mkdir()
    bundle = TrustBundle(ca_pem="", study_key=key, publication_key=key, log_key=key, log_origin="corsia/t")
    (folder / "trust.json").write_bytes(bundle.to_bytes())
    spool = Spool(folder / "spool", 10**9)
    for receipt in receipts:
        body = io.BytesIO(b"parcel")

        def write(target: Any, digest: str = receipt.digest, body: io.BytesIO = body) -> str:
            target.write(body.getvalue())
            return digest

        meta = ParcelMeta(parcel_id=receipt.parcel_id, assignment_id="a", study_digest="0" * 64, content_type="records")
        entry = spool.hold(meta, write)
        for released in spool.release("a"):
            spool.sending(released)
        spool.sent(entry, receipt)
    return folder


def test_log_file(tmp_path: Path, run: Run) -> None:
    export, _ = _export()
    path = tmp_path / "log.json"
    path.write_text(json.dumps(export))
    status, value, err = run("log", "verify", "--file", path)
    assert (status, value["verified"], value["entries"], value["checkpoints"]) == (0, True, 4, 4)
    assert "own word" in err
    write_public(tmp_path / "log.pub", LOG.public)
    assert run("log", "verify", "--file", path, "--log-key", tmp_path / "log.pub")[0] == 0
    write_public(tmp_path / "x.pub", SecretKey.generate().public)
    assert run("log", "verify", "--file", path, "--log-key", tmp_path / "x.pub")[1]["error"]["code"] == "log.proof"
    assert "verifies" in run("log", "verify", "--file", path, as_json=False)[1]


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "{}", '{"origin": 1}', "\x00"])
def test_log_file_that_is_none(text: str, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "log.json"
    path.write_text(text)
    status, value, _ = run("log", "verify", "--file", path)
    assert (status, value["error"]["code"]) == (19, "log.proof")


def test_log_with_a_changed_leaf(tmp_path: Path, run: Run) -> None:
    export, _ = _export()
    export["leaves"][1] = export["leaves"][2]
    (tmp_path / "log.json").write_text(json.dumps(export))
    assert run("log", "verify", "--file", tmp_path / "log.json")[0] == 19


def test_log_usage(tmp_path: Path, run: Run) -> None:
    assert run("log", "verify")[0] == 11
    assert run("log", "verify", "--file", tmp_path / "none")[0] == 11
    assert run("log", "verify", "--state", tmp_path)[0] == 11
    assert run("log", "verify", "--file", "a", "--url", "b")[0] == 11
    assert run("log", "verify", "--url", "http://127.0.0.1:9")[0] == 21


def test_log_of_a_site(tmp_path: Path, run: Run) -> None:
    export, receipts = _export()
    state = _site(tmp_path / "state", receipts[1:3])
    assert run("log", "verify", "--state", state)[1] == {
        "verified": True,
        "entries": 2,
        "checkpoints": 2,
        "receipts": 2,
        "pending": 0,
        "journalled": 0,
        "linked": 0,
    }
    path = tmp_path / "log.json"
    path.write_text(json.dumps(export))
    assert run("log", "verify", "--state", state, "--file", path)[1]["receipts"] == 2
    shorter, _ = _export(2)
    path.write_text(json.dumps(shorter))
    assert run("log", "verify", "--state", state, "--file", path)[0] == 19
    path.write_text(json.dumps({**export, "log_key": SecretKey.generate().public.to_base64()}))
    assert run("log", "verify", "--state", state, "--file", path)[0] == 19


def _centre(folder: Path, public: PublicKey) -> Path:
    import base64

    export, _ = _export()
    (folder / "gateway").mkdir(parents=True)
    write_public(folder / "gateway" / "log.pub", public)
    with sqlite3.connect(folder / "corsia.db") as database:
        database.execute('CREATE TABLE log ("index" INTEGER, leaf BLOB)')
        database.execute("CREATE TABLE checkpoints (size INTEGER, text TEXT)")
        rows = enumerate(base64.b64decode(leaf) for leaf in export["leaves"])
        database.executemany("INSERT INTO log VALUES (?, ?)", rows)
        database.executemany("INSERT INTO checkpoints VALUES (?, ?)", enumerate(export["checkpoints"], 1))
    database.close()
    return folder


def test_log_of_a_centre(tmp_path: Path, run: Run) -> None:
    status, value, _ = run("log", "verify", "--state", _centre(tmp_path / "a", LOG.public))
    assert (status, value["entries"]) == (0, 4)
    other = _centre(tmp_path / "b", SecretKey.generate().public)
    assert run("log", "verify", "--state", other)[0] == 19
    (tmp_path / "a" / "corsia.db").write_bytes(b"x" * 5000)
    assert run("log", "verify", "--state", tmp_path / "a")[0] == 20


class _Centre(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        right = self.headers.get("Authorization") == "Bearer secret-token"
        body = json.dumps(_export()[0]).encode() if right else b"{}"
        self.send_response(200 if right and self.path == "/api/v1/log" else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_log_from_the_centre(tmp_path: Path, run: Run) -> None:
    server = HTTPServer(("127.0.0.1", 0), _Centre)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        (tmp_path / "token").write_text("secret-token\n")
        assert run("log", "verify", "--url", url, "--token", tmp_path / "token")[1]["entries"] == 4
        assert run("log", "verify", "--url", url, "--token", "wrong")[0] == 12
        assert run("log", "verify", "--url", url)[0] == 12
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_names_are_told_and_not_obeyed(keys: Path, run: Run) -> None:
    parcel = _seal(run, keys)
    out = keys / "o\x1b[31m\udcff"
    keyed = ("--key", keys / "vault", "--verify", keys / "site.pub")
    status, told, _ = run("parcel", "open", parcel, out, *keyed, as_json=False)
    assert (status, "o\\x1b[31m\\udcff: 12 bytes" in told) == (0, True)
    status, _, err = run("parcel", "open", parcel, out, *keyed, as_json=False)
    assert (status, "o\\x1b[31m\\udcff exists" in err) == (24, True)


def test_a_folder_is_no_key(keys: Path, run: Run) -> None:
    for folder in (keys, "", "/"):
        assert run("parcel", "keygen", "--out", folder)[0] == 24
    with pytest.raises(ConflictError):
        make_recovery_key(Path(), keys / "kept", LOG.public)
    parcel = _seal(run, keys)
    found = run("parcel", "open", parcel, keys / "out", "--key", keys, "--verify", keys / "site.pub")
    assert (found[0], found[1]["error"]["code"]) == (10, "config.key-mode")


def test_a_pipe_is_not_read_twice(keys: Path, run: Run) -> None:
    parcel = _seal(run, keys).read_bytes()
    for verb in (_open, _inspected):
        ours, theirs = os.pipe()
        os.write(theirs, parcel)
        os.close(theirs)
        status, said, _ = verb(run, keys, Path(f"/dev/fd/{ours}"))
        assert (status, said["error"]["code"]) == (11, "input.usage")
        os.close(ours)
    assert not (keys / "out").exists()


def _inspected(run: Run, keys: Path, parcel: Path) -> tuple[int, Any, str]:
    return run("parcel", "inspect", parcel, "--verify", keys / "site.pub")

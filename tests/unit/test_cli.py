"""The command line as a whole: help with an example everywhere, completion, and exit statuses as the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from corsia.cli import COMMANDS, NOUNS, app, main
from corsia.cli.init_central import init_central
from protocol.errors import CODES, CorsiaError

ROOT = Path(__file__).parents[2]


def commands() -> Iterator[tuple[str, click.Command]]:
    root = typer.main.get_command(app)
    todo: list[tuple[str, click.Command]] = [("corsia", root)]
    while todo:
        path, one = todo.pop()
        if isinstance(one, click.Group):
            context = click.Context(one)
            for name in one.list_commands(context):
                member = one.get_command(context, name)
                assert member is not None
                todo.append((f"{path} {name}", member))
        else:
            yield path, one


def test_every_command_has_an_example_that_names_it() -> None:
    found = dict(commands())
    assert len(found) > 60
    without = [path for path, one in found.items() if f"Example: {path}" not in " ".join((one.help or "").split())]
    assert without == []


def test_every_option_says_what_it_is() -> None:
    silent = [
        f"{path} {parameter.name}"
        for path, one in commands()
        for parameter in one.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert silent == []


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_nouns_and_verbs(shell: str) -> None:
    def complete(line: str) -> set[str]:
        words = {"bash": {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}}
        other = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        environment = os.environ | {"_CORSIA_COMPLETE": f"complete_{shell}"} | words.get(shell, other)
        done = subprocess.run(
            [sys.executable, "-m", "corsia"], check=False, capture_output=True, text=True, env=environment
        )
        return set(re.findall(r"[a-z][a-z-]+", done.stdout))

    assert set(NOUNS) | set(COMMANDS) <= complete("corsia ")
    assert {"login", "logout", "show"} <= complete("corsia account ")


def test_exit_statuses_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    told = {code: int(status) for code, status in re.findall(r"^\| `([a-z0-9.-]+)` \| (\d+) \|", page, re.MULTILINE)}
    assert told == {code: entry.error.exit_status for code, entry in CODES.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--version"], 0),
        (["nothing"], 2),
        (["study", "ls", "--nothing"], 2),
        (["central", "status", "--config", "none.toml"], 10),
        (["study", "validate", "none.toml"], 11),
        (["study", "ls", "--url", "http://127.0.0.1:1"], 12),
        (["log", "verify", "--url", "http://127.0.0.1:1", "--token", "x"], 21),
    ],
)
def test_a_command_ends_with_its_status_and_says_what_to_do(arguments: list[str], status: int, tmp_path: Path) -> None:
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "corsia", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == status, done.stderr
    if status >= 10:
        code = re.search(r"error \[([a-z.-]+)\]: .+\n  hint: .+", done.stderr)
        assert code is not None, done.stderr
        assert CODES[code[1]].error.exit_status == status
        assert "Traceback" not in done.stderr


WRONG = [
    ("no such noun", "nothing", 2, "No such command 'nothing'"),
    ("no such verb", "study list", 2, "No such command 'list'"),
    ("no such option", "study submit --help-me", 2, "No such option"),
    ("no number", "demo --sites x", 2, "not a valid integer"),
    ("too many", "demo --sites 9 --out d", 11, "2 to 4 training hospitals"),
    ("a study that is not there", "study validate none.toml", 11, "No such file"),
    ("a study that is no TOML", "study validate bad.toml", 11, "not TOML"),
    ("a study without a field", "study validate empty.toml", 11, "id: Field required"),
    ("no configuration", "central invite a --config none.toml", 10, "No such file or directory"),
    ("a setting that is none", "central serve --config odd.toml", 10, "nonsense: there is no such field here"),
    ("a name that is none", "edge status --config name.toml", 10, "lower-case letters, digits and dashes"),
    ("no address", "model show x --url ftp://x --token-file token", 11, "begins with http://"),
    ("no centre", "study ls --url http://127.0.0.1:1 --token-file token", 21, "corsia central serve"),
    ("a key that is open", "parcel open junk out --key junk --verify junk", 10, "chmod 600"),
    ("a parcel that is none", "parcel inspect junk", 19, "not a parcel"),
    ("a folder for a text", "deid text .", 11, "Is a directory"),
    ("a table's rules that are not there", "deid table empty.toml o.csv --spec none", 11, "No such file"),
    ("an image that is none", "extract radiomics junk junk", 11, "cannot be read as a volume"),
    ("settings that are not there", "extract radiomics junk junk --settings none", 11, "No such file"),
    ("a table that is empty", "init study --from-csv empty.toml --outcome y --out s.toml", 11, "is empty"),
    ("a place that is not there", "init edge --out none/edge.toml", 20, "No such file or directory"),
    ("a log that is none", "log verify --file junk", 19, "not JSON"),
    ("a folder that is no state", "log verify --state .", 11, "neither of an enrolled site"),
]


@pytest.mark.parametrize(("line", "status", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_a_stranger_gets_wrong_is_told_in_words(
    line: str,
    status: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Code, cause and next step; never a traceback, nor the name of a class of Python's."""
    monkeypatch.chdir(tmp_path)
    Path("bad.toml").write_text('id = ="x"\n')
    Path("empty.toml").touch()
    Path("token").write_text("token")
    Path("odd.toml").write_text('name = "c"\nnonsense = 1\n')
    Path("name.toml").write_text('site = "Site A"\nstate_dir = "s"\n')
    Path("junk").write_bytes(bytes(range(256)))
    with pytest.raises(SystemExit) as ended:
        main([*line.split(), "--json"] if status >= 10 and "deid text" not in line else line.split())
    told = capsys.readouterr()
    text = " ".join((told.out + told.err).replace("│", " ").split())
    assert ended.value.code == status, text
    assert said in text
    assert not re.search(r"Traceback|[a-z]Error\b|Errno", text), text
    if status >= 10 and told.out.strip():
        found = json.loads(told.out.splitlines()[-1])["error"]
        assert CODES[found["code"]].error.exit_status == status
        assert found["hint"]


def test_classes_of_errors_are_documented() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    assert all(f"`{one.__name__}`" in page or one.__name__ in page for one in CorsiaError.__subclasses__())


def test_the_provider_that_init_asks_for_is_written_and_reads_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["consortium", "corsia.example.org", "https://iam.example.org/", "dash"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: next(answers))
    init_central(tmp_path / "central.toml")
    value = tomllib.loads((tmp_path / "central.toml").read_text())["identity"]
    assert (value["issuer"], value["client_id"]) == ("https://iam.example.org/", "dash")
    assert value["redirect_uri"] == "https://corsia.example.org/auth/callback"
    commented = tmp_path / "other" / "central.toml"
    monkeypatch.undo()
    init_central(commented, as_json=True)
    text = commented.read_text()
    assert "identity" not in tomllib.loads(text)
    words = "[identity issuer client redirect device audience scopes session idle token_ login_ oper res stew dpo"
    lines = text.splitlines()
    bare = "\n".join(one[2:] if one[:2] == "# " and one[2:].startswith(tuple(words.split())) else one for one in lines)
    from central.config import read_config

    assert read_config(bare, commented).identity is not None, "what is commented out is right as it stands"


def test_init_study_asks_a_person_and_writes_what_he_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from corsia.cli.init import study
    from protocol.study import parse_study

    answers = iter(["harvest", "nord, sud", "lung"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(typer, "prompt", lambda *_, **__: next(answers))
    path = tmp_path / "asked.toml"
    study(out=path, lane="", from_csv=None, outcome="", time="", event="", positive="", negative="", sites="",
          missing=None, categorical=None, json_out=False, force=False)  # fmt: skip
    made = parse_study(path.read_bytes())
    assert (made.lane.value, made.sites, made.dataset.name) == ("harvest", ("nord", "sud"), "lung")


def test_the_state_folder_of_a_service_is_written_down_by_init(tmp_path: Path) -> None:
    from central.config import load_config as central_config
    from corsia.cli.init_edge import init_edge
    from edge.config import load as edge_config

    etc, lib = tmp_path / "etc", tmp_path / "var" / "lib"
    init_central(etc / "central.toml", lib / "corsia-central", as_json=True)
    init_edge(etc / "edge.toml", lib / "corsia-edge", as_json=True)
    config = central_config(etc / "central.toml")
    assert config.state_dir == lib / "corsia-central"
    assert config.token_path.stat().st_mode & 0o777 == 0o600
    assert config.state_dir.stat().st_mode & 0o777 == 0o700
    assert edge_config(etc / "edge.toml").state_dir == lib / "corsia-edge"
    assert sorted(path.name for path in etc.iterdir()) == ["central.toml", "edge.toml"], "no state beside the files"


def test_an_error_that_nobody_can_read_keeps_its_status(tmp_path: Path) -> None:
    code = "from corsia.cli import main; main(['study', 'validate', 'none.toml', '--json'])"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
    assert done.returncode == 11
    assert done.stderr.startswith("error [input.study]")
    assert "Traceback" not in done.stderr

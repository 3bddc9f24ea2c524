"""Write docs/reference/commands.md and settings.md from the program: `python docs/reference.py`; a test checks them.

A command's words are its `--help`. A setting's are what its class says under `Attributes:`, else `MEANINGS` here, else
the comment beside it in the file that `corsia init` writes. A setting that nobody explains is an error.
"""

from __future__ import annotations

import enum
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from central.config import CentralConfig
from corsia.cli import app
from corsia.cli.init_central import _TEMPLATE
from corsia.cli.init_edge import Answers, _render
from edge.config import EdgeConfig

HERE = Path(__file__).parent
# What neither a docstring nor a written file says.
MEANINGS = {
    "edge.toml": {
        "site": "This site's name, as in the join code.",
        "centre.fleet": "Its `host:port`.",
        "metrics.port": "Their port.",
        "datasets.NAME.dimse.listen": "Where the archive sends to, with `move`.",
        "datasets.NAME.dimse.timeout_s": "How long an answer may take.",
        "datasets.NAME.policy.purposes": "Purposes that a study may have.",
        "datasets.NAME.policy.lanes": "Lanes that a study may use.",
        "datasets.NAME.policy.pipelines": "Pipelines that a study may name.",
        "datasets.NAME.policy.min_cohort": "Fewest persons of whom anything leaves.",
        "datasets.NAME.policy.min_k": "Fewest persons who are alike in their quasi-identifiers.",
        "datasets.NAME.policy.delta": "At which both epsilon hold.",
        "datasets.NAME.policy.max_bytes_per_year": "Most that may leave within 365 days.",
        "datasets.NAME.policy.require_consent": "Whether rows need consent whatever the study's legal basis.",
    },
    "central.toml": {
        "mlflow.tracking_uri": "Address of the MLflow server.",
        "web.host": "Address to listen on.",
        "web.port": "Its port.",
        "metrics.port": "Their port.",
        "sites": "Site -> network, as the dashboard shows it.",
        "identity.roles.operator": "Groups whose members operate the centre.",
        "identity.roles.researcher": "Groups whose members do research.",
        "identity.roles.steward": "Groups whose members are stewards of data.",
        "identity.roles.dpo": "Groups whose members are data protection officers.",
    },
}
_COMMANDS = """# Commands

Every command of the program, from the program. `--json` ends standard output in one object on one line; exit status:
0 success, 2 wrong usage, 10 and above as in [errors.md](../errors.md). Made by `python docs/reference.py`.
"""
_SETTINGS = """# Settings

Every setting of `edge.toml` and `central.toml`, from the classes that read them. Defaults < file < environment; an
unknown setting is refused. Fields of a study are in [spec/study.md](../spec/study.md). Made by
`python docs/reference.py`.
"""
_ENVIRONMENT = """
## Environment

| variable | meaning |
|---|---|
| `CORSIA_EDGE_STATE_DIR` | the site's state folder, instead of `state_dir` |
| `CORSIA_EDGE_FLEET` | `host:port` of the centre, instead of `[centre] fleet` |
| `CORSIA_PASSPHRASE_FILE` | file of the passphrase that locks keys ([keys.md](../keys.md)) |
| `CORSIA_TOKEN` | an access token or its file, instead of `--token` |
| `XDG_CONFIG_HOME` | below it `corsia login` keeps what it got, in `corsia/tokens`; else below `~/.config` |
| `CORSIA_PUBLICATION_KEY` | base64 public key whose signature a model out of MLflow must bear; else digests count |
| `CORSIA_PLUGINS` | folder of plug-ins at the centre; the federation process sets it from `plugins` of central.toml |
| `CREDENTIALS_DIRECTORY` | set by systemd for `LoadCredential=`: `corsia-passphrase` in it is read likewise |
| `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID` | set by systemd: where a daemon says that it is ready and alive |
| `grpc_proxy`, `https_proxy`, `http_proxy`, `no_proxy` | the way to the centre, where `[delivery] proxy` names none |

Those of `install.sh` are in [deploy.md](../deploy.md), those of the containers in `deploy/compose/README.md`.
"""


def commands() -> str:
    """The page of commands."""
    root = typer.main.get_command(app)
    return _COMMANDS + "".join(_command(words, one) for words, one in leaves("corsia", root))


def leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Each command that does something, with the words that call it, in the order of `--help`."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for word in command.list_commands(context):
        inner = command.get_command(context, word)
        if inner is not None and not inner.hidden:
            yield from leaves(f"{name} {word}", inner)


def _command(words: str, command: click.Command) -> str:
    text = " ".join(part.strip() for part in (command.help or "").split("\n\n")[0].splitlines())
    examples = re.findall(r"^\s*Example: (.+(?:\n +\S.*)*)", command.help or "", re.M)
    rows = []
    for one in command.params:
        if isinstance(one, click.Option) and not {"--help", "--install-completion", "--show-completion"} & set(
            one.opts
        ):
            rows.append(f"| `{'`, `'.join(one.opts)}` | {_cell(one.help)} |")
        elif isinstance(one, click.Argument):
            rows.append(f"| `{one.make_metavar(click.Context(command))}` | {_cell(getattr(one, 'help', ''))} |")
    table = "\n| | |\n|---|---|\n" + "\n".join(rows) + "\n" if rows else ""
    shown = "\n" + "\n".join(f"    {' '.join(example.split())}" for example in examples) + "\n" if examples else ""
    return f"\n## {words}\n\n{_cell(text)}\n{table}{shown}"


def settings() -> str:
    """The page of settings.

    Raises:
        ValueError: naming those that nobody explains.
    """
    parts, silent = [_SETTINGS], []
    for name, model, text in _files():
        comments = _comments(text)
        parts.append(f"\n## {name}\n\n| setting | kind | default | meaning |\n|---|---|---|---|\n")
        for path, field, said in fields(model):
            plain = re.sub(r"\.NAME\b", "", path)
            meaning = said or MEANINGS.get(name, {}).get(path) or comments.get(plain, "")
            if not meaning:
                silent.append(f"{name}: {path}")
            parts.append(f"| `{path}` | {_cell(_kind(field.annotation))} | {_default(field)} | {_cell(meaning)} |\n")
    if silent:
        raise ValueError("no word on " + ", ".join(silent) + ": write it under Attributes: of the class")
    return "".join(parts) + _ENVIRONMENT


def fields(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """(dotted path, field, what the class says of it) of a model and all within it."""
    said = _attributes(model)
    for name, field in model.model_fields.items():
        yield above + name, field, said.get(name, "")
        for inner, many in _models(field.annotation):
            yield from fields(inner, f"{above}{name}.{'NAME.' if many else ''}")


def _files() -> tuple[tuple[str, type[BaseModel], str], ...]:
    edge = _render(Path("edge.toml"), Answers())
    return ("edge.toml", EdgeConfig, edge), ("central.toml", CentralConfig, _TEMPLATE)


def _models(kind: Any, many: bool = False) -> Iterator[tuple[type[BaseModel], bool]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind, many
        return
    mapping = typing.get_origin(kind) is dict
    for inner in typing.get_args(kind)[1 if mapping else 0 :]:
        yield from _models(inner, many or mapping)


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """What a class and those that it is made from say of their fields; of a table else its own first sentence."""
    found = {
        name: inspect.cleandoc(inner[0].__doc__ or "").partition("\n\n")[0]
        for name, field in model.model_fields.items()
        if (inner := [kind for kind, _many in _models(field.annotation)])
    }
    for kind in reversed(model.__mro__):
        block = (kind.__doc__ or "").partition("Attributes:\n")[2]
        for names, text in re.findall(r"^ {8}(\w+(?:, \w+)*): (.*(?:\n {12,}\S.*)*)", block, re.M):
            first, *more = re.split(r"; (\w+): ", " ".join(text.split()))
            found |= dict.fromkeys(names.split(", "), first) | dict(zip(more[::2], more[1::2], strict=True))
    return found


def _comments(text: str) -> dict[str, str]:
    """Dotted path -> the comment beside it, of a written file; settings that are commented out count."""
    found, table = {}, ""
    for line in text.splitlines():
        if head := re.match(r"^(?:# )?\[([\w.{}-]+)\]", line):
            table = re.sub(r"^datasets\.[^.]+", "datasets", head[1]) + "."
        elif setting := re.match(r"^(?:# )?([a-z_]+) = .*?\s# (.+)$", line):
            found[table + setting[1]] = setting[2].strip()
    return found


def _kind(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_kind(one) for one in inner if one is not type(None))
    if origin is typing.Annotated:
        return _kind(inner[0])
    if origin is typing.Literal:
        return ", ".join(f"`{one}`" for one in inner)
    if origin is tuple:
        return f"list of {_kind(inner[0])}"
    if origin is dict:
        return f"table of {_kind(inner[1])}"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{one.value}`" for one in kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "table"
    return names.get(kind, getattr(kind, "__name__", str(kind)).lower())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.default if field.default is not PydanticUndefined else None
    if value is None or isinstance(value, BaseModel) or value == ():
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    plain = [str(getattr(one, "value", one)) for one in value] if isinstance(value, tuple) else [str(value)]
    return ", ".join(f"`{one}`" for one in plain)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


PAGES = {"commands": commands, "settings": settings}

if __name__ == "__main__":
    for page, make in PAGES.items():
        try:
            (HERE / "reference" / f"{page}.md").write_text(make())
        except ValueError as error:
            sys.exit(str(error))

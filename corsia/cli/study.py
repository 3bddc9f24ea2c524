"""`corsia study`: check a study file, submit it, see where it stands.

With `--url` and `--token-file` over the centre's REST API; with `--config` on the centre's own machine. A training run
is paused, resumed, stopped and extended here too.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any

import typer

from corsia import replies
from corsia.cli.show import plain
from corsia.cli.study_export import export
from corsia.cli.study_try import attempt
from protocol.errors import AuthenticationError, InputError, StudyRefused, UnavailableError
from protocol.study import parse_study, study_digest

app = typer.Typer(no_args_is_help=True, help="Validate, submit and follow studies.")
app.command("try")(attempt)
app.command()(export)
File = Annotated[Path, typer.Argument(help="The study's TOML file.", metavar="FILE")]
Config = Annotated[Path | None, typer.Option("--config", help="central.toml, on the centre's machine.")]
Url = Annotated[str | None, typer.Option("--url", help="The centre's address, as https://centre.example.org.")]
Token = Annotated[Path | None, typer.Option("--token-file", help="File with the access token, for --url.")]
Json = Annotated[bool, typer.Option("--json", help="End in one JSON object on one line.")]
MAX_REPLY_BYTES = 64 << 20


@app.command()
def validate(file: File, json_out: Json = False) -> None:
    """Check a study file and say what it asks for.

    Example: corsia study validate study.toml
    """
    raw = _read(file)
    study = parse_study(raw)
    if json_out:
        value = {"valid": True, "id": study.id, "lane": study.lane.value, "sites": list(study.sites)}
        typer.echo(json.dumps({**value, "expires": study.expires.isoformat(), "sha256": study_digest(raw)}))
    else:
        typer.echo(
            f"{study.id}: lane {study.lane.value}, {len(study.sites)} sites, dataset {study.dataset.name}: valid"
        )


@app.command()
def submit(
    file: File, config: Config = None, url: Url = None, token_file: Token = None, json_out: Json = False
) -> None:
    """Submit a study; the centre adds recipients and roster, signs it and assigns it to its sites.

    Example: corsia study submit study.toml --config central.toml
    """
    raw = _read(file)
    parse_study(raw)
    if url:
        reply = _request(url, token_file, "/studies", raw)
    else:
        from central import ipc
        from central.config import load_config, operator_token

        loaded = load_config(_needed(config))
        token = operator_token(loaded)
        reply = ipc.call(loaded.socket("signer"), "submit", timeout_s=60.0, draft=raw.decode(), token=token)
    if json_out:
        typer.echo(json.dumps({"id": reply["id"], "digest": reply["digest"]}))
    else:
        typer.echo(f"submitted {reply['id']}, digest {reply['digest']}")


@app.command("ls")
def list_studies(config: Config = None, url: Url = None, token_file: Token = None, json_out: Json = False) -> None:
    """List the studies with their state.

    Example: corsia study ls --config central.toml
    """
    studies = _pages(url, token_file, "/studies?limit=1000") if url else _local(_needed(config))
    if json_out:
        typer.echo(json.dumps({"studies": studies}))
        return
    for study in studies:
        typer.echo(f"{study['id']:24} {study['lane']:10} {study['state']:8} {plain(study['title'])}")


@app.command()
def show(
    study_id: Annotated[str, typer.Argument(metavar="ID", help="The study's id.")],
    config: Config = None,
    url: Url = None,
    token_file: Token = None,
    json_out: Json = False,
) -> None:
    """Show one study: its sites, where each stands, and what came in.

    Example: corsia study show lung-features --config central.toml
    """
    if url:
        value = _request(url, token_file, "/studies/" + urllib.parse.quote(study_id, safe=""))
    else:
        found = _local(_needed(config), study_id)
        if not found:
            raise StudyRefused("study.unknown")
        value = found[0]
    if json_out:
        typer.echo(json.dumps(value))
        return
    typer.echo(
        f"{value['id']}: {plain(value['title'])}\nlane {value['lane']}, {value['state']}\ndigest {value['digest']}"
    )
    for told in value.get("withdrawals", []):
        models = ", ".join(f"{m['name']} {m['version']}" for m in told["models"]) or "none"
        gone = f"{told['rows']} rows and {told['files']} files removed"
        typer.echo(f"consent withdrawn at {told['site']}: {gone}; models: {models}")
    if value.get("erasure"):
        typer.echo(f"erasure: {value['erasure']['state']} ({value['erasure']['reason']})")
    for site in value.get("assignments", []):
        if isinstance(site, dict):
            counts = " ".join(f"{k}={v}" for k, v in (site.get("counts") or {}).items())
            name = site.get("site") or site.get("name")
            typer.echo(f"  {name:20} {site.get('state', ''):10} {site.get('code', '')} {counts}".rstrip())


Id = Annotated[str, typer.Argument(metavar="ID", help="The study's id.")]


@app.command()
def pause(
    study_id: Id, config: Config = None, url: Url = None, token_file: Token = None, json_out: Json = False
) -> None:
    """Pause a training run: the exchange under way is finished, then nothing is asked of the sites.

    Example: corsia study pause heart --config central.toml
    """
    _tell(_ask(study_id, "pause", {}, config, url, token_file), json_out)


@app.command()
def resume(
    study_id: Id, config: Config = None, url: Url = None, token_file: Token = None, json_out: Json = False
) -> None:
    """Let a paused training run go on.

    Example: corsia study resume heart --config central.toml
    """
    _tell(_ask(study_id, "resume", {}, config, url, token_file), json_out)


@app.command()
def stop(
    study_id: Id,
    discard: Annotated[bool, typer.Option("--discard", help="Publish no model.")] = False,
    config: Config = None,
    url: Url = None,
    token_file: Token = None,
    json_out: Json = False,
) -> None:
    """End a training run; the model of its last finished round is published.

    Example: corsia study stop heart --config central.toml
    """
    _tell(_ask(study_id, "stop", {"discard": discard}, config, url, token_file), json_out)


@app.command()
def extend(
    study_id: Id,
    rounds: Annotated[int, typer.Option("--rounds", min=1, max=10_000, help="Rounds in all, up to max_rounds.")],
    config: Config = None,
    url: Url = None,
    token_file: Token = None,
    json_out: Json = False,
) -> None:
    """Give a training run more rounds, up to the study's `training.max_rounds`, which the sites approved.

    Example: corsia study extend heart --rounds 20 --config central.toml
    """
    _tell(_ask(study_id, "extend", {"rounds": rounds}, config, url, token_file), json_out)


@app.command()
def erase(
    study_id: Id,
    withdraw_models: Annotated[
        bool, typer.Option("--withdraw-models", help="Models trained with its data predict no more; else they stay.")
    ] = False,
    wait_s: Annotated[
        float,
        typer.Option("--wait", min=0, help="Wait so many seconds for the end of it; 0 asks, and looks no further."),
    ] = 60.0,
    config: Config = None,
    url: Url = None,
    token_file: Token = None,
    json_out: Json = False,
) -> None:
    """Erase a study's data for good: its keys, parcels, part of the lake and predictions. Cannot be taken back.

    Example: corsia study erase lung-features --withdraw-models --config central.toml
    """
    if url:
        path = "/studies/" + urllib.parse.quote(study_id, safe="")
        body = json.dumps({"withdraw_models": withdraw_models}).encode()
        found = dict(_request(url, token_file, path + "/erasure", body, kind="application/json"))

        def look() -> dict[str, Any]:
            return _request(url, token_file, path)["erasure"] or found
    else:
        from central import erasure
        from central.config import load_config, operator_token
        from central.operators import FIRST
        from central.store import Store

        loaded = load_config(_needed(config))
        operator_token(loaded)  # who cannot read it may not command
        store = Store(loaded.state_dir)
        found = erasure.ask(store, study_id, operator=FIRST, withdraw_models=withdraw_models)

        def look() -> dict[str, Any]:
            return erasure.told(store, study_id)

    until = time.monotonic() + wait_s
    while found["state"] != "done" and time.monotonic() < until:
        time.sleep(0.2)
        found = look()
    found = {**found, "study": study_id}
    done = found["state"] == "done"
    if wait_s and not done:
        raise UnavailableError("unavailable.process", f"{study_id} is not erased yet: it will be once the centre runs")
    if json_out:
        typer.echo(json.dumps(found))
        return
    typer.echo(f"{study_id}: erased" if done else f"{study_id}: is to be erased once the centre runs")
    for model in found["models"]:
        typer.echo(f"  model {model['name']} version {model['version']}: {model['decision']}")


def _ask(
    study_id: str, command: str, more: dict[str, Any], config: Path | None, url: str | None, token_file: Path | None
) -> dict[str, Any]:
    if url:
        path = f"/runs/{urllib.parse.quote(study_id, safe='')}/{command}"
        return dict(_request(url, token_file, path, json.dumps(more).encode(), kind="application/json"))
    from central.config import load_config, operator_token
    from central.federation.control import Command, ask
    from central.operators import FIRST
    from central.store import Store

    loaded = load_config(_needed(config))
    operator_token(loaded)  # who cannot read it may not command
    return ask(Store(loaded.state_dir), study_id, Command(command), operator=FIRST, **more)


def _tell(orders: dict[str, Any], json_out: bool) -> None:
    if json_out:
        typer.echo(json.dumps(orders))
        return
    ending = {"run": "is to go on", "pause": "is to pause", "stop": "is to stop"}[orders["wish"]]
    kept = ", no model is to be published" if orders["discard"] else ""
    typer.echo(f"{orders['study']}: the run {ending}, {orders['rounds']} rounds in all{kept}")


def _local(config: Path, study_id: str | None = None) -> list[dict[str, Any]]:
    from sqlalchemy import func, select

    from central import erasure, withdrawals
    from central.config import load_config
    from central.store import Store
    from central.store.engine import is_made
    from central.store.models import AssignmentRow, ParcelRow, StudyRow

    state_dir = load_config(config).state_dir
    if not is_made(state_dir):
        return []
    with Store(state_dir).read() as session:
        query = select(StudyRow).order_by(StudyRow.created_at)
        rows = session.scalars(query if study_id is None else query.where(StudyRow.id == study_id)).all()
        found: list[dict[str, Any]] = []
        for row in rows:
            value = {name: getattr(row, name) for name in ("id", "digest", "lane", "title", "state", "created_at")}
            if study_id is not None:
                assignments = session.scalars(
                    select(AssignmentRow)
                    .where(AssignmentRow.study_digest == row.digest, AssignmentRow.kind == "study")
                    .order_by(AssignmentRow.site)
                )
                names = ("site", "state", "code", "error_id", "counts", "updated_at")
                value["assignments"] = [{name: getattr(a, name) for name in names} for a in assignments]
                value["parcels"] = session.scalar(
                    select(func.count()).select_from(ParcelRow).where(ParcelRow.study_digest == row.digest)
                )
                value["withdrawals"] = withdrawals.summary(session, row.digest)
                value["erasure"] = erasure.summary(session, row.digest)
            found.append(value)
    return found


def _pages(url: str, token_file: Path | None, path: str) -> list[dict[str, Any]]:
    """All rows of a list: each answer's `Link` header names the next page."""
    rows: list[dict[str, Any]] = []
    for _ in range(replies.MAX_PAGES):
        page, link = _asked(url, token_file, path)
        rows += page
        path = replies.onward(path, link.partition("<")[2].partition(">")[0])
        if not path:
            return rows
    raise replies.foreign(url)


def _request(
    url: str, token_file: Path | None, path: str, body: bytes | None = None, *, kind: str = "application/toml"
) -> Any:
    return _asked(url, token_file, path, body, kind=kind)[0]


def _asked(
    url: str, token_file: Path | None, path: str, body: bytes | None = None, *, kind: str = "application/toml"
) -> tuple[Any, str]:
    """The answer, and its `Link` header."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise InputError("input.usage", "--url begins with http:// or https://")
    from central.operators import bearer, read_token
    from corsia.login import saved

    token_file = token_file or saved(url)
    if not token_file.exists():
        raise AuthenticationError("auth.token", f"--url needs --token-file, or first: corsia account login {url}")
    headers = {"Authorization": f"Bearer {bearer(read_token(token_file))}"} | ({"Content-Type": kind} if body else {})
    request = urllib.request.Request(url.rstrip("/") + "/api/v1" + path, data=body, headers=headers)  # noqa: S310
    try:
        with urllib.request.build_opener(_Straight).open(request, timeout=90) as answer:
            raw, onward = answer.read(MAX_REPLY_BYTES), answer.headers.get("Link", "")
    except urllib.error.HTTPError as error:
        raise replies.refusal(error.code, _rest(error)) from None
    except (OSError, ValueError, HTTPException):
        raise UnavailableError("unavailable.centre", f"no answer from {url}") from None
    return replies.read("GET" if body is None else "POST", path, raw, url), onward


class _Straight(urllib.request.HTTPRedirectHandler):
    """Follows nobody elsewhere: the token would go along."""

    def redirect_request(self, *_: Any) -> None:
        """Leave the answer as it is."""


def _rest(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read(65_536)
    except (OSError, HTTPException):
        return b""


def _needed(config: Path | None) -> Path:
    if config is not None:
        return config
    if Path("central.toml").exists():
        return Path("central.toml")
    raise InputError("input.usage", "give --config, or --url with --token-file")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError("input.study", f"{file}: {error.strerror}") from None

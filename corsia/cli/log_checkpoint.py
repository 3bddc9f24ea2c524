"""`corsia log checkpoint`: signed states of the log as files, exchanged between sites to find a split view."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corsia.cli.logsource import File, Json, LogKey, State, Token, Url, found, is_site, pinned
from corsia.cli.show import show
from protocol.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from privacy.checkpoint import Checkpoint

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Signed states of the log, as files to be exchanged.")
Out = Annotated[Path | None, typer.Option("--out", help="Write it here instead of printing it.")]


@app.command()
def export(
    state: State = None, file: File = None, url: Url = None, token: Token = None, log_key: LogKey = None,
    out: Out = None, json_out: Json = False,
) -> None:  # fmt: skip
    """Print the newest checkpoint: what a site has linked, or a centre signed. A text that anybody may have.

    Example: corsia log checkpoint export --state edge-state --out site-a.checkpoint
    """
    from privacy.checkpoint import open_checkpoint, read_checkpoint
    from privacy.envelope import PublicKey

    if state is not None and is_site(state) and file is None and url is None:
        texts = _of_site(state)
        key, origin = pinned(state, log_key)
    else:
        log = found(state, file, url, token, log_key)
        texts, key, origin = log["checkpoints"], str(log["log_key"]), log["origin"]
    if not texts:
        raise InputError("input.usage", "no checkpoint has been seen here yet")
    text = max(texts, key=lambda one: read_checkpoint(one)[0].size)
    checkpoint = open_checkpoint(text, PublicKey.from_base64(key), origin or read_checkpoint(text)[0].origin)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    value = {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex(), "checkpoint": text}
    show(value, json_out, text.rstrip("\n") if out is None else f"wrote {out}: {checkpoint.size} entries")


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Checkpoint files, of this site and of others.", dir_okay=False)],
    state: State = None,
    file: File = None,
    url: Url = None,
    token: Token = None,
    log_key: LogKey = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A site's edge.toml: the centre is asked to prove what differs.")
    ] = None,
    json_out: Json = False,
) -> None:
    """Check that checkpoints of several sites are of one log; exit 19 when the centre has shown two.

    Those of one size must be equal. Those of different sizes need the log (--file, --url or the centre's --state), or
    the centre's proof (--config); without either they are undecided. What a site's --state has seen is compared too.

    Example: corsia log checkpoint compare site-a.checkpoint site-b.checkpoint --state edge-state --config edge.toml
    """
    from privacy.checkpoint import open_checkpoint, read_checkpoint
    from privacy.envelope import PublicKey

    if config is not None and state is None:
        from edge.config import load

        state = load(config).state_dir
    texts = [_text(path) for path in files]
    if state is not None and is_site(state):
        texts += _of_site(state)
    log = found(state, file, url, token, log_key) if file or url or (state and not is_site(state)) else None
    if log is not None and log_key is None and state is None:
        key, origin = str(log["log_key"]), log["origin"]
    else:
        key, origin = pinned(state, log_key)
    public = PublicKey.from_base64(key)
    points = [open_checkpoint(text, public, origin or read_checkpoint(text)[0].origin) for text in texts]
    if len({point.origin for point in points}) > 1:
        raise IntegrityError("log.proof", "the checkpoints are of different logs")
    undecided = _compare(points, log, config)
    value = {"checkpoints": len(points), "sizes": sorted({point.size for point in points}), "undecided": undecided}
    text = f"{len(points)} checkpoints, {len(value['sizes'])} sizes"  # type: ignore[arg-type]
    text += ": one log" if not undecided else f": {undecided} sizes are undecided; give the log, or --config"
    show({"verified": not undecided, **value}, json_out, text)


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="Checkpoints that witnesses have signed.", dir_okay=False)],
    config: Annotated[Path, typer.Option("--config", help="The centre's configuration.")] = Path("central.toml"),
    json_out: Json = False,
) -> None:
    """Take witnesses' signatures into the centre, which shows them to its sites with the next heartbeat.

    Example: corsia log checkpoint import cosigned-*.checkpoint --config central.toml
    """
    from central.config import load_config
    from central.gateway.cosigned import take
    from central.store import Store
    from privacy.envelope import read_public

    loaded = load_config(config)
    key = read_public(loaded.state_dir / "gateway" / "log.pub")
    store = Store(loaded.state_dir)
    made = [take(store, _text(path), key, loaded.log_origin) for path in files]
    value = {"checkpoints": [{"size": size, "witnesses": names} for size, names in made]}
    text = "\n".join(f"{size} entries: signed by {', '.join(names) or 'nobody else'}" for size, names in made)
    show(value, json_out, text)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:  # whatever its size
            return file.read(1 << 18).decode("utf-8")
    except OSError as error:
        raise InputError("input.usage", f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise IntegrityError("log.proof", f"{path} is no checkpoint") from None


def _of_site(state: Path) -> list[str]:
    """The checkpoints that a site holds as texts: the newest linked one, and those of its receipts."""
    from edge.logview import newest_text
    from edge.spool import Spool
    from edge.state import SiteState

    with closing(SiteState(state / "state.db")) as kept:
        text = newest_text(kept)
    receipts = [receipt.checkpoint for _entry, receipt in Spool(state / "spool", 1).receipts()]
    return [*([text] if text else []), *dict.fromkeys(receipts)]


def _compare(points: list[Checkpoint], log: dict[str, Any] | None, config: Path | None) -> int:
    """Compare roots of one size, then sizes with each other; how many sizes nobody could prove.

    Raises:
        IntegrityError: `log.proof`: two logs under one name.
    """
    roots: dict[int, bytes] = {}
    for point in points:
        if roots.setdefault(point.size, point.root) != point.root:
            raise IntegrityError("log.proof", f"two signed checkpoints of {point.size} entries differ: a split view")
    sizes = sorted(roots)
    if len(sizes) < 2:
        return 0
    if log is not None:
        _by_log(roots, log)
        return 0
    return _by_proofs(roots, config) if config is not None else len(sizes) - 1


def _by_log(roots: dict[int, bytes], log: dict[str, Any]) -> None:
    import base64

    from privacy.transparency import Tree, verify_log

    verify_log(log)
    tree = Tree()
    for leaf in log["leaves"]:
        tree.append(base64.b64decode(leaf))
    if any(size > tree.size or tree.root(size) != root for size, root in roots.items()):
        raise IntegrityError("log.proof", "the log has not the states that the checkpoints sign: a split view")


def _by_proofs(roots: dict[int, bytes], config: Path) -> int:
    """Ask the centre, over the site's own channel, to prove each step from one size to the next."""
    from itertools import pairwise

    from edge.config import load
    from edge.identity import Identity
    from edge.uplink import Uplink
    from privacy.inclusion import hashes
    from privacy.transparency import verify_consistency

    site = load(config)
    link = Uplink(Identity.load(site.state_dir), site.centre.fleet if site.centre else None)
    try:
        for old, new in pairwise(sorted(roots)):
            proof = hashes(link.prove(0, old, new).consistency)
            verify_consistency(old, new, roots[old], roots[new], proof)
    finally:
        link.close()
    return 0

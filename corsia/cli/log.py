"""`corsia log`: check the transparency log, prove an entry, look at its end; checkpoints and witnesses beside it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from corsia.cli import log_checkpoint, log_witness
from corsia.cli.logsource import File, Json, LogKey, State, Token, Url, found, is_site
from corsia.cli.show import show, table
from protocol.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Verify the transparency log.")
app.add_typer(log_checkpoint.app, name="checkpoint")
app.command("witness")(log_witness.witness)


@app.callback()
def _root() -> None:
    """Verify the transparency log."""


@app.command()
def verify(
    state: State = None,
    file: File = None,
    url: Url = None,
    token: Token = None,
    log_key: LogKey = None,
    json_out: Json = False,
) -> None:
    """Check leaves, roots, signed checkpoints, consistency and receipts.

    With a site's --state: that each receipt in its journal verifies, and that the log (--url or --file) still holds it.
    With the centre's --state: that each parcel, and each batch in the lake, has its leaf.

    Example: corsia log verify --state edge-state --url https://centre.example.org --token operator.token
    """
    from privacy.transparency import verify_log

    export = found(state, file, url, token, log_key)
    alone = is_site(state) and file is None and url is None
    result = _verify_receipts(export) if alone else verify_log(export)
    if state is not None and is_site(state):
        from edge.receipts import audit

        result |= audit(state, None if alone else export)
    elif state is not None and file is None and url is None:
        from central.audit import audit as audit_centre

        result |= audit_centre(state)
    if json_out:
        typer.echo(json.dumps(result))
    else:
        typer.echo(
            f"the log verifies: {result['entries']} entries, {result['checkpoints']} checkpoints, "
            f"{result['receipts']} receipts"
        )


@app.command()
def prove(
    entry: Annotated[str, typer.Argument(help="Index of an entry, or the id of a parcel, study entry or run.")],
    state: State = None,
    file: File = None,
    url: Url = None,
    token: Token = None,
    log_key: LogKey = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write the proof here (C2SP tlog-proof).")] = None,
    json_out: Json = False,
) -> None:
    """Verify the log and prove one entry of it, in a form that others can check by themselves.

    Example: corsia log prove 0f3a5c... --file log.json --log-key log.pub --out proof.txt
    """
    from privacy.checkpoint import read_checkpoint
    from privacy.transparency import Tree, verify_inclusion, verify_log

    export = found(state, file, url, token, log_key)
    if "leaves" not in export:
        raise InputError("input.usage", "a proof needs the log: give --file or --url, or the centre's --state")
    verify_log(export)
    leaves = [base64.b64decode(leaf) for leaf in export["leaves"]]
    text = max(export["checkpoints"], key=lambda one: read_checkpoint(one)[0].size, default=None)
    checkpoint = read_checkpoint(text)[0] if text is not None else None
    index = _index(entry, leaves)
    if text is None or checkpoint is None or index >= checkpoint.size:
        raise InputError("input.usage", "no checkpoint covers this entry yet")
    tree = Tree()
    for leaf in leaves[: checkpoint.size]:
        tree.append(leaf)
    proof = tree.inclusion(index, checkpoint.size)
    verify_inclusion(leaves[index], index, checkpoint.size, proof, checkpoint.root)
    hashes = "".join(f"{base64.b64encode(one).decode('ascii')}\n" for one in proof)
    made = f"c2sp.org/tlog-proof@v1\nindex {index}\n{hashes}\n{text}"
    if out is not None:
        out.write_text(made, encoding="utf-8")
    value = {
        "index": index,
        "leaf": _shown(leaves[index]),
        "size": checkpoint.size,
        "proof": [one.hex() for one in proof],
        "checkpoint": text,
    }
    show(value, json_out, made if out is None else f"wrote {out}: entry {index} of {checkpoint.size}")


@app.command()
def tail(
    state: State = None,
    file: File = None,
    url: Url = None,
    token: Token = None,
    log_key: LogKey = None,
    count: Annotated[int, typer.Option("-n", "--count", help="How many entries.", min=1)] = 20,
    json_out: Json = False,
) -> None:
    """Verify the log and show its last entries: what they are of, their ids and digests.

    Example: corsia log tail -n 5 --url https://centre.example.org --token operator.token
    """
    from privacy.transparency import verify_log

    export = found(state, file, url, token, log_key)
    if "leaves" not in export:
        raise InputError("input.usage", "give --file or --url, or the centre's --state")
    verify_log(export)
    leaves = export["leaves"]
    first = max(0, len(leaves) - count)
    entries = [_entry(first + at, base64.b64decode(leaf)) for at, leaf in enumerate(leaves[first:])]
    if json_out:
        show({"size": len(leaves), "entries": entries}, True, "")
        return
    columns = ["index", "kind", "id", "sha256"]
    table(f"{len(leaves)} entries", columns, [[one[c] for c in columns] for one in entries])


def _entry(index: int, leaf: bytes) -> dict[str, Any]:
    try:
        value = json.loads(leaf)
        return {"index": index, **{name: str(value.get(name, "-")) for name in ("kind", "id", "sha256")}}
    except (ValueError, AttributeError, RecursionError):
        return {"index": index, "kind": "-", "id": "-", "sha256": "-"}


def _shown(leaf: bytes) -> Any:
    """A leaf that is a JSON object as that, any other in hex."""
    try:
        value = json.loads(leaf)
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else leaf.hex()


def _index(entry: str, leaves: list[bytes]) -> int:
    """The place of an entry by number or id.

    Raises:
        InputError: `input.usage`: there is none.
    """
    if entry.isascii() and entry.isdecimal() and len(entry) < 19:
        if int(entry) < len(leaves):
            return int(entry)
    else:
        for at, leaf in enumerate(leaves):
            if _entry(at, leaf)["id"] == entry:
                return at
    raise InputError("input.usage", "the log has no such entry")


def _verify_receipts(site: dict[str, Any]) -> dict[str, Any]:
    """A site's receipts without the log: each proves its parcel, and no two checkpoints may contradict each other."""
    from privacy.envelope import PublicKey
    from privacy.transparency import verify_receipt
    from protocol.errors import IntegrityError
    from protocol.parcel import Receipt

    key = PublicKey.from_base64(site["log_key"])
    roots: dict[int, bytes] = {}
    for value in site["receipts"]:
        checkpoint = verify_receipt(Receipt(**value), key, site["origin"])
        if roots.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
            raise IntegrityError("log.proof", "two signed checkpoints of one size differ")
    count = len(site["receipts"])
    return {"verified": True, "entries": count, "checkpoints": len(roots), "receipts": count, "pending": 0}

"""What `corsia init central` writes: a commented central.toml, the state folder (0700) and the operator's token."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path

import typer

from protocol.errors import ConflictError

__all__ = ["init_central"]

_TEMPLATE = """\
# The centre of a Corsia consortium. Start it with `corsia central serve --config {file}`.
name = "{name}"                        # lower-case letters, digits, dashes; names the log for good
state_dir = {state}                    # keys, database, parcels; relative to this file
# What takes two operators (docs/operators.md). Without "sites" an invite alone admits a site; with it a second operator
# is asked as soon as there is one.
two_person = ["models", "exports", "sites"]

[gateway]                              # the only part that hospitals reach
host = "127.0.0.1"                     # address to listen on; "0.0.0.0" for all
port = 7443                            # mutual TLS
enrolment_port = 7444                  # server-authenticated, for enrolment alone
names = [{names}]   # in the server certificate; the first goes into join codes
certificate_days = 7                   # life of a site's certificate; sites renew by themselves

[web]                                  # REST API and dashboard; put a TLS proxy before it
host = "127.0.0.1"
port = 7480
# public_url = "https://corsia.example.org"  # by which browsers come: their cookies are then for https alone
sign_in_browser = false              # true: operators may sign in the dashboard (docs/dashboard.md)

calls_per_s = 50.0                     # of one person
failures_per_min = 60                  # of one address: wrong tokens, log-ins

{identity}[mlflow]
tracking_uri = "http://127.0.0.1:5000"

# [metrics]                            # numbers for Prometheus on 127.0.0.1: docs/metrics.md
# port = 9471

# [keys]                               # docs/keys.md: after `corsia central keys protect`
# passphrase_file = "/etc/corsia/passphrase"

[limits]
max_parcel_bytes = 10_000_000_000
max_message_bytes = 8_388_608

[limits.site]                          # what one site may, so that none can harm another (docs/limits.md)
bytes_per_day = 200_000_000_000
parcels_per_day = 1_000_000
calls_per_s = 2000.0

# [limits.sites.site-a]                # where one site's limits differ
# bytes_per_day = 1_000_000_000_000

[sites]                                # optional: site = "network", shown on the dashboard
# site-a = "oncology"
"""

_IDENTITY = """\
# People log in at an OpenID provider (docs/identity.md); without this part operators' token files are all there is.
{off}[identity]
{off}issuer = {issuer}   # exactly as in its tokens, with or without a slash at the end
{off}client_id = {client}
{off}client_secret_file = "state/oidc.secret"      # mode 0600; leave it out for a public client
{off}redirect_uri = {redirect}
# device_client_id = "corsia-cli"      # a public client for command line and notebook
# audience = "https://corsia.example.org/api"      # takes the provider's access tokens that are made for this
# scopes = ["openid", "profile", "wlcg.groups"]
# session_hours = 8
# idle_minutes = 60
# token_days = 90                      # the longest life of an API token
# login_days = 30                      # who has not logged in for so long has no role

{off}[identity.roles]                     # groups of the provider; who is in none is refused
{off}operator = ["consortium/operators"]
{off}researcher = ["consortium"]
{off}steward = []
{off}dpo = []

"""


def init_central(out: Path, state_dir: Path | None = None, *, force: bool = False, as_json: bool = False) -> None:
    """Write the configuration and the operator's token; asks for name and address on a terminal.

    An existing token is kept, also with `force`: the dashboard's and the researchers' copies go on working.

    Args:
        out: the file; its folders are made.
        state_dir: the state folder, written down in full; by default `state` beside the file.
        force: replace an existing file.
        as_json: ask nothing and print one JSON object.

    Raises:
        ConflictError: `conflict.exists` when the file is there and `force` is not given.
    """
    if out.exists() and not force:
        raise ConflictError("conflict.exists", f"{out} exists; use --force")
    name, address, issuer, client = "consortium", "127.0.0.1", "", "corsia"
    if sys.stdin.isatty() and not as_json:
        name = typer.prompt("Name of the consortium", default=name)
        address = typer.prompt("Name or address under which hospitals reach this machine", default=address)
        issuer = typer.prompt("Issuer of your OpenID provider (empty: none)", default="", show_default=False)
        client = typer.prompt("This centre's client id there", default="corsia") if issuer else client
    names = list(dict.fromkeys([address, "127.0.0.1", "localhost"]))
    out.parent.mkdir(parents=True, exist_ok=True)
    text = _TEMPLATE.format(
        file=out.name,
        name=name,
        state=json.dumps(str(state_dir.absolute()) if state_dir else "state"),
        names=", ".join(json.dumps(n) for n in names),
        identity=_identity(issuer, client, address),
    )
    _check(text, out)
    out.write_text(text)
    state = (state_dir or out.resolve().parent / "state").absolute()
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    state.chmod(0o700)
    token = state / "operator.token"
    if not token.exists():
        with open(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    if as_json:
        typer.echo(json.dumps({"written": str(out), "state_dir": str(state), "token_file": str(token)}))
    else:
        typer.echo(f"wrote {out} and {token}; next: corsia central serve --config {out}")


def _identity(issuer: str, client: str, address: str) -> str:
    """The part on the OpenID provider; a comment when there is none."""
    host = address if address not in ("127.0.0.1", "localhost") else "corsia.example.org"
    return _IDENTITY.format(
        off="" if issuer else "# ",
        issuer=json.dumps(issuer or "https://iam.example.org/"),
        client=json.dumps(client),
        redirect=json.dumps(f"https://{host}/auth/callback"),
    )


def _check(text: str, out: Path) -> None:
    """What was typed at the prompts must read back."""
    from central.config import read_config

    read_config(text, out)

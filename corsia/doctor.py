"""Checks of this machine, each answered in one line: what is wrong and what to do."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from corsia import machine
from corsia.findings import Finding
from protocol.errors import CorsiaError

if TYPE_CHECKING:
    from central.config import CentralConfig
    from central.identity.settings import IdentityConfig
    from edge.identity import Identity
    from edge.route import Route

__all__ = ["Finding", "examine"]

_PACKAGES = ("protocol", "privacy", "pipelines", "edge", "central", "corsia")
_SKEW_S = 60.0


def examine(config: Path | None = None) -> list[Finding]:
    """Run every check; with an edge.toml or a central.toml, those of this site or centre too."""
    folder = Path.cwd() if config is None else config.parent
    findings = [_python(), *_shadowed(), machine.clock(), machine.room(folder), _isolation(), machine.proxy()]
    if config is not None:
        findings += list(_centre(config) if _is_centre(config) else _site(config))
    else:
        findings.append(machine.gpu())
    return findings


def _is_centre(config: Path) -> bool:
    """A centre has a name; whatever else it is, a site is looked for."""
    try:
        value = tomllib.loads(config.read_text())
    except (OSError, ValueError):
        return False
    return "name" in value and "site" not in value


def _centre(path: Path) -> Iterator[Finding]:
    from central.backup import RECOVERY
    from central.config import load_config

    try:
        config = load_config(path)
    except CorsiaError as error:
        yield Finding(check="centre", ok=False, found=f"{error.message} [{error.code}]", advice=error.hint)
        return
    yield Finding(check="configuration", ok=True, found=str(path))
    yield machine.private(config.state_dir)
    yield from _ports(config)
    if config.identity is not None:
        yield _provider(config.identity)
    yield from _keys(config.state_dir)
    yield _recovery(config.state_dir / RECOVERY, "central")


def _ports(config: CentralConfig) -> Iterator[Finding]:
    """Whether the centre can listen where its configuration says."""
    from central.supervisor import answers

    gateway, web = config.gateway, config.web
    for name, process, host, number in (
        ("gateway", "gateway", gateway.host, gateway.port),
        ("enrolment", "gateway", gateway.host, gateway.enrolment_port),
        ("web", "web", web.host, web.port),
    ):
        yield machine.port(name, host, number, is_ours=partial(answers, config, process))


def _provider(config: IdentityConfig) -> Finding:
    """Whether the OpenID provider answers and is the one that is pinned, and its client's secret can be read."""
    from central.identity.provider import Provider

    try:
        config.secret()
        Provider(config).login_url(state="doctor", nonce="doctor", verifier="doctor")
    except CorsiaError as error:
        return Finding(check="identity", ok=False, found=f"{error.message} [{error.code}]", advice=error.hint)
    return Finding(check="identity", ok=True, found=f"{config.issuer} answers")


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding(check="python", ok=ok, found=sys.version.split()[0], advice="use Python 3.11 or 3.12")


def _shadowed() -> Iterator[Finding]:
    """Whether another distribution shadows one of our top-level names."""
    home = Path(find_spec("corsia").origin or "").parent.parent  # type: ignore[union-attr]
    owners = metadata.packages_distributions()
    for name in _PACKAGES:
        spec = find_spec(name)
        origin = Path(spec.origin) if spec and spec.origin else None
        foreign = [d for d in owners.get(name, []) if d != "corsia"]
        ok = origin is not None and origin.is_relative_to(home) and not foreign
        if not ok:
            yield Finding(
                check=f"package {name}",
                ok=False,
                found=", ".join(foreign) or str(origin),
                advice="install corsia in an environment of its own",
            )
    yield Finding(check="packages", ok=True, found=", ".join(_PACKAGES))


_LACKING = {
    "network": "share this machine's network",
    "files": "can read what the site's user can read",
    "signals": "can signal the site's processes",
    "calls": "may make any system call",
}


def _isolation() -> Finding:
    """What this kernel lets a worker be kept from (`pipelines/confinement.py`)."""
    code = (
        "import os; from pipelines.confinement import confine, missing; print(*missing(confine(os.getppid(), 1 << 34)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], check=False, capture_output=True, text=True)
    lacks = done.stdout.split() if done.returncode == 0 else list(_LACKING)
    return Finding(
        check="worker isolation",
        ok=not lacks,
        found="workers " + (", ".join(_LACKING[name] for name in lacks) or "have no network and no file of the site"),
        advice="allow user namespaces, seccomp and Landlock (all in Linux 6.12), or PrivateNetwork in systemd",
    )


def _site(path: Path) -> Iterator[Finding]:
    from edge.backup import RECOVERY
    from edge.config import load
    from edge.identity import Identity
    from edge.route import Route

    try:
        config = load(path)
    except CorsiaError as error:
        yield Finding(check="site", ok=False, found=f"{error.message} [{error.code}]", advice=error.hint)
        return
    yield Finding(check="configuration", ok=True, found=str(path))
    yield machine.private(config.state_dir)
    yield machine.gpu(config.limits.device)
    try:
        identity = Identity.load(config.state_dir)
        yield Finding(check="enrolment", ok=True, found=identity.site)
        yield _certificate(identity)
        address = config.centre.fleet if config.centre else identity.fleet
        yield _reachable(address, identity.ca_pem, Route.of(config.delivery))
        yield _skew(config.state_dir)
    except CorsiaError as error:
        yield Finding(check="site", ok=False, found=f"{error.message} [{error.code}]", advice=error.hint)
    yield from _keys(config.state_dir)
    yield _recovery(config.state_dir / RECOVERY, "edge")


def _certificate(identity: Identity) -> Finding:
    """Whether the daemon renews the certificate: it does so when a third of its life is left."""
    life = (identity.not_after - identity.not_before).total_seconds()
    late = identity.remaining_s() < life / 6
    found = f"until {identity.not_after:%Y-%m-%d %H:%M} UTC"
    advice = "renewal fails, or the daemon does not run: look for renewal.failed in log.jsonl"
    return Finding(check="certificate", ok=not late, found=found, advice=advice)


def _reachable(address: str, ca_pem: bytes, route: Route) -> Finding:
    """Whether the centre answers by the site's way with TLS 1.3, and nobody opens it on the way."""
    from edge.handshake import check_answers, presented_certificates

    host, _, port = address.rpartition(":")
    try:
        check_answers(address, ca_pem, route, 5.0)
        presented_certificates(address, 5.0, route)
    except CorsiaError as error:
        advice = {
            "auth.intercepted": f"ask IT to exempt host {host}, TCP port {port}, from TLS inspection",
            "auth.proxy": f"ask IT to allow CONNECT to host {host}, TCP port {port}, for this site's proxy user",
        }.get(error.code, f"ask IT to allow outbound TCP to host {host}, port {port}, without TLS inspection")
        return Finding(check="centre", ok=False, found=f"{error.message} [{error.code}]", advice=advice)
    return Finding(check="centre", ok=True, found="TLSv1.3, not opened on the way")


def _skew(state_dir: Path) -> Finding:
    """What the daemon measured against the centre, by whose clock it judges the deadlines of rounds."""
    from edge.site import SKEW
    from edge.state import SiteState

    state = SiteState(state_dir / "state.db")
    try:
        known = state.fact(SKEW)
    finally:
        state.close()
    found = "not measured yet: the daemon has not reached the centre" if known is None else f"{float(known):+.0f} s"
    ok = known is None or abs(float(known)) <= _SKEW_S
    return Finding(check="clock against the centre", ok=ok, found=found, advice="set the clock (NTP)")


def _keys(folder: Path) -> Iterator[Finding]:
    """Who else may read the key files, and whether they lie locked."""
    from corsia.cli.keys import key_files, lies_locked

    files = list(key_files(folder))
    open_ = [path.name for path in files if path.stat().st_mode & 0o177]
    yield Finding(check="key files", ok=not open_, found=", ".join(open_) or "all private", advice="chmod 600")
    plain = [path.name for path in files if not lies_locked(path)]
    found = f"plain: {', '.join(plain)}" if plain else "locked by a passphrase"
    yield Finding(check="keys at rest", ok=True, found=found if files else "none yet")


def _recovery(public: Path, side: str) -> Finding:
    """Whether backups can be made: told, not refused, as how keys lie is."""
    found = "there" if public.exists() else f"none, so there is no backup: corsia {side} recovery-key --out K"
    return Finding(check="recovery key", ok=True, found=found)

"""The centre's configuration: one TOML file read into a frozen tree, and how a process of the centre starts.

Read once at start and passed as an argument; nothing here opens a socket or a database. Relative paths are
relative to the file. Secrets are files under `state_dir`, never values in the TOML.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from central.identity.settings import IdentityConfig
from central.remotes import Remote
from central.stopping import Stop
from privacy.envelope.keyfile import guard as keys_guarded
from protocol import toml
from protocol.errors import AuthenticationError, ConfigurationError
from protocol.events import configure
from protocol.process import guard
from protocol.study import Slug
from protocol.validation import first_fault, unread

__all__ = [
    "PROCESSES",
    "CentralConfig",
    "ComputeConfig",
    "GatewayConfig",
    "KeysConfig",
    "LimitsConfig",
    "MetricsConfig",
    "MlflowConfig",
    "SiteLimits",
    "WebConfig",
    "enter_process",
    "load_config",
    "operator_token",
    "read_config",
]

PROCESSES = ("signer", "gateway", "vault", "federation", "web")
Port = Annotated[int, Field(ge=1, le=65535)]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:-]{0,252}$")]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GatewayConfig(_Model):
    """The face to the hospitals.

    Attributes:
        host: address to listen on.
        port: mutual-TLS port (assignments, delivery, models).
        enrolment_port: server-authenticated port for enrolment alone.
        names: names and addresses in the server certificate; the first goes into join codes.
        certificate_days: life of a site's certificate, in days.
    """

    host: Host = "127.0.0.1"
    port: Port = 7443
    enrolment_port: Port = 7444
    names: tuple[Host, ...] = Field(("127.0.0.1", "localhost"), min_length=1, max_length=32)
    certificate_days: Annotated[int, Field(ge=1, le=90)] = 7

    @property
    def fleet_address(self) -> str:
        """`host:port` that sites dial over mutual TLS."""
        return f"{_bracketed(self.names[0])}:{self.port}"

    @property
    def enrolment_address(self) -> str:
        """`host:port` that a site dials once, with its join code."""
        return f"{_bracketed(self.names[0])}:{self.enrolment_port}"


class WebConfig(_Model):
    """REST API and dashboard.

    Attributes:
        public_url: address by which browsers come, through a TLS proxy or not; empty: not known. Operators' cookies are
            for https alone unless this says http, or the request's own address is this machine's.
        calls_per_s: of one person, on average; twenty times as many at once.
        failures_per_min: requests of one address that nobody is known by, log-ins included.
        sign_in_browser: operators may sign in the dashboard what takes two of them. Their keys are then in pages whose
            scripts this process serves: whoever takes it over can take them. Without it there are the commands alone.
    """

    host: Host = "127.0.0.1"
    port: Port = 7480
    public_url: Annotated[str, Field(max_length=2048, pattern=r"^(https?://[^/?#@\s]+/?)?$")] = ""
    calls_per_s: Annotated[float, Field(ge=1, le=100_000)] = 50.0
    failures_per_min: Annotated[float, Field(ge=1, le=1_000_000)] = 60.0
    sign_in_browser: bool = False


class MlflowConfig(_Model):
    """Where models are published."""

    tracking_uri: Annotated[str, Field(max_length=2048)] = "http://127.0.0.1:5000"


class ComputeConfig(_Model):
    """Where the vault opens parcels and reads the lake (docs/growing.md); in its own process unless said otherwise.

    Attributes:
        workers: processes of this machine, behind Dask; 0: none.
        worker_memory_bytes: of each of them.
        scheduler: `tls://host:port` of a Dask cluster that sees landing zone and lake as this machine does; instead.
        tls_ca, tls_cert, tls_key: PEM files of that cluster; absolute after `load_config`.
    """

    workers: Annotated[int, Field(ge=0, le=256)] = 0
    worker_memory_bytes: Annotated[int, Field(ge=100_000_000, le=10**13)] = 4_000_000_000
    scheduler: Annotated[str, Field(pattern=r"^tls://[A-Za-z0-9.\-\[\]:]{1,255}:[0-9]{1,5}$")] | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @model_validator(mode="after")
    def _one_way(self) -> ComputeConfig:
        files = (self.tls_ca, self.tls_cert, self.tls_key)
        if self.scheduler is not None and (self.workers or None in files):
            raise ValueError("a scheduler needs tls_ca, tls_cert and tls_key, and is instead of workers")
        return self

    def under(self, base: Path) -> ComputeConfig:
        """With absolute paths."""
        names = ("tls_ca", "tls_cert", "tls_key")
        made = {name: (base / path.expanduser()).resolve() for name in names if (path := getattr(self, name))}
        return self.model_copy(update=made)


class MetricsConfig(_Model):
    """Numbers for Prometheus on 127.0.0.1, told by the gateway (docs/metrics.md); off without a port."""

    port: Port | None = None


class KeysConfig(_Model):
    """How the centre's keys lie on the disk (docs/keys.md).

    Attributes:
        passphrase_file: the file whose text locks them, mode 0600; absolute after `load_config`.
    """

    passphrase_file: Path | None = None


class SiteLimits(_Model):
    """What one site may ask and send, so that none can harm another.

    Attributes:
        bytes_per_day: landed in any 24 hours, counted by the hour.
        parcels_per_day: likewise.
        open_uploads: parcels begun and not committed; one more and the oldest is dropped.
        streams: streams of assignments at a time; the newest wins.
        calls: calls at a time, streams included.
        calls_per_s: on average; twice as many at once. A change that is written down counts as twenty.
        idle_s: a call that moves nothing for so long is ended; streams of assignments may be silent.
    """

    bytes_per_day: Annotated[int, Field(ge=1024, le=10**15)] = 200_000_000_000
    parcels_per_day: Annotated[int, Field(ge=1, le=10**9)] = 1_000_000
    open_uploads: Annotated[int, Field(ge=1, le=1024)] = 16
    streams: Annotated[int, Field(ge=1, le=16)] = 2
    calls: Annotated[int, Field(ge=3, le=64)] = 16
    calls_per_s: Annotated[float, Field(ge=1, le=100_000)] = 2000.0
    idle_s: Annotated[float, Field(ge=1, le=3600)] = 120.0


class LimitsConfig(_Model):
    """Bounds on what sites may send.

    Attributes:
        max_parcel_bytes: largest parcel.
        max_message_bytes: largest message.
        site: what each site may.
        sites: where one site's limits differ; a field that is left out is that of `site`.
    """

    max_parcel_bytes: Annotated[int, Field(ge=1024, le=10**13)] = 10_000_000_000
    max_message_bytes: Annotated[int, Field(ge=2_097_152, le=67_108_864)] = 8_388_608
    site: SiteLimits = SiteLimits()
    sites: dict[Slug, SiteLimits] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, value: Any) -> Any:
        """Each site's own limits over those of all."""
        if not isinstance(value, dict) or not isinstance(value.get("sites"), dict):
            return value
        common = value.get("site", {})
        if not isinstance(common, dict):
            return value
        own = {name: {**common, **one} if isinstance(one, dict) else one for name, one in value["sites"].items()}
        return {**value, "sites": own}

    def of(self, site: str) -> SiteLimits:
        """What a site may."""
        return self.sites.get(site, self.site)


class CentralConfig(_Model):
    """The whole file. Paths are absolute after `load_config`.

    Attributes:
        two_person: what takes two operators; without "sites" an invite alone admits a site. With it a second operator
            is asked as soon as there is one.
        identity: the OpenID provider that says who people are; without it operators' token files are all there is.
        plugins: folder of researchers' plug-ins (`pipelines.plugins`), which the federation looks at in a process of
            its own; without it studies with a plug-in are refused.
        remotes: public or agreed tables that `corsia central harvest` pulls (docs/sources.md).
    """

    name: Slug
    state_dir: Path = Path("state")
    two_person: tuple[Literal["models", "exports", "sites"], ...] = ("models", "exports", "sites")
    gateway: GatewayConfig = GatewayConfig()
    web: WebConfig = WebConfig()
    mlflow: MlflowConfig = MlflowConfig()
    metrics: MetricsConfig = MetricsConfig()
    compute: ComputeConfig = ComputeConfig()
    limits: LimitsConfig = LimitsConfig()
    keys: KeysConfig = KeysConfig()
    identity: IdentityConfig | None = None
    sites: dict[Slug, Slug] = Field(default_factory=dict)
    plugins: Path | None = None
    remotes: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,54}$")], Remote] = Field(default_factory=dict)

    @field_validator("two_person")
    @classmethod
    def _kept(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not {"models", "exports"} <= set(value):
            raise ValueError("models and exports always take two persons")
        return value

    @field_validator("gateway")
    @classmethod
    def _ports_differ(cls, value: GatewayConfig) -> GatewayConfig:
        if value.port == value.enrolment_port:
            raise ValueError("port and enrolment_port must differ")
        return value

    @property
    def log_origin(self) -> str:
        """The origin line of the log's checkpoints."""
        return f"corsia/{self.name}"

    @property
    def token_path(self) -> Path:
        """The operator's token."""
        return self.state_dir / "operator.token"

    def socket(self, process: str) -> Path:
        """The unix socket on which a process of the centre answers."""
        return self.state_dir / "run" / f"{process}.sock"


def load_config(path: Path) -> CentralConfig:
    """Read central.toml.

    Raises:
        ConfigurationError: `config.missing`, or `config.invalid` with the field and the reason.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError("config.missing", f"{path}: {unread(error)}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError("config.invalid", f"{path}: {unread(error)}") from None
    config = read_config(text, path)
    keys_guarded(config.state_dir, config.keys.passphrase_file)
    return config


def read_config(text: str, path: Path) -> CentralConfig:
    """Read the text of a central.toml that lies, or will lie, at `path`.

    Raises:
        ConfigurationError: `config.invalid` with the field and the reason.
    """
    try:
        config = CentralConfig.model_validate(toml.read(text.encode()))
        base = path.resolve().parent
        state_dir = (base / config.state_dir.expanduser()).resolve()
        plugins = None if config.plugins is None else (base / config.plugins.expanduser()).resolve()
        locked = config.keys.passphrase_file
        remotes = {name: remote.under(base) for name, remote in config.remotes.items()}
        keys = KeysConfig(passphrase_file=None if locked is None else (base / locked.expanduser()).resolve())
        identity = None if config.identity is None else _placed(config.identity, base)
    except ValidationError as error:
        raise ConfigurationError("config.invalid", f"{path}: {first_fault(error, whole='file')}") from None
    except (ValueError, RuntimeError, OSError) as error:  # no TOML; a path of nobody's home, or with a zero byte
        raise ConfigurationError("config.invalid", f"{path}: {error}") from None
    compute = config.compute.under(base)
    update = {"state_dir": state_dir, "plugins": plugins, "keys": keys, "identity": identity, "remotes": remotes}
    return config.model_copy(update=update | {"compute": compute})


def _placed(identity: IdentityConfig, base: Path) -> IdentityConfig:
    """With absolute paths."""
    files = {
        name: None if (path := getattr(identity, name)) is None else (base / path.expanduser()).resolve()
        for name in ("client_secret_file", "ca_file")
    }
    return identity.model_copy(update=files)


def operator_token(config: CentralConfig) -> str:
    """The operator's token, as `corsia init central` wrote it.

    Raises:
        AuthenticationError: `auth.token` when it is missing, empty or readable by others.
    """
    try:
        if config.token_path.stat().st_mode & 0o077:
            raise AuthenticationError("auth.token", "operator.token is readable by others: chmod 600 it")
        token = config.token_path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise AuthenticationError("auth.token", "operator.token cannot be read: run `corsia init central`") from None
    if len(token) < 32:
        raise AuthenticationError("auth.token", "operator.token is too short")
    return token


def enter_process(name: str) -> tuple[CentralConfig, Stop]:
    """Start a process of the centre: guards, arguments, log file, and an event that SIGTERM or SIGINT sets."""
    guard()
    parser = argparse.ArgumentParser(prog=f"python -m central.{name}")
    parser.add_argument("--config", type=Path, required=True, help="central.toml")
    config = load_config(parser.parse_args().config)
    for folder in (config.state_dir, config.state_dir / "run"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    configure(name, config.state_dir / "logs" / f"{name}.jsonl")
    log = logging.getLogger(f"central.{name}")  # an error's text may quote data: types and lines only are kept
    sys.excepthook = lambda kind, error, trace: log.critical("process.failed", exc_info=(kind, error, trace))
    threading.excepthook = lambda args: log.critical("process.failed", exc_info=args.exc_value)
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return config, stop


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host

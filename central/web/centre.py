"""What the web process knows of its centre: where the others answer, never a key."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from central.config import WebConfig
from central.identity.settings import IdentityConfig, secure
from central.operators import Operators
from central.store import Store

__all__ = ["Centre"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Centre:
    """Settings of one web process.

    Attributes:
        operators: the register of who may ask.
        signer: path of the signer's socket.
        vault: path of the vault's socket.
        identity: the OpenID provider, if there is one.
        web: rates of requests, and whether pages offer operators to sign.
        log_public: file of the log's public key, which the gateway writes.
        stop: set when the process is to end; event streams watch it.
    """

    name: str
    store: Store
    operators: Operators
    signer: Path
    vault: Path
    log_public: Path
    log_origin: str
    mlflow_uri: str = ""
    identity: IdentityConfig | None = None
    web: WebConfig = field(default_factory=WebConfig)
    stop: threading.Event = field(default_factory=threading.Event)

    def https_alone(self, url: str) -> bool:
        """Whether cookies that are set in answer to a request by `url` are for https alone.

        A proxy that speaks https for us need not say so: only what is known to be otherwise goes without.
        """
        known = (url, self.web.public_url, self.identity.redirect_uri if self.identity else "")
        if any(one.startswith("https://") for one in known):
            return True
        return not self.web.public_url and not secure(url)

"""Who may call: TLS 1.3, a certificate with one site URI, in the register and not revoked; and how much at once.

`Call` is all that a service sees of a gRPC context. A site's identity comes from here alone, never from a message.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import grpc
from cryptography import x509

from central.config import LimitsConfig
from central.gateway.quota import Calls
from central.gateway.register import Peer, Register
from central.store import Store
from privacy.certificates import MALFORMED
from protocol.errors import AuthenticationError, CorsiaError, UnavailableError
from protocol.trust import site_of_uri

__all__ = ["Admission", "Call", "Caller", "check_tls"]

OPENING_COST = 20.0  # of a stream, which is written down and reads all that is open
CUT_S = 0.4  # what a closed call has to end by itself, with its code
_log = logging.getLogger("central.gateway")


class Caller(Protocol):
    """Whose parcel it is: an RPC's peer, or whoever signed a note on a medium."""

    site: str

    def check(self) -> None:
        """Raise what ends this call, if anything does."""
        ...


class Call:
    """One admitted RPC of a site."""

    def __init__(self, context: grpc.ServicerContext, peer: Peer, method: str, calls: Calls) -> None:
        self.site = peer.site
        self.serial = peer.serial
        self.not_after = peer.not_after
        self.method = method
        self.protocol = _protocol(context)
        self.closed: CorsiaError | None = None
        self._closed_at = 0.0
        self._moved, self._received = time.monotonic(), False
        self._calls = calls
        self._context = context
        self._wake: Callable[[], None] = lambda: None

    def check(self) -> None:
        """Raise what this call was closed with, if it was; else it has moved."""
        self._moved = time.monotonic()
        if self.closed is not None:
            raise self.closed

    def charge(self, cost: float) -> None:
        """Let the site pay for what costs more than a call. UnavailableError: `unavailable.rate`."""
        self._calls.take(self.site, cost)

    def received(self) -> None:
        """The one message of the call is here: from now on it waits for us, or is a stream down."""
        self._moved, self._received = time.monotonic(), True

    def idle_s(self) -> float:
        """For how long the site has not moved a byte that is awaited of it."""
        ours = self._received and not self.method.endswith("/Fetch")
        return 0.0 if ours else time.monotonic() - self._moved

    @property
    def watches(self) -> bool:
        """Whether this is a stream of assignments."""
        return self.method.endswith("/Watch")

    def active(self) -> bool:
        """Whether the site still listens."""
        return bool(self._context.is_active())

    def on_end(self, wake: Callable[[], None]) -> None:
        """Call `wake` when the call is closed from here or the site hangs up."""
        self._wake = wake
        if not self._context.add_callback(wake):
            wake()

    def close(self, error: CorsiaError) -> None:
        """End the call with an error; one that does not end by itself is cut when asked again after a while."""
        if self.closed is None:
            self.closed, self._closed_at = error, time.monotonic()
            self._wake()
        elif time.monotonic() - self._closed_at > CUT_S:
            self._context.cancel()


class Admission:
    """Admits calls of the mutual-TLS port and ends those of revoked sites."""

    def __init__(self, store: Store, limits: LimitsConfig) -> None:
        self._store = store
        self._limits = limits
        self._rates = Calls(limits)
        self._register = Register(store)
        self._lock = threading.Lock()
        self._calls: dict[Call, None] = {}  # in the order of admission
        self._ending: CorsiaError | None = None

    def admit(self, context: grpc.ServicerContext, method: str) -> Call:
        """Check the peer and count the call.

        Raises:
            AuthenticationError: `auth.tls-version`, `auth.certificate` or `auth.revoked`.
            UnavailableError: `unavailable.rate`, `unavailable.busy` for too many calls of this site; or the gateway
                stops.
        """
        check_tls(context)
        peer = _peer(context)
        self._register.check(peer)
        call = Call(context, peer, method, self._rates)
        call.charge(OPENING_COST if call.watches else 1.0)
        limits = self._limits.of(call.site)
        with self._lock:
            if self._ending is not None:
                raise self._ending
            mine = [c for c in self._calls if c.site == call.site and c.closed is None]
            if len(mine) >= limits.calls:
                raise UnavailableError("unavailable.busy", retry_s=1.0)
            watches = [c for c in mine if c.watches] if call.watches else []
            self._calls[call] = None
        for old in watches[: max(0, len(watches) + 1 - limits.streams)]:  # a broken connection may linger
            old.close(UnavailableError("unavailable.centre", "a newer stream of this site took over"))
        return call

    def release(self, call: Call) -> None:
        """The call is over."""
        with self._lock:
            self._calls.pop(call, None)

    def sweep(self) -> None:
        """End the calls of revoked certificates and sites, and of certificates that ran out. Run often."""
        with self._lock:
            calls = list(self._calls)
        if not calls:
            return
        revoked = self._register.revoked({c.serial for c in calls})
        for call in calls:
            if call.closed is not None:
                call.close(call.closed)
            elif call.serial in revoked:
                _log.warning("call.revoked", extra={"fields": {"site": call.site, "serial": call.serial}})
                call.close(AuthenticationError("auth.revoked"))
            elif call.not_after < time.time():
                call.close(AuthenticationError("auth.expired"))
            elif call.idle_s() > self._limits.of(call.site).idle_s:
                call.close(UnavailableError("unavailable.idle"))

    def end(self) -> None:
        """End all calls and admit no more: the gateway stops."""
        error = UnavailableError("unavailable.centre", "the gateway stops")
        with self._lock:
            self._ending = error
            calls = list(self._calls)
        for call in calls:
            if call.closed is None:
                call.close(error)

    def connected(self) -> list[str]:
        """Sites that have a stream open."""
        with self._lock:
            return sorted({c.site for c in self._calls if c.watches and c.closed is None})


def check_tls(context: grpc.ServicerContext) -> None:
    """Refuse anything but TLS 1.3.

    Raises:
        AuthenticationError: `auth.tls-version`.
    """
    auth = context.auth_context()
    if _one(auth, "transport_security_type") != b"ssl" or _one(auth, "ssl_tls_version") != b"TLSv1.3":
        raise AuthenticationError("auth.tls-version")


def _peer(context: grpc.ServicerContext) -> Peer:
    pem = _one(context.auth_context(), "x509_pem_cert")
    if not pem:
        raise AuthenticationError("auth.certificate")
    return _read_certificate(pem)


@lru_cache(maxsize=1024)
def _read_certificate(pem: bytes) -> Peer:
    """Site, serial and end of a certificate whose chain TLS has verified."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except MALFORMED:
        raise AuthenticationError("auth.certificate") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    site = site_of_uri(uris[0]) if len(uris) == 1 and len(names) == 1 else None
    if site is None:
        raise AuthenticationError("auth.certificate")
    end = certificate.not_valid_after_utc.timestamp()
    return Peer(site=site, serial=f"{certificate.serial_number:x}", not_after=end)


def _one(auth: object, name: str) -> bytes:
    values = list(auth.get(name, ())) if isinstance(auth, dict) else []
    return bytes(values[0]) if len(values) == 1 else b""


def _protocol(context: grpc.ServicerContext) -> str:
    auth = context.auth_context()
    return (_one(auth, "ssl_tls_version") + b"/" + _one(auth, "ssl_negotiated_key_exchange_group")).decode("ascii")

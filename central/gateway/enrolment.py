"""Enrolment: the one call without a client certificate, on a port of its own, and rate-limited.

A join code's secret has 192 bits, so the limit guards the signer's time, not the secret. Everything is decided by
the signer; nothing is kept here.
"""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections import OrderedDict
from pathlib import Path

import grpc

from central import ipc
from central.gateway import wire
from protocol.errors import AuthenticationError, UnavailableError
from protocol.v1 import fleet_pb2 as pb

__all__ = ["Enrolment", "Rate"]

ENROL_TIMEOUT_S = 15.0
_log = logging.getLogger("central.gateway")


class Rate:
    """A token bucket per peer address: `burst` calls at once, `per_s` a second, at most `peers` addresses kept."""

    def __init__(self, burst: float = 120.0, per_s: float = 1.0, peers: int = 4096) -> None:
        self._burst = burst
        self._per_s = per_s
        self._peers = peers
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, peer: str, cost: float = 1.0) -> None:
        """Pay for a call.

        Raises:
            UnavailableError: nothing is left; the caller may try later.
        """
        now = time.monotonic()
        with self._lock:
            left, at = self._buckets.pop(peer, (self._burst, now))
            left = min(self._burst, left + (now - at) * self._per_s)
            self._buckets[peer] = (max(0.0, left - cost), now)
            while len(self._buckets) > self._peers:
                self._buckets.popitem(last=False)
        if left < 1.0:
            raise UnavailableError("unavailable.centre", "too many attempts; wait a minute")


class Enrolment:
    """The Enrolment service."""

    def __init__(self, signer: Path, rate: Rate | None = None) -> None:
        self._signer = signer
        self._rate = rate or Rate()

    def Enrol(self, request: pb.EnrolRequest, context: grpc.ServicerContext) -> pb.EnrolReply:
        """A certificate and the signed trust bundle for a join code's secret."""
        peer = context.peer().rpartition(":")[0]
        self._rate.take(peer)
        value = wire.enrolment(request)
        try:
            reply = ipc.call(
                self._signer,
                "enrol",
                ENROL_TIMEOUT_S,
                site=value.site,
                secret_hex=value.secret.hex(),
                csr_der=ipc.text(value.csr_der),
                identity=ipc.text(value.identity),
                signature=ipc.text(value.signature),
            )
        except AuthenticationError as error:
            self._rate.take(peer, cost=9.0)
            _log.warning("enrolment.refused", extra={"fields": {"site": value.site, "code": error.code}})
            raise
        except UnavailableError:
            raise UnavailableError("unavailable.centre", "the signer does not answer") from None
        return pb.EnrolReply(
            certificate_pem=str(reply["certificate_pem"]).encode(),
            trust=base64.b64decode(reply["trust"]),
            trust_signature=base64.b64decode(reply["trust_signature"]),
        )

"""Enrolment: the one call without a client certificate, on a port of its own, and rate-limited.

A join code's secret has 192 bits, so the limit guards the signer's time, not the secret. Everything is decided by
the signer; nothing is kept here.
"""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import grpc

from central import ipc
from central.gateway import wire
from central.gateway.quota import Rate
from protocol.errors import AuthenticationError, UnavailableError
from protocol.v1 import fleet_pb2 as pb

__all__ = ["Enrolment"]

ENROL_TIMEOUT_S = 15.0
_log = logging.getLogger("central.gateway")


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
            self._rate.fine(peer, 9.0)
            _log.warning("enrolment.refused", extra={"fields": {"site": value.site, "code": error.code}})
            raise
        except UnavailableError:
            raise UnavailableError("unavailable.centre", "the signer does not answer") from None
        return pb.EnrolReply(
            certificate_pem=str(reply["certificate_pem"]).encode(),
            trust=base64.b64decode(reply["trust"]),
            trust_signature=base64.b64decode(reply["trust_signature"]),
        )

"""Channels to the centre as grpc makes them, and the one call that is made before there is an identity: enrolment.

Place in the flow: `edge/uplink.py` speaks over such a channel, `edge/identity.py` enrols by it. Limits and keepalive
are set here once.
"""

from __future__ import annotations

import threading
from typing import Any

import grpc

from edge.callerrors import named_errors
from edge.route import DIRECT, Route
from protocol.v1 import fleet_pb2 as pb
from protocol.v1 import fleet_pb2_grpc as rpc

__all__ = ["MAX_MESSAGE_BYTES", "channel", "enrol_call"]

MAX_MESSAGE_BYTES = 8 << 20


def enrol_call(
    address: str,
    ca_pem: bytes,
    *,
    site: str,
    secret: bytes,
    csr_der: bytes,
    identity_public: bytes,
    signature: bytes,
    timeout_s: float = 30.0,
    route: Route = DIRECT,
) -> tuple[bytes, bytes, bytes]:
    """Enrol at the server-authenticated port; the CA given is the only root.

    Returns:
        The certificate chain (PEM), the trust bundle and its signature, all unchecked.

    Raises:
        CorsiaError: as every call of `Uplink`; `auth.join-code` when the secret is not accepted.
    """
    way = channel(address, grpc.ssl_channel_credentials(root_certificates=ca_pem), route)
    try:
        with named_errors(threading.Event()):
            message = pb.EnrolRequest(
                site=site, secret=secret, csr_der=csr_der, identity_public=identity_public, signature=signature
            )
            stub = rpc.EnrolmentStub(way)  # type: ignore[no-untyped-call]
            reply = stub.Enrol(message, timeout=timeout_s)
    finally:
        way.close()
    return bytes(reply.certificate_pem), bytes(reply.trust), bytes(reply.trust_signature)


def channel(address: str, credentials: grpc.ChannelCredentials, route: Route) -> grpc.Channel:
    """A channel to `host:port` by a route; it connects when it is used, and again by itself."""
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # Not more often: a server's default counts frequent pings as an attack and ends the connection.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
    ]
    proxy = route.proxy_of(address)
    options.append(("grpc.enable_http_proxy", 0) if proxy is None else ("grpc.http_proxy", proxy))
    return grpc.secure_channel(address, credentials, options=options)

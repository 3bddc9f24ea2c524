"""The gateway's two ports and what every call passes before a service sees it. Reads top to bottom.

    port (mutual TLS)            Assignments, Delivery, Models: `Fleet` admits, runs, translates errors
    enrolment_port (server TLS)  Enrolment alone

Errors leave as a gRPC status and the trailing metadata `corsia-code`; no text of an exception ever does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from central.config import CentralConfig
from central.gateway.admission import Admission, Call, check_tls
from central.gateway.assignments import Assignments
from central.gateway.delivery import Delivery
from central.gateway.enrolment import Enrolment
from central.gateway.models import Models
from protocol import errors
from protocol.chunk import decode
from protocol.errors import CorsiaError, InputError
from protocol.v1 import fleet_pb2_grpc as services

__all__ = ["Keys", "build_enrolment_server", "build_fleet_server", "status_of"]

ENROL_S = 30.0  # for a whole enrolment
THREADS = 640  # one for each call under way, and each site has a stream that lasts; those that nobody needs never start
MAX_CALLS = 2048  # beyond, calls of whatever site are refused before it is known whose they are
Keys = tuple[bytes, bytes, bytes]  # TLS private key, certificate chain, CA: all PEM
_STATUS: dict[type[CorsiaError], grpc.StatusCode] = {
    errors.ConfigurationError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.AuthenticationError: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionRefused: grpc.StatusCode.PERMISSION_DENIED,
    errors.StudyRefused: grpc.StatusCode.NOT_FOUND,
    errors.IntegrityError: grpc.StatusCode.DATA_LOSS,
    errors.StorageError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.ConflictError: grpc.StatusCode.ABORTED,
}
_UPLOAD = "/corsia.v1.Delivery/Upload"
_MALFORMED = object()  # what a request becomes that does not parse
_log = logging.getLogger("central.gateway")


def status_of(error: CorsiaError) -> grpc.StatusCode:
    """The gRPC status of an error class."""
    return _STATUS.get(type(error), grpc.StatusCode.FAILED_PRECONDITION)


def build_fleet_server(
    config: CentralConfig,
    keys: Callable[[], Keys],
    admission: Admission,
    *,
    assignments: Assignments,
    delivery: Delivery,
    models: Models,
) -> grpc.Server:
    """The mutual-TLS port, not yet started. `keys` is asked again at each connection.

    Raises:
        ConfigurationError: `config.invalid`, the port is taken.
    """

    @contextmanager
    def admitted(context: grpc.ServicerContext, method: str) -> Iterator[Call]:
        call = admission.admit(context, method)
        try:
            yield call
            call.check()
        finally:
            admission.release(call)

    server = _server(config, _Guard(admitted))
    services.add_AssignmentsServicer_to_server(assignments, server)  # type: ignore[no-untyped-call]
    services.add_DeliveryServicer_to_server(delivery, server)  # type: ignore[no-untyped-call]
    services.add_ModelsServicer_to_server(models, server)  # type: ignore[no-untyped-call]
    _listen(server, config.gateway.host, config.gateway.port, keys, clients=True)
    return server


def build_enrolment_server(config: CentralConfig, keys: Callable[[], Keys], enrolment: Enrolment) -> grpc.Server:
    """The enrolment port, not yet started. Sites pin the CA that its chain carries.

    Raises:
        ConfigurationError: `config.invalid`, the port is taken.
    """

    @contextmanager
    def admitted(context: grpc.ServicerContext, _method: str) -> Iterator[grpc.ServicerContext]:
        check_tls(context)
        late = threading.Timer(ENROL_S, context.cancel)  # nobody is known here who could be counted
        late.start()
        try:
            yield context
        finally:
            late.cancel()

    server = _server(config, _Guard(admitted), threads=8)
    services.add_EnrolmentServicer_to_server(enrolment, server)  # type: ignore[no-untyped-call]
    _listen(server, config.gateway.host, config.gateway.enrolment_port, keys, clients=False)
    return server


class _Guard(grpc.ServerInterceptor):
    """Wraps every handler: admission before it, one way out for errors after it.

    Each call is taken as a stream of requests, which on the wire is the same: so a caller is admitted, and counted,
    before it has sent a byte of its message, and one that never sends it cannot hold a thread unseen.
    """

    def __init__(self, admitted: Callable[[grpc.ServicerContext, str], Any]) -> None:
        self._admitted = admitted

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """Replace a handler by its guarded form; unknown methods stay unknown."""
        handler, method = continuation(handler_call_details), str(handler_call_details.method)
        if handler is None:
            return None
        parse = _parser(decode if method == _UPLOAD else handler.request_deserializer)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(handler.unary_stream, method), parse, handler.response_serializer
            )
        behaviour, take = (
            (handler.stream_unary, _checked_stream) if handler.request_streaming else (handler.unary_unary, _only)
        )
        return grpc.stream_unary_rpc_method_handler(
            self._single(behaviour, method, take), parse, handler.response_serializer
        )

    def _single(self, behaviour: Any, method: str, take: Callable[[Iterator[Any], Any], Any]) -> Any:
        def run(requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
            with _translated(context, method), self._admitted(context, method) as call:
                return behaviour(take(requests, call), call)

        return run

    def _streaming(self, behaviour: Any, method: str) -> Any:
        def run(requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
            with _translated(context, method), self._admitted(context, method) as call:
                yield from behaviour(_only(requests, call), call)

        return run


@contextmanager
def _translated(context: grpc.ServicerContext, method: str) -> Iterator[None]:
    try:
        yield
    except CorsiaError as error:
        fields = {"code": error.code, "error_id": error.id, "kind": method.rpartition("/")[2]}
        _log.info("call.refused", extra={"fields": fields})
        told = [("corsia-code", error.code)]
        if error.retry_s:
            told.append(("corsia-retry-s", f"{error.retry_s:.0f}"))
        context.set_trailing_metadata(tuple(told))
        context.abort(status_of(error), error.code)
    except grpc.RpcError:
        context.abort(grpc.StatusCode.CANCELLED, "")  # the site hung up
    except Exception:
        _log.exception("call.failed")
        context.abort(grpc.StatusCode.INTERNAL, "")


def _parser(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parse(raw: bytes) -> Any:
        try:
            return deserialize(raw)
        except Exception:  # whatever the protobuf runtime raises: refused with our own code, not the runtime's text
            return _MALFORMED

    return parse


def _checked(request: Any) -> Any:
    if request is _MALFORMED:
        raise InputError("input.message")
    return request


def _checked_stream(requests: Iterator[Any], _call: Any) -> Iterator[Any]:
    return (_checked(request) for request in requests)


def _only(requests: Iterator[Any], call: Any) -> Any:
    """The one message of a call that is no stream of them."""
    request = _checked(next(requests, _MALFORMED))
    if isinstance(call, Call):
        call.received()
    return request


def _server(config: CentralConfig, guard: _Guard, threads: int = THREADS) -> grpc.Server:
    return grpc.server(
        ThreadPoolExecutor(max_workers=threads, thread_name_prefix="call"),
        interceptors=[guard],
        maximum_concurrent_rpcs=min(MAX_CALLS, threads * 4),
        options=(
            ("grpc.max_receive_message_length", config.limits.max_message_bytes),
            ("grpc.max_send_message_length", config.limits.max_message_bytes),
            ("grpc.max_metadata_size", 16_384),
            ("grpc.max_concurrent_streams", 32),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ("grpc.http2.max_ping_strikes", 0),
        ),
    )


def _listen(server: grpc.Server, host: str, port: int, keys: Callable[[], Keys], *, clients: bool) -> None:
    def configuration() -> grpc.ServerCertificateConfiguration:
        key, chain, ca = keys()
        return grpc.ssl_server_certificate_configuration([(key, chain)], ca if clients else None)

    credentials = grpc.dynamic_ssl_server_credentials(configuration(), configuration, clients)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_secure_port(address, credentials)
    except RuntimeError:
        bound = 0
    if bound != port:
        raise errors.ConfigurationError("config.invalid", f"cannot listen on {address}: the port is taken")

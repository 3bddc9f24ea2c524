"""DICOM associations as this product makes and takes them: no delay on the wire, every class of object, silent logs.

Nagle's algorithm against delayed acknowledgements costs 90 ms a C-STORE; TCP_NODELAY on each connection, ours and
those we accept. Objects of private classes are taken too: what we do not know is set aside and counted, not refused
without a trace. Nobody is listened to without a bound: a PDU, an instance, and what waits to be looked at have one, and
who goes beyond it loses the association.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.sources import checkpoint
from edge.sources.folder import MAX_FILE_BYTES
from protocol.errors import AuthenticationError, ConfigurationError, InputError, UnavailableError

if TYPE_CHECKING:
    from pynetdicom import AE
    from pynetdicom.association import Association
    from pynetdicom.transport import ThreadedAssociationServer

__all__ = ["ask", "associate", "entity", "place_of", "serve", "syntaxes"]

_MAX_PDU = 1 << 17
_LONGEST_PDU = 1 << 20  # that is read at all: one that asks for an association may be longer than those with data
_MAX_WAITING = 8  # requests of one association of which none is answered: a sender waits for each answer


def place_of(address: str) -> tuple[str, int]:
    """Host and port of `host:port`."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def entity(title: str, timeout_s: float) -> AE:
    """An application entity of ours.

    Raises:
        ConfigurationError: `config.extra-missing`.
    """
    try:
        from pynetdicom import AE, _config
        from pynetdicom.transport import AssociationSocket
    except ImportError:
        raise ConfigurationError("config.extra-missing", "this source needs corsia[sources]") from None
    AssociationSocket._shutdown_socket = _shut
    AssociationSocket.recv = _received
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it logs identifiers
    made = AE(ae_title=title)
    made.maximum_pdu_size = _MAX_PDU
    made.acse_timeout = made.dimse_timeout = made.network_timeout = timeout_s
    made.connection_timeout = min(timeout_s, 10.0)
    return made


def syntaxes() -> list[str]:
    """All transfer syntaxes in which images may come."""
    from pynetdicom import ALL_TRANSFER_SYNTAXES

    return list(ALL_TRANSFER_SYNTAXES)


def associate(
    ae: AE, address: str, aet: str, *, ca_file: Path | None = None, handlers: Iterable[Any] = (), roles: Any = None
) -> Association:
    """An established association.

    Raises:
        UnavailableError: `unavailable.source` when nobody answers.
        AuthenticationError: `auth.source` when it is rejected: a title is not the one that the other side expects.
        ConfigurationError: `config.invalid` for `ca_file`.
    """
    from pynetdicom import evt

    host, port = place_of(address)
    more: dict[str, Any] = {"ext_neg": list(roles)} if roles else {}
    if ca_file is not None:
        more["tls_args"] = (_trusting(ca_file), host)
    ours = [(evt.EVT_CONN_OPEN, _at_once), (evt.EVT_PDU_RECV, _bound), *checkpoint.handlers()]
    made = ae.associate(host, port, ae_title=aet, evt_handlers=[*ours, *handlers], **more)
    if made.is_established:
        return made
    rejected, busy = made.is_rejected, getattr(made.acceptor.primitive, "result", 1) == 2
    made.abort()
    if rejected and not busy:
        raise AuthenticationError("auth.source", "the PACS rejects the association: check aet and calling")
    raise UnavailableError("unavailable.source")


def ask(send: Callable[..., Iterator[Any]], *what: object) -> Iterator[Any]:
    """The answers to a request, sent by a method of an association.

    Raises:
        UnavailableError: `unavailable.source`, the association was lost before it could be asked.
        InputError: `input.source`, the PACS has not agreed to be asked so.
    """
    try:
        return send(*what)
    except RuntimeError:  # the other side has ended it
        raise UnavailableError("unavailable.source", "the association was lost") from None
    except ValueError:
        raise InputError("input.source", "the PACS does not take this kind of request") from None


def serve(
    ae: AE, address: str, store: Callable[[Any], int], *, handlers: Iterable[Any] = ()
) -> ThreadedAssociationServer:
    """Take C-STORE and C-ECHO at an address, each association in a thread of its own.

    Args:
        store: called with each C-STORE event, gives its status.
        handlers: of other events, as pynetdicom takes them.

    Raises:
        UnavailableError: `unavailable.source` when the address cannot be listened on.
    """
    from pynetdicom import AllStoragePresentationContexts, evt
    from pynetdicom.sop_class import Verification

    for context in AllStoragePresentationContexts:
        ae.add_supported_context(str(context.abstract_syntax), syntaxes())
    ae.add_supported_context(Verification)
    ours: Any = [
        (evt.EVT_CONN_OPEN, _at_once), (evt.EVT_PDU_RECV, _bound), (evt.EVT_PDU_RECV, _bound_waiting),
        (evt.EVT_C_STORE, store), (evt.EVT_C_ECHO, lambda _event: 0),
    ]  # fmt: skip
    try:
        server = ae.start_server(place_of(address), block=False, evt_handlers=[*ours, *handlers])
    except OSError:
        server = None
    if server is None:
        raise UnavailableError("unavailable.source", "the receiver's address cannot be listened on")
    return server


def _shut(wrapper: Any) -> None:
    """Close a connection also when it is none any more; pynetdicom 3.0 leaves that one open, and forgets it."""
    if (link := wrapper.socket) is not None:
        with suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)
        link.close()


def _received(wrapper: Any, size: int) -> bytearray:
    """So many bytes, or fewer when the connection ends; pynetdicom 3.0 takes all that the head of a PDU announces.

    Raises:
        OSError: more than any PDU has; nothing of it is read, and the connection is closed.
    """
    if size > _LONGEST_PDU:
        raise OSError("a PDU that is too long")
    data = bytearray()
    while len(data) < size and (more := wrapper.socket.recv(size - len(data))):
        data += more
    return data


def _bound(event: Any) -> None:
    """End an association whose present message is larger than a source file may be."""
    message = event.assoc.dimse.message
    if message is not None and message.data_set.tell() + message.encoded_command_set.tell() > MAX_FILE_BYTES:
        _end(event)


def _bound_waiting(event: Any) -> None:
    """End an association that sends on without waiting for an answer."""
    if event.assoc.dimse.msg_queue.qsize() > _MAX_WAITING:
        _end(event)


def _end(event: Any) -> None:
    event.assoc.dul.event_queue.put("Evt19")  # an invalid PDU (PS3.8, table 9-10): abort, what has come is dropped


def _at_once(event: Any) -> None:
    link = event.assoc.dul.socket
    if link is not None and link.socket is not None:
        with suppress(OSError):
            link.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError:
        raise ConfigurationError("config.invalid", f"{ca_file}: no certificates") from None

"""What grpc raises, as one error of ours; a code from the centre is believed only where the centre may speak."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from protocol.errors import (
    AuthenticationError,
    CorsiaError,
    InputError,
    PermissionRefused,
    UnavailableError,
    from_code,
)

__all__ = ["NotOffered", "named_errors", "said"]

# What only this side may say: a peer that sends such a code is not believed.
_OURS = ("approval.", "budget.", "config.", "gate.", "journal.", "paused.", "policy.", "worker.")
# What it says of a certificate of the right CA that is not valid now: the clock is wrong, on one side or the other.
_UNTIMELY = ("certificate has expired", "certificate is not yet valid")
_LONGEST_WAIT_S = 3600.0
# What grpc says of a server that does not prove itself: another CA, a bad signature, another name.
_CROWDED = "concurrent rpc limit"  # grpc's server, when it has more calls than it takes: not a fault of this one
_PROXY = re.compile(r"HTTP proxy returned response code (401|403|407)\b")
_FOREIGN = ("certificate_verify_failed", "certificate signature failure", "verification check failed")


class NotOffered(InputError):
    """The centre does not know the call: it is older than this site."""


@contextmanager
def named_errors(closed: threading.Event) -> Iterator[None]:
    """Give what grpc raises its name; `closed` says that this side hung up."""
    try:
        yield
    except grpc.FutureCancelledError as error:
        raise UnavailableError("unavailable.centre") from error
    except grpc.RpcError as error:
        raise _error_of(error) from error
    except ValueError as error:
        if closed.is_set():  # grpc: "Cannot invoke RPC on closed channel!"
            raise UnavailableError("unavailable.centre", "the uplink is closed") from error
        raise


def _error_of(error: grpc.RpcError) -> CorsiaError:
    """One error for what grpc raised; a code from the centre is believed only where it may speak."""
    if not isinstance(error, grpc.Call):
        return UnavailableError("unavailable.centre")
    for item in error.trailing_metadata() or ():
        if item.key == "corsia-code":
            return _patient(said(str(item.value)), error)
    status, details = error.code(), error.details() or ""
    if status is grpc.StatusCode.UNAVAILABLE:
        return _unreached(details)
    if status is grpc.StatusCode.UNAUTHENTICATED:
        return AuthenticationError("auth.certificate")
    elif status is grpc.StatusCode.PERMISSION_DENIED:
        return PermissionRefused("permission.site")
    elif status is grpc.StatusCode.UNIMPLEMENTED:
        return NotOffered("input.message", f"status {status.name}")
    elif status in _MALFORMED and _CROWDED not in details.lower():
        return InputError("input.message", f"status {status.name}")
    return UnavailableError("unavailable.centre", f"status {status.name}")


def _patient(error: CorsiaError, call: grpc.Call) -> CorsiaError:
    """With the wait that the centre asks for, within reason."""
    asked = next((str(value) for key, value in call.trailing_metadata() or () if key == "corsia-retry-s"), "")
    if isinstance(error, UnavailableError) and asked.isdecimal() and len(asked) < 9:
        error.retry_s = min(float(asked), _LONGEST_WAIT_S)
    return error


def _unreached(details: str) -> CorsiaError:
    """Why no connection came about."""
    if any(word in details.lower() for word in _UNTIMELY):
        return AuthenticationError("auth.clock", "the centre's certificate is not valid by this machine's clock")
    if any(word in details.lower() for word in _FOREIGN):
        return AuthenticationError("auth.fingerprint", "the server's certificate is not one of the pinned CA")
    if _PROXY.search(details):
        return AuthenticationError("auth.proxy", "the proxy does not let this site through")
    return UnavailableError("unavailable.centre", "status UNAVAILABLE")


def said(code: str) -> CorsiaError:
    """What the centre says by a code."""
    if code.startswith(_OURS):
        return InputError("input.message", "the centre sent a code that is only a site's to say")
    if code.startswith("storage."):
        return UnavailableError("unavailable.centre", "the centre's disk refuses for now")
    return from_code(code)


_MALFORMED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)

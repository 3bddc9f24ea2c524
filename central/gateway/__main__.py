"""`python -m central.gateway --config central.toml`: keys, recovery, two ports, one background thread."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from central import ipc
from central.config import CentralConfig, enter_process
from central.gateway.admission import Admission
from central.gateway.assignments import Assignments, Feed
from central.gateway.carried import Carried
from central.gateway.delivery import Delivery
from central.gateway.enrolment import Enrolment
from central.gateway.landed import Landed
from central.gateway.landing import Landing
from central.gateway.models import Models
from central.gateway.receipts import Log, open_log_key
from central.gateway.server import Keys, build_enrolment_server, build_fleet_server
from central.store import Store
from central.store.changes import Changes
from central.succession import finish
from protocol.errors import CorsiaError, UnavailableError
from protocol.heap import keep_buffers

if TYPE_CHECKING:
    from protocol.metrics import Metrics

__all__ = ["Gateway", "main"]

SWEEP_S = 0.25  # after a change, not more often
ASK_S = 0.5  # for what has no change in the database: calls that idle, certificates that ran out
BEATS_S = 5.0  # heartbeats are written down together
CERTIFY_S = 86_400.0
SIGNER_TIMEOUT_S = 60.0
_log = logging.getLogger("central.gateway")


class Gateway:
    """All parts of the gateway in one process.

    Args:
        config: the centre's.
        stop: set when it is to end.
        deliver: makes the Delivery service; a benchmark has one without a disk.
    """

    def __init__(self, config: CentralConfig, stop: threading.Event, *, deliver: Callable[..., Any] = Delivery) -> None:
        self._config = config
        self._stop = stop
        folder = config.state_dir / "gateway"
        self._store = store = Store(config.state_dir)
        finish(config.state_dir, folder, store)
        log_key = open_log_key(folder)  # the signer puts its public half into the trust bundle
        self._keys = _certified(config, folder, stop)
        self._changes = Changes(store.engine, stop)
        self._log = Log(store, log_key, config.log_origin)
        landing = Landing(config.state_dir / "landing")
        self._admission = Admission(store, config.limits)
        self._feed = Feed(store)
        self._assignments = Assignments(config, store, self._feed, self._log)
        landed = Landed(store, self._log, self._assignments.write_beats)
        delivery = deliver(store, landing, self._log, config.limits, landed)
        delivery.recover()
        self._carried = Carried(store, delivery)
        self.models = Models(store, self._log)
        self._fleet = build_fleet_server(
            config,
            lambda: self._keys,
            self._admission,
            assignments=self._assignments,
            delivery=delivery,
            models=self.models,
        )
        self._enrolment = build_enrolment_server(config, lambda: self._keys, Enrolment(config.socket("signer")))

    def run(self) -> None:
        """Serve until the stop event; then end streams and finish calls under way."""
        background = threading.Thread(target=self._background, name="background", daemon=True)
        background.start()
        metrics = None if self._config.metrics.port is None else self._metrics(self._config.metrics.port)
        self._fleet.start()
        self._enrolment.start()
        gateway = self._config.gateway
        _log.info("gateway.ready", extra={"fields": {"port": gateway.port, "host": gateway.host}})
        try:
            handlers = {"status": self._status, **self._carried.handlers}
            ipc.serve(self._config.socket("gateway"), handlers, self._stop)
        finally:
            self._stop.set()
            if metrics is not None:
                metrics.stop()
            self._admission.end()
            ended = [self._fleet.stop(3.0), self._enrolment.stop(3.0)]
            for event in ended:
                event.wait(5.0)
            background.join(5.0)

    def _metrics(self, port: int) -> Metrics:
        from central.gateway.metrics import read  # it takes memory, and most centres ask for none
        from protocol.metrics import Metrics

        made = Metrics(lambda: read(self._store, self._admission.connected(), self._log.state()["size"]))
        made.start(port)
        return made

    def _status(self, _params: dict[str, object]) -> dict[str, object]:
        return {"connected": self._admission.connected(), "log": self._log.state()}

    def _background(self) -> None:
        swept = asked = written = certified = time.monotonic()
        unread = unsigned = True  # what is new stays so until it has been dealt with
        while not self._stop.is_set():
            try:
                if self._changes.wait(0.0 if unread else SWEEP_S if unsigned else ASK_S):
                    unread = unsigned = True
                if unread:
                    unread = self._feed.poll()
                now = time.monotonic()
                if now - swept >= SWEEP_S:
                    swept = now
                    if unsigned or now - asked >= ASK_S:
                        asked = now
                        self._admission.sweep()
                    if unsigned:
                        self._log.tick()
                        unsigned = False
                if now - written >= BEATS_S:
                    written = now
                    self._assignments.write_beats()
                if now - certified >= CERTIFY_S:
                    certified = now
                    self._keys = _certified(self._config, self._config.state_dir / "gateway", self._stop)
            except Exception:  # a locked database or a signer at restart: the next turn tries again
                _log.exception("gateway.background")
                self._stop.wait(0.5)


def _certified(config: CentralConfig, folder: Path, stop: threading.Event) -> Keys:
    """A fresh TLS key with a certificate from the signer, waited for."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    until = time.monotonic() + SIGNER_TIMEOUT_S
    while True:
        try:
            reply = ipc.call(
                config.socket("signer"), "server_certificate", csr_der=ipc.text(csr.public_bytes(Encoding.DER))
            )
            break
        except UnavailableError:
            if stop.wait(0.1) or time.monotonic() > until:
                raise
    chain, ca = str(reply["certificate_pem"]).encode(), str(reply["ca_pem"]).encode()
    (folder / "tls.key").unlink(missing_ok=True)  # as an earlier version left it: the key lives in memory alone
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), chain, ca


def main() -> int:
    """Run the gateway until SIGTERM."""
    try:
        keep_buffers()
        config, stop = enter_process("gateway")
        with ipc.sole(config.state_dir / "gateway" / "gateway.lock"):
            Gateway(config, stop).run()
    except CorsiaError as error:
        sys.stderr.write(f"error [{error.code}]: {error.message}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())

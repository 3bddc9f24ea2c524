"""Where the vault's heavy work is done: in its own process, in processes of this machine, or on a Dask cluster.

What goes there is pure: it gets ciphertext's place and one study's key, and gives back values or an error's code. The
database, the lake's writing and every decision stay in the vault. Keys and records travel, so a cluster is reached by
TLS with certificates on both sides alone (Dask checks them against one CA), also on this machine, and a worker that
could spill records to a disk is refused: its memory is all it may use. Who runs scheduler and workers is trusted with
records as the vault is (docs/growing.md). Dask serialises with pickle: nothing here comes from a hospital
unopened, and nothing of it is loaded but by processes that hold the cluster's certificates.

Source: Dask.distributed, "TLS/SSL" and "Managing memory".
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from protocol.errors import ConfigurationError, CorsiaError, UnavailableError, WorkerError, from_code

if TYPE_CHECKING:
    from distributed import Client, Future

    from central.config import ComputeConfig

__all__ = ["Compute", "Here", "OnDask", "Pending", "compute_of"]

_Result = TypeVar("_Result")
_MEMORY = "/dev/shm"  # noqa: S108 - a file system in memory
_CONNECT_S = 30.0
_ANSWER_S, _LOOK_S, _ALONE_S = 3600.0, 2.0, 30.0
_SETTINGS = {
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.9,
    "distributed.worker.memory.terminate": 0.98,
    "distributed.worker.daemon": True,
    "distributed.comm.require-encryption": True,
    "distributed.scheduler.allowed-failures": 1,
    "distributed.diagnostics.nvml": False,
    # Their web pages, which have no password, tell of calls and workers to whoever may open a socket here.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
_log = logging.getLogger("central.vault")


@dataclass(frozen=True, slots=True)
class _Told:
    """What came of a call over there: a value, or the code and text of a named error."""

    value: Any = None
    code: str = ""
    message: str = ""


class Pending(Generic[_Result]):
    """A value that is on its way."""

    def __init__(self, wait: Callable[[], _Result]) -> None:
        self._wait = wait

    def result(self) -> _Result:
        """Wait for it.

        Raises:
            CorsiaError: what the call raised.
            WorkerError: `worker.killed`: the worker died of it.
            UnavailableError: `unavailable.process`: the cluster is not there.
        """
        return self._wait()


class Compute:
    """What the vault asks: calls of pure functions, begun now and fetched later."""

    width = 1  # calls that are worth beginning at once

    def begin(self, call: Callable[..., _Result], *values: Any) -> Pending[_Result]:
        """Begin a call. Raises: UnavailableError."""
        raise NotImplementedError

    def map(self, call: Callable[..., _Result], values: Iterable[tuple[Any, ...]]) -> list[_Result]:
        """All calls' results, in order. Raises: as `Pending.result`."""
        pending = [self.begin(call, *value) for value in values]
        return [one.result() for one in pending]

    def close(self) -> None:
        """Let workers of this machine go."""


class Here(Compute):
    """In this thread, when the result is asked for."""

    def begin(self, call: Callable[..., _Result], *values: Any) -> Pending[_Result]:
        """See `Compute`."""
        return Pending(lambda: call(*values))


class OnDask(Compute):
    """On a cluster: one of ours, which ends with this process, or one whose scheduler is named."""

    def __init__(self, config: ComputeConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._client: Client | None = None
        self.width = max(2, config.workers)

    def begin(self, call: Callable[..., _Result], *values: Any) -> Pending[_Result]:
        """See `Compute`."""
        from distributed.scheduler import KilledWorker

        client = self._connected()
        try:
            future = client.submit(_answer, call, values, pure=False)
        except Exception as error:
            raise self._lost(client, error) from None

        def wait() -> _Result:
            try:
                told = self._answered(client, future)
            except KilledWorker:
                raise WorkerError("worker.killed", "a worker of the vault's cluster died of it") from None
            except Exception as error:  # a scheduler that went: nothing else is raised over there
                raise self._lost(client, error) from None
            finally:
                future.release()
            if told.code:
                raise from_code(told.code, told.message)
            result: _Result = told.value
            return result

        return Pending(wait)

    def close(self) -> None:
        """See `Compute`."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            cluster = client.cluster
            with suppress(TimeoutError, OSError):  # what does not close in time, ends with this process
                client.close(timeout=5)
            if cluster is not None:
                with suppress(TimeoutError, OSError):
                    cluster.close(timeout=5)

    @staticmethod
    def _answered(client: Client, future: Future) -> _Told:
        """Wait while there is anybody to do it: a nanny that cannot start its worker again gives up silently."""
        until, alone_since = time.monotonic() + _ANSWER_S, 0.0
        while True:
            try:
                told: _Told = future.result(timeout=_LOOK_S)
                return told
            except TimeoutError:
                now = time.monotonic()
                alone_since = 0.0 if client.scheduler_info()["workers"] else alone_since or now
                if now > until or (alone_since and now - alone_since > _ALONE_S):
                    raise ConnectionError("nobody does it") from None

    def _lost(self, client: Client, error: BaseException) -> UnavailableError:
        """A dead worker is replaced by its nanny; a cluster without any, or a lost one, is begun anew."""
        _log.warning("compute.lost", exc_info=error)
        gone = isinstance(error, ConnectionError) or client.status != "running"
        if gone and client is self._client:  # else another call has begun anew meanwhile
            self.close()
        return UnavailableError("unavailable.process", "the vault's cluster is not there")

    def _connected(self) -> Client:
        with self._lock:
            if self._client is None:
                self._client = _remote(self._config) if self._config.scheduler else _local(self._config)
                fields = {"count": self.width, "kind": "remote" if self._config.scheduler else "local"}
                _log.info("compute.ready", extra={"fields": fields})
            return self._client


def compute_of(config: ComputeConfig) -> Compute:
    """What the configuration asks for; nothing is started before it is used."""
    return OnDask(config) if config.workers or config.scheduler else Here()


def _answer(call: Callable[..., Any], values: tuple[Any, ...]) -> _Told:
    if not _keeps_in_memory():
        return _Told(code="config.invalid", message="a worker of the vault's cluster may spill records to a disk")
    try:
        return _Told(value=call(*values))
    except CorsiaError as error:
        return _Told(code=error.code, message=error.message)


def _local(config: ComputeConfig) -> Client:
    """Processes of this machine behind certificates that are made now and lie nowhere."""
    import dask
    from distributed import Client, LocalCluster, Security

    dask.config.set(_SETTINGS)  # for good: a worker that dies is started again by what is set then
    cluster = LocalCluster(
        n_workers=config.workers, threads_per_worker=1, processes=True, host="127.0.0.1", protocol="tls://",
        security=Security.temporary(), dashboard_address=None, worker_dashboard_address=None,
        local_directory=_MEMORY, memory_limit=config.worker_memory_bytes, silence_logs=logging.ERROR,
    )  # fmt: skip
    return Client(cluster, security=cluster.security, set_as_default=False)


def _remote(config: ComputeConfig) -> Client:
    import dask
    from distributed import Client, Security

    security = Security(
        tls_ca_file=_file(config.tls_ca), tls_client_cert=_file(config.tls_cert), tls_client_key=_file(config.tls_key),
        require_encryption=True,
    )  # fmt: skip
    try:
        with dask.config.set(_SETTINGS):
            return Client(config.scheduler, security=security, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError) as error:
        _log.warning("compute.lost", exc_info=error)
        raise UnavailableError("unavailable.process", "the scheduler of the vault's cluster does not answer") from None


def _keeps_in_memory() -> bool:
    """Asked by each call of the worker it is on: whether it never spills, or spills to a file system in memory."""
    import dask
    from distributed import get_worker

    spills = any(dask.config.get(f"distributed.worker.memory.{name}") for name in ("target", "spill"))
    folder = Path(get_worker().local_directory).resolve()
    mount = next((str(at) for at in (folder, *folder.parents) if os.path.ismount(at)), "/")
    kinds = {line.split()[1]: line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    return not spills or kinds.get(mount) in ("tmpfs", "ramfs")


def _file(path: Path | None) -> str:
    if path is None or not path.is_file():
        raise ConfigurationError("config.missing", "compute: tls_ca, tls_cert and tls_key name files")
    return str(path)

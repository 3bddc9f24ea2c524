"""Several processes of one worker that share each batch (torch DDP): started once a run, warm between its rounds.

The worker is rank 0 and starts the others by `spawn`; they find each other through a file and talk over the loopback
interface alone (gloo), or between GPUs (nccl). They inherit the worker's limits and its namespace without network, and
die with it. What goes between them is pickled: it comes from the worker itself, never from the wire.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.learners.engine import device_of
from protocol.errors import CorsiaError, WorkerError
from protocol.process import close_dumps

__all__ = ["Ranks", "Share"]

Arrays = dict[str, np.ndarray[Any, Any]]
# (model, preprocessing, seed, device, rank, world) -> the model after the local steps; picklable, with its rows
Share = Callable[[Arrays, Arrays, int, Any, int, int], Arrays]
_PATIENCE_S = 600.0  # for the slowest step of the slowest process
_PR_SET_PDEATHSIG = 1


class Ranks:
    """The processes of one run.

    Args:
        share: what each does in a round; it is copied to each with the rows that it holds.
        device: the site's word; with CUDA each process takes the next GPU.
        world: how many, this one among them.

    Raises:
        WorkerError: `worker.device` for too few GPUs, `worker.parallel` when they do not find each other.
    """

    def __init__(self, share: Share, device: str, world: int) -> None:
        self._devices = _devices(device, world)
        self._share, self._world = share, world
        self._folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        self._others: list[tuple[BaseProcess, Connection]] = []
        with self._meeting():
            for rank in range(1, world):
                self._others.append(self._started(rank))
            for _process, pipe in self._others:
                pipe.recv()  # it runs; of one that could not even start the pipe ends here
            _join(str(self._folder), self._devices[0], 0, world)

    def _started(self, rank: int) -> tuple[BaseProcess, Connection]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        place = (str(self._folder), self._devices[rank], rank, self._world, os.getpid())
        process = context.Process(target=_follow, args=(theirs, self._share, *place), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def fit(self, model: Arrays, preprocessing: Arrays, seed: int) -> Arrays:
        """One round's local steps.

        Raises:
            WorkerError: `worker.parallel` when a process is gone; all are ended then.
            CorsiaError: as `share` raises.
        """
        with self._meeting():
            for _process, pipe in self._others:
                pipe.send((model, preprocessing, seed))
            return self._share(model, preprocessing, seed, self._devices[0], 0, self._world)

    def close(self) -> None:
        """End the processes."""
        import torch

        for process, pipe in self._others:
            pipe.close()
            process.kill()
            process.join()
        self._others.clear()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _meeting(self) -> _Meeting:
        return _Meeting(self)


class _Meeting:
    """What fails between processes becomes one code, and ends them; a learner's own errors go on after that."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        self._ranks.close()
        if isinstance(error, RuntimeError | OSError | EOFError) and not isinstance(error, CorsiaError):
            raise WorkerError("worker.parallel", type(error).__name__) from None


def _devices(name: str, world: int) -> list[str]:
    import torch

    first = device_of(name)
    if first.type != "cuda":
        return [str(first)] * world
    numbers = range(first.index or 0, (first.index or 0) + world)
    if numbers.stop > torch.cuda.device_count():
        raise WorkerError("worker.device", f"{world} GPUs from {first} on are not there")
    return [f"cuda:{number}" for number in numbers]


def _join(folder: str, device: str, rank: int, world: int) -> None:
    import torch

    if any(name == "lo" for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "nccl" if device.startswith("cuda") else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        backend, store=torch.distributed.FileStore(f"{folder}/store", world), rank=rank, world_size=world,
        timeout=timedelta(seconds=_PATIENCE_S),
    )  # fmt: skip


def _follow(pipe: Connection, share: Share, folder: str, device: str, rank: int, world: int, parent: int) -> None:
    """A further process: rounds until the worker is gone. What it fails with is told by its absence."""
    if hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    close_dumps()
    try:
        pipe.send(rank)
        _join(folder, device, rank, world)
        while True:
            model, preprocessing, seed = pipe.recv()
            share(model, preprocessing, seed, device, rank, world)
    except BaseException:  # a trace could quote data: rank 0 sees that this process is gone
        os._exit(1)

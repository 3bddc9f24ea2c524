"""The gateway's server with memory where its landing zone is: it opens each parcel at its commit, as the vault would.

`python -m corsia.bench_wall_memory --config central.toml`: ports, TLS, admission and interceptors are the
gateway's; no parcel touches a disk or is logged. For `ratio_to_raw` alone.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from central import ipc
from central.config import enter_process
from central.gateway import wire
from central.gateway.__main__ import Gateway
from central.gateway.admission import Call
from central.gateway.landing import Landing
from central.gateway.receipts import Log
from central.store import Store
from privacy.envelope import PublicKey, read_key, unseal_into
from protocol.chunk import Chunk
from protocol.errors import ConflictError, CorsiaError, InputError
from protocol.heap import keep_buffers
from protocol.parcel import Receipt

__all__ = ["Memory", "Pool", "main"]


class Memory(io.RawIOBase):
    """A file of a fixed number of bytes in memory that copies nothing beside what is read and written."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self.view = memoryview(bytearray(size_bytes))
        self.at = 0

    def cut(self, size_bytes: int) -> Memory:
        """The first so many bytes as a file of their own over the same memory."""
        made = Memory(0)
        made.view = self.view[:size_bytes]
        return made

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Write at the present place."""
        self.view[self.at : self.at + len(data)] = data
        self.at += len(data)
        return len(data)

    def readinto(self, target: memoryview) -> int:  # type: ignore[override]
        """Read from the present place."""
        found = self.view[self.at : self.at + len(target)]
        target[: len(found)] = found
        self.at += len(found)
        return len(found)

    def read(self, size: int = -1) -> memoryview:
        """What comes next, as a view."""
        found = self.view[self.at : len(self.view) if size < 0 else self.at + size]
        self.at += len(found)
        return found

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The present place."""
        return self.at

    def seek(self, at: int, whence: int = 0) -> int:
        """Go to a place, counted from the beginning."""
        if whence:
            raise io.UnsupportedOperation
        self.at = at
        return at


class Pool:
    """Memories that are used again: fresh ones would be faulted in page by page, which is no part of the way."""

    def __init__(self) -> None:
        self._free: list[Memory] = []

    def take(self, size_bytes: int) -> Memory:
        """One of at least so many bytes, at its beginning."""
        try:
            memory = self._free.pop()
        except IndexError:
            return Memory(size_bytes)
        memory.at = 0
        return memory if len(memory.view) >= size_bytes else Memory(size_bytes)

    def give(self, memory: Memory) -> None:
        """Take one back."""
        self._free.append(memory)


class _Nothing:
    def write(self, data: memoryview) -> int:
        return len(data)


class _Delivery:
    """The Delivery service without a disk. Takes the gateway's parts, and uses the register of sites alone."""

    def __init__(self, store: Store, _landing: Landing, _log: Log, _limits: object, _landed: object) -> None:
        self._store = store
        self._key = read_key(store.state_dir.parent / "study.key")
        self._pool = Pool()
        self._held: dict[str, tuple[wire.Announcement, Memory]] = {}

    def Open(self, request: Any, _call: Call) -> Any:
        """Make room."""
        what = wire.announcement(request)
        self._held[what.parcel_id] = (what, self._pool.take(what.size_bytes))
        return wire.opened(0)

    def Upload(self, requests: Iterator[Chunk], call: Call) -> Any:
        """Take chunks in order."""
        first = next(requests)
        memory = self._held[first.parcel_id][1]
        memory.write(first.data)
        for chunk in requests:
            call.check()
            if chunk.offset != memory.at:
                raise InputError("input.message", "offset of a chunk")
            memory.write(chunk.data)
        return wire.uploaded(memory.at)

    def Commit(self, request: Any, call: Call) -> Any:
        """Verify and open."""
        what, memory = self._held.pop(request.parcel_id)
        site = self._store.site(call.site)
        if site is None:
            raise ConflictError("conflict.state", "the site is not known")
        memory.seek(0)
        whole = memory.cut(what.size_bytes)
        sender = PublicKey.from_base64(site.identity)
        unseal_into(cast(BinaryIO, whole), cast(BinaryIO, _Nothing()), key=self._key, sender=sender)
        self._pool.give(memory)
        receipt = Receipt(parcel_id=what.parcel_id, digest=what.digest, index=0, proof=(), checkpoint="")
        return wire.receipt_message(receipt)

    def Carry(self, _request: Any, _call: Call) -> Any:
        """Not measured here."""
        raise InputError("input.message", "no small parcels here")

    def Landed(self, _request: Any, _call: Call) -> Any:
        """Not measured here."""
        raise InputError("input.message", "nothing is kept here")

    def recover(self) -> int:
        """Nothing outlives this process."""
        return 0


def main() -> int:
    """Run until SIGTERM."""
    keep_buffers()
    try:
        config, stop = enter_process("gateway")
        with ipc.sole(config.state_dir / "gateway" / "gateway.lock"):
            Gateway(config, stop, deliver=_Delivery).run()
    except CorsiaError as error:
        sys.stderr.write(f"error [{error.code}]: {error.message}\n")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())

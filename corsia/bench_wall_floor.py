"""What nobody can be much faster than: the same bytes over one mutual-TLS connection, plain, and from disk to disk.

`python -m corsia.bench_wall_floor receive|send CREDENTIALS FOLDER SIZE DISK`: two processes, Python's own `ssl`, TLS
1.3, one connection, pieces of 1 MiB. With a disk the sender writes the bytes and syncs them before it sends, and the
receiver writes what comes, syncing once.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["floor", "main"]

_PIECE = 1 << 20


def floor(root: Path, credentials: Path, size_bytes: int, *, disk: bool) -> float:
    """Seconds that so many bytes take.

    Args:
        root: a folder for the files.
        credentials: folder with `ca.pem`, `cert.pem` and `key.pem`, of both ends.
        size_bytes: how many.
        disk: through files on both sides.
    """
    command = [sys.executable, "-m", "corsia.bench_wall_floor"]
    args = [str(credentials), str(root), str(size_bytes), str(int(disk))]
    receiver = subprocess.Popen([*command, "receive", *args], stdout=subprocess.PIPE, text=True)
    try:
        port = receiver.stdout.readline().strip() if receiver.stdout else ""
        sent = subprocess.run([*command, "send", *args, port], check=True, capture_output=True, text=True)
        receiver.wait(60)
    finally:
        receiver.kill()
        receiver.wait()
        if receiver.stdout:
            receiver.stdout.close()
    return float(sent.stdout)


def _receive(credentials: Path, root: Path, size_bytes: int, disk: bool) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(credentials / "ca.pem"))
    context.load_cert_chain(credentials / "cert.pem", credentials / "key.pem")
    context.verify_mode, context.minimum_version = ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_3
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        raw, _ = listener.accept()
    with context.wrap_socket(raw, server_side=True) as secure, open(_target(root, disk), "wb", buffering=0) as target:
        piece, left = memoryview(bytearray(_PIECE)), size_bytes
        while left:
            count = secure.recv_into(piece)
            if not count:
                raise EOFError
            if disk:
                target.write(piece[:count])
            left -= count
        if disk:
            os.fsync(target.fileno())
        secure.sendall(b"!")


def _target(root: Path, disk: bool) -> Path:
    return root / "received" if disk else Path(os.devnull)


def _send(credentials: Path, root: Path, size_bytes: int, disk: bool, port: int) -> None:
    context = ssl.create_default_context(cafile=str(credentials / "ca.pem"))
    context.load_cert_chain(credentials / "cert.pem", credentials / "key.pem")
    with context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1") as secure:
        piece = memoryview(bytearray(os.urandom(_PIECE)))
        began = time.monotonic()
        if disk:
            _from_disk(secure, root / "sent", piece, size_bytes)
        else:
            for at in range(0, size_bytes, _PIECE):
                secure.sendall(piece[: size_bytes - at])
        if secure.recv(1) != b"!":
            raise EOFError
        sys.stdout.write(f"{time.monotonic() - began}\n")


def _from_disk(secure: ssl.SSLSocket, path: Path, piece: memoryview, size_bytes: int) -> None:
    with path.open("wb", buffering=0) as target:
        for at in range(0, size_bytes, _PIECE):
            target.write(piece[: size_bytes - at])
        os.fsync(target.fileno())
    with path.open("rb", buffering=0) as source:
        while count := source.readinto(piece):
            secure.sendall(piece[:count])


def main() -> int:
    """One end of the connection."""
    role, credentials, root, size, disk = sys.argv[1:6]
    if role == "receive":
        _receive(Path(credentials), Path(root), int(size), disk == "1")
    else:
        _send(Path(credentials), Path(root), int(size), disk == "1", int(sys.argv[6]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

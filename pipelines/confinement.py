"""What a process may still do before it runs code that is not trusted: no network, few files, bounded memory.

Linux alone; the worker of a hospital and the centre's look at a plug-in confine themselves by it, first of all, while
they have one thread. Says what could be closed; who starts the process decides whether that is enough.

Source: Linux user-space API guide, "Landlock: unprivileged access control"; namespaces(7), prctl(2), setrlimit(2).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["close_files", "confine", "system_paths"]

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # Landlock's system calls, the same numbers on all architectures
_VERSION, _BENEATH = 1, 1
_READ = 0b1101  # execute, read file, read folder
_FILE = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # what can be said of a file that is no folder
_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # ABI -> how many rights it knows; later ones 16
_SCOPES = 0b11  # abstract sockets and signals stay among processes so confined (ABI 6)
_SYSTEM = (
    "/usr", "/lib", "/lib64", "/bin", "/proc", "/sys", "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf",
    "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/mime.types", "/etc/os-release",
)  # fmt: skip


def confine(parent: int, memory: int) -> str:
    """Die with `parent`, leave the network, take no new rights, and no more memory; `none` or `shared`, the network.

    Args:
        parent: process id of who started this process.
        memory: bytes of the data segment.
    """
    os.umask(0o077)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    uid, gid = os.getuid(), os.getgid()
    network = "shared"
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        network = "none"
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            try:
                Path(f"/proc/self/{name}").write_text(text)
            except OSError:
                break  # unmapped ids only show as nobody
    elif libc.unshare(_CLONE_NEWNET) == 0:
        network = "none"
    if network == "none":
        _raise_loopback()
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
    return network


def _raise_loopback() -> None:
    """The namespace's own loopback, over which the processes of one worker talk; it leads nowhere else."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP | _IFF_RUNNING))


def system_paths() -> list[Path]:
    """What Python and its libraries read: the system's folders, the environment, the search path."""
    return [Path(p) for p in (*_SYSTEM, sys.prefix, sys.base_prefix, *sys.path) if p and Path(p).exists()]


def close_files(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """From now on no file is opened but below these paths (and devices); whether the kernel can do that (Landlock).

    It also forbids to look into processes outside and, where the kernel can, to signal them. For this thread and what
    it starts: call it while there is one.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    abi = int(libc.syscall(_CREATE, None, 0, _VERSION))
    if abi < 1:
        return False
    everything = (1 << _BITS.get(abi, 16)) - 1
    attributes = struct.pack("=QQQ", everything, 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = int(libc.syscall(_CREATE, ctypes.create_string_buffer(attributes, 24), size, 0))
    if rules < 0:
        return False
    try:
        for path, rights in [*((p, _READ) for p in readable), *((p, everything) for p in (*writable, Path("/dev")))]:
            if not _allowed(libc, rules, path, rights & everything):
                return False
        return int(libc.syscall(_RESTRICT, rules, 0)) == 0
    finally:
        os.close(rules)


def _allowed(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> bool:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        rights = rights if path.is_dir() else rights & _FILE
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, handle), 12)
        return int(libc.syscall(_ADD, rules, _BENEATH, rule, 0)) == 0
    finally:
        os.close(handle)

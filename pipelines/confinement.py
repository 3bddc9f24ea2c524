"""What a process may still do before it runs code that is not trusted: no network, few files and calls, bounded memory.

Linux alone; the worker of a hospital and the centre's look at a plug-in confine themselves by it, first of all, while
they have one thread. Children inherit all of it. Each step says whether the kernel let it be; who starts the process
decides whether that is enough. `pipelines.syscalls` forbids the calls that these rules do not reach.

Source: Linux user-space API guide, "Landlock: unprivileged access control"; namespaces(7), prctl(2), setrlimit(2).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pipelines import syscalls
from protocol.process import close_dumps

__all__ = ["LACKS", "close_files", "confine", "libraries", "missing", "relink", "system_paths"]

LACKS = ("network", "files", "signals", "calls")  # what `missing` may name
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 24, 38
_CAPABILITIES, _CAPABILITY_VERSION = 64, 0x20080522
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # Landlock's system calls, the same numbers on all architectures
_VERSION, _BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE, _IOCTL = (1 << n for n in (0, 1, 2, 3, 14, 15))
_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL  # what can be said of a file that is no folder
_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # ABI -> how many rights it knows; later ones 16
_SCOPES = 0b11  # abstract sockets and signals stay among processes so confined (ABI 6)
_PROCESSES = 512  # threads among them
_SYSTEM = (
    "/usr", "/lib", "/lib64", "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/driver",
    "/proc/sys/vm", "/sys/devices", "/sys/class", "/sys/bus", "/sys/module", "/sys/fs/cgroup",
    "/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/hosts",
    "/etc/mime.types", "/etc/os-release", "/etc/OpenCL",
)  # fmt: skip
_DEVICES = ("null", "zero", "full", "random", "urandom", "nvidia*", "dri", "kfd")


def confine(parent: int, memory: int) -> str:
    """Die with `parent`, leave the network, take no new rights, and no more memory; `none` or `shared`, the network.

    Args:
        parent: process id of who started this process.
        memory: bytes of the data segment, and of any file.
    """
    os.umask(0o077)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)
    uid, gid = os.getuid(), os.getgid()
    network, limits = "shared", {}
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) == 0:
        network, limits = "none", {resource.RLIMIT_NPROC: _PROCESSES}  # counted within the namespace
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            try:
                Path(f"/proc/self/{name}").write_text(text)
            except OSError:
                break  # unmapped ids only show as nobody
    elif libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC) == 0:
        network = "none"
    if network == "none":
        _raise_loopback()
    close_dumps()  # only now: the maps above belong to root once a process is not dumpable
    _drop_capabilities(libc)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    limits |= {resource.RLIMIT_CORE: 0, resource.RLIMIT_DATA: memory, resource.RLIMIT_FSIZE: memory}
    for limit, most in (limits | {resource.RLIMIT_NOFILE: 512}).items():
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))
    return network


def missing(network: str) -> tuple[str, ...]:
    """Forbid what no library needs (`pipelines.syscalls`); returns which of `LACKS` this process goes without.

    Args:
        network: what `confine` returned; a network that is still there is closed by forbidding sockets.
    """
    calls = syscalls.forbid(sockets=network == "none")
    abi = _abi(ctypes.CDLL(None, use_errno=True))
    there = {"network": network == "none" or calls, "files": abi >= 1, "signals": abi >= 6, "calls": calls}
    return tuple(name for name in LACKS if not there[name])


def system_paths() -> list[Path]:
    """What Python and its libraries read: the system's folders, the environment, what the search path holds of code."""
    whole = [Path(path) for path in (*_SYSTEM, sys.prefix, sys.base_prefix)]
    searched = [Path(entry) for entry in sys.path if entry]
    beside = [folder for folder in searched if not any(folder.is_relative_to(known) for known in whole)]
    code = [path for folder in beside for path in (_packages(folder) if _is_tree(folder) else (folder,))]
    return [path for path in (*whole, *code) if path.exists()]


def _is_tree(folder: Path) -> bool:
    return folder.is_dir() and folder.name not in ("site-packages", "dist-packages", "lib-dynload")


def _packages(folder: Path) -> Iterator[Path]:
    """Of a source tree on the search path the packages alone: whatever else lies there is nobody's library."""
    for path in folder.iterdir():
        if path.suffix in (".py", ".so", ".pth", ".dist-info", ".egg-info") or (path / "__init__.py").exists():
            yield path


def relink(home: Path) -> None:
    """Search a source tree's packages in a folder of links from now on: the tree itself is about to be closed.

    Python finds no package in a folder that it may not list. What this process starts takes the search path over.

    Args:
        home: where the links are made.
    """
    whole = [Path(path) for path in (*_SYSTEM, sys.prefix, sys.base_prefix)]
    for at, entry in enumerate(sys.path):
        folder = Path(entry)
        if not entry or not _is_tree(folder) or any(folder.is_relative_to(known) for known in whole):
            continue
        links = home / f".path-{at}"
        links.mkdir(mode=0o700)
        for path in _packages(folder):
            (links / path.name).symlink_to(path.resolve())
        sys.path[at] = str(links)


def libraries(hidden: Path) -> list[Path]:
    """`system_paths` without a folder that lies in one of them: its neighbours are named one by one instead.

    Args:
        hidden: a folder that must stay closed although it lies beside code (a state folder in a source tree).
    """
    return [path for one in system_paths() for path in _around(one.resolve(), hidden.resolve())]


def close_files(readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """From now on no file is opened but below these paths, and a few devices; whether the kernel can do that.

    Of files none is started but the interpreter's own (what runs from memory is as confined). It also forbids to look
    into processes outside and, where the kernel can, to signal them. For this thread and what it starts: call it while
    there is one.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    abi = _abi(libc)
    if abi < 1:
        return False
    everything = (1 << _BITS.get(abi, 16)) - 1
    attributes = struct.pack("=QQQ", everything, 0, _SCOPES if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = int(libc.syscall(_CREATE, ctypes.create_string_buffer(attributes, 24), size, 0))
    if rules < 0:
        return False
    allowed = [(path, _READ_FILE | _READ_DIR) for path in readable]
    allowed += [(path, everything & ~_EXECUTE) for path in writable]
    allowed += [(path, everything & ~_EXECUTE) for name in _DEVICES for path in Path("/dev").glob(name)]
    allowed += [(path, _EXECUTE | _READ_FILE) for path in _interpreter()]
    try:
        return all(_allow(libc, rules, path, rights & everything) for path, rights in allowed) and (
            int(libc.syscall(_RESTRICT, rules, 0)) == 0
        )
    finally:
        os.close(rules)


def _abi(libc: ctypes.CDLL) -> int:
    return int(libc.syscall(_CREATE, None, 0, _VERSION))


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> bool:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return True  # nothing to allow
    except OSError:
        return False
    try:
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights if path.is_dir() else rights & _FILE, handle), 12)
        return int(libc.syscall(_ADD, rules, _BENEATH, rule, 0)) == 0
    finally:
        os.close(handle)


def _interpreter() -> Iterator[Path]:
    """The interpreter's file and what loads it: all that a further process of a worker (torch DDP) is started from."""
    yield Path(sys.executable).resolve()
    for pattern in ("/lib64/ld-linux-*", "/lib/ld-linux-*", "/lib/ld-musl-*"):
        yield from (path.resolve() for path in Path("/").glob(pattern[1:]))


def _around(folder: Path, hidden: Path) -> Iterator[Path]:
    if not hidden.is_relative_to(folder):
        yield folder
    elif folder != hidden:
        for path in folder.iterdir():
            yield from _around(path, hidden)


def _raise_loopback() -> None:
    """The namespace's own loopback, over which the processes of one worker talk; it leads nowhere else."""
    import fcntl

    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP | _IFF_RUNNING))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """All of them, those over the new namespaces too."""
    for number in range(_CAPABILITIES):
        libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0), 8)
    libc.capset(header, ctypes.create_string_buffer(24))

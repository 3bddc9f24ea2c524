"""What `corsia doctor` looks at on the machine itself: clock, disk, ports, proxy, GPU, who may read the state folder.

Nothing is changed, nothing is sent; a proxy's credentials are not shown.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from corsia.findings import Finding

__all__ = ["clock", "gpu", "port", "private", "proxy", "room"]

ROOM_BYTES, ROOM_FILES = 2 << 30, 10_000
_AFTER = 1_760_000_000  # Unix seconds: a clock before this was never set
_UNSYNCHRONISED = 5  # TIME_ERROR of adjtimex(2)
_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_GPU_TIMEOUT_S = 20.0


def clock() -> Finding:
    """Whether the clock was ever set, and whether something keeps it right."""
    found = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    kept = {True: ", kept right by the network", False: ", and nothing is known to keep it right", None: ""}
    ok = time.time() > _AFTER
    return Finding(check="clock", ok=ok, found=found + kept[_synchronised()], advice="set the clock (NTP)")


def room(folder: Path) -> Finding:
    """Whether the disk has bytes and files left."""
    try:
        free, files = shutil.disk_usage(folder).free, os.statvfs(folder)
    except OSError as error:
        return Finding(check="disk", ok=False, found=f"{folder}: {error.strerror}", advice="make the folder")
    few = files.f_files > 0 and files.f_favail < ROOM_FILES
    found = f"{free / (1 << 30):.1f} GiB free" + (f", {files.f_favail} files more" if few else "")
    return Finding(
        check="disk", ok=free > ROOM_BYTES and not few, found=found, advice="keep 2 GiB and 10000 files free"
    )


def private(folder: Path) -> Finding:
    """Whether a state folder is this user's alone."""
    try:
        told = folder.stat()
    except OSError:
        return Finding(check="state folder", ok=True, found=f"{folder}: none yet")
    wrong = [word for word, is_wrong in (
        ("readable by others", bool(told.st_mode & 0o077)), ("another user's", told.st_uid != os.geteuid()),
    ) if is_wrong]  # fmt: skip
    found = f"{folder}: {' and '.join(wrong) or 'this user alone'}"
    return Finding(check="state folder", ok=not wrong, found=found, advice=f"chmod 700 {folder}, as the daemon's user")


def port(name: str, host: str, number: int, *, is_ours: Callable[[], bool]) -> Finding:
    """Whether a port can be listened on, or is by us.

    Args:
        is_ours: whether the process that listens on it is this centre's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    advice = f"another program has port {number}: stop it, or choose another one"
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, number))
        return Finding(check=f"port {name}", ok=True, found=f"{host}:{number} is free")
    except OSError as error:
        if is_ours():
            return Finding(check=f"port {name}", ok=True, found=f"{host}:{number} is this centre's")
        if isinstance(error, PermissionError):
            advice = f"ports below 1024 are root's: choose another one than {number}"
        return Finding(check=f"port {name}", ok=False, found=f"{host}:{number}: {error.strerror}", advice=advice)


def proxy(environment: Mapping[str, str] = os.environ) -> Finding:
    """Which proxy the environment names."""
    named = {name: value for name in _VARIABLES if (value := environment.get(name) or environment.get(name.upper()))}
    wrong = [name for name, value in named.items() if _place(value) is None]
    found = ", ".join(f"{name} {_place(value) or 'that is no address'}" for name, value in named.items())
    advice = f"{', '.join(wrong)}: write it as http://HOST:PORT"
    return Finding(check="proxy", ok=not wrong, found=found or "the environment names none", advice=advice)


def gpu(device: str = "auto") -> Finding:
    """Whether a worker can train on what the configuration says."""
    cards, torch = _cards(), _torch()
    usable = bool(cards) and "+cpu" not in torch
    found = ", ".join(cards) or "none: workers train on the processor"
    if cards and not usable:
        found += f", which torch {torch} cannot use"
    ok = usable or not (device.startswith("cuda") or cards)
    advice = "install torch for this GPU's driver" if cards else f"device = {device!r} needs a GPU: say auto or cpu"
    return Finding(check="GPU", ok=ok, found=found, advice=advice)


def _synchronised() -> bool | None:
    """What the kernel says of the clock; None where it does not say."""
    try:
        state = int(ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512)))
    except (AttributeError, OSError):
        return None
    return None if state < 0 else state != _UNSYNCHRONISED


def _place(value: str) -> str | None:
    """`host:port` of a proxy's URL, without credentials."""
    try:
        parts = urlsplit(value if "//" in value else f"//{value}")
        return f"{parts.hostname}:{parts.port}" if parts.hostname and parts.port else None
    except ValueError:
        return None


def _cards() -> list[str]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        done = subprocess.run(
            [command, "--query-gpu=name", "--format=csv,noheader"],
            check=False, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _torch() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "+cpu (not installed)"
